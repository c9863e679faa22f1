"""The JSON header of a safetensors file, read entry by entry, within bounds."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple, NoReturn

from mlsync.formats.facts import NUMBER_WORDS, text_facts
from mlsync.formats.faults import SLICE_BYTES, NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.strides import TENSORS_BYTES_MAX
from mlsync.values import Fact

HEADER_BYTES_MAX = 100_000_000  # the format's own limit
# A tensor has a hundred bytes of it; beyond these it is stored as it is, and not looked into.
CHECKED_HEADER_BYTES_MAX = 32 << 20
TENSORS_MAX = 200_000
ENTRY_BYTES_MAX = 16 << 10
ABOUT_BYTES_MAX = 1 << 20
_SHORT_BYTES = 128
_NUMBER_WORDS = frozenset(word.encode() for word in NUMBER_WORDS)
LENGTH_BYTES = 8
_DIMENSIONS_MAX = 64
_COUNT_MAX = 1 << 63
_METADATA = "__metadata__"
_RAW_METADATA = b"__metadata__"
# How many different types and shapes are recognised when they come again
MEANINGS_MAX = 1000
# JSON as far as the format has it: an object of objects, whose values are texts, numbers and lists. Nothing here goes
# back over what it has matched (the + behind a repetition), so that a megabyte costs its length and no memory.
# A character beyond sixteen bits is written as two halves, neither of which stands alone.
_HEX = rb"[0-9a-fA-F]"
_HALVES = rb"[dD][89abAB]" + _HEX + _HEX + rb"\\u[dD][c-fC-F]" + _HEX + _HEX
_UNICODE = rb"u(?:[0-9abcefABCEF]" + 3 * _HEX + rb"|[dD][0-7]" + 2 * _HEX + rb"|" + _HALVES + rb")"
_TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|' + _UNICODE + rb')[^"\\\x00-\x1f]*+)*+"'
_S = rb"[ \t\n\r]*+"
_BEGIN = re.compile(rb"\{" + _S)
_NAME = rb"(?P<name>" + _TEXT + rb")" + _S + rb":" + _S
_TEXTS = re.compile(
    rb"\{"
    + _S
    + rb"(?:"
    + _TEXT
    + _S
    + rb":"
    + _S
    + _TEXT
    + _S
    + rb"(?:,"
    + _S
    + _TEXT
    + _S
    + rb":"
    + _S
    + _TEXT
    + _S
    + rb")*+)?+\}"
)
_PAIR = re.compile(rb"(" + _TEXT + rb")" + _S + rb":" + _S + rb"(" + _TEXT + rb")")
_VALUE = rb'(?P<value>\{[^{}"]*+(?:' + _TEXT + rb'[^{}"]*+)*+\})' + _S
_FIRST = re.compile(_NAME + _VALUE)
_NEXT = re.compile(rb"," + _S + _NAME + _VALUE)
_MEMBER = re.compile(rb",?" + _S + _NAME)
# An entry as the library writes it, which is read without a JSON parser: there are tens of thousands of them. The
# white space that may lie behind it is that of the general one.
_N = rb"(?:0|[1-9][0-9]{0,18})"
_PLAIN = (
    rb'"([^"\\\x00-\x1f]*+)":\{"dtype":"([A-Z0-9_]{1,16})","shape":\[((?:'
    + _N
    + rb"(?:,"
    + _N
    + rb')*+)?+)\],"data_offsets":\[('
    + _N
    + rb"),("
    + _N
    + rb")\]\}"
    + _S
)
_PLAIN_FIRST = re.compile(_PLAIN)
_PLAIN_NEXT = re.compile(rb"," + _PLAIN)


class HeaderEntry(NamedTuple):
    """What a header says of a tensor, as far as it is of the right kind: *begin* is -1 where it says no place."""

    name: str
    token: str | None
    shape: tuple[int, ...] | None
    begin: int
    end: int


def counted_facts(about: Sequence[bytes]) -> dict[str, Fact]:
    """Return epoch and step from the writer's texts, of which only short ones are parsed."""
    pairs = (match for part in about for match in _PAIR.finditer(part) if match.end() - match.start() <= _SHORT_BYTES)
    texts = {str(_parsed(match[1])): str(_parsed(match[2])) for match in pairs if match[1][1:-1] in _NUMBER_WORDS}
    return text_facts(texts)


