"""Pickles that were compressed as a whole; ``made/make_pickles.py`` says what wrote those of joblib."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import pickle
import random
import zlib
from pathlib import Path

import numpy as np
import pytest

from checkpoint_files import MemorySource, flipped
from doubles.verdict_status import status
from mlsync.formats.containers import read_content, read_layout, storages_of
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.pickles import packed_file as packed_pickle
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover

MADE = Path(__file__).parents[1] / "made"
WAYS = ("zlib", "gzip", "bz2", "lzma", "xz", "lz4")
FILES = {way: (MADE / f"{way}.joblib").read_bytes() for way in WAYS}


def content_of(data: bytes) -> Content | None:
    source = MemorySource(data)
    return read_content(source, read_layout(source, "packed-pickle"))


def test_a_compressed_pickle_is_proved_as_far_as_it_is_unpacked():
    """Each way of joblib's: the same arrays as in the pickle that is not compressed, level 2; lz4 to its end."""
    with Prover(ProofOptions(device="cpu")) as prover:
        for way, data in FILES.items():
            assert identify(MemorySource(data), b"m.joblib") == "packed-pickle"
            verdict = prover.prove(MemorySource(data), b"m.joblib")
            wanted = ("unknown", 1) if way == "lz4" else ("proved", 2)
            assert (status(verdict), verdict.proof.level) == wanted, way
            if way != "lz4":
                assert (verdict.proof.facts["tensor_count"], verdict.proof.facts["epoch"]) == (9, 7)


def test_it_is_known_by_name_and_beginning():
    """A stream under another name is anybody's; a pickle through gzip has two endings."""
    data = gzip.compress(pickle.dumps({"a": 1}))
    assert identify(MemorySource(data), b"log.gz") is None
    assert identify(MemorySource(data), b"a.pkl.gz") == "packed-pickle"
    assert identify(MemorySource(b"text, and no stream"), b"a.joblib") is None


UNPACK = {"zlib": zlib.decompress, "gzip": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress}


def test_each_bit_of_a_stream_counts():
    """Some hundred bits of each: damaged, or the very same bytes; of lzma's older form and lz4 no other error."""
    chance = random.Random(3)
    for way, data in FILES.items():
        for at in chance.sample(range(8, len(data)), 150):
            changed = flipped(data, at, chance.randrange(8))
            with contextlib.suppress(ContainerBroken):
                content_of(changed)
                assert way not in UNPACK or UNPACK[way](changed) == UNPACK[way](data)


def test_a_stream_cut_short_is_refused():
    """Anywhere, be it a byte before its end: also lz4, whose blocks are not unpacked."""
    for data in FILES.values():
        for size in [*range(8, len(data), 197), len(data) - 1]:
            with pytest.raises(ContainerBroken):
                content_of(data[:size])


def test_a_pickle_that_ends_inside_of_a_whole_stream_is_refused():
    """The writer was at fault, and zlib does not know."""
    whole = zlib.decompress(FILES["zlib"])
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ContainerBroken):
            content_of(zlib.compress(whole[:size]))


def test_what_is_not_known_is_no_damage(monkeypatch):
    """Something else in the stream or behind it, more than is unpacked, more memory than is given."""
    for data in (gzip.compress(b"text"), FILES["gzip"] + b"more", FILES["bz2"] + FILES["zlib"]):
        with pytest.raises(NotChecked):
            content_of(data)
    monkeypatch.setattr(packed_pickle, "_LZMA_MEMORY_BYTES", 1 << 20)
    with pytest.raises(NotChecked, match="memory"):
        content_of(lzma.compress(b"\x80", preset=6))
    monkeypatch.setattr(packed_pickle, "PLAIN_BYTES_MAX", 9000)
    with pytest.raises(NotChecked, match="larger"):
        content_of(FILES["zlib"])


def test_several_streams_and_long_ones_are_unpacked_whole():
    """Two members of gzip, zeros behind; a MiB of zeros in one step, whose end comes without another byte."""
    whole = pickle.dumps(np.zeros(700_000))
    halves = [gzip.compress(half) for half in (whole[:99], whole[99:])]
    ways = (b"".join(halves) + bytes(9), zlib.compress(whole, 9), bz2.compress(whole), lzma.compress(whole))
    for data in ways:
        content = content_of(data)
        assert content is not None
        assert [tensor.shape for tensor in content.tensors] == [(700_000,)]
    for length in (1 << 20, 2 << 20, (1 << 20) + 1):
        data = zlib.compress(pickle.dumps(bytes(length - 30)), 9)
        assert read_layout(MemorySource(data), "packed-pickle").plain_bytes == len(zlib.decompress(data))


def test_a_hundred_thousand_empty_streams_end():
    """They cost a step each, and would cost a copy of what is behind."""
    with pytest.raises(NotChecked, match="streams"):
        content_of(gzip.compress(b"", mtime=0) * 5000)


def test_a_source_unpacks_it_once():
    """To find no place to cut at, the stream is not unpacked again."""
    source = MemorySource(FILES["xz"])
    layout = read_layout(source, "packed-pickle")
    with contextlib.suppress(AssertionError):
        source.read_at = None
    assert storages_of(source, layout) == ()
