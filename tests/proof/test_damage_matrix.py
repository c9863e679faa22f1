"""What the container's own levels find of each kind of damage at each kind of place, and what they cannot find.

Level 0, the digest of every byte, finds all of it. The files are those that real libraries write.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

from checkpoint_files import MemorySource, flipped, network, parts_of, records, rezipped, torch_bytes, zeroed
from doubles.verdict_status import status
from gguf_file import gguf_bytes, gguf_tensors
from mlsync.formats.containers import read_layout
from mlsync.formats.dcp.container import read_items
from mlsync.formats.torch.legacy import read_legacy_layout
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.values import Severity

Place = tuple[int, int]  # offset, length


class Sample(NamedTuple):
    """A sound file: what it is called, what lies beside it, and how far it can be proved."""

    data: bytes
    path: bytes
    container: str
    metadata: bytes | None = None
    level: int = 4


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(17))


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(noise(900), 0.1, 3, torch.qint8)


def shared() -> dict[str, torch.Tensor]:
    base = noise(40, 30)
    return {"base": base, "row": base[3], "steps": base[::2, 1:20:3], "turned": base.T, "wide": base[0, :1].expand(9)}


VALUES: dict[str, Callable[[], Any]] = {
    "bfloat16": lambda: {"a": noise(900).bfloat16()},
    "float16": lambda: {"a": noise(900).half()},
    "float8": lambda: {"a": noise(900).to(torch.float8_e4m3fn), "b": noise(70).to(torch.float8_e5m2)},
    "complex": lambda: {"a": torch.complex(noise(900), noise(900))},
    "quantised": lambda: {"a": quantised()},
    "sparse": lambda: {"a": (torch.eye(60) * noise(60)).to_sparse(), "b": torch.eye(30).to_sparse_csr()},
    "shared and strided": shared,
    "with empty ones": lambda: {"none": torch.zeros(0, 3), "a": noise(900), "last": noise(9)[9:]},
    "module": lambda: {"model": network(), "epoch": 3},
}


def dcp_sample(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> Sample:
    folder = tmp_path_factory.mktemp("dcp") / "c"
    state = {"model": network().state_dict(), "half": noise(900).half(), "epoch": 3, "notes": ["a", "b"]}
    writer = FileSystemWriter(folder, sync_files=False, **options)
    distributed_checkpoint.save(state, storage_writer=writer, no_dist=True)
    return Sample((folder / "__0_0.distcp").read_bytes(), b"s/__0_0.distcp", "dcp", (folder / ".metadata").read_bytes())


def npz(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, a=noise(900).numpy(), b=np.arange(33.0))
    return file.getvalue()


def legacy() -> bytes:
    return torch_bytes({"a": noise(900), "b": noise(80).half()}, _use_new_zipfile_serialization=False)


SAMPLES: dict[str, Callable[[], Sample]] = {
    **{name: lambda make=make: Sample(torch_bytes(make()), b"a.pt", "torch-zip") for name, make in VALUES.items()},
    "legacy": lambda: Sample(legacy(), b"a.pt", "torch-legacy"),
    "safetensors": lambda: Sample(
        safetensors.torch.save({"a": noise(900), "b": noise(5)}), b"a.safetensors", "safetensors"
    ),
    "npz": lambda: Sample(npz(np.savez), b"a.npz", "npz"),
    "compressed npz": lambda: Sample(npz(np.savez_compressed), b"a.npz", "npz", level=2),
    "compressed torch": lambda: Sample(
        rezipped(parts_of(torch_bytes({"a": noise(900)})), zipfile.ZIP_DEFLATED), b"a.pt", "torch-zip", level=2
    ),
    "gguf": lambda: Sample(gguf_bytes({"general.architecture": "llama"}, gguf_tensors()), b"a.gguf", "gguf", level=3),
}
MADE = Path(__file__).parent.parent / "formats/made"
TENSORFLOW = MADE / "tensorflow"
STATE = {"epoch": 3, "a": noise(900).numpy(), "labels": np.arange(300), "name": "run"}


def made(name: str, container: str, level: int = 4) -> Sample:
    """A file that ``formats/made`` keeps; its scripts say what wrote it."""
    return Sample((MADE / name).read_bytes(), name.encode(), container, level=level)


def orbax_node() -> Sample:
    path = next((MADE / "orbax/default/d").iterdir())
    return Sample(path.read_bytes(), b"1/default/d/" + path.name.encode(), "ocdbt", level=1)


SAMPLES |= {
    "hdf5": lambda: made("small.h5", "hdf5"),
    "onnx": lambda: made("model.onnx", "onnx"),
    "flax": lambda: made("small.msgpack", "flax-msgpack"),
    "pickle": lambda: Sample(pickle.dumps(STATE, 4), b"a.pkl", "pickle"),
    "joblib": lambda: made("small.joblib", "pickle"),
    "exported": lambda: made("model.pt2", "pt2"),
    "ocdbt": orbax_node,
    "tensorflow index": lambda: Sample((TENSORFLOW / "ckpt-1.index").read_bytes(), b"c.index", "tensorflow-index"),
    "tensorflow shard": lambda: Sample(
        (TENSORFLOW / "ckpt-1.data-00000-of-00001").read_bytes(),
        b"c.data-00000-of-00001",
        "tensorflow-shard",
        (TENSORFLOW / "ckpt-1.index").read_bytes(),
    ),
}
NAMES = [*SAMPLES, "dcp", "dcp as safetensors"]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """All sound files, made once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about kinds of tensors that it is about to drop
        found = {name: make() for name, make in SAMPLES.items()}
        found["dcp"] = dcp_sample(tmp_path_factory)
        found["dcp as safetensors"] = dcp_sample(tmp_path_factory, serialization_format=SerializationFormat.SAFETENSORS)
    return found


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """A prover on the CPU, whose child serves all tests of this file."""
    with Prover(ProofOptions(device="cpu")) as prover:
        yield prover


