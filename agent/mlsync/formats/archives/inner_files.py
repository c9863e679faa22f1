"""Files inside a zip, each checked by its own format: Keras' weights, policies of reinforcement learning.

Stored files are checked in place; deflated ones are inflated in memory if they are short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

import msgspec

from mlsync.formats.archives.archive_content import ArchiveContent
from mlsync.formats.archives.model_zips import has_weights_name, is_torch_package, program_of
from mlsync.formats.archives.torch_package import read_package
from mlsync.formats.faults import MeaningBroken, NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent
from mlsync.formats.section import BytesSource, Section
from mlsync.formats.zips.npz import read_npz_content
from mlsync.formats.zips.record import read_record
from mlsync.formats.zips.zip_layout import ZipLayout
from mlsync.values import Fact

#: Of a compressed file that is looked into: it is unpacked in memory.
UNPACKED_BYTES_MAX = 16 << 20
ABOUT_BYTES_MAX = 8 << 20
#: How many files are looked into; each costs some reads.
FILES_MAX = 10_000
_TEXT_CHARS_MAX: Final = 200
_COUNT_MAX: Final = 1 << 63
_NUMPY: Final = b"\x93NUMPY"

#: Looks at a file of that name: its content, or ``None`` where it is of no kind that is known by itself.
Look: TypeAlias = Callable[[ByteSource, bytes], Content | None]


class _KerasAbout(msgspec.Struct):
    keras_version: str | None = None


class _BaselinesAbout(msgspec.Struct):
    num_timesteps: int | None = None


_About = TypeVar("_About", _KerasAbout, _BaselinesAbout)
# Made by the thread that imports this: a first decoding in several at once would crash.
_keras_decoder: Final = msgspec.json.Decoder(_KerasAbout)
_baselines_decoder: Final = msgspec.json.Decoder(_BaselinesAbout)


def read_inner_files(source: ByteSource, layout: ZipLayout, look: Look) -> Content | None:
    """Return level 2 of a model in a zip: each file in it that has the name of weights is what its own format asks for.

    ``None`` where nothing in it could be looked into.
    """
    names = {extent.name for extent in layout.extents}
    found = ArchiveContent()
    if is_torch_package(names):
        read_package(source, layout, found)
    program = program_of(names)
    for extent in layout.extents:
        if has_weights_name(extent.name):
            _read_file(source, layout, extent, found, look, is_promise=program is not None)
    if not found.files_count:
        return None
    facts: dict[str, Fact] = {"framework": "zip"}
    if program is not None:
        facts = {"framework": program, **_about(source, layout, program)}
    elif len(found.facts) == 1:
        facts |= found.facts[0]  # a checkpoint that somebody zipped
    if program == "stable-baselines3":
        facts["resumable"] = facts["has_optimizer"] = any(one.get("has_optimizer") for one in found.facts)
    return found.content(facts)


def read_members(source: ByteSource, program: str, members: tuple[Extent, ...], look: Look) -> Content | None:
    """Return the content of the weights in an archive of a known program, whose names say what the files are."""
    layout = ZipLayout(program, source.size_bytes, members)
    found = ArchiveContent()
    for member in members:
        if has_weights_name(member.name):
            _read_file(source, layout, member, found, look, is_promise=True)
        elif member.name.endswith(".distcp"):
            found.aside_count += 1  # which says nothing without its metadata
    if not found.files_count:
        return None
    only = found.facts[0] if len(found.facts) == 1 else {}
    return found.content({**only, "framework": program})


def _read_file(
    source: ByteSource, layout: ZipLayout, extent: Extent, found: ArchiveContent, look: Look, *, is_promise: bool
) -> None:
    """Look at one file; what is wrong in it is told of the zip's record.

    Where a known program wrote the zip, a file's name says what it has to be; else only its own bytes do.
    """
    packed = layout.packed.get(extent.name)
    if found.files_count + found.aside_count >= FILES_MAX or (packed and packed.plain_bytes > UNPACKED_BYTES_MAX):
        found.aside_count += 1
        return
    inner: ByteSource = Section(source, extent.offset, extent.length)
    if packed is not None:
        inner = BytesSource(read_record(source, layout, extent, UNPACKED_BYTES_MAX, "compressed file"))
    try:
        if extent.name.endswith(".npy"):
            content = _of_array(inner)
        else:
            content = look(inner, extent.name.encode("utf-8", "replace") if is_promise else b"")
    except NotChecked:
        content = None
    except ContainerBroken as fault:
        raise _told_of(fault, extent, in_place=packed is None) from None
    if content is None:
        found.aside_count += 1
    else:
        found.add(content, extent, offset=extent.offset, is_packed=packed is not None)


def _told_of(fault: ContainerBroken, extent: Extent, *, in_place: bool) -> ContainerBroken:
    """Return a fault of a file as one of the zip that contains it."""
    record = extent.name if fault.record is None else f"{extent.name}/{fault.record}"
    offset = extent.offset + (fault.offset or 0 if in_place else 0)
    kind = RecordDamaged if isinstance(fault, RecordDamaged) else MeaningBroken
    return kind(fault.reason, record=record, offset=offset)


def _of_array(inner: ByteSource) -> Content | None:
    if inner.size_bytes < len(_NUMPY) or inner.read_at(0, len(_NUMPY)) != _NUMPY:
        return None
    return read_npz_content(inner, ZipLayout("npz", inner.size_bytes, (Extent("array", 0, inner.size_bytes),)))


# ---------------------------------------------------------------- whose it is


def _about(source: ByteSource, layout: ZipLayout, program: str | None) -> dict[str, Fact]:
    """Return the facts that the program stored about itself and the training."""
    facts: dict[str, Fact] = {}
    records = {extent.name: extent for extent in layout.extents}
    if program == "keras":
        keras = _decoded(source, layout, records.get("metadata.json"), _keras_decoder)
        if keras is not None and keras.keras_version:
            facts["framework_version"] = keras.keras_version[:_TEXT_CHARS_MAX]
    if program == "stable-baselines3":
        about = _decoded(source, layout, records.get("data"), _baselines_decoder)
        if about is not None and about.num_timesteps is not None:
            facts["step"] = about.num_timesteps
        version = records.get("_stable_baselines3_version")
        if version is not None and version.name not in layout.packed and version.length < _TEXT_CHARS_MAX:
            raw = read_bounded(source, version.offset, version.length, "version")
            facts["framework_version"] = raw.decode("utf-8", "replace").strip()
    return {name: fact for name, fact in facts.items() if not isinstance(fact, int) or 0 <= fact < _COUNT_MAX}


def _decoded(
    source: ByteSource, layout: ZipLayout, extent: Extent | None, decoder: msgspec.json.Decoder[_About]
) -> _About | None:
    """Return the wanted fields of a JSON record, or ``None``; its checksum shows whether it is damaged."""
    if extent is None:
        return None
    try:
        return decoder.decode(read_record(source, layout, extent, ABOUT_BYTES_MAX, "description"))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, NotChecked):
        return None
