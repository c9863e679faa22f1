from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkpoint_files import MemorySource
from mlsync.formats.section import HEAD_BYTES, TAIL_BYTES, Section

FILE = bytes(number * 7919 >> 3 & 0xFF for number in range(3 * (HEAD_BYTES + TAIL_BYTES)))


class CountingSource(MemorySource):
    """Counts the reads."""

    reads = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes, and one more read."""
        self.reads += 1
        return super().read_at(offset, length)


@given(data=st.data())
def test_a_window_reads_like_the_stretch_that_it_shows(data):
    """Any part of any stretch is what a copy of the stretch has there, in whatever order it is asked for."""
    offset = data.draw(st.integers(0, len(FILE)))
    size = data.draw(st.integers(0, len(FILE) - offset))
    window = Section(MemorySource(FILE), offset, size)
    copy = FILE[offset : offset + size]
    assert window.size_bytes == size
    for _ in range(5):
        at = data.draw(st.integers(0, size))
        length = data.draw(st.integers(0, size - at))
        assert window.read_at(at, length) == copy[at : at + length]


def test_the_ends_are_read_once():
    """Whatever is asked for at the two ends of a stretch costs two reads in all, and one if it is short."""
    source = CountingSource(FILE)
    window = Section(source, 100, len(FILE) - 200)
    for at in range(0, HEAD_BYTES, 16):
        window.read_at(at, 16)
    for at in range(window.size_bytes - TAIL_BYTES, window.size_bytes, 16):
        window.read_at(at, 16)
    assert source.reads == 2
    short = Section(source, 100, HEAD_BYTES)
    short.read_at(0, 10)
    short.read_at(HEAD_BYTES - 10, 10)
    assert source.reads == 3


class FarSource(CountingSource):
    """Comes from far away."""

    is_far = True
    read_bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes, which are counted."""
        self.read_bytes += length
        return super().read_at(offset, length)


def test_of_a_source_that_is_far_no_byte_more_is_read():
    """At the ends as well, what is read is what is asked for."""
    source = FarSource(FILE)
    window = Section(source, 100, len(FILE) - 200)
    assert window.read_at(3, 10) + window.read_at(window.size_bytes - 10, 10) == FILE[103:113] + FILE[-110:-100]
    assert source.read_bytes == 20
