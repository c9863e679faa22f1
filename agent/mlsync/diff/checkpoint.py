"""What changed inside a checkpoint from one version to another: its facts, its tensors, and how far these moved.

The comparison reads the stored bytes of both. Tensors that are made of the same chunks at the same places are equal and
are not read; of the others a few MiB at a time are held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mlsync.diff.side_by_side import SideBySide
from mlsync.diff.tensors import TensorView, view_of
from mlsync.formats.layout import Content, Tensor
from mlsync.formats.roles import roles_of
from mlsync.monitor import Monitor
from mlsync.proof.inspection import Inspection, inspect
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.source.paths import display
from mlsync.values import Fact, Level
from mlsync.versions.stored_file import RestoredFile
from mlsync.versions.units import Entries, fitting_metadata, metadata_beside

if TYPE_CHECKING:
    # It imports numpy, which commands that only list do not need.
    from mlsync.diff.drift import Drift

Fate: TypeAlias = Literal["changed", "reshaped", "not_compared", "new", "gone"]
#: The most interesting first.
FATES: Final[tuple[Fate, ...]] = ("changed", "reshaped", "not_compared", "new", "gone")
FactChange: TypeAlias = tuple[Fact | None, Fact | None]


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """A tensor that differs; *note* says how it was compared, or why it was not, if that matters.

    *is_optimizers* tells an optimizer's state from weights, by the names that trainers give.
    """

    name: str
    fate: Fate
    before: Tensor | None
    after: Tensor | None
    drift: Drift | None = None
    note: str = ""
    is_optimizers: bool = False


@dataclass(slots=True)
class CheckpointDiff:
    """What changed inside a checkpoint.

    *facts* are those that changed, as (before, after), ``None`` where there is none. *tensors* are all that differ,
    sorted by ``rank``. *why_not* says why the checkpoints were not compared.
    """

    facts: dict[str, FactChange] = field(default_factory=dict)
    same_count: int = 0
    tensors: list[TensorDiff] = field(default_factory=list)
    why_not: str = ""

    def count(self, fate: Fate) -> int:
        """Return how many tensors have that fate."""
        return sum(tensor.fate == fate for tensor in self.tensors)


def compare_checkpoints(
    reader: ChunkReader, before: Entry, after: Entry, beside: tuple[Entries, Entries], monitor: Monitor
) -> CheckpointDiff:
    """Return what changed from *before* to *after*; raises ``Damage`` if a byte that is needed does not come back.

    A checkpoint that does not parse, or of an unknown kind, is not compared, and *why_not* says so.
    """
    old, new = _inspected(reader, before, beside[0]), _inspected(reader, after, beside[1])
    result = CheckpointDiff(_changed_facts(before, old, after, new))
    if old.content is None or new.content is None or _byteorder(old.content) != _byteorder(new.content):
        result.why_not = _why_not(old, new)
        return result
    files = SideBySide(reader, before, after)
    views = _sort_out(old.content, new.content, result)
    if not views and not result.tensors:
        result.why_not = "no tensor was found in it"
        return result
    different = [view for view in views if not view.is_same_by_chunks(files)]
    with monitor.task(f"comparing {display(after.path)}", sum(view.both.before.length for view in different)) as task:
        windows = files.windows([view.both for view in different], task.advance)
        for pair, of_one in groupby(windows, key=lambda window: window.pair):
            view = different[pair]
            drift = view.drift(of_one, big_endian=_byteorder(old.content) == "big")
            if drift.changed_count:
                result.tensors += (
                    TensorDiff(name, "changed", view.before, view.after, drift, view.note) for name in view.names
                )
    result.tensors = sorted(_marked(result.tensors, old.content, new.content), key=rank)
    result.same_count = sum(len(view.names) for view in views) - result.count("changed")
    return result


def rank(tensor: TensorDiff) -> tuple[int, bool, float]:
    """Return a sort key that puts the most interesting tensors first.

    Weights come before the optimizer's state: its averages change within a few steps and would always come first.
    """
    distance = 0.0 if tensor.drift is None else _distance(tensor.drift)
    return FATES.index(tensor.fate), tensor.is_optimizers, -distance


def _marked(tensors: Iterable[TensorDiff], *contents: Content) -> Iterator[TensorDiff]:
    """Yield tensors that know whether they are an optimizer's, as a proof tells them apart."""
    names = {
        tensor.name
        for content in contents
        for tensor, role in zip(content.tensors, roles_of(content.tensors), strict=True)
        if role == "optimizer"
    }
    return (replace(tensor, is_optimizers=tensor.name in names) for tensor in tensors)


