"""A small cache of parsers' results: a file that was parsed at the source is proved right after, and parsed again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from threading import Lock

from mlsync.formats.layout import ContainerBroken, Content

# In tensors and storages, for all entries except a large one: some 10 MiB.
WEIGHT_MAX = 20_000
ENTRIES_MAX = 8


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the parser returned or raised."""

    content: Content | None
    fault: ContainerBroken | None
    weight: int


class ContentCache:
    """Caches what a parser returned for the bytes behind each key. Thread-safe.

    Of results above the bound it keeps only the last, and drops it before anything else is parsed: a checkpoint of a
    hundred thousand tensors takes a second to parse, and comes back from the repository right after it was stored.

    The cache is safe if the parser depends on those bytes alone and the key is a cryptographic digest of all of them:
    then the cached result is what the parser would return, and nobody can make other bytes with the same key.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Answer] = OrderedDict()
        self._weight = 0
        self._large: tuple[bytes, _Answer] | None = None
        self._lock = Lock()

    def of(self, key: bytes, parse: Callable[[], Content]) -> Content:
        """Return the cached content for *key*, or call *parse*; a ``ContainerBroken`` that it raised is cached too."""
        with self._lock:
            answer = self._known(key)
        if answer is None:
            answer = _ask(parse)
            self._keep(key, answer)
        return _told(answer)

    def _known(self, key: bytes) -> _Answer | None:
        answer = self._kept.get(key)
        if answer is not None:
            self._kept.move_to_end(key)
            return answer
        if self._large is not None and self._large[0] == key:
            return self._large[1]
        self._large = None
        return None

    def _keep(self, key: bytes, answer: _Answer) -> None:
        with self._lock:
            if key in self._kept:
                return
            if answer.weight > WEIGHT_MAX:
                self._large = key, answer
                return
            self._kept[key] = answer
            self._weight += answer.weight
            while self._weight > WEIGHT_MAX or len(self._kept) > ENTRIES_MAX:
                _, oldest = self._kept.popitem(last=False)
                self._weight -= oldest.weight


#: Shared by all parsers, so that at most one large result is kept; a key begins with the parser's name.
CONTENT_CACHE = ContentCache()


def key_of(*parts: bytes) -> bytes:
    """Return a cryptographic digest of all parts, which tells where one ends and the next begins."""
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _ask(parse: Callable[[], Content]) -> _Answer:
    try:
        content = parse()
    except ContainerBroken as fault:
        # A copy: the raised one references its traceback's frames, and those the whole graph
        return _Answer(None, _copied(fault), 0)
    return _Answer(content, None, len(content.tensors) + len(content.storages))


def _told(answer: _Answer) -> Content:
    """Return a copy of the content, or raise a copy of the fault, so that callers cannot change the cached one."""
    if answer.content is None:
        assert answer.fault is not None
        raise _copied(answer.fault)
    return replace(answer.content, facts=dict(answer.content.facts))


def _copied(fault: ContainerBroken) -> ContainerBroken:
    return type(fault)(fault.reason, record=fault.record, offset=fault.offset)
