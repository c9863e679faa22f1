"""Small files of text are told from checkpoints by one look, which must miss none that the other questions find."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsync.formats import sniff

# Begins as each container does that is told by its first bytes.
BEGINNINGS = (
    b"GGUF\3\0\0\0",
    b"tree\nversion=v4\n",
    b'{"learner":{"attributes"',
    b'{ "version" : [2, 1], "learner" : {',
    b"{L\0\0\0\0\0\0\0\x07learner{",
    b"BZh91AY&SY",
    b"x^\x9cK",
    b"x\x01\x9c",
    b"]\0\0\x80\0\xff",
    b'\x08\0\0\0\0\0\0\0{"a":',
    b"\x89HDF\r\n\x1a\n",
    b"\x08\x07\x12\x07pytorch",
    b"\x0c\xdb\x3a\x2a",
    b"\x82\xa1a\xa1b",
    sniff._LEGACY_OPENING,
)
PATHS = (b"a.txt", b"a.pkl", b"a.joblib.z", b"checkpoint_1", b"a.msgpack", b"d/manifest", b"model.json", b"model.txt")
TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=64).map(str.encode)


@st.composite
def heads(draw):
    """The beginning of a container with bytes of text in the place of some of its own, and text behind it."""
    head = bytearray(draw(st.sampled_from(BEGINNINGS)))
    for at in draw(st.lists(st.integers(0, len(head) - 1), max_size=8)):
        head[at] = draw(st.integers(0x20, 0x7E))
    return bytes(head) + draw(TEXT)


@settings(max_examples=300, deadline=None)
@given(heads() | TEXT, st.sampled_from(PATHS), st.integers(0, 200))
def test_nothing_else_is_found_in_plain_text(head, path, more_bytes):
    """What counts as plain text is no container by any other question."""
    head = head[:64]
    if sniff._is_plain_text(head):
        size_bytes = len(head) + more_bytes
        assert sniff._by_head(head, size_bytes, None) is None
        assert sniff._of_python(head, size_bytes, path) is None


@pytest.mark.parametrize("head", BEGINNINGS, ids=range(len(BEGINNINGS)))
def test_no_container_begins_as_plain_text(head):
    """Each kind that is told by its first bytes gets all questions."""
    assert not sniff._is_plain_text(head)


@pytest.mark.parametrize("head", [b"1\n0.5 0.25\n", b"epoch,loss\n1,0.5\n", b"a", b"# notes", b"names:\n- person\n"])
def test_results_and_labels_are_plain_text(head):
    """What trees of small files consist of is told by the one look."""
    assert sniff._is_plain_text(head)


def test_no_sample_of_a_checkpoint_is_plain_text():
    """The samples in this repository that are known without their names get all questions."""
    samples = [path for path in (Path(__file__).parent / "made").iterdir() if path.is_file() and path.suffix != ".py"]
    known = []
    for path in samples:
        data = path.read_bytes()
        head = data[:64]
        if sniff._by_head(head, len(data), None) or sniff._of_python(head, len(data), b"a.pkl"):
            known.append(head)
    assert len(known) >= 5
    assert not any(map(sniff._is_plain_text, known))