def judged(prover: Prover, sample: Sample, data: bytes) -> Verdict:
    return prover.prove(MemorySource(data), sample.path, sample.metadata)


FEW = ("bfloat16", "float16", "complex", "quantised", "compressed torch", "ocdbt", "tensorflow index")


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_file_is_proved(samples, prover, name):
    """Whatever it holds, a whole file is proved as far as its kind can be, and nothing is held against it."""
    sample = samples[name]
    verdict = judged(prover, sample, sample.data)
    wanted = "proved" if sample.level > 1 else "unknown"
    assert (status(verdict), verdict.proof.level, verdict.proof.container) == (wanted, sample.level, sample.container)
    assert [finding for finding in verdict.proof.findings if finding.severity == Severity.REFUSE] == []
    assert verdict.proof.tensor_count >= 2 or name in FEW


# ---------------------------------------------------------------- places


def zip_places(data: bytes) -> dict[str, Place]:
    """Where the parts of a zip are, found by Python's own zipfile."""
    found = records(data)
    big = max(found, key=lambda name: found[name][1] * ("/data/" in name or name.endswith(".npy")))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        head = archive.getinfo(big).header_offset
        directory = archive.start_dir
    at, length = found[big]
    name_end = head + 30 + len(big.encode())
    end = len(data) - 22
    places = {"first bytes": (0, 4), "record head": (head, name_end - head), "tensor": (at, length)}
    if data[at : at + 6] == b"\x93NUMPY":
        places |= {"array header": (at, 128), "tensor": (at + 128, length - 128)}
    places |= {"directory": (directory, end - directory), "end": (end, 22)}
    if at > name_end + 8:
        places["padding"] = (name_end + 4, at - name_end - 4)
    pickle = [name for name in found if name.endswith("/data.pkl")]
    return places | ({"pickle": found[pickle[0]]} if pickle else {})


def legacy_places(data: bytes) -> dict[str, Place]:
    """Opening, object, keys, a length, a tensor."""
    extents = read_legacy_layout(MemorySource(data)).extents
    begins = extents[0].offset - 8
    big = max(extents, key=lambda extent: extent.length)
    places = {"first bytes": (0, 20), "pickle": (150, begins - 250), "keys": (begins - 40, 40)}
    return places | {"record head": (big.offset - 8, 8), "tensor": (big.offset, big.length)}


def safetensors_places(data: bytes) -> dict[str, Place]:
    """Length, header, tensors."""
    header_bytes = int.from_bytes(data[:8], "little")
    return {"first bytes": (0, 8), "directory": (8, header_bytes), "tensor": (8 + header_bytes, 3600)}


