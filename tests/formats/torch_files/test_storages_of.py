from __future__ import annotations

import io

import numpy as np
import pytest
import safetensors.torch
import torch

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes, yolo_bytes
from mlsync.formats.containers import read_content, read_layout, storages_of
from mlsync.formats.layout import Storage


def storages_in(data: bytes, container: str) -> tuple[Storage, ...]:
    source = MemorySource(data)
    return storages_of(source, read_layout(source, container))


def test_a_torch_file_tells_the_width_of_each_storage():
    """Every storage is told with the bytes that one of its elements has, whole numbers like floating ones."""
    data = torch_bytes({"a": torch.ones(4), "b": torch.ones(4).half(), "c": torch.arange(3), "d": torch.ones(2).bool()})
    widths = [(storage.dtype, storage.item_bytes) for storage in storages_in(data, "torch-zip")]
    assert widths == [("float32", 4), ("float16", 2), ("int64", 8), ("bool", 1)]


def test_the_proof_and_the_source_are_told_the_same():
    """The storages are those of the content, in file order."""
    source = MemorySource(yolo_bytes())
    layout = read_layout(source, "torch-zip")
    storages = storages_of(source, layout)
    assert storages == read_content(source, layout).storages
    assert list(storages) == sorted(storages, key=lambda storage: storage.offset)


def test_a_safetensors_file_tells_the_width_of_each_tensor():
    """Every tensor is a storage of its own."""
    data = safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4).bfloat16()})
    assert {storage.name: storage.item_bytes for storage in storages_in(data, "safetensors")} == {"a": 4, "b": 2}


def test_an_array_begins_behind_its_header():
    """Numpy's header belongs to the record and not to the storage."""
    file = io.BytesIO()
    values = np.arange(7.0)
    np.savez(file, values=values)
    (storage,) = storages_in(file.getvalue(), "npz")
    assert file.getvalue()[storage.offset : storage.offset + storage.length] == values.tobytes()
    assert storage.item_bytes == 8


@pytest.mark.parametrize("container", ["dcp", "tensorflow-shard"])
def test_a_file_that_is_not_understood_has_no_storages(container):
    """What is known by sight only is no reason to stop."""
    assert storages_in(b"whatever", container) == ()


def test_a_broken_meaning_is_left_to_the_proof():
    """A whole zip whose pickle names a record that is not there has no storages, and nothing is raised."""
    parts = parts_of(torch_bytes({"a": torch.ones(3), "b": torch.ones(4)}))
    del parts["archive/data/1"]
    assert storages_in(rezipped(parts), "torch-zip") == ()


def test_a_meaning_that_is_not_checked_is_left_to_the_proof():
    """A storage of a type that is not known here has no width, and nothing is raised."""
    parts = parts_of(torch_bytes({"a": torch.ones(3)}))
    parts["archive/data.pkl"] = parts["archive/data.pkl"].replace(b"FloatStorage", b"FluffStorage")
    assert storages_in(rezipped(parts), "torch-zip") == ()
