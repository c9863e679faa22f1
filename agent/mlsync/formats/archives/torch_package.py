"""``torch.package``: pickles and storages as records of their own in a zip."""

from __future__ import annotations

from typing import Final

from mlsync.formats.archives.archive_content import ArchiveContent
from mlsync.formats.faults import MeaningBroken, NotChecked, RecordDamaged
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.pickles.machine import unpickle
from mlsync.formats.pickles.nodes import Persistent
from mlsync.formats.torch.graph import tensors_in
from mlsync.formats.torch.tensors import StorageTable
from mlsync.formats.zips.record import read_record
from mlsync.formats.zips.zip_layout import ZipLayout

PACKAGE_PICKLE_BYTES_MAX = 8 << 20
_KEY: Final = 2  # its place in a storage's id


def read_package(source: ByteSource, layout: ZipLayout, found: ArchiveContent) -> None:
    """Look at each pickle of a package: its tensors lie inside of their storages, which are records beside it."""
    folder = next(extent.name for extent in layout.extents if extent.name.endswith(".data/extern_modules"))
    prefix = folder.removesuffix(".data/extern_modules")
    table = StorageTable(layout.extents, f"{prefix}.data/", layout.packed, suffix=".storage")
    for extent in layout.extents:
        if not extent.name.endswith(".pkl"):
            continue
        try:
            data = read_record(source, layout, extent, PACKAGE_PICKLE_BYTES_MAX, "pickle")
            pickled = unpickle(data, 0)
            if not all(map(_names_storage, pickled.persistents)):
                found.aside_count += 1  # an object that its own module rebuilds, of whatever it likes
                continue
            tensors = tensors_in(pickled.root, table)
            table.add_all(pickled.persistents)
        except NotChecked:
            found.aside_count += 1
            continue
        except ContainerBroken as fault:
            kind = RecordDamaged if isinstance(fault, RecordDamaged) else MeaningBroken
            raise kind(fault.reason, record=fault.record or extent.name, offset=fault.offset) from None
        found.aside_count += tensors.aside_count
        found.add_tensors(extent.name, tensors.tensors)
    found.storages += table.storages()
    found.packed_count += table.packed_count()


def _names_storage(persistent: Persistent) -> bool:
    """Return whether an id is a storage's, and turn its key, a number here, into a text as in other files."""
    parts = persistent.id
    if type(parts) is not tuple or parts[:1] != ("storage",):
        return False
    persistent.id = tuple(
        str(part) if place == _KEY and type(part) is int else part for place, part in enumerate(parts)
    )
    return True
