"""What a new version says of the later proofs of its run, so that a store cannot hide them afterwards.

The newest manifest has links to the later proofs of all versions. A backup that makes a version lists the run's later
proofs once, and reads those of versions that have another number of them than the last manifest says.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from mlsync.errors import FormatUnsupported, ObjectArchived
from mlsync.monitor import Monitor
from mlsync.repository.later_proof import VersionProofs
from mlsync.repository.names import later_proof_id
from mlsync.repository.proof_links import HEADS_MAX, SeenProofs, linked_id
from mlsync.repository.repository import Repository
from mlsync.versions.hidden_proofs import HiddenProofs, hidden_in, report_hidden

# Whoever may create objects can plant any number. In which order they are read is chosen by chance: in the end all are.
_UNOPENED_MAX: Final = 1000
_NAMED_MAX: Final = 8


def seen_now(
    repository: Repository, run: str, next_number: int, before: Mapping[int, SeenProofs], monitor: Monitor
) -> list[SeenProofs]:
    """Return what the manifest *next_number* says of later proofs; *before* is what the last one says.

    Report what is hidden. A version stays in the list if the store does not show it or its proofs any more: a store
    could leave it out for the time of one backup, and show it again without the proof that speaks against it.
    """
    listed = repository.later_proof_keys(run)
    seen, hidden = dict(before), dict[int, HiddenProofs]()
    changed = [
        number
        for number in listed.keys() | before.keys()
        if number < next_number and _is_changed(listed.get(number, []), before.get(number))
    ]
    left = _UNOPENED_MAX
    for number in random.sample(sorted(changed), len(changed)):
        keys, known = listed.get(number, []), before.get(number)
        links = () if known is None else known.heads
        random.shuffle(keys)
        try:
            proofs = repository.read_later_proofs(run, number, keys, named=links, unopened_max=left)
        except (FormatUnsupported, ObjectArchived) as error:
            # A newer mlsync's, or in cold storage: nobody can say what it has links to, and no backup waits for it.
            monitor.notice("warning", f"{run}: version {number}: a later proof cannot be read: {error}")
            continue
        left = max(0, left - proofs.unopened_count)
        missing = hidden_in(repository, run, number, proofs, known)
        if missing is not None:
            hidden[number] = missing
        now = _seen_of(number, proofs, known)
        if now is not None:
            seen[number] = now
    _report(hidden, run, monitor)
    return list(seen.values())


def _seen_of(number: int, proofs: VersionProofs, known: SeenProofs | None) -> SeenProofs | None:
    """Return what is known of the later proofs of a version; *proofs* were read with the links that were known."""
    before = () if known is None else known.heads
    # A link whose proof is hidden stays.
    links = {*proofs.heads, *(link for link in before if link in proofs.missing)}
    heads = {linked_id(link): link for link in links}
    # Of two objects under one name the first that was seen counts.
    heads |= {linked_id(link): link for link in before if linked_id(link) in heads}
    if not heads:
        return None
    if known is None:
        known = SeenProofs(number, refused=False, proof_count=0, heads=())
    count = max(len(proofs.stored), len(heads), known.proof_count)
    # More than any work that is shared has: those that speak against the version first, then those that were named.
    refusing = {one.link for one in proofs.stored if one.refused}
    chosen = sorted(heads.values(), key=lambda link: (link not in refusing, link not in before, link))[:HEADS_MAX]
    return SeenProofs(number, proofs.refused or known.refused, count, tuple(sorted(chosen)))


def _is_changed(keys: list[str], known: SeenProofs | None) -> bool:
    """Return whether the store shows other names of a version's later proofs than the last manifest lets expect."""
    if known is None or len(keys) != known.proof_count:
        return True
    return not set(map(later_proof_id, keys)).issuperset(map(linked_id, known.heads))


def _report(hidden: Mapping[int, HiddenProofs], run: str, monitor: Monitor) -> None:
    for number in sorted(hidden)[:_NAMED_MAX]:
        report_hidden(hidden[number], run, number, monitor)
    if len(hidden) > _NAMED_MAX:
        text = f"{run}: later proofs of {len(hidden) - _NAMED_MAX} more versions are missing; mlsync check names them"
        monitor.notice("warning", text)