class SafetensorsHeader(NamedTuple):
    """What a file says before its tensors: their shapes, and what its writer put down as texts."""

    shapes: Mapping[str, tuple[int, ...]]
    about: Mapping[str, str]


def read_safetensors_header(source: ByteSource) -> SafetensorsHeader:
    """Return the header alone, for comparing files; raise ``ContainerBroken`` if it does not parse.

    Texts of more than a MiB are left out.
    """
    about: list[bytes] = []
    shapes = {}
    for entry in header_entries(read_header_json(source), about):
        if entry.shape is None:
            refuse("tensor without a shape", entry.name, LENGTH_BYTES)
        shapes[entry.name] = entry.shape
    texts = _parsed(about[0]) if about else {}
    return SafetensorsHeader(
        shapes, {str(key): str(text) for key, text in texts.items()} if isinstance(texts, dict) else {}
    )


def read_header_json(source: ByteSource) -> bytes:
    """Return the header's JSON object, behind which the tensors' bytes begin."""
    length = int.from_bytes(read_bounded(source, 0, LENGTH_BYTES, "header length"), "little")
    if length > min(HEADER_BYTES_MAX, source.size_bytes - LENGTH_BYTES):
        refuse(f"header of {length} bytes", None, 0)
    if length > CHECKED_HEADER_BYTES_MAX:
        raise NotChecked(f"header of {length} bytes is larger than is checked", offset=0)
    raw = read_bounded(source, LENGTH_BYTES, length, "header")
    if raw[:1] != b"{":
        refuse("header is no JSON object", None, LENGTH_BYTES)
    return raw


def header_entries(raw: bytes, about: list[bytes] | None = None) -> Iterator[HeaderEntry]:
    """Yield the header's entries, parsed one by one, because parsed JSON can take ninety times its length."""
    seen: set[str] = set()
    left_bytes = TENSORS_BYTES_MAX
    begin = _BEGIN.match(raw)
    at = begin.end() if begin is not None else 0
    is_first = True
    plain = _PlainEntries()
    while raw[at : at + 1] != b"}":
        match = (_PLAIN_FIRST if is_first else _PLAIN_NEXT).match(raw, at)
        entry = None if match is None else plain.entry(match)
        if entry is None:
            match = (_FIRST if is_first else _NEXT).match(raw, at)
            if match is None:
                what = "header entry is no object" if _is_member(raw, at) else "header is no JSON"
                refuse(what, None, LENGTH_BYTES)
            if match.end("name") - match.start("name") > ENTRY_BYTES_MAX:
                raise NotChecked("header entry whose name is longer than is checked", offset=LENGTH_BYTES)
            name = _parsed(match["name"])
        else:
            name = entry.name
        assert match is not None
        is_first = False
        at = match.end()
        if not isinstance(name, str) or name in seen:
            refuse("header names something twice", None, LENGTH_BYTES)
        seen.add(name)
        left_bytes -= len(name) if name.isascii() else 4 * len(name)
        if len(seen) > TENSORS_MAX or left_bytes < 0:
            raise NotChecked("header of more entries, or longer names, than are checked", offset=LENGTH_BYTES)
        if name == _METADATA:
            _check_metadata(raw, match.start("value"), about)
            continue
        yield entry or _other_entry(name, match)
    if raw[at + 1 :].strip(b" "):
        refuse("header is no JSON", None, LENGTH_BYTES)


