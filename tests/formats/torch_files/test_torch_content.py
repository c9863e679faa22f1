from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch

from checkpoint_files import MemorySource, network, parts_of, rezipped, torch_bytes, with_pickle, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import RecordDamaged
from mlsync.formats.layout import ContainerBroken, Content


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "torch-zip"))
    assert content is not None
    return content


def test_every_tensor_of_a_module_is_found_under_the_name_that_torch_gives_it():
    """A pickled module's tensors have the names, shapes, types and strides of its state dict."""
    model = network()
    expected = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors = {tensor.name: tensor for tensor in content_of(torch_bytes({"model": model})).tensors}
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].shape == tuple(tensor.shape)
        assert tensors[name].stride == tensor.stride()
        assert f"torch.{tensors[name].dtype}" == str(tensor.dtype)


def test_storages_hold_the_bytes_that_torch_saved():
    """Each storage's place in the file holds its tensor's bytes."""
    values = {"a": torch.randn(100), "b": torch.arange(7), "c": torch.randn(3, 4).T}
    data = torch_bytes(values)
    content = content_of(data)
    storages = {storage.name: storage for storage in content.storages}
    for tensor in content.tensors:
        storage = storages[tensor.storage]
        saved = data[storage.offset : storage.offset + storage.length]
        assert saved == bytes(values[tensor.name].untyped_storage())


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
        "complex128",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ],
)
def test_every_type_is_known(dtype):
    """A tensor of any of torch's types is read with its type, also where its storage is saved untyped."""
    content = content_of(torch_bytes([torch.ones(6).to(getattr(torch, dtype))]))
    assert [tensor.dtype for tensor in content.tensors] == [dtype]
    assert [storage.dtype for storage in content.storages] == [dtype]


def test_shared_and_viewed_storages_are_one():
    """Views of one tensor name one storage, each with its own place."""
    base = torch.arange(24.0).reshape(4, 6)
    content = content_of(
        torch_bytes({"base": base, "row": base[2], "column": base[:, 1], "wide": base[0, :1].expand(9)})
    )
    assert len(content.storages) == 1
    views = {tensor.name: (tensor.first, tensor.shape, tensor.stride) for tensor in content.tensors}
    assert views == {
        "base": (0, (4, 6), (6, 1)),
        "row": (12, (6,), (1,)),
        "column": (1, (4,), (6,)),
        "wide": (0, (9,), (0,)),
    }


def test_the_same_tensor_twice_is_named_once():
    """A tensor that is reached by two ways is told under the first."""
    tensor = torch.ones(3)
    assert [found.name for found in content_of(torch_bytes({"a": tensor, "b": tensor})).tensors] == ["a"]


@pytest.mark.parametrize("value", [torch.zeros(0), torch.zeros(0, 5), torch.tensor(3.0), torch.zeros(5)[5:]])
def test_empty_and_scalar_tensors_are_sound(value):
    """Tensors without elements or without dimensions lie inside their storages."""
    assert content_of(torch_bytes({"x": value})).tensors[0].shape == tuple(value.shape)


def test_quantised_sparse_and_subclassed_tensors_are_found():
    """Tensors inside of torch's special kinds are found."""
    sparse = torch.eye(4).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch is about to drop them; files that hold them stay
        quantised = torch.quantize_per_tensor(torch.randn(5), 0.1, 3, torch.qint8)
    names = [tensor.name.partition(".")[0] for tensor in content_of(torch_bytes({"s": sparse, "q": quantised})).tensors]
    assert names.count("s") == 2
    assert names.count("q") == 1


def test_a_bare_storage_counts_as_one():
    """A storage that is saved without a tensor is found, and its bytes will be proved."""
    content = content_of(torch_bytes({"raw": torch.ones(4).untyped_storage()}))
    assert [storage.length for storage in content.storages] == [16]


def test_facts_of_an_ultralytics_checkpoint():
    """Framework, epoch, fitness and whether it can be resumed are read from the pickle."""
    facts = content_of(yolo_bytes()).facts
    parameter_count = sum(p.numel() for p in network().parameters())
    assert facts["framework"] == "ultralytics"
    assert facts["framework_version"] == "8.4.190"
    assert (facts["epoch"], facts["best_fitness"]) == (4, 0.625)
    assert facts["has_optimizer"] is True
    assert facts["resumable"] is True
    # buffers of the normalisation count too: a state dict does not tell them from parameters
    assert parameter_count <= facts["parameter_count"] <= parameter_count + 16


def test_a_stripped_ultralytics_checkpoint_is_not_resumable():
    """What Ultralytics leaves at the end of a training says that nothing can go on from it."""
    stripped = {"epoch": -1, "optimizer": None, "ema": None, "model": network().half(), "train_args": {}}
    facts = content_of(torch_bytes(stripped)).facts
    assert facts["framework"] == "ultralytics"
    assert facts["resumable"] is False


