"""The nodes of a pickle's graph, besides lists, tuples, texts and numbers."""

from __future__ import annotations

from collections.abc import Iterator


class Global:
    """A name that a pickle wants imported; it stays a name."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __repr__(self) -> str:
        return f"Global({self.module!r}, {self.name!r})"


class Call:
    """In place of an object: *func* called with *args*, and what was done to the object afterwards, if anything."""

    __slots__ = ("args", "func", "then")

    def __init__(self, func: object, args: tuple[object, ...]) -> None:
        self.func = func
        self.args = args
        # Separate, because most calls have none: a checkpoint of a thousand modules has twenty thousand calls
        self.then: Then | None = None

    def touch(self) -> Then:
        """Return the record of what was done to the object, created if needed."""
        if self.then is None:
            self.then = Then()
        return self.then


class Then:
    """What is done to an object after its call: *kwargs*, a *state*, appended *items*, set *pairs*."""

    __slots__ = ("items", "kwargs", "pairs", "state")

    def __init__(self) -> None:
        self.kwargs: object = None
        self.state: object = None
        self.items: list[object] | None = None
        self.pairs: Pairs | None = None


class Persistent:
    """An object outside the pickle, by its id; torch before 1.6 saved the classes of modules this way."""

    __slots__ = ("id",)

    def __init__(self, persistent_id: object) -> None:
        self.id = persistent_id


class Pairs(list[object]):
    """A dict as it was written: key, value, key, value, in order; keys are not hashed, later ones win."""

    __slots__ = ()

    def pairs(self) -> Iterator[tuple[object, object]]:
        """Return each key with its value."""
        return zip(self[::2], self[1::2], strict=True)


class Members(list[object]):
    """A set or frozenset as it was written."""

    __slots__ = ()
