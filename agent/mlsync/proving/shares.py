"""Several processes that prove one repository together, each a share of its own, without a word between them.

They begin at different moments, and while one looks another may have proved something already: what is pending is not
the same to any two of them. If each divided that, a checkpoint could be nobody's. So whose it is follows from manifests
alone, which never change, of its own version and those before it, which are there already: all processes come to the
same, whenever they look. What was proved since is left out afterwards, by the one whose it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlsync.errors import Damage
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.repository import Repository, Stored
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
    """Deals contents out to *count* shares by their bytes; what was dealt to one stays there.

    Of what is dealt at a time, and of all that was, no share has more than another by more than the largest file.
    """

    def __init__(self, count: int) -> None:
        self._dealt_bytes = [0] * count
        self._share_of: dict[bytes, int] = {}
        self._first: int | None = None

    def deal(self, files: Iterable[Entry]) -> None:
        """Deal out what is new of the contents of *files*; files of one content are dealt once, to be read once."""
        new = {file.digest: file.size_bytes for file in files if file.digest not in self._share_of}
        if not new:
            return
        if self._first is None:
            # Else the first share would have the one checkpoint of each of a hundred runs.
            self._first = int.from_bytes(min(new)[:8])
        heaps = self._heaps(new)
        for share, (size_bytes, digests) in zip(self._by_room(), heaps, strict=True):
            self._dealt_bytes[share] += size_bytes
            self._share_of |= dict.fromkeys(digests, share + 1)

    def _heaps(self, sizes_bytes: dict[bytes, int]) -> list[tuple[int, list[bytes]]]:
        """Return as many heaps as shares, the largest first: large files first, each onto the smallest heap."""
        heaps: list[tuple[int, int, list[bytes]]] = [(0, place, []) for place in range(len(self._dealt_bytes))]
        for digest, size_bytes in sorted(sizes_bytes.items(), key=lambda item: (-item[1], item[0])):
            heap_bytes, place, digests = heaps[0]
            digests.append(digest)
            heapq.heapreplace(heaps, (heap_bytes + size_bytes, place, digests))
        return sorted(((heap_bytes, digests) for heap_bytes, _, digests in heaps), reverse=True)

    def _by_room(self) -> list[int]:
        """Return the shares, that with the fewest bytes first: the largest of the next heaps evens out the last."""
        count, first = len(self._dealt_bytes), self._first or 0
        return sorted(range(count), key=lambda share: (self._dealt_bytes[share], (share - first) % count))

    def number_of(self, file: Entry) -> int | None:
        """Return the number of the share that a file's content was dealt to, if it was."""
        return self._share_of.get(file.digest)


class Sharing:
    """What is *share*'s own of each run, by what *lacks* says of a checkpoint's proof in a manifest."""

    def __init__(self, repository: Repository, share: Share, lacks: Callable[[ManifestRoot, Proof], bool]) -> None:
        self._repository = repository
        self._share = share
        self._lacks = lacks
        # By run: a run that comes up meanwhile must not change whose the others' checkpoints are.
        self._divisions: dict[str, Division] = {}

    def divide(self, versions: Iterable[Stored]) -> set[int]:
        """Divide a run by *versions*, oldest first: all that were committed below the level that is wanted.

        Return the numbers of those that this share has something of.
        """
        division = Division(self._share.count)
        numbers = set()
        for stored in versions:
            self._divisions[stored.root.run] = division
            try:
                files = [entry for entry in self._repository.entries(stored) if self._is_lacking(stored, entry)]
            except Damage:
                # Whoever proves it runs into the damage and says so; it is all the same to every share.
                numbers.add(stored.root.number)
                continue
            division.deal(files)
            if any(self.is_mine(stored, file) for file in files):
                numbers.add(stored.root.number)
        return numbers

    def divide_whole(self, stored: Stored) -> None:
        """Divide all checkpoints of one version, whatever they were proved to before."""
        division = self._divisions[stored.root.run] = Division(self._share.count)
        division.deal(entry for entry in self._repository.entries(stored) if entry.proof is not None)

    def is_mine(self, stored: Stored, file: Entry) -> bool:
        """Whether this share is to prove a file of a version of a run that was divided."""
        return self._divisions[stored.root.run].number_of(file) == self._share.number

    def _is_lacking(self, stored: Stored, entry: Entry) -> bool:
        return entry.proof is not None and self._lacks(stored.root, entry.proof)
