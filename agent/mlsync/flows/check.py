"""Look at every object and reference of the repository, go on after each problem, and name them all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from mlsync.errors import Damage, FormatUnsupported, KeyProblem, NotFound, StoreBroken
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef, Previous
from mlsync.repository.pack import TRAILER_BYTES
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository, Stored
from mlsync.repository.segments import segment_refs

Versions = set[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with an object, and the versions (run, number) that it touches."""

    key: str
    text: str
    versions: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class CheckResult:
    """What a check saw; *unused_packs* are of backups that did not end, and no problem."""

    run_count: int = 0
    version_count: int = 0
    pack_count: int = 0
    pack_bytes: int = 0
    chunk_count: int = 0
    read_bytes: int = 0
    unused_packs: int = 0
    problems: list[Problem] = field(default_factory=list)


def check(repository: Repository, monitor: Monitor, *, read_data: bool = False) -> CheckResult:
    """Return all problems of the repository; with *read_data* every byte of every pack is read and opened."""
    return _Check(repository, monitor).run(read_data=read_data)


class _Check:
    def __init__(self, repository: Repository, monitor: Monitor) -> None:
        self._repository = repository
        self._monitor = monitor
        self._result = CheckResult()
        self._sizes: dict[bytes, int] = {}
        # By pack and place: what manifests say of a chunk. Two that disagree are a problem by themselves.
        self._refs: dict[bytes, dict[int, ChunkRef]] = defaultdict(dict)
        self._touched: dict[bytes, Versions] = defaultdict(set)
        self._stored: dict[tuple[bytes, int], Stored] = {}

    def run(self, *, read_data: bool) -> CheckResult:
        self._check_key_slots()
        for pack_id, info in self._repository.packs():
            self._sizes[pack_id] = info.size_bytes
        self._check_versions()
        self._check_later_proofs()
        self._check_presence()
        if read_data:
            self._read_packs()
        result = self._result
        result.pack_count, result.pack_bytes = len(self._sizes), sum(self._sizes.values())
        result.chunk_count = sum(map(len, self._refs.values()))
        result.unused_packs = len(self._sizes.keys() - self._refs.keys())
        return result

    def _problem(self, key: str, text: str, versions: Versions | None = None) -> None:
        self._result.problems.append(Problem(key, text, tuple(sorted(versions or ()))))

    # ------------------------------------------------------------ keys and manifests

    def _check_key_slots(self) -> None:
        store = self._repository.store
        slots = [info.key for info in store.list(names.KEY_SLOTS)]
        if not slots:
            self._problem(names.KEY_SLOTS, "there is no key slot: once closed, the repository cannot be opened again")
        for key in slots:
            try:
                self._repository.read_slot(key)
            except (KeyProblem, FormatUnsupported, StoreBroken, NotFound) as error:
                self._problem(key, error.what)

    def _check_versions(self) -> None:
        found: dict[bytes, list[int]] = defaultdict(list)
        for info in self._repository.store.list(names.VERSIONS):
            parsed = names.parse_version(info.key)
            if parsed is None:
                self._problem(info.key, "not an object of ours")
            else:
                found[parsed[0]].append(parsed[1])
        self._result.run_count = len(found)
        with self._monitor.task("checking versions", sum(map(len, found.values())), unit="versions") as task:
            for run_id, numbers in found.items():
                self._check_run(run_id, numbers)
                task.advance(len(numbers))

    def _check_run(self, run_id: bytes, numbers: list[int]) -> None:
        before: Previous | None = None
        missing_before = False
        name: str | None = None
        unread: list[tuple[int, str]] = []
        for number in numbers:
            key = names.version(run_id, number)
            try:
                stored = self._check_version(key, number)
            except (Damage, FormatUnsupported, StoreBroken, NotFound) as error:
                unread.append((number, error.what))
                # What follows cannot be compared with what does not open.
                missing_before = True
                continue
            self._stored[run_id, number] = stored
            run, previous = stored.root.run, stored.root.previous
            name = run
            if previous is not None and previous.number not in numbers:
                text = f"the manifest is missing, and version {number} follows it"
                self._problem(names.version(run_id, previous.number), text, {(run, previous.number)})
            elif before is not None and not missing_before and previous != before:
                self._problem(key, _chain_text(previous, before), {(run, number)})
            before, missing_before = Previous(number, stored.digest), False
        for number, text in unread:
            # Which run it is of is not known by the name of the object, but by its brothers.
            self._problem(names.version(run_id, number), text, {(name, number)} if name is not None else None)

    def _check_version(self, key: str, number: int) -> Stored:
        stored = self._repository.open_version(key)
        self._result.version_count += 1
        root = stored.root
        if root.number != number or self._repository.version_key(root.run, number) != key:
            self._problem(key, "the manifest is another version's", {(root.run, number)})
        version = (root.run, number)
        for ref in segment_refs(root, key):
            self._note_ref(ref, version)
        try:
            for entry in self._repository.entries(stored):
                for ref in entry.chunks:
                    self._note_ref(ref, version)
        except (Damage, FormatUnsupported) as error:
            self._problem(key, f"the list of files cannot be read: {error}", {version})
        return stored

    def _check_later_proofs(self) -> None:
        for info in self._repository.store.list(names.LATER_PROOFS):
            parsed = names.parse_later_proof(info.key)
            if parsed is None:
                self._problem(info.key, "not an object of ours")
                continue
            stored = self._stored.get(parsed)
            if stored is None:
                # Of a version that does not open, which is named already, or that is gone.
                continue
            try:
                self._repository.read_later_proofs([info.key], stored)
            except (Damage, FormatUnsupported, StoreBroken) as error:
                self._problem(info.key, error.what, {(stored.root.run, stored.root.number)})

    def _note_ref(self, ref: ChunkRef, version: tuple[str, int]) -> None:
        known = self._refs[ref.pack].setdefault(ref.place, ref)
        if known != ref:
            self._problem(names.pack(ref.pack), f"versions disagree about chunk {ref.place}", {version})
        self._touched[ref.pack].add(version)

    # ------------------------------------------------------------ packs

    def _check_presence(self) -> None:
        for pack_id, refs in self._refs.items():
            size_bytes = self._sizes.get(pack_id)
            if size_bytes is None:
                self._problem(names.pack(pack_id), "the pack is missing", self._touched[pack_id])
                continue
            needed_bytes = max(ref.offset + ref.stored_bytes for ref in refs.values()) + TRAILER_BYTES
            if size_bytes < needed_bytes:
                text = f"the pack is cut short: {size_bytes} bytes, its chunks alone need {needed_bytes}"
                self._problem(names.pack(pack_id), text, self._touched[pack_id])

    def _read_packs(self) -> None:
        with (
            self._repository.reader() as reader,
            self._monitor.task("reading packs", sum(self._sizes.values())) as task,
        ):
            for pack_id, size_bytes in self._sizes.items():
                try:
                    self._read_pack(reader, pack_id, size_bytes)
                except (Damage, FormatUnsupported, StoreBroken, NotFound) as error:
                    self._problem(names.pack(pack_id), error.what, self._touched.get(pack_id))
                task.advance(size_bytes)
            self._result.read_bytes = reader.read_bytes

    def _read_pack(self, reader: ChunkReader, pack_id: bytes, size_bytes: int) -> None:
        stored = self._repository.pack_refs(pack_id, size_bytes)
        for place, ref in self._refs.get(pack_id, {}).items():
            if place >= len(stored) or stored[place] != ref:
                self._problem(names.pack(pack_id), f"chunk {place} is not as versions say", self._touched[pack_id])
        for _ in reader.stream(stored):
            pass


def _chain_text(found: Previous | None, expected: Previous) -> str:
    if found is None or found.number != expected.number:
        follows = "none" if found is None else found.number
        return f"it follows version {follows}, but the one before it in the store is {expected.number}"
    return f"version {expected.number} is not the one that it followed when it was made"
