"""Staging: whatever is put in whatever stretches stands in the file as if each had been written at once."""

from __future__ import annotations

import os
import random
import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsync.target import staging
from mlsync.target.staging import Staging, write_at


@pytest.fixture(scope="module")
def small_staging():
    """One with slabs of two pages, used for one file after another, as a restore does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "SLAB_BYTES", 8192)
        patch.setattr("mlsync.direct_io.DIRECT_FROM_BYTES", 4096)
        yield Staging()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 20_000)), max_size=6), st.integers(0, 2**32))
def test_everything_that_was_put_is_in_the_file(small_staging, tmp_path_factory, stretches, seed):
    """Gaps of any length between stretches of any length: each byte is where it belongs, and gaps are zeros."""
    path = tmp_path_factory.mktemp("staging") / "file"
    # Of a seed: drawn byte by byte they would be more than hypothesis is made for.
    noise, expected = random.Random(seed), bytearray()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    small_staging.begin(descriptor, partial(_open, path))
    for gap_bytes, length in stretches:
        content = noise.randbytes(length)
        small_staging.put(len(expected) + gap_bytes, content)
        if length:
            expected += bytes(gap_bytes) + content
    small_staging.flush()
    os.close(descriptor)
    assert path.read_bytes() == expected


def test_what_the_disk_refuses_comes_out_and_leaves_no_thread(tmp_path, monkeypatch):
    """An error of a write in the background is raised by ``flush`` at the latest; after ``stop`` no thread is left."""

    def refuse(*_):
        raise OSError("no more room")

    monkeypatch.setattr(staging, "SLAB_BYTES", 8192)
    monkeypatch.setattr(os, "pwrite", refuse)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    one = Staging()
    one.begin(descriptor, partial(_open, tmp_path / "file"))
    with pytest.raises(OSError, match="no more room"):
        _put_and_flush(one)
    one.stop()
    os.close(descriptor)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mlsync-write")]


def _put_and_flush(one):
    for offset in range(0, 1 << 16, 8192):
        one.put(offset, bytes(8192))
    one.flush()


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    """A system that takes a few bytes at a time gets all of them in the end."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: real(fd, view[:3], offset))
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_at(descriptor, 2, b"content")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"\0\0content"


def _open(path, flags):
    return os.open(path, flags)
