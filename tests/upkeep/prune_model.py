"""An explicit model of writers and prunes over one run: every order of their store calls, and what a store may hide.

Each process is a number of steps, one store call each; between any two of them any other process may run, for as long
as it likes. A process that stands still for ever is one that crashed. Times do not occur: a prune may take any
tombstone for old enough, and any pack that no version names for one to be marked, so that clocks may be off at will.
The steps are those of ``mlsync.repository.commit``, ``mlsync.backup.new_version``, ``mlsync.upkeep.prune`` and
``mlsync.upkeep.compaction``, and those of a copier to a mirror as docs/format.md has them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FENCE = "fence"
# A version is the packs that it names.
Numbers = tuple[tuple[int, Any], ...]
Packs = frozenset[str]


# By the pack that was moved, the pack that has its chunks now.
Records = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Mirror:
    """A second store, to which a copier copies versions, packs and move records; it deletes nothing there."""

    numbers: Numbers = ()
    packs: Packs = frozenset()
    records: Records = frozenset()
    # Versions that it said are incomplete, although they restore from the first store.
    slandered: frozenset[int] = frozenset()


NO_MIRROR = Mirror()


@dataclass(frozen=True)
class Store:
    """The objects: under numbers of the run versions and fences, packs, tombstones, move records, a registration."""

    numbers: Numbers
    packs: Packs
    tombs: Packs = frozenset()
    is_registered: bool = False
    records: Records = frozenset()
    mirror: Mirror = NO_MIRROR

    def at(self, number: int) -> Any:
        """What is under a number."""
        return dict(self.numbers).get(number)

    def with_number(self, number: int, what: Any) -> Store:
        """The store with something under a number."""
        numbers = tuple(sorted({**dict(self.numbers), number: what}.items()))
        return Store(numbers, self.packs, self.tombs, self.is_registered, self.records, self.mirror)

    def without_number(self, number: int) -> Store:
        """The store in which a number is free."""
        numbers = tuple(one for one in self.numbers if one[0] != number)
        return Store(numbers, self.packs, self.tombs, self.is_registered, self.records, self.mirror)

    def with_pack(self, pack: str) -> Store:
        """The store with a pack more."""
        packs = self.packs | {pack}
        return Store(self.numbers, packs, self.tombs, self.is_registered, self.records, self.mirror)

    def without_pack(self, pack: str) -> Store:
        """The store with a pack fewer."""
        packs = self.packs - {pack}
        return Store(self.numbers, packs, self.tombs, self.is_registered, self.records, self.mirror)

    def with_tomb(self, pack: str) -> Store:
        """The store with a tombstone more."""
        tombs = self.tombs | {pack}
        return Store(self.numbers, self.packs, tombs, self.is_registered, self.records, self.mirror)

    def without_tomb(self, pack: str) -> Store:
        """The store with a tombstone fewer."""
        tombs = self.tombs - {pack}
        return Store(self.numbers, self.packs, tombs, self.is_registered, self.records, self.mirror)

    def registered(self) -> Store:
        """The store in which the run is registered."""
        return Store(self.numbers, self.packs, self.tombs, True, self.records, self.mirror)

    def with_records(self, records: Records) -> Store:
        """The store with other move records."""
        return Store(self.numbers, self.packs, self.tombs, self.is_registered, records, self.mirror)

    def mirrored(self, mirror: Mirror) -> Store:
        """The store with another mirror."""
        return Store(self.numbers, self.packs, self.tombs, self.is_registered, self.records, mirror)


def led_to(named: Packs, records: Records) -> Packs:
    """The packs that records lead to from the named ones, and these."""
    found, ahead, moved = set(named), list(named), dict(records)
    while ahead:
        new = moved.get(ahead.pop())
        if new is not None and new not in found:
            found.add(new)
            ahead.append(new)
    return frozenset(found)


def last_place(pack: str, packs: Packs, records: Records) -> str | None:
    """The pack that is there and has the chunks of a pack: itself, or where records lead; or nothing."""
    moved, place = dict(records), pack
    for _ in range(len(moved) + 1):
        if place in packs:
            return place
        if place not in moved:
            return None
        place = moved[place]
    return None


@dataclass(frozen=True)
class Rules:
    """What is switched off, to see that it is needed; *lies* is how many listings of versions may lack an object."""

    fences: bool = True
    tombstones_at_commit: bool = True
    own_packs: bool = True
    old_packs: bool = True
    replaces: bool = True
    keeps_tombstones: bool = True
    tombstones_first: bool = True
    looks_again: bool = True
    compares_listings: bool = True
    fences_until_all_hold: bool = True
    registers: bool = True
    pack_before_tombstone: bool = True
    follows_records: bool = True
    reads_before_release: bool = True
    keeps_needed_records: bool = True
    never_overwrites_records: bool = True
    copies_by_manifest: bool = True
    copies_manifest_last: bool = True
    copies_what_it_saw: bool = True
    copies_records: bool = True
    holds_bases: bool = True
    copies_bases: bool = True
    lies: int = 0


@dataclass(frozen=True)
class World:
    """What is there at first: the store, which versions are decided to be gone, and which processes run."""

    store: Store
    # By number, a pack of the version that is decided to be gone; prunes learn of it only in their *last* round.
    gone: tuple[tuple[int, str], ...] = ()
    is_gone_late: bool = False
    # For each writer, a pack that it knows from long ago and would rather use again than store its content.
    writers: tuple[str | None, ...] = ("old",)
    # How many rounds each prune does.
    prunes: tuple[int, ...] = (2,)
    tries: int = 2
    # For each compaction, the pack that it moves.
    compactions: tuple[str, ...] = ()
    # How many people discard what was planted in the place of the first compaction's record.
    discards: int = 0
    has_copier: bool = False
    # Packs of differences, each with the pack of their bases, of which versions need nothing else.
    bases: tuple[tuple[str, str], ...] = ()

    def needs_base(self, base: str, packs: Packs) -> bool:
        """Whether a reader wants the content of a pack: of bases, only while a pack of their differences is there."""
        users = {pack for pack, its_base in self.bases if its_base == base}
        return not users or not users.isdisjoint(packs)

    def is_gone(self, number: int, what: Any) -> bool:
        """Whether a version is the one that was decided to be gone."""
        return dict(self.gone).get(number) in what

    def goes(self, rounds: int, number: int, what: Any) -> bool:
        """Whether a prune in that round knows so."""
        return (rounds == 1 or not self.is_gone_late) and self.is_gone(number, what)


Local = tuple[Any, ...]
Step = tuple[Store, Local, int]
DONE: Local = ("done",)
# Where an object leads that was planted in the place of a move record: to no pack.
PLANTED = "planted"
# Ends the name of a pack that has one chunk of a pack of bases, and not what differences need.
IDLE = "idle"
# Begins what a prune has in mind to delete at its end, the record of a pack.
RECORD = "record of "


def lowest_free(numbers: Numbers, above: int) -> int:
    """The lowest free number above a version."""
    taken = dict(numbers)
    number = above + 1
    while number in taken:
        number += 1
    return number


# ---------------------------------------------------------------- a writer


def _writer_begin(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    # It lists its run; the parent is the newest version.
    for listed, left in _listings(store, lies):
        parent = max((number for number, what in listed if what != FENCE), default=0)
        yield store, ("index", parent, lowest_free(listed, parent), 1), left


def _writer_index(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt = local
    # The tombstones before it reads: what has one is stored again. Packs that it knows are asked for by name.
    known = world.writers[int(name[1])]
    old = frozenset({known}) | {base for pack, base in world.bases if pack == known}
    if not old <= store.packs - store.tombs:
        old = frozenset()
    if not old and known not in store.packs - store.tombs:
        # What was moved is used where it lies now, and that place is named.
        place = last_place(known or "", store.packs - store.tombs, store.records)
        old = frozenset() if place is None else frozenset({place})
    yield store, ("upload", parent, number, attempt, old), lies


def _writer_upload(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt, old = local
    own = f"{name}{attempt}"
    yield store.with_pack(own), ("register", parent, number, attempt, old, own), lies


def _writer_register(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt, old, own = local
    after = ("tombstones", parent, number, attempt, old, own)
    yield (store.registered() if parent == 0 and rules.registers else store), after, lies


def _writer_tombstones(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt, old, own = local
    seen = store.tombs if rules.tombstones_at_commit else frozenset()
    yield store, ("packs", parent, number, attempt, old, own, seen & (old | {own})), lies


def _writer_packs(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt, old, own, tombs = local
    looked_at = (old if rules.old_packs else frozenset()) | (frozenset({own}) if rules.own_packs else frozenset())
    if looked_at <= store.packs and not tombs & looked_at:
        yield store, ("create", parent, number, attempt, old | {own}, old, own), lies
    elif attempt < world.tries:
        yield store, ("begin-again", attempt + 1), lies
    else:
        yield store, DONE, lies


def _writer_begin_again(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    versions = [number for number, what in store.numbers if what != FENCE]
    parent = max(versions, default=0)
    yield store, ("index", parent, lowest_free(store.numbers, parent), local[1]), lies


def _writer_create(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, parent, number, attempt, named, old, own = local
    there = store.at(number)
    if there is None:
        yield store.with_number(number, named), DONE, lies
    elif there == FENCE and number < parent + 6:
        yield store, ("register", parent, number + 1, attempt, old, own), lies
    else:
        yield store, DONE, lies


WRITER_STEPS = {
    "begin": _writer_begin,
    "index": _writer_index,
    "upload": _writer_upload,
    "register": _writer_register,
    "tombstones": _writer_tombstones,
    "packs": _writer_packs,
    "begin-again": _writer_begin_again,
    "create": _writer_create,
}


def writer(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    """One step of a writer: its local state is where it stands and what it knows."""
    return WRITER_STEPS[local[0]](world, rules, name, store, local, lies)


# ---------------------------------------------------------------- a prune


def _prune_begin(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *_ = local
    first = "read tombstones" if rules.tombstones_first else "list"
    yield store, (first, rounds, frozenset()), lies


def _prune_read_tombstones(
    world: World, rules: Rules, name: str, store: Store, local: Local, lies: int
) -> Iterator[Step]:
    _, rounds, *rest = local
    if rules.tombstones_first:
        yield store, ("list", rounds, store.tombs), lies
    else:
        _, listed, named, marks = rest
        yield store, ("look again", rounds, store.tombs, listed, named, marks), lies


def _prune_list(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    (tombs,) = rest
    for listed, left in _listings(store, lies):
        after = ("runs", rounds, tombs, listed)
        yield store, after, left


def _prune_runs(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed = rest
    # A run that nothing tells of is not fenced. The registration was read before the versions: here it is asked
    # for afterwards, which shows more of it than the real prune sees, so the real order is tried as well.
    is_known = bool(listed) or (store.is_registered and rules.registers)
    named = _needed(world, rules, rounds, listed, store)
    gone = {old for old, new in store.records if new != PLANTED} - store.packs - tombs
    spent = gone - named if rules.keeps_needed_records else gone
    marks = frozenset(store.packs - named - store.tombs) | {f"{RECORD}{pack}" for pack in spent}
    going = tuple(number for number, what in listed if what != FENCE and world.goes(rounds, number, what))
    yield store, ("remove", rounds, tombs, listed if is_known else None, named, marks, going), lies


def _prune_remove(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed, named, marks, going = rest
    if not going:
        yield (
            store,
            ("fence" if rules.fences else "tombstones late", rounds, tombs, listed, named, marks, None),
            lies,
        )
    elif rules.replaces:
        yield store.with_number(going[0], FENCE), ("remove", rounds, tombs, listed, named, marks, going[1:]), lies
    else:
        yield (
            store.without_number(going[0]),
            ("fence removed", rounds, tombs, listed, named, marks, going),
            lies,
        )


def _prune_fence_removed(
    world: World, rules: Rules, name: str, store: Store, local: Local, lies: int
) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed, named, marks, going = rest
    after = ("remove", rounds, tombs, listed, named, marks, going[1:])
    yield (store.with_number(going[0], FENCE) if store.at(going[0]) is None else store), after, lies


def _prune_fence(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed, named, marks, left = rest
    if left is None:
        left = _free(listed) if listed is not None else ()
    if not left:
        after = "look again" if rules.tombstones_first else "read tombstones"
        yield store, (after, rounds, tombs, listed, named, marks), lies
    else:
        number = left[0]
        if store.at(number) is None:
            after = ("fence", rounds, tombs, _with(listed, number), named, marks, left[1:])
            yield store.with_number(number, FENCE), after, lies
        elif rules.fences_until_all_hold:
            yield store, ("list for fences", rounds, tombs, _with(listed, number), named, marks), lies
        else:
            yield store, ("fence", rounds, tombs, _with(listed, number), named, marks, left[1:]), lies


def _prune_list_for_fences(
    world: World, rules: Rules, name: str, store: Store, local: Local, lies: int
) -> Iterator[Step]:
    _, rounds, *rest = local
    # A number looked free and is not: a version came, or the listing was short. It fences by a new one.
    tombs, _, named, marks = rest
    for again, left in _listings(store, lies):
        yield store, ("fence", rounds, tombs, again, named, marks, None), left


def _prune_tombstones_late(
    world: World, rules: Rules, name: str, store: Store, local: Local, lies: int
) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed, named, marks, _ = rest
    after = "look again" if rules.tombstones_first else "read tombstones"
    yield store, (after, rounds, tombs, listed, named, marks), lies


def _prune_look_again(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    tombs, listed, named, marks = rest
    if not rules.looks_again:
        yield store, ("delete", rounds, tuple(sorted(tombs - named)), named, marks), lies
        return
    for again, left in _listings(store, lies):
        numbers = {number for number, _ in again}
        is_short = bool({number for number, _ in listed or ()} - numbers)
        if rules.compares_listings and rules.fences and numbers:
            is_short = is_short or store.at(max(numbers) + 1) is not None
        if is_short and rules.compares_listings:
            yield store, _next_round(rounds), left
            continue
        seen = named | _needed(world, rules, rounds, again, store)
        moved = tombs & seen & {old for old, _ in store.records} & store.packs
        if moved:
            yield store, ("release", rounds, tombs - seen, moved, seen, marks), left
        else:
            yield store, ("delete", rounds, tuple(sorted(tombs - seen)), seen, marks), left


def _prune_release(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    # A pack that versions name goes too, if what they need is read where records lead: not in what goes with it.
    _, rounds, doomed, moved, seen, marks = local
    left = store.packs - doomed - moved
    there = _that_want_bases(rules, store)
    free = {
        pack
        for pack in moved
        if not rules.reads_before_release
        or not world.needs_base(pack, there)
        or _has_content(last_place(pack, left, store.records))
    }
    yield store, ("delete", rounds, tuple(sorted(doomed | free)), seen, marks), lies


def _that_want_bases(rules: Rules, store: Store) -> Packs:
    """The packs whose bases count as needed: all that are there, although they were moved and go in this very round."""
    return store.packs if rules.holds_bases else store.packs - {old for old, _ in store.records}


def _prune_delete(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    chosen, named, marks = rest
    if not chosen:
        yield store, ("mark", rounds, tuple(sorted(marks - named)), named), lies
    elif chosen[0] not in store.tombs:  # still the same object?
        yield store, ("delete", rounds, chosen[1:], named, marks), lies
    else:
        yield store, ("delete pack", rounds, chosen, named, marks), lies


def _prune_delete_pack(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    chosen, named, marks = rest
    changed = store.without_pack(chosen[0]) if rules.pack_before_tombstone else store.without_tomb(chosen[0])
    yield changed, ("delete tombstone", rounds, chosen, named, marks), lies


def _prune_delete_tombstone(
    world: World, rules: Rules, name: str, store: Store, local: Local, lies: int
) -> Iterator[Step]:
    _, rounds, *rest = local
    chosen, named, marks = rest
    changed = store.without_tomb(chosen[0]) if rules.pack_before_tombstone else store.without_pack(chosen[0])
    yield changed, ("delete", rounds, chosen[1:], named, marks), lies


def _prune_mark(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    _, rounds, *rest = local
    marks, named = rest
    if marks and marks[0].startswith(RECORD):
        old = marks[0].removeprefix(RECORD)
        is_needed = old in named and rules.keeps_needed_records
        changed = store if is_needed else store.with_records(frozenset(one for one in store.records if one[0] != old))
        yield changed, ("mark", rounds, marks[1:], named), lies
    elif marks:
        changed = store.with_tomb(marks[0]) if marks[0] in store.packs else store
        yield changed, ("mark", rounds, marks[1:], named), lies
    elif not rules.keeps_tombstones and store.tombs & named:
        # What a version names would get its tombstone taken away.
        yield store.without_tomb(min(store.tombs & named)), ("mark", rounds, marks, named), lies
    else:
        yield store, _next_round(rounds), lies


PRUNE_STEPS = {
    "begin": _prune_begin,
    "read tombstones": _prune_read_tombstones,
    "list": _prune_list,
    "runs": _prune_runs,
    "remove": _prune_remove,
    "fence removed": _prune_fence_removed,
    "fence": _prune_fence,
    "list for fences": _prune_list_for_fences,
    "tombstones late": _prune_tombstones_late,
    "look again": _prune_look_again,
    "release": _prune_release,
    "delete": _prune_delete,
    "delete pack": _prune_delete_pack,
    "delete tombstone": _prune_delete_tombstone,
    "mark": _prune_mark,
}


def prune(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    """One step of a prune: it does so many rounds, each with all steps of docs/format.md."""
    return PRUNE_STEPS[local[0]](world, rules, name, store, local, lies)


def _next_round(rounds: int) -> Local:
    return ("begin", rounds - 1) if rounds > 1 else DONE


def _named(world: World, rounds: int, listed: Numbers) -> Packs:
    staying = (what for number, what in listed if what != FENCE and not world.goes(rounds, number, what))
    return frozenset(pack for what in staying for pack in what)


def _needed(world: World, rules: Rules, rounds: int, listed: Numbers, store: Store) -> Packs:
    named = _named(world, rounds, listed)
    return led_to(named, store.records) if rules.follows_records else named


def _free(listed: Numbers) -> tuple[int, ...]:
    numbers = {number for number, _ in listed}
    return tuple(sorted({1, *(number + 1 for number in numbers)} - numbers))


def _with(listed: Numbers | None, number: int) -> Numbers:
    return tuple(sorted({**dict(listed or ()), number: FENCE}.items(), key=lambda one: one[0]))


def _listings(store: Store, lies: int) -> Iterator[tuple[Numbers, int]]:
    """The listing of versions, and while lies are left, each that lacks one object or all behind one."""
    yield store.numbers, lies
    if lies:
        for at in range(len(store.numbers)):
            yield store.numbers[:at] + store.numbers[at + 1 :], lies - 1
            if at + 1 < len(store.numbers):
                yield store.numbers[:at], lies - 1


# ---------------------------------------------------------------- a compaction


def _compaction(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    """One step of a compaction: the new pack, read back; the record; the tombstone.

    Differences are moved without their bases. Of a pack of bases that nothing needs, one chunk is moved.
    """
    pack = world.compactions[int(name[1])]
    new = local[1] if len(local) > 1 else f"{name}new"
    match local[0]:
        case "begin":
            is_named = any(what != FENCE and pack in what for _, what in store.numbers)
            is_there = pack in store.packs - store.tombs
            step = "bury" if dict(store.records).get(pack, PLANTED) != PLANTED else "upload"
            new = f"{name}new" if world.needs_base(pack, _that_want_bases(rules, store)) else f"{name}{IDLE}"
            yield store, ((step, new) if is_named and is_there else DONE), lies
        case "upload":
            its_bases = (base for user, base in world.bases if user == pack)
            is_read = all(_has_content(last_place(base, store.packs, store.records)) for base in its_bases)
            yield (store.with_pack(new), ("read back", new), lies) if is_read else (store, DONE, lies)
        case "read back":
            yield store, (("record", new) if new in store.packs else DONE), lies
        case "record":
            there = dict(store.records).get(pack)
            if there == PLANTED:
                yield store, (DONE if rules.never_overwrites_records else ("overwrite", new)), lies
            else:
                yield (store if there else store.with_records(store.records | {(pack, new)})), ("bury",), lies
        case "overwrite":
            others = frozenset(one for one in store.records if one[0] != pack)
            yield store.with_records(others | {(pack, new)}), ("bury",), lies
        case _:
            yield store.with_tomb(pack), DONE, lies


def _discard(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    """One step of a person who has a planted record deleted: a look, and the deletion."""
    pack = world.compactions[0]
    if local[0] == "begin":
        is_planted = dict(store.records).get(pack) == PLANTED and pack in store.packs
        yield store, (("delete",) if is_planted else DONE), lies
    else:
        yield store.with_records(frozenset(one for one in store.records if one[0] != pack)), DONE, lies


# ---------------------------------------------------------------- a copier


def _copier(world: World, rules: Rules, name: str, store: Store, local: Local, lies: int) -> Iterator[Step]:
    """One step of a copier, which copies each version that it listed: its packs, and then its manifest."""
    mirror = store.mirror
    match local:
        case ("begin",) | ("all packs", _):
            yield _before_the_list(rules, store, local, lies)
        case ("list",):
            yield store, ("next", tuple(one for one in store.numbers if one[1] != FENCE)), lies
        case ("next", ()):
            yield store, DONE, lies
        case ("next", versions):
            number, what = versions[0]
            todo = tuple(sorted(what)) if rules.copies_by_manifest else ()
            is_there = store.at(number) == what
            step = ("packs", versions, todo) if rules.copies_manifest_last else ("manifest", versions, todo)
            yield store, (step if is_there else ("next", versions[1:])), lies
        case ("packs", versions, ()):
            yield store, (("manifest", versions, ()) if rules.copies_manifest_last else ("next", versions[1:])), lies
        case ("packs", versions, todo):
            yield from _copied(rules, store, versions, todo, lies)
        case ("record", versions, todo):
            yield from _followed(rules, store, versions, todo, lies)
        case ("manifest", versions, _) if _wants_base(world, rules, versions[0][1], mirror):
            # It says that it could not copy this one, and why.
            yield store, ("next", versions[1:]), lies
        case ("manifest", versions, todo):
            copied = Mirror((*mirror.numbers, versions[0]), mirror.packs, mirror.records, mirror.slandered)
            step = ("next", versions[1:]) if rules.copies_manifest_last else ("packs", versions, todo)
            yield store.mirrored(copied), step, lies


def _wants_base(world: World, rules: Rules, what: Packs, mirror: Mirror) -> bool:
    """Whether a pack of differences came before the source moved it, and its bases are gone since."""
    wanted = {base for pack, base in world.bases if pack in what and pack in mirror.packs}
    places = [last_place(base, mirror.packs, mirror.records) for base in wanted]
    return rules.copies_bases and not all(map(_has_content, places))


def _before_the_list(rules: Rules, store: Store, local: Local, lies: int) -> Step:
    """What a program does that copies all packs by their own listing, and manifests afterwards."""
    if local == ("begin",):
        return store, (("list",) if rules.copies_by_manifest else ("all packs", tuple(sorted(store.packs)))), lies
    mirror, todo = store.mirror, local[1]
    copied = Mirror(mirror.numbers, mirror.packs | (set(todo[:1]) & store.packs), mirror.records)
    return store.mirrored(copied), (("all packs", todo[1:]) if todo else ("list",)), lies


def _copied(rules: Rules, store: Store, versions: Numbers, todo: tuple[Any, ...], lies: int) -> Iterator[Step]:
    mirror, one = store.mirror, todo[0]
    if isinstance(one, tuple):
        # The pack that it leads to is in the mirror by now.
        copied = Mirror(mirror.numbers, mirror.packs, mirror.records | {one}, mirror.slandered)
        yield store.mirrored(copied), ("packs", versions, todo[1:]), lies
    elif one in mirror.packs:
        yield store, ("packs", versions, todo[1:]), lies
    elif one in store.packs:
        copied = Mirror(mirror.numbers, mirror.packs | {one}, mirror.records, mirror.slandered)
        yield store.mirrored(copied), ("packs", versions, todo[1:]), lies
    else:
        yield store, ("record", versions, todo), lies


def _followed(rules: Rules, store: Store, versions: Numbers, todo: tuple[Any, ...], lies: int) -> Iterator[Step]:
    """A pack is gone: it was moved, its version was removed, or the version is incomplete."""
    mirror, (number, what) = store.mirror, versions[0]
    new = dict(store.records).get(todo[0]) if rules.copies_records else None
    if new is not None:
        yield store, ("packs", versions, (new, (todo[0], new), *todo[1:])), lies
    elif not rules.copies_what_it_saw:
        yield store, ("packs", versions, todo[1:]), lies
    else:
        is_whole = store.at(number) == what and all(last_place(pack, store.packs, store.records) for pack in what)
        slandered = mirror.slandered | {number} if is_whole else mirror.slandered
        said = Mirror(mirror.numbers, mirror.packs, mirror.records, slandered)
        yield store.mirrored(said), ("next", versions[1:]), lies


# ---------------------------------------------------------------- all orders, or some


class Lost(Exception):
    """A version is listed, and a pack that it names is gone; the order of steps that led there."""


def broken(world: World, store: Store) -> list[int]:
    """The versions that do not restore, from the store or from its mirror, or are said to be incomplete and are not."""
    lost = [
        number
        for number, what in store.numbers
        if what != FENCE
        and not what <= store.packs
        and not world.is_gone(number, what)
        and _is_lost(world, what, store)
    ]
    mirror = store.mirror
    lost += [number for number, what in mirror.numbers if not what <= mirror.packs and _is_lost(world, what, mirror)]
    return [*lost, *mirror.slandered]


def _is_lost(world: World, what: Packs, place: Store | Mirror) -> bool:
    needed = (pack for pack in what if world.needs_base(pack, place.packs))
    return not all(_has_content(last_place(pack, place.packs, place.records)) for pack in needed)


def _has_content(place: str | None) -> bool:
    """Whether what was sought is in the pack that was found."""
    return place is not None and not place.endswith(IDLE)


def processes(world: World) -> list[tuple[str, Any, Local]]:
    """Each process, with where it begins."""
    writers = [(f"w{at}-", writer, ("begin",)) for at in range(len(world.writers))]
    prunes = [(f"p{at}-", prune, ("begin", rounds)) for at, rounds in enumerate(world.prunes)]
    compactions = [(f"c{at}-", _compaction, ("begin",)) for at in range(len(world.compactions))]
    others = [(f"d{at}-", _discard, ("begin",)) for at in range(world.discards)]
    others += [("m0-", _copier, ("begin",))] if world.has_copier else []
    return [*writers, *prunes, *compactions, *others]


def explore(world: World, rules: Rules | None = None, states_max: int = 5_000_000) -> int:
    """Try every order; return how many states there are, or raise ``Lost``."""
    rules = rules or Rules()
    running = processes(world)
    first = (world.store, tuple(local for _, _, local in running), rules.lies)
    came_from: dict[Any, tuple[Any, str] | None] = {first: None}
    waiting = [first]
    while waiting:
        state = waiting.pop()
        store, locals_, lies = state
        for at, (name, step, _) in enumerate(running):
            if locals_[at] == DONE:
                continue
            for changed, local, left in step(world, rules, name, store, locals_[at], lies):
                after = (changed, (*locals_[:at], local, *locals_[at + 1 :]), left)
                if after in came_from:
                    continue
                came_from[after] = state, f"{name}{locals_[at][0]}"
                if broken(world, changed):
                    raise Lost(" > ".join(_way(came_from, after)))
                waiting.append(after)
        if len(came_from) > states_max:
            raise AssertionError(f"more than {states_max:,} states")
    return len(came_from)


def wander(world: World, seed: int, walks: int, rules: Rules | None = None) -> int:
    """Try some orders by chance; return how many steps that were, or raise ``Lost``."""
    rules, source, steps = rules or Rules(), random.Random(seed), 0
    for _ in range(walks):
        running = processes(world)
        store, locals_, lies = world.store, [local for _, _, local in running], rules.lies
        way: list[str] = []
        while any(local != DONE for local in locals_):
            # One process runs for a while: that one stands still for long is what the trouble comes from.
            at = source.choice([at for at, local in enumerate(locals_) if local != DONE])
            for _ in range(source.choice((1, 1, 2, 5, 50))):
                if locals_[at] == DONE:
                    break
                name, step, _ = running[at]
                way.append(f"{name}{locals_[at][0]}")
                choices = list(step(world, rules, name, store, locals_[at], lies))
                store, locals_[at], lies = source.choice(choices)
                steps += 1
                if broken(world, store):
                    raise Lost(" > ".join(way))
    return steps


def _way(came_from: dict[Any, tuple[Any, str] | None], state: Any) -> list[str]:
    found: list[str] = []
    while (before := came_from[state]) is not None:
        state, step = before
        found.append(step)
    return found[::-1]
