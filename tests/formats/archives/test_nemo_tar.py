from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
import torch

from checkpoint_files import MemorySource, torch_bytes
from mlsync.formats.archives import nemo_tar
from mlsync.formats.containers import read_content, read_layout, storages_of
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.values import Severity

# NeMo 3.0.0 wrote it (see made/make_groups.py).
MADE = (Path(__file__).parents[1] / "made" / "groups" / "small.nemo").read_bytes()


def archive(members: dict[str, bytes], **how: object) -> bytes:
    """A tar of these files, as NeMo has Python write it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", **how) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(data: bytes):
    """Level 1 and level 2 of it."""
    source = MemorySource(data)
    layout = read_layout(source, identify(source, b"m.nemo"))
    return layout, read_content(source, layout)


def unpacked(data: bytes) -> list[tuple[str, bytes]]:
    """What is in an archive by Python's own word."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar.getmembers() if member.isfile()]


def test_what_nemo_wrote():
    """Its files are found; the weights' tensors lie where the archive has them, their records keep their checksums."""
    layout, content = read(MADE)
    assert layout.container == "nemo"
    assert [(member.name, MADE[member.offset :][: member.length]) for member in layout.members] == [
        (name, body) for name, body in unpacked(MADE)
    ]
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in content.tensors} == {
        "encoder.weight": ("float32", (8, 8)),
        "encoder.bias": ("float16", (8,)),
    }
    weight = next(one for one in content.storages if one.dtype == "float32")
    assert MADE[weight.offset :][: weight.length] == torch.arange(64.0).numpy().tobytes()
    assert storages_of(MemorySource(MADE), layout) == content.storages
    assert content.facts["framework"] == "nemo"
    assert (content.facts["parameter_count"], content.facts["resumable"]) == (72, False)
    assert sum(extent.crc32 is not None for extent in layout.extents) > 5


def test_every_cut_is_found():
    """Cut before the mark of its end it is broken, at any length; the zeros behind that are none of its content."""
    end = next(at for at in range(0, len(MADE), 512) if not MADE[at:].strip(b"\0"))
    for length in [*range(0, end + 1024, 16), end + 1023]:
        with pytest.raises(ContainerBroken):
            read(MADE[:length])
    read(MADE[: end + 1024])
    with pytest.raises(ContainerBroken, match="behind the end"):
        read(MADE[:-1] + b"x")


def test_no_flipped_bit_passes_that_another_reads_otherwise():
    """What is proved after a bit was flipped has the files that it had, in Python's own reader."""
    chance = random.Random(7)
    before = unpacked(MADE)
    refused = 0
    with Prover(ProofOptions(device="none")) as prover:
        for _ in range(400):
            at = chance.randrange(len(MADE) - 9000)
            data = bytearray(MADE)
            data[at] ^= 1 << chance.randrange(8)
            judged = prover.prove(MemorySource(bytes(data)), b"m.nemo")
            if any(finding.severity == Severity.REFUSE for finding in judged.proof.findings):
                refused += 1
                continue
            after = unpacked(bytes(data))
            weights = [name for name, _ in after if name.endswith("ckpt")]
            # Settings and other files have no checksum, nor has the padding between them.
            assert [name for name, _ in after] == [name for name, _ in before]
            for name in weights:
                state = torch.load(io.BytesIO(dict(after)[name]))
                assert torch.equal(state["encoder.weight"], torch.arange(64.0).reshape(8, 8))
    assert refused > 200


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_the_forms_of_tar(form):
    """Long names are read in each form; weights of model-parallel ranks stand under their directory's name."""
    weights = torch_bytes({"w": torch.ones(16)})
    folder = ("d" * 90 + "/") * (1 if form == tarfile.USTAR_FORMAT else 3)
    names = [f"{folder}mp_rank_0{rank}/model_weights.ckpt" for rank in range(2)]
    layout, content = read(archive(dict.fromkeys(names, weights), format=form))
    assert [member.name for member in layout.members] == names
    assert [tensor.name for tensor in content.tensors] == [f"{name.removesuffix('.ckpt')}.w" for name in names]


def test_weights_of_other_kinds():
    """Weights in torch's older form are looked at; torn ones are told of by their name; without any it is level 1."""
    old = torch_bytes({"w": torch.ones(16)}, _use_new_zipfile_serialization=False)
    assert [tensor.name for tensor in read(archive({"model_weights.ckpt": old}))[1].tensors] == ["w"]
    for torn in (old[:-8], torch_bytes({"w": torch.ones(16)})[:-8], b"", b"\0" * 600):
        with pytest.raises(ContainerBroken, match=r"model_weights\.ckpt"):
            read(archive({"./model_config.yaml": b"a: 1\n", "./model_weights.ckpt": torn}))
    assert read(archive({"model_config.yaml": b"a: 1\n"}))[1] is None
    shards = {"model_weights/__0_0.distcp": b"x", "model_weights/common.pt": torch_bytes({"a": 1})}
    assert read(archive(shards))[1].facts["unchecked_part_count"] == 1


def test_what_is_not_looked_into(monkeypatch):
    """Compressed archives, devices' numbers and more than the bounds are left alone, and said so."""
    for head in (b"\x1f\x8b\x08\x00" + MADE, b"\x28\xb5\x2f\xfd" + MADE):
        with pytest.raises(NotChecked, match="compressed"):
            read(head)
    for name, value in (("MEMBERS_MAX", 2), ("RECORDS_MAX", 3), ("NAMES_BYTES_MAX", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(nemo_tar, name, value)
            with pytest.raises(NotChecked):
                read(MADE)
    sparse = archive({"a": b"x"}, format=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"})
    assert read(sparse)[1] is None  # of all members together they say nothing
    info = tarfile.TarInfo("a")
    info.pax_headers = {"GNU.sparse.major": "1"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(NotChecked, match="holes"):
        read(file.getvalue())


def test_a_name_that_promises_it():
    """An empty file of that name is torn, and one of zeros as well."""
    for content in (b"", b"\0" * 100, b"hello"):
        with pytest.raises(ContainerBroken):
            read(content)
