"""Writes the ONNX files of this folder: ``python make_onnx.py FOLDER``.

``model.onnx`` by ``torch.onnx.export`` (torch 2.13.0); ``kinds.onnx``, with a tensor of each type in each of the ways
that the format has, and ``outside.onnx`` with its data file, by onnx 1.23.2.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper


def kinds() -> onnx.ModelProto:
    """Raw and typed tensors, small types, a constant in a node of a subgraph, a sparse one, texts."""
    raw = [numpy_helper.from_array(np.arange(6, dtype=kind).reshape(2, 3), kind) for kind in ("f4", "f2", "i8", "u1")]
    typed = [
        helper.make_tensor("floats", TensorProto.FLOAT, [3], [0.5, 1.5, 2.5]),
        helper.make_tensor("doubles", TensorProto.DOUBLE, [2], [0.5, 1.5]),
        helper.make_tensor("halves", TensorProto.FLOAT16, [3], [0.5, 1.5, 2.5]),
        helper.make_tensor("longs", TensorProto.INT64, [3], [-1, 1 << 40, 3]),
        helper.make_tensor("complex", TensorProto.COMPLEX64, [2], [1 + 2j, 3j]),
        helper.make_tensor("fours", TensorProto.INT4, [3], [1, -2, 3]),
        helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"bc"]),
        helper.make_tensor("scalar", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("none", TensorProto.FLOAT, [0, 4], []),
    ]
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(4, "f4"), "inner"))],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(2, "f4"), "sparse"), numpy_helper.from_array(np.array([1, 3])), [5]
    )
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    graph = helper.make_graph([node], "kinds", inputs, outputs, [*raw, *typed], sparse_initializer=[sparse])
    return helper.make_model(graph, producer_name="onnx-example")


def main(folder: Path) -> None:
    """Write all files."""
    torch.manual_seed(3)
    plain = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2)).eval()
    torch.onnx.export(plain, (torch.randn(4, 8),), folder / "model.onnx", dynamo=False)
    onnx.save(kinds(), folder / "kinds.onnx")
    outside = onnx.load(folder / "model.onnx")
    onnx.save(outside, folder / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=100)
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