class _PlainEntries:
    """Reads entries as the library writes them; types and shapes that come again are the same objects."""

    def __init__(self) -> None:
        self._meanings: dict[tuple[bytes, bytes], tuple[str, tuple[int, ...] | None]] = {}

    def entry(self, match: re.Match[bytes]) -> HeaderEntry | None:
        """Return the entry, or ``None`` if it needs the full JSON parser."""
        raw_name, raw_token, raw_shape, raw_begin, raw_end = match.groups()
        begin, end = int(raw_begin), int(raw_end)
        if not begin <= end < _COUNT_MAX or raw_name == _RAW_METADATA or len(raw_name) > ENTRY_BYTES_MAX - 2:
            return None
        try:
            name = raw_name.decode()
        except UnicodeDecodeError:
            return None
        meaning = self._meanings.get((raw_token, raw_shape))
        if meaning is None:
            sizes = [int(size) for size in raw_shape.split(b",") if size]
            meaning = raw_token.decode(), _as_shape(sizes)
            if len(self._meanings) < MEANINGS_MAX:
                self._meanings[raw_token, raw_shape] = meaning
        return HeaderEntry(name, *meaning, begin, end)


def _other_entry(name: str, match: re.Match[bytes]) -> HeaderEntry:
    """Return an entry that is not written the way the library writes it."""
    if match.end("value") - match.start("value") > ENTRY_BYTES_MAX:
        raise NotChecked("header entry is larger than is checked", record=name[:256], offset=LENGTH_BYTES)
    entry = _parsed(match["value"])
    if not isinstance(entry, dict):
        refuse("header entry is no object", name, LENGTH_BYTES)
    token = entry.get("dtype")
    return HeaderEntry(name, token if isinstance(token, str) else None, _as_shape(entry.get("shape")), *_span(entry))


def _is_member(raw: bytes, at: int) -> bool:
    """Return whether a name and a colon are at *at*, so that only the value is wrong."""
    return _MEMBER.match(raw, at) is not None


def _parsed(text: bytes) -> object:
    """Return what a short piece of the header says."""
    try:
        decoded = text.decode()
        is_plain_name = decoded[:1] == '"' and "\\" not in decoded
        return decoded[1:-1] if is_plain_name else _DECODER.decode(decoded)
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, _Refused) else "header is no JSON"
        raise ContainerBroken(str(reason), offset=LENGTH_BYTES) from None


class _Refused(ValueError):
    """JSON that parses, but not as the format wants it."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        msg = "header names something twice"
        raise _Refused(msg)
    return unique


def _no_constant(_name: str) -> NoReturn:
    msg = "header holds a number that JSON does not have"
    raise _Refused(msg)


def _finite(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _no_constant(text)


def _whole(text: str) -> int | float:
    """Return a whole number. ``-0`` is a float, as in JSON and for the library."""
    return -0.0 if text == "-0" else int(text)


# One for all entries: to make a decoder takes longer than to read an entry with it.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
)


def _check_metadata(raw: bytes, at: int, about: list[bytes] | None) -> None:
    """Text by text; nothing of it is kept, however much it is, but for who asks *about* a little."""
    match = _TEXTS.match(raw, at)
    if match is None:
        refuse("metadata is not text by text", None, LENGTH_BYTES)
    decoder = getincrementaldecoder("utf-8")()
    try:
        for start in range(match.start(), match.end(), SLICE_BYTES):
            end = min(start + SLICE_BYTES, match.end())
            decoder.decode(raw[start:end], final=end == match.end())
    except ValueError:
        refuse("header is no JSON", None, LENGTH_BYTES)
    if about is not None and match.end() - match.start() <= ABOUT_BYTES_MAX:
        about.append(match[0])


def _span(entry: dict[str, object]) -> tuple[int, int]:
    """Return begin and end of its bytes; -1 for both if they are missing or impossible."""
    offsets = entry.get("data_offsets")
    if isinstance(offsets, list) and len(offsets) == len(("begin", "end")) and all(map(_is_count, offsets)):
        begin, end = offsets
        if begin <= end:
            return begin, end
    return -1, -1


def _as_shape(shape: object) -> tuple[int, ...] | None:
    if not isinstance(shape, list) or len(shape) > _DIMENSIONS_MAX or not all(map(_is_count, shape)):
        return None
    return tuple(shape)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _COUNT_MAX


def refuse(reason: str, name: str | None, offset: int) -> NoReturn:
    """Raise ``ContainerBroken`` for the tensor *name*, or for the whole header."""
    raise ContainerBroken(reason, record=name, offset=offset)