def _distance(drift: Drift) -> float:
    """Return how far a tensor moved.

    Numbers that became NaN or infinite, or that were all zero before, moved farther than any other. Counters and masks
    have no distance: they come last, by the share of them that differs.
    """
    if drift.after_nonfinite_count > drift.before_nonfinite_count:
        return math.inf
    if drift.relative is not None:
        return drift.relative
    if drift.moved_norm:
        return math.inf
    return drift.changed_count / drift.number_count - 2


# ---------------------------------------------------------------- facts


def _inspected(reader: ChunkReader, entry: Entry, beside: Entries) -> Inspection:
    about = metadata_beside(entry, beside)
    metadata = None if about is None else fitting_metadata(about, beside, reader)
    return inspect(RestoredFile(reader, entry, lambda _: None), entry.path, Level.MEANING, metadata)


def _why_not(old: Inspection, new: Inspection) -> str:
    for when, look in (("was", old), ("is", new)):
        if look.content is None:
            reason = look.finding.what if look.finding is not None else "of no kind that is looked into"
            return f"as it {when}: {reason}"
    return "the order of its bytes changed"


def _byteorder(content: Content) -> Fact:
    return content.facts.get("byteorder", "little")


def _changed_facts(before: Entry, old: Inspection, after: Entry, new: Inspection) -> dict[str, FactChange]:
    """Return the facts that differ; facts that only a proof has are compared if both have them."""
    was, now = _facts(before, old), _facts(after, new)
    parsed = (old.content.facts if old.content else {}) | (new.content.facts if new.content else {})
    names = [name for name in (was | now) if name in parsed or (name in was and name in now)]
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def _facts(entry: Entry, inspection: Inspection) -> dict[str, Fact]:
    """Return the facts of a checkpoint: those of its content, and over them those of its proof."""
    parsed = inspection.content.facts if inspection.content is not None else {}
    return parsed | (entry.proof.facts if entry.proof is not None else {})


# ---------------------------------------------------------------- tensors


def _sort_out(old: Content, new: Content, result: CheckpointDiff) -> list[TensorView]:
    """Return the tensors to compare, in the order of the file; put all others into *result*."""
    old_storages, new_storages = ({storage.name: storage for storage in one.storages} for one in (old, new))
    views: dict[tuple[Tensor, Tensor], TensorView | str] = {}
    for name, before, after in _paired(old.tensors, new.tensors):
        if before is None or after is None:
            result.tensors.append(TensorDiff(name, "gone" if after is None else "new", before, after))
            continue
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            result.tensors.append(TensorDiff(name, "reshaped", before, after))
            continue
        # Tied weights are read once.
        key = before._replace(name=""), after._replace(name="")
        if key not in views:
            views[key] = view_of(before, old_storages.get(before.storage), after, new_storages.get(after.storage))
        view = views[key]
        if isinstance(view, str):
            result.tensors.append(TensorDiff(name, "not_compared", before, after, note=view))
        else:
            view.names.append(name)
    return sorted((view for view in views.values() if not isinstance(view, str)), key=lambda view: view.both)


def _paired(before: Iterable[Tensor], after: Iterable[Tensor]) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """Yield the tensors of one name together; tensors that share a name are paired in order."""
    old, new = _by_name(before), _by_name(after)
    for key in old | new:
        yield key[0], old.get(key), new.get(key)


def _by_name(tensors: Iterable[Tensor]) -> dict[tuple[str, int], Tensor]:
    found: dict[tuple[str, int], Tensor] = {}
    counts: dict[str, int] = {}
    for tensor in tensors:
        nth = counts[tensor.name] = counts.get(tensor.name, 0) + 1
        found[tensor.name, nth] = tensor
    return found
