"""The later proofs of versions, with what is hidden of them: of one version, or of many of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from mlsync.repository.history.decisions import Decided
from mlsync.repository.later_proof import VersionProofs
from mlsync.repository.manifest import Entry
from mlsync.repository.proof_links import SeenProofs, seen_proofs
from mlsync.repository.readable import newest_readable, stored_or_none
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.versions.decided import decided_of
from mlsync.versions.hidden_proofs import HiddenProofs, hidden_in
from mlsync.versions.proof_status import KnownVersions, RunVersions, with_proofs


def proofs_of(repository: Repository, stored: StoredVersion) -> tuple[VersionProofs, HiddenProofs | None]:
    """Return the later proofs of one version, and what is hidden of them: this reads the newest manifest too."""
    root = stored.root
    seen = _newest_word(repository, root.run).get(root.number)
    proofs = repository.later_proofs(stored, () if seen is None else seen.heads)
    return proofs, hidden_in(repository, root.run, root.number, proofs, seen)


class RunProofs:
    """The later proofs of a run, for what looks at many of its versions; each is read once, if it is asked for."""

    def __init__(
        self,
        repository: Repository,
        run: str,
        known: KnownVersions | None = None,
        found: RunVersions | None = None,
    ) -> None:
        """Read nothing again that is *known*, and list nothing that was *found* by the flow just now."""
        self.repository = repository
        self.run = run
        self._known = known or KnownVersions()
        self._found = found
        self.hidden: dict[int, HiddenProofs] = {}

    @cached_property
    def numbers(self) -> list[int]:
        """The numbers of the run's versions, rising, without those that are forgotten or gone."""
        listed = self.repository.numbers(self.run) if self._found is None else self._found.numbers
        return [number for number in listed if self.decided.dropped(number) is None]

    @cached_property
    def decided(self) -> Decided:
        """What is decided of the run's versions."""
        return decided_of(self.repository, self.run, self._newest) if self._found is None else self._found.decided

    @cached_property
    def _newest(self) -> StoredVersion | None:
        return newest_readable(self.repository, self.run) if self._found is None else self._found.newest

    @cached_property
    def _seen(self) -> Mapping[int, SeenProofs]:
        return {} if self._newest is None else seen_proofs(self._newest.root.room)

    @cached_property
    def _keys(self) -> Mapping[int, list[str]]:
        return self.repository.later_proof_keys(self.run) if self._found is None else self._found.proof_keys

    def entries(self, stored: StoredVersion) -> Iterator[Entry]:
        """Return the entries of a version with their later proofs."""
        return with_proofs(self.repository.entries(stored), self._of(stored).proofs)

    def trusted(self, numbers: Iterable[int]) -> Iterator[StoredVersion]:
        """Yield the versions of these numbers that open and of which no later proof is hidden.

        ``hidden`` and ``repository.doubts`` have the others.
        """
        manifests = self._known.manifests
        for number in numbers:
            stored = manifests.get(number) or stored_or_none(self.repository, self.run, number)
            if stored is None:
                continue
            proofs = self._of(stored)
            hidden = hidden_in(self.repository, self.run, number, proofs, self._seen.get(number))
            if hidden is None:
                yield stored
                continue
            self.hidden[number] = hidden
            self.repository.doubts[stored.key] = f"{self.run}: version {number} is passed over: {hidden}"

    def of(self, stored: StoredVersion) -> tuple[VersionProofs, HiddenProofs | None]:
        """Return the later proofs of a version, and what is hidden of them."""
        proofs, number = self._of(stored), stored.root.number
        return proofs, hidden_in(self.repository, self.run, number, proofs, self._seen.get(number))

    def passed_over(self) -> str:
        """Return the end of a sentence about what was looked at in vain: which versions were passed over."""
        if not self.hidden:
            return ""
        of = "version" if len(self.hidden) == 1 else "versions"
        return f"; {of} {', '.join(map(str, sorted(self.hidden)))} passed over: later proofs are missing"

    def _of(self, stored: StoredVersion) -> VersionProofs:
        number = stored.root.number
        seen = self._seen.get(number)
        links = () if seen is None else seen.heads
        return self._known.later_proofs(self.repository, stored, self._keys.get(number, ()), links)


def _newest_word(repository: Repository, run: str) -> Mapping[int, SeenProofs]:
    """Return what the newest manifest of a run says of later proofs, by version."""
    newest = newest_readable(repository, run)
    return {} if newest is None else seen_proofs(newest.root.room)
