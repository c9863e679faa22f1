"""The order of paths for people."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlsync.source.paths import natural

PARTS = (b"a", b"/", b"0", b"1", b"9", b"10", b"007", b".", b"\xff")
NAMES = st.lists(st.sampled_from(PARTS), max_size=8).map(b"".join)


def test_numbers_in_names_count_by_their_value():
    """``epoch2`` comes before ``epoch10``, and files of a directory stay together."""
    paths = [
        b"a/checkpoint-1000/x",
        b"a-b",
        b"a/checkpoint-500/x",
        b"a/checkpoint-500",
        b"epoch10",
        b"epoch2",
        b"epoch",
    ]
    assert sorted(paths, key=natural) == [
        b"a/checkpoint-500",
        b"a/checkpoint-500/x",
        b"a/checkpoint-1000/x",
        b"a-b",
        b"epoch",
        b"epoch2",
        b"epoch10",
    ]


@given(st.lists(NAMES | st.binary(max_size=9)))
def test_any_paths_have_one_order(paths):
    """Paths of any bytes can be compared, and different ones are not equal."""
    assert sorted(set(paths), key=natural) == sorted(sorted(set(paths), reverse=True), key=natural)


@given(st.integers(0, 10**5000), st.integers(0, 10**5000))
def test_numbers_of_any_length(one, other):
    """Numbers longer than Python converts are in order too."""
    digits = sorted((one, other))
    names = [b"%s" % _digits(number) for number in digits]
    assert sorted(names, key=natural) == names


def _digits(number):
    parts = []
    while number >= 10**4000:
        number, rest = divmod(number, 10**4000)
        parts.append(str(rest).zfill(4000))
    return (str(number) + "".join(reversed(parts))).encode()
