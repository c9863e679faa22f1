"""Changes to any bytes of a file, for property tests of parsers."""

from __future__ import annotations

from hypothesis import strategies as st

#: Where (as a share of the length) which bytes are written over what is there.
edits = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6
)


def edited(data: bytes, changes: list[tuple[float, bytes]], within_bytes: int | None = None) -> bytes:
    """The bytes with *changes* made, in the first *within_bytes* only if that is given."""
    result = bytearray(data)
    for place, new in changes:
        at = int(place * min(len(result), len(result) if within_bytes is None else within_bytes))
        result[at : at + len(new)] = new
    return bytes(result)
