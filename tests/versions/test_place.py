"""``VERSION:PATH``: where the version ends and the path begins."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsync.errors import ConfigInvalid
from mlsync.versions.place import parse_place

TIMES = ("2026-11-23", "2026-11-23T14:00", "2026-11-23 14:00:05", "2026-11-23T14:00:05.123+01:00", "2026-11-23T13:00Z")
VERSIONS = st.integers(0, 10**12).map(str) | st.sampled_from(("latest", "resumable", "best", *TIMES))
PATHS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from(":/0123"), min_size=1
)


@given(VERSIONS, PATHS)
def test_any_path_can_be_named(version, path):
    """With ``./`` before it, any path of any version is told from the version, whatever colons both have."""
    assert parse_place(f"{version}:./{path}") == (version, os.fsencode(f"./{path}"))


@given(VERSIONS)
def test_a_version_alone_has_no_path(version):
    """What is a version is taken as one."""
    assert parse_place(version) == (version, None)


@given(st.sampled_from(("3", "latest", "resumable", "best")), PATHS)
def test_behind_a_number_or_a_word_the_rest_is_the_path(version, path):
    """The first colon ends a number or a word."""
    assert parse_place(f"{version}:{path}") == (version, os.fsencode(path))


@given(st.text())
def test_other_text_is_refused(text):
    """Any text is a place, or refused as none."""
    try:
        version, path = parse_place(text)
    except ConfigInvalid:
        return
    assert text == version if path is None else text == f"{version}:{os.fsdecode(path)}"


@pytest.mark.parametrize(
    ("text", "version", "path"),
    [
        ("3:checkpoint-40", "3", b"checkpoint-40"),
        ("latest:a:b", "latest", b"a:b"),
        ("3:4", "3", b"4"),
        ("2026-11-23T14:00:weights", "2026-11-23T14:00", b"weights"),
        ("2026-11-23T14:00:05", "2026-11-23T14:00:05", None),
        ("2026-11-23T14:00:./05", "2026-11-23T14:00", b"./05"),
        ("2026-11-23T14:00:05:./30", "2026-11-23T14:00:05", b"./30"),
        ("2026-11-23:x", "2026-11-23", b"x"),
        ("3:.", "3", b"."),
        ("paper-1:x", "paper-1", b"x"),
    ],
)
def test_where_the_path_begins(text, version, path):
    """The longest version counts."""
    assert parse_place(text) == (version, path)


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ("3:", "no path behind '3:'", "3:. is"),
        ("weights/40", "not a version", "VERSION:PATH"),
        ("1x:3", "not a ver", ""),
    ],
)
def test_what_is_no_place(text, what, advice):
    """An empty path and an unknown version are refused, with what can be given instead."""
    with pytest.raises(ConfigInvalid, match=what) as refused:
        parse_place(text)
    assert advice in refused.value.advice
