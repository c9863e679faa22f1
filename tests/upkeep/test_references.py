"""The order in which contents are read: each in its own order, and shared chunks once."""

from __future__ import annotations

from struct import pack

from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec.compression import Coding
from mlsync.repository.manifest import ChunkRef
from mlsync.upkeep.references import References, in_order


def content(numbers):
    """A content of these chunks."""
    return pack(f">{len(numbers)}Q", *numbers)


def put_together(contents):
    """What each content comes to, and how many chunks were read for all."""
    made, read_count = [[] for _ in contents], 0
    for chunk, goers in in_order([content(one) for one in contents]):
        read_count += 1
        for index, count in goers:
            made[index] += [chunk] * count
    return made, read_count


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6))
def test_every_content_is_put_together(contents):
    """Each content gets its chunks in its order, whatever the contents share."""
    made, read_count = put_together(contents)
    assert made == contents
    assert read_count <= sum(map(len, contents))


def test_versions_that_share_an_order_read_each_chunk_once():
    """For a hundred versions of a file with few changes, and a growing log, each chunk is read once."""
    frozen = [[n if n % 20 else 1000 * version + n for n in range(200)] for version in range(1, 101)]
    log = [list(range(500_000, 500_000 + length)) for length in range(1, 101)]
    assert put_together(frozen + log)[1] == len({chunk for one in frozen + log for chunk in one})


def test_a_file_is_gone_through_before_the_next():
    """Files that share nothing are read one after the other, so that adjacent chunks are read together."""
    order = [chunk for chunk, _ in in_order([content([1, 2, 3]), content([4, 5]), content([6])])]
    assert order == [1, 2, 3, 4, 5, 6]


def test_what_is_said_of_an_ordinal_twice_is_kept_apart():
    """The first reference to an ordinal is kept, later ones that differ are reported, and all are remembered."""
    references = References()
    refs = [ChunkRef(bytes([n]) * 32, b"p" * 16, 0, 48, 26, 10, Coding.RAW) for n in range(3)]
    assert [references.note(ref) for ref in (refs[0], refs[1], refs[0], refs[2])] == [True, False, True, False]
    assert references.packs == {b"p" * 16: {0: refs[0]}}
    assert references.disputed == {b"p" * 16: set(refs)}
    assert references.ref(int.from_bytes(references.content_of([refs[0]]))) == refs[0]
