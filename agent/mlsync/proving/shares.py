"""Several processes that prove one repository together, a share each, without communication.

They start at different moments, and one may have proved something before another lists what is pending: each sees
another list. If each divided its list, a checkpoint could belong to no share. So the division depends only on the
manifests of the version and of those before it, which never change: all processes compute the same division. Each then
skips what was proved since.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlsync.errors import Damage
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.values import Proof


@dataclass(frozen=True, slots=True)
class Share:
    """The *number*-th of *count* shares, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        """Name it as output and messages do."""
        return f"share {self.number} of {self.count}"


class Division:
    """Distributes contents over *count* shares by their bytes; a content stays with its share.

    After each call, and in that call, two shares differ by at most the bytes of the largest file.
    """

    def __init__(self, count: int) -> None:
        self._dealt_bytes = [0] * count
        self._share_of: dict[bytes, int] = {}
        self._first: int | None = None

    def deal(self, files: Iterable[Entry]) -> None:
        """Distribute the new contents of *files*; files of equal content are one, to be read once."""
        new = {file.digest: file.size_bytes for file in files if file.digest not in self._share_of}
        if not new:
            return
        if self._first is None:
            # Otherwise the first share would get the only checkpoint of each of a hundred runs.
            self._first = int.from_bytes(min(new)[:8])
        heaps = self._heaps(new)
        for share, (size_bytes, digests) in zip(self._by_room(), heaps, strict=True):
            self._dealt_bytes[share] += size_bytes
            self._share_of |= dict.fromkeys(digests, share + 1)

    def _heaps(self, sizes_bytes: dict[bytes, int]) -> list[tuple[int, list[bytes]]]:
        """Return one group per share, the largest first: large files first, each to the smallest group."""
        heaps: list[tuple[int, int, list[bytes]]] = [(0, place, []) for place in range(len(self._dealt_bytes))]
        for digest, size_bytes in sorted(sizes_bytes.items(), key=lambda item: (-item[1], item[0])):
            heap_bytes, place, digests = heaps[0]
            digests.append(digest)
            heapq.heapreplace(heaps, (heap_bytes + size_bytes, place, digests))
        return sorted(((heap_bytes, digests) for heap_bytes, _, digests in heaps), reverse=True)

    def _by_room(self) -> list[int]:
        """Return the shares, those with the fewest bytes first: the largest group goes to the emptiest share."""
        count, first = len(self._dealt_bytes), self._first or 0
        return sorted(range(count), key=lambda share: (self._dealt_bytes[share], (share - first) % count))

    def number_of(self, file: Entry) -> int | None:
        """Return the number of the share that has a file's content, or ``None``."""
        return self._share_of.get(file.digest)


class Sharing:
    """The checkpoints of each run that belong to *share*; *lacks* says which proofs in a manifest fall short."""

    def __init__(self, repository: Repository, share: Share, lacks: Callable[[ManifestRoot, Proof], bool]) -> None:
        self._repository = repository
        self._share = share
        self._lacks = lacks
        # By run: a new run must not change the division of the others.
        self._divisions: dict[str, Division] = {}

    def divide(self, versions: Iterable[StoredVersion]) -> set[int]:
        """Divide a run's *versions*, oldest first: all that were committed below the wanted level.

        Return the numbers of those of which this share has checkpoints.
        """
        division = Division(self._share.count)
        numbers = set()
        for stored in versions:
            self._divisions[stored.root.run] = division
            try:
                files = [entry for entry in self._repository.entries(stored) if self._is_lacking(stored, entry)]
            except Damage:
                # The proof of this version will raise the damage; every share gets to the same result.
                numbers.add(stored.root.number)
                continue
            division.deal(files)
            if any(self.is_mine(stored, file) for file in files):
                numbers.add(stored.root.number)
        return numbers

    def divide_whole(self, stored: StoredVersion) -> None:
        """Divide all checkpoints of one version."""
        division = self._divisions[stored.root.run] = Division(self._share.count)
        division.deal(entry for entry in self._repository.entries(stored) if entry.proof is not None)

    def is_mine(self, stored: StoredVersion, file: Entry) -> bool:
        """Return whether this share proves a file of a version; its run was divided before."""
        return self._divisions[stored.root.run].number_of(file) == self._share.number

    def _is_lacking(self, stored: StoredVersion, entry: Entry) -> bool:
        return entry.proof is not None and self._lacks(stored.root, entry.proof)
