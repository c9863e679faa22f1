"""Name all packs of a version that are in cold storage, once the store refused one: thawing takes hours."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from mlsync.errors import ObjectArchived
from mlsync.repository import names
from mlsync.repository.manifest import Manifest, refs_of
from mlsync.repository.repository import Repository

_More = ParamSpec("_More")
_Result = TypeVar("_Result")


def naming_all_archived(
    flow: Callable[Concatenate[Repository, Manifest, _More], _Result],
) -> Callable[Concatenate[Repository, Manifest, _More], _Result]:
    """Return *flow*, which reads a version, so that its ``ObjectArchived`` names all of the version's cold packs."""

    @wraps(flow)
    def named(repository: Repository, manifest: Manifest, /, *given: _More.args, **more: _More.kwargs) -> _Result:
        try:
            return flow(repository, manifest, *given, **more)
        except ObjectArchived as error:
            raise naming_all(repository, manifest, error) from error

    return named


def naming_all(repository: Repository, manifest: Manifest, error: ObjectArchived) -> ObjectArchived:
    """Return *error* with the names of all packs in cold storage that *manifest* needs."""
    needed = {ref.pack for ref in refs_of(manifest.entries)}
    listed = _listed(repository, needed)
    # Of a pack that is gone, those to which it was moved.
    gone = [pack for pack in needed if pack not in listed]
    moves = {pack for old in gone if (moved := repository.moves.of(old)) is not None for pack in moved.packs}
    listed |= _listed(repository, moves - needed)
    keys = {names.pack(pack) for pack, is_archived in listed.items() if is_archived}
    if error.where is not None and error.where not in map(names.pack, gone):
        keys.add(error.where)
    packs = "1 pack" if len(keys) == 1 else f"{len(keys)} packs"
    what = f"{packs} of version {manifest.root.number} of run {manifest.root.run!r} must be thawed first"
    return ObjectArchived(what, where=", ".join(sorted(keys)), advice=error.advice)


def _listed(repository: Repository, packs: set[bytes]) -> dict[bytes, bool]:
    """Return whether each of *packs* is archived, as far as a listing shows it; all others may be too many to hold."""
    return {pack_id: info.is_archived for pack_id, info in repository.packs() if pack_id in packs} if packs else {}