def gguf_places(data: bytes) -> dict[str, Place]:
    """Magic and counts, keys, descriptions, the first tensor."""
    first = gguf_tensors()[0]
    names = data.index(first.name.encode())
    return {
        "first bytes": (0, 24),
        "keys": (24, names - 32),
        "directory": (names - 8, 150),
        "tensor": (data.index(first.data), len(first.data)),
    }


def dcp_places(data: bytes, metadata: bytes) -> dict[str, Place]:
    """The places of the zip of the item that is the largest."""
    item = max(read_items(metadata), key=lambda item: item.length)
    return {
        name: (item.offset + at, length)
        for name, (at, length) in zip_places(data[item.offset : item.offset + item.length]).items()
    }


def tensor_places(sample: Sample) -> dict[str, Place]:
    """Of what has no directory: its first bytes, what lies before the largest tensor, and that tensor."""
    layout = read_layout(MemorySource(sample.data), sample.container)
    big = max(layout.extents, key=lambda extent: extent.length)
    return {"first bytes": (0, 8), "head": (8, big.offset - 8), "tensor": (big.offset, big.length)}


def table_places(sample: Sample) -> dict[str, Place]:
    """Of what has a checksum over all of it: head, body, end."""
    size = len(sample.data)
    return {"first bytes": (0, 14), "directory": (14, size - 62), "end": (size - 48, 48)}


def distributed_places(sample: Sample) -> dict[str, Place]:
    """Of the largest item, or of the file as one where it is safetensors."""
    data = sample.data
    assert sample.metadata is not None
    tail = data.find(b'{"__metadata__"') - 8
    if tail < 0:
        return dcp_places(data, sample.metadata)
    moved = safetensors_places(data[tail:])
    return {name: (tail + at, length) for name, (at, length) in moved.items()}


PLACES: dict[str, Callable[[Sample], dict[str, Place]]] = {
    **dict.fromkeys(("hdf5", "onnx", "flax-msgpack", "pickle"), tensor_places),
    **dict.fromkeys(("ocdbt", "tensorflow-index", "tensorflow-shard"), table_places),
    "torch-legacy": lambda sample: legacy_places(sample.data),
    "safetensors": lambda sample: safetensors_places(sample.data),
    "gguf": lambda sample: gguf_places(sample.data),
    "dcp": distributed_places,
}


def places_of(sample: Sample) -> dict[str, Place]:
    """Those of its kind; all others are zips."""
    return PLACES.get(sample.container, lambda sample: zip_places(sample.data))(sample)


# ---------------------------------------------------------------- damage