def test_facts_of_other_frameworks():
    """Lightning and optimizer files are known by their keys."""
    lightning = {"pytorch-lightning_version": "2.6", "global_step": 77, "state_dict": {"w": torch.ones(2)}, "epoch": 1}
    facts = content_of(torch_bytes(lightning)).facts
    assert (facts["framework"], facts["step"], facts["has_optimizer"]) == ("lightning", 77, False)
    optimizer = torch.optim.AdamW(network().parameters()).state_dict()
    assert content_of(torch_bytes(optimizer)).facts["framework"] == "huggingface-optimizer"


def test_numpy_and_random_states_are_read_over():
    """Objects of other libraries stand in the graph without being made."""
    state = {"python": (3, tuple(range(625)), None), "numpy": np.random.default_rng(3).bit_generator.state}
    state["array"] = np.arange(5)
    state["torch"] = torch.get_rng_state()
    assert [tensor.name for tensor in content_of(torch_bytes(state)).tensors] == ["torch"]


def test_a_scripted_module_is_read():
    """A TorchScript archive is a torch zip like any other."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), file)
    assert content_of(file.getvalue()).tensors


def test_a_flipped_bit_in_the_pickle_is_damage_and_not_a_bad_pickle():
    """The pickle's record is held against its checksum before a word of it is believed."""
    data = yolo_bytes()
    source = MemorySource(data)
    pickle = read_layout(source, "torch-zip").extents[0]
    source.data = data[: pickle.offset + 50] + bytes([data[pickle.offset + 50] ^ 4]) + data[pickle.offset + 51 :]
    with pytest.raises(RecordDamaged, match=r"archive/data\.pkl"):
        read_content(source, read_layout(source, "torch-zip"))


def test_a_missing_storage_is_refused_by_name():
    """A pickle that names a record which is not there does not load."""
    parts = parts_of(torch_bytes({"a": torch.ones(3), "b": torch.ones(4)}))
    del parts["archive/data/1"]
    with pytest.raises(ContainerBroken, match=r"storage has no record.*archive/data/1"):
        content_of(rezipped(parts))


def test_swapped_storages_of_other_lengths_are_refused():
    """Records that changed places do not have the lengths that the pickle asks for."""
    parts = parts_of(torch_bytes({"a": torch.ones(3), "b": torch.ones(4)}))
    parts["archive/data/0"], parts["archive/data/1"] = parts["archive/data/1"], parts["archive/data/0"]
    with pytest.raises(ContainerBroken, match="storage needs 12 bytes, its record has 16"):
        content_of(rezipped(parts))


def storage_pickle(first: object, shape: object, stride: object, count: int = 4) -> bytes:
    """A protocol 2 pickle of one float tensor, written by hand."""

    def push(value: object) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(push(item) for item in value) + b"t"
        if isinstance(value, str):
            return b"X" + len(value).to_bytes(4, "little") + value.encode()
        return b"L" + str(value).encode() + b"L\n"

    storage = b"(" + push("storage") + b"ctorch\nFloatStorage\n" + push("0") + push("cpu") + push(count) + b"tQ"
    view = push(first) + push(shape) + push(stride)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89NtR."


@pytest.mark.parametrize(
    ("first", "shape", "stride", "reason"),
    [
        (0, (5,), (1,), "reaches past"),
        (1, (4,), (1,), "reaches past"),
        (0, (2, 2), (3, 1), "reaches past"),
        (0, (2,), (1 << 62,), "reaches past"),
        (-1, (1,), (1,), "no place"),
        (0, (-1,), (1,), "impossible shape"),
        (0, (1,), (-1,), "impossible shape"),
        (0, (1 << 70,), (1,), "impossible shape"),
        (0, (1, 1), (1,), "no strides"),
        (0, tuple([1] * 65), tuple([1] * 65), "no shape"),
        ("0", (1,), (1,), "no place"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(first, shape, stride, reason):
    """A tensor must lie inside its storage, whatever its strides."""
    with pytest.raises(ContainerBroken, match=reason):
        content_of(with_pickle(storage_pickle(first, shape, stride), bytes(16)))


@pytest.mark.parametrize(("first", "shape", "stride"), [(0, (4,), (1,)), (3, (9, 1), (0, 5)), (0, (0, 7), (99, 1))])
def test_an_odd_view_that_fits_is_sound(first, shape, stride):
    """Strides of zero and tensors without elements are nothing wrong."""
    assert content_of(with_pickle(storage_pickle(first, shape, stride), bytes(16))).tensors[0].shape == shape


def test_a_storage_of_another_length_is_refused():
    """Number of elements times their size is the record's length, to the byte."""
    with pytest.raises(ContainerBroken, match="storage needs 20 bytes, its record has 16"):
        content_of(with_pickle(storage_pickle(0, (1,), (1,), count=5), bytes(16)))


def test_another_byte_order_is_noted():
    """A file from a big-endian machine says so among its facts."""
    parts = parts_of(torch_bytes({"a": torch.ones(3)}))
    parts["archive/byteorder"] = b"big"
    assert content_of(rezipped(parts)).facts["byteorder"] == "big"
