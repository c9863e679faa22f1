"""Whatever bytes come in, the parsers answer or raise ``ContainerBroken``; nothing else escapes them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_edits import edited, edits
from checkpoint_files import MemorySource, parts_of, with_pickle, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.pickles.machine import read_pickle
from mlsync.formats.sniff import identify

pytestmark = pytest.mark.slow


def small_torch() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "n": {"b": torch.ones(2).half()}, "epoch": 3}, file)
    return file.getvalue()


def small_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones((2, 3)), b=np.arange(4))
    return file.getvalue()


SEEDS = {
    "torch-zip": small_torch(),
    "safetensors": safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4).half()}),
    "npz": small_npz(),
}
PICKLE = parts_of(small_torch())["archive/data.pkl"]
STORAGES = [parts_of(small_torch())[f"archive/data/{n}"] for n in range(2)]


def parse(data: bytes, container: str | None) -> None:
    source = MemorySource(data)
    container = container or identify(source, b"x.pt")
    with contextlib.suppress(ContainerBroken):
        read_content(source, read_layout(source, container))


@pytest.mark.parametrize("container", SEEDS)
@settings(max_examples=150, deadline=None)
@given(changes=edits, keep=st.floats(0.3, 1.5))
def test_a_changed_file_never_surprises(container, changes, keep):
    """Bytes changed, cut off or repeated: an answer or ``ContainerBroken``."""
    data = edited(SEEDS[container], changes)
    data = data[: int(keep * len(data))] if keep < 1 else data
    parse(data, container)
    parse(data, None)


@settings(max_examples=500, deadline=None)
@given(changes=edits)
def test_a_changed_pickle_never_surprises(changes):
    """A pickle with bytes changed, in a zip with right checksums: an answer or ``ContainerBroken``."""
    parse(with_pickle(edited(PICKLE, changes), *STORAGES), "torch-zip")


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_as_a_pickle_never_surprise(data):
    """Random opcodes: an answer or ``ContainerBroken``."""
    with contextlib.suppress(ContainerBroken):
        read_pickle(b"\x80\x04" + data)


def test_every_single_byte_of_a_real_pickle_may_be_lost():
    """Each byte of a real pickle replaced by one of a few: an answer or ``ContainerBroken``."""
    pickle = parts_of(yolo_bytes())["archive/data.pkl"]
    for at in range(0, len(pickle), 7):
        for new in (0x00, 0x2E, 0x52, 0xFF):
            with contextlib.suppress(ContainerBroken):
                read_pickle(pickle[:at] + bytes([new]) + pickle[at + 1 :])