def flip(data: bytes, at: int, length: int) -> bytes:
    return flipped(data, at + length // 2, 1)


def zero(data: bytes, at: int, length: int) -> bytes:
    return zeroed(data, at, length)


def truncate(data: bytes, at: int, length: int) -> bytes:
    return data[: at + length // 2]


def shift(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + b"\0" + data[at:]


def swap(data: bytes, at: int, length: int) -> bytes:
    half = length // 2
    return data[:at] + data[at + half : at + 2 * half] + data[at : at + half] + data[at + 2 * half :]


DAMAGE = {"flip": flip, "zero": zero, "truncate": truncate, "shift": shift, "swap": swap}


# What the containers cannot find, by place: level 0 alone stands between this and a restore. A record's head repeats
# what the directory says of it, and only its name, its method and its length are looked at. Names in a directory are
# anybody's.
UNFOUND_IN_ZIP = {"record head": "flip", "padding": "flip zero"}
UNFOUND = {
    "torch-zip": UNFOUND_IN_ZIP,
    "npz": UNFOUND_IN_ZIP | {"directory": "swap"},  # entries in another order
    "compressed npz": {"record head": "flip", "padding": "flip zero swap", "directory": "swap"},
    "compressed torch": {"record head": "flip"},
    "torch-legacy": {"first bytes": "shift swap", "tensor": "flip zero swap"},  # then a bare pickle
    "safetensors": {"directory": "flip", "tensor": "flip zero swap"},
    "gguf": {"keys": "flip", "directory": "flip", "tensor": "flip zero swap"},
    "dcp": UNFOUND_IN_ZIP,
    "exported": {"padding": "flip zero"},
    # Where a head is not what its format begins with, or goes on as another version would, the file is not proved;
    # that something is missing there, the last version and the files beside it tell.
    "hdf5": {"head": "flip zero shift swap", "tensor": "flip zero swap"},
    "onnx": {"first bytes": "flip", "head": "flip", "tensor": "flip zero swap"},
    "flax": {"first bytes": "flip zero shift swap", "head": "flip", "tensor": "flip zero swap"},
    "pickle": {"first bytes": "zero shift swap", "head": "flip", "tensor": "flip zero swap"},
    "joblib": {"first bytes": "flip zero shift swap", "head": "flip", "tensor": "flip zero swap"},
    "ocdbt": {"first bytes": "zero shift swap", "directory": "shift", "end": "shift"},
    "tensorflow index": {"first bytes": "truncate", "directory": "truncate", "end": "zero truncate swap"},
    "tensorflow shard": {},
    "dcp as safetensors": {"tensor": "flip zero swap"},
}


@pytest.fixture(scope="module")
def inspector() -> Iterator[Prover]:
    """A prover that stops before the device: what it finds was found by the container's levels."""
    with Prover(ProofOptions(device="none")) as prover:
        yield prover


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_found_by_the_container_but_where_it_cannot_be(samples, inspector, name, damage):
    """Damage at each kind of place is refused, at level 1 as a rule, but for exactly what is listed above."""
    sample = samples[name]
    unfound = set()
    for place, (at, length) in places_of(sample).items():
        data = DAMAGE[damage](sample.data, at, length)
        verdict = judged(inspector, sample, data)
        levels = {finding.level for finding in verdict.proof.findings if finding.severity == Severity.REFUSE}
        if data == sample.data:  # what was swapped is alike
            assert status(verdict) == "proved"
        elif not levels:
            unfound.add(place)
        else:
            # Headers of arrays and of safetensors tell what bytes mean too; that is level 2
            assert min(levels) == 1 or place in ("array header", "directory", "head")
    expected = UNFOUND[name] if name in UNFOUND else UNFOUND[sample.container]
    assert unfound == {place for place, damages in expected.items() if damage in damages.split()}


def test_other_tensors_under_right_checksums_are_found_at_level_2(samples, inspector):
    """Records that changed places inside of a zip that was made anew do not fit what the pickle asks for."""
    parts = parts_of(samples["float8"].data)
    parts["archive/data/0"], parts["archive/data/1"] = parts["archive/data/1"], parts["archive/data/0"]
    verdict = judged(inspector, samples["float8"], rezipped(parts))
    assert [finding.level for finding in verdict.proof.findings] == [2]


def test_metadata_of_another_save_are_found(samples, inspector):
    """A shard beside metadata that tell of other tensors is refused."""
    sample = samples["dcp"]._replace(metadata=samples["dcp as safetensors"].metadata)
    assert status(judged(inspector, sample, sample.data)) == "broken"


def test_a_shard_whose_tensor_has_another_type_is_refused_at_level_2(samples, inspector):
    """Its records are whole, and it is not what the metadata say."""
    sample = samples["dcp"]
    assert sample.metadata is not None
    other = sample._replace(metadata=sample.metadata.replace(b"float16", b"qint888"))
    verdict = judged(inspector, other, sample.data)
    assert (verdict.proof.level, [finding.level for finding in verdict.proof.findings]) == (1, [2])


@pytest.mark.parametrize("metadata", [None, b"", b"nonsense"])
def test_a_shard_without_metadata_is_unknown_or_refused(samples, inspector, metadata):
    """Alone it says nothing; beside what is no metadata it is not what it should be."""
    sample = samples["dcp"]._replace(metadata=metadata)
    assert status(judged(inspector, sample, sample.data)) == ("unknown" if metadata is None else "broken")


def test_metadata_are_proved_by_themselves(samples, inspector):
    """The file that tells of the shards is a checkpoint's as well: what it says fits together, or it is refused."""
    data = samples["dcp"].metadata
    assert data is not None
    verdict = inspector.prove(MemorySource(data), b"s/.metadata")
    assert (status(verdict), verdict.proof.container, verdict.proof.facts["file_count"]) == (
        "proved",
        "dcp-metadata",
        1,
    )
    assert status(inspector.prove(MemorySource(data[:-9]), b"s/.metadata")) == "broken"
