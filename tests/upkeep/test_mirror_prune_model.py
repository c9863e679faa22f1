"""A copier beside prunes of its mirror, in every order: what a finished version needs stays.

The mirror is a store of prune_model.py, whose prunes run here. Its ``mirror.slandered`` holds the numbers of second
copies, which a copier makes of a version once it has looked back. The source does not change and has everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prune_model import DONE, FENCE, Mirror, Rules, Store, World, prune

# Pack "old" is in the mirror from a copy that was broken off before version 2 was listed.
SOURCE = ((1, frozenset({"a"})), (2, frozenset({"old", "new"})))
FIRST = Store(((1, frozenset({"a"})),), frozenset({"a", "old"}), mirror=Mirror(slandered=frozenset({1})))


@dataclass(frozen=True)
class Copying:
    """What is switched off of a copier, to see that it is needed."""

    looks_back: bool = True
    tombstones_first: bool = True
    next_one_looks: bool = True


def copier(rules: Copying, store: Store, local: Any) -> Iterator[tuple[Store, Any]]:
    """One step of a copier: it may die at any of them, and the next one begins."""
    step, rounds, *rest = local
    yield _STEPS[step](rules, store, rounds, *rest)
    if step not in ("begin", "packs") and rounds > 1:
        yield store, ("begin", rounds - 1)


def _begin(rules: Copying, store: Store, rounds: int) -> tuple[Store, Any]:
    there = {number for number, what in store.numbers if what != FENCE}
    finished = store.mirror.slandered if rules.next_one_looks else there
    lacking = tuple(one for one in SOURCE if one[0] not in there & finished)
    return store, ("packs", rounds, lacking, store.packs)


def _packs(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any) -> tuple[Store, Any]:
    if not lacking:
        return store, (("begin", rounds - 1) if rounds > 1 else DONE)
    missing = sorted(lacking[0][1] - seen)
    if missing:
        return store.with_pack(missing[0]), ("packs", rounds, lacking, seen | {missing[0]})
    return store, ("tombstones", rounds, lacking, seen)


def _tombstones(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any) -> tuple[Store, Any]:
    is_marked = bool(lacking[0][1] & store.tombs)
    return store, ("take back" if is_marked else "list", rounds, lacking, seen)


def _list(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any) -> tuple[Store, Any]:
    return store.with_number(*lacking[0]), ("look", rounds, lacking, seen, not rules.tombstones_first)


def _look(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any, at_packs: bool) -> tuple[Store, Any]:
    named = lacking[0][1]
    is_lost = not named <= store.packs if at_packs else bool(named & store.tombs)
    if not rules.looks_back or (not is_lost and at_packs == rules.tombstones_first):
        return store, ("copy", rounds, lacking, seen)
    return store, ("take back", rounds, lacking, seen) if is_lost else ("look", rounds, lacking, seen, not at_packs)


def _copy(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any) -> tuple[Store, Any]:
    copies = store.mirror.slandered | {lacking[0][0]}
    return store.mirrored(replace(store.mirror, slandered=copies)), ("packs", rounds, lacking[1:], seen)


def _take_back(rules: Copying, store: Store, rounds: int, lacking: Any, seen: Any) -> tuple[Store, Any]:
    number, what = lacking[0]
    # What is gone is copied anew by the next round.
    there = store.with_number(number, FENCE) if store.at(number) == what else store
    return there, ("packs", rounds, lacking[1:], seen)


_STEPS = {
    "begin": _begin,
    "packs": _packs,
    "tombstones": _tombstones,
    "list": _list,
    "look": _look,
    "copy": _copy,
    "take back": _take_back,
}


def lost(store: Store, *, is_over: bool) -> list[int]:
    """The versions that say they are finished, or are listed at the end, and lack a pack."""
    return [
        number
        for number, what in store.numbers
        if what != FENCE and not what <= store.packs and (is_over or number in store.mirror.slandered)
    ]


def explore(rules: Copying, rounds: int, prunes: tuple[int, ...]) -> int:
    """Try every order; return how many states there are, or raise ``LookupError`` for a lost version."""
    world, prune_rules = World(FIRST, writers=()), Rules()
    first = (FIRST, ("begin", rounds), tuple(("begin", count) for count in prunes))
    seen, waiting = {first}, [first]
    while waiting:
        store, copying, pruning = waiting.pop()
        following = [] if copying == DONE else [(made, to, pruning) for made, to in copier(rules, store, copying)]
        for at, local in enumerate(pruning):
            if local != DONE:
                following += [
                    (made, copying, (*pruning[:at], to, *pruning[at + 1 :]))
                    for made, to, _ in prune(world, prune_rules, f"p{at}-", store, local, 0)
                ]
        if lost(store, is_over=not following):
            raise LookupError(f"{store} {copying} {pruning}")
        new = [one for one in following if one not in seen]
        seen.update(new)
        waiting += new
    return len(seen)


def test_a_copier_beside_prunes_of_its_mirror_loses_nothing():
    """A prune that marks and deletes, and copiers that die anywhere: no finished version lacks a pack."""
    assert explore(Copying(), rounds=3, prunes=(2,)) > 1000


@pytest.mark.parametrize("rules", [Copying(looks_back=False), Copying(tombstones_first=False)])
def test_what_a_copier_does_after_it_listed_a_version_is_needed(rules):
    """Without a look back, or with the packs looked at before the tombstones, a finished version loses a pack."""
    with pytest.raises(LookupError):
        explore(rules, rounds=2, prunes=(2,))


def test_the_next_copier_looks_at_what_a_dead_one_listed():
    """If a version that was listed counted as finished, one whose copier died would be lost for good."""
    with pytest.raises(LookupError):
        explore(Copying(next_one_looks=False), rounds=2, prunes=(2,))
