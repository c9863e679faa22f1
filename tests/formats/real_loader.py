"""Loads files with the libraries that wrote them, one after the other, and answers what came out: run as a program.

A frame on standard input is the loader's name and the file, each behind its length; the answer is a line. The libraries
are handed damaged files, and some of these end the process: whoever asks starts another one then.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

MEMORY_BYTES_MAX = 8 << 30  # of address space, most of which is torch's own
SECONDS_MAX = 60  # some libraries run in circles in a damaged file
LENGTHS = struct.Struct("<HQ")


def parts(value: Any, depth: int = 0) -> Iterator[bytes]:
    """All that *value* is, in its order; two values with equal parts are the same checkpoint."""
    import numpy as np
    import torch

    if depth > 50:
        raise RecursionError("nested without end")
    if isinstance(value, torch.Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        flat = value.detach().resolve_conj().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().tobytes() if value.numel() else b""
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype.str} {value.shape} {value.flags.f_contiguous}".encode()
        yield value.tobytes()
    elif isinstance(value, torch.nn.Module):
        yield type(value).__name__.encode()
        yield from parts(value.state_dict(), depth + 1)
    elif isinstance(value, dict):
        yield f"dict {len(value)}".encode()
        for key, one in value.items():
            yield repr(key).encode("utf-8", "surrogatepass")
            yield from parts(one, depth + 1)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} {len(value)}".encode()
        for one in value:
            yield from parts(one, depth + 1)
    else:
        yield repr(value).encode("utf-8", "surrogatepass")


def load_torch(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def load_trusted_torch(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def load_jit(data: bytes) -> Any:
    import torch

    module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    return [str(module.graph), list(constants(module)), dict(module.named_parameters())]


def constants(module: Any) -> Iterator[Any]:
    for node in module.graph.findAllNodes("prim::Constant"):
        yield node.t("value") if "value" in node.attributeNames() and node.kindOf("value") == "t" else None


def load_safetensors(data: bytes) -> Any:
    import safetensors.torch

    return dict(sorted(safetensors.torch.load(data).items()))  # the library has them in no order


def load_npz(data: bytes) -> Any:
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in sorted(archive.files)}


def load_gguf(data: bytes) -> Any:
    from gguf import GGUFReader

    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(data)
        file.flush()
        reader = GGUFReader(file.name)
        fields = {name: [part.tobytes() for part in field.parts] for name, field in reader.fields.items()}
        tensors = {
            tensor.name: (int(tensor.tensor_type), tensor.shape.tolist(), tensor.data.tobytes())
            for tensor in reader.tensors
        }
    return [{name: field for name, field in fields.items() if not name.startswith("GGUF.")}, tensors]


def load_hdf5(data: bytes) -> Any:
    import h5py

    found: list[Any] = []

    def see(name: str, one: Any) -> None:
        attributes = {key: one.attrs[key] for key in sorted(one.attrs, key=str)}
        content = one[()] if isinstance(one, h5py.Dataset) else sorted(one, key=str)
        found.append([name, content, attributes])

    with h5py.File(io.BytesIO(data), "r") as file:
        see("/", file)
        file.visititems(see)
    return found


def load_onnx(data: bytes) -> Any:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(data)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    return [tensors, model.SerializeToString(deterministic=True)]


def load_flax(data: bytes) -> Any:
    from flax import serialization

    return serialization.msgpack_restore(data)


def load_pickle(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)


def load_joblib(data: bytes) -> Any:
    import joblib

    return joblib.load(io.BytesIO(data))


def load_pt2(data: bytes) -> Any:
    import torch

    program = torch.export.load(io.BytesIO(data))
    return [str(program.graph), dict(program.state_dict), dict(program.constants)]


def load_package(data: bytes) -> Any:
    from torch.package import PackageImporter

    return PackageImporter(io.BytesIO(data)).load_pickle("model", "data.pkl")


def load_keras(data: bytes) -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        file.write(data)
        file.flush()
        model = keras.saving.load_model(file.name)
    return [model.get_config(), model.get_weights()]


def unpacked(data: bytes, folder: str) -> None:
    """The files of a checkpoint of several, which come as a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)


def load_tensorflow(data: bytes) -> Any:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        unpacked(data, folder)
        reader = tf.train.load_checkpoint(f"{folder}/c")
        return {name: reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())}


def load_ocdbt(data: bytes) -> Any:
    import tensorstore

    with tempfile.TemporaryDirectory() as folder:
        unpacked(data, folder)
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/"}).result()
        return {key: bytes(store.read(key).result().value) for key in sorted(store.list().result())}


LOADERS: dict[str, Callable[[bytes], Any]] = {
    "torch": load_torch,
    "trusted-torch": load_trusted_torch,
    "jit": load_jit,
    "safetensors": load_safetensors,
    "npz": load_npz,
    "gguf": load_gguf,
    "hdf5": load_hdf5,
    "onnx": load_onnx,
    "flax": load_flax,
    "pickle": load_pickle,
    "joblib": load_joblib,
    "pt2": load_pt2,
    "package": load_package,
    "keras": load_keras,
    "tensorflow": load_tensorflow,
    "ocdbt": load_ocdbt,
}


def answer(loader: str, data: bytes) -> str:
    """The digest of what the loader makes of the file, or how it refused."""
    try:
        digest = hashlib.sha256()
        for part in parts(LOADERS[loader](data)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    except Exception as error:  # noqa: BLE001 - whatever a library raises of a damaged file, it refuses it
        return f"refused {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return digest.hexdigest()


def main() -> None:
    """Answer until there are no more frames."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    frames, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some libraries print what they think of a file
    while head := frames.read(LENGTHS.size):
        name_bytes, data_bytes = LENGTHS.unpack(head)
        signal.alarm(SECONDS_MAX)  # which ends the process
        loader = frames.read(name_bytes).decode()
        answers.write(answer(loader, frames.read(data_bytes)).encode("utf-8", "replace") + b"\n")
        answers.flush()
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main())
