"""Files inside of a zip by their own formats; ``made/make_zips.py`` says what wrote the zips."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes
from doubles.verdict_status import status
from mlsync.formats.archives import inner_files
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import MeaningBroken, RecordDamaged
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.source.spans import plan_spans

MADE = Path(__file__).parents[1] / "made"
FILES = {name: (MADE / name).read_bytes() for name in ("model.keras", "a2c.zip", "package.zip")}


def proved(data: bytes) -> Verdict:
    with Prover(ProofOptions(device="cpu")) as prover:
        return prover.prove(MemorySource(data), b"x")


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "zip"))
    assert content is not None
    return content


def with_part(name: str, old: bytes, new: bytes) -> bytes:
    """The Keras or Stable-Baselines3 zip with a change in one of its files, behind right checksums."""
    [data] = [data for data in FILES.values() if name in parts_of(data)]
    parts = parts_of(data)
    assert old in parts[name]
    return rezipped({**parts, name: parts[name].replace(old, new, 1)})


TOLD = {
    "model.keras": {"framework": "keras", "framework_version": "3.15.1", "parameter_count": 58, "tensor_count": 14},
    "a2c.zip": {"framework": "stable-baselines3", "step": 4, "resumable": True, "parameter_count": 55},
    "package.zip": {"framework": "torch-package", "parameter_count": 9, "tensor_count": 1},
}


def test_what_lies_in_the_files_of_a_zip_is_proved_to_the_numbers():
    """Every tensor of Keras, Stable-Baselines3 and torch.package, and what they say of the training."""
    with Prover(ProofOptions(device="cpu")) as prover:
        for name, facts in TOLD.items():
            verdict = prover.prove(MemorySource(FILES[name]), b"x")
            assert (status(verdict), verdict.proof.level) == ("proved", 4)
            assert {key: verdict.proof.facts.get(key) for key in facts} == facts


def test_storages_lie_where_they_are_in_the_zip():
    """Bytes of a Keras bias, of a policy's weight, and of a package's storage, from the zip itself."""
    content = content_of(FILES["a2c.zip"])
    tensor = next(tensor for tensor in content.tensors if tensor.name == "policy.action_net.weight")
    storage = next(storage for storage in content.storages if storage.name == tensor.storage)
    state = torch.load(io.BytesIO(parts_of(FILES["a2c.zip"])["policy.pth"]), weights_only=True)
    own = FILES["a2c.zip"][storage.offset : storage.offset + storage.length]
    assert own == state["action_net.weight"].numpy().tobytes()
    [storage] = content_of(FILES["package.zip"]).storages
    assert FILES["package.zip"][storage.offset :][: storage.length] == parts_of(FILES["package.zip"])[storage.name]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (lambda: with_part("policy.pth", b"K\x04K\x04", b"K\x04K\x05"), "policy.pth/archive/data.pkl"),
        (lambda: rezipped({**parts_of(FILES["a2c.zip"]), "policy.pth": b""}), "policy.pth"),
        (lambda: rezipped({**parts_of(FILES["model.keras"]), "model.weights.h5": b"\x89HDF\r\n\x1a\n"}), "weights.h5"),
        (lambda: with_part("model.weights.h5", bytes([7, *bytes(7), 5]), bytes([9, *bytes(7), 5])), "weights.h5/"),
        (lambda: rezipped({**parts_of(FILES["package.zip"]), "package/.data/0.storage": bytes(8)}), "0.storage"),
    ],
    ids=["shape", "empty", "cut short", "dataset", "storage"],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_behind_a_right_checksum(data, where):
    """The writer was at fault; the record is told, with the part of it."""
    with pytest.raises((MeaningBroken, RecordDamaged)) as caught:
        content_of(data())
    assert where in (caught.value.record or "")


def test_a_file_of_a_zip_of_nobodys_is_held_to_nothing_that_its_name_promises():
    """A path file of Python, and an empty one, are no broken weights; a checkpoint beside them is looked at."""
    data = rezipped({"a.pth": b"import sys\n", "b.h5": b"", "best.pt": torch_bytes({"w": torch.ones(3), "epoch": 7})})
    content = content_of(data)
    assert (len(content.tensors), content.aside_count, content.facts["epoch"]) == (1, 2, 7)
    assert read_content(*both(rezipped({"a.pth": b"import sys\n"}))) is None


def both(data: bytes):
    """A source and its layout."""
    return MemorySource(data), read_layout(MemorySource(data), "zip")


def test_a_compressed_file_is_looked_into_and_stays_at_level_2(monkeypatch):
    """As far as it is unpacked in memory; a longer one is left aside, and counted."""
    data = rezipped(parts_of(FILES["model.keras"]), zipfile.ZIP_DEFLATED)
    verdict = proved(data)
    assert (status(verdict), verdict.proof.level, verdict.proof.facts["tensor_count"]) == ("proved", 2, 14)
    parts = parts_of(FILES["model.keras"])
    with pytest.raises(ContainerBroken, match="cut short"):
        content_of(rezipped({**parts, "model.weights.h5": parts["model.weights.h5"][:-9]}, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(inner_files, "UNPACKED_BYTES_MAX", 9000)
    assert read_content(*both(data)) is None


def test_an_array_in_a_zip_is_looked_at():
    """A record that ends in .npy, beside something else."""
    file = io.BytesIO()
    np.save(file, np.arange(5, dtype="f4"))
    content = content_of(rezipped({"w.npy": file.getvalue(), "n.txt": b"n"}))
    assert [(tensor.dtype, tensor.shape) for tensor in content.tensors] == [("float32", (5,))]
    with pytest.raises(MeaningBroken, match="fill"):
        content_of(rezipped({"w.npy": file.getvalue()[:-1], "n.txt": b"n"}))


def test_an_inner_file_is_cut_at_its_tensors():
    """A weight of 64 KiB or more has its own edges and width, inside of the record that holds the file."""
    data = rezipped({"policy.pth": torch_bytes({"w": torch.ones(30_000), "v": torch.ones(20_000)}), "n.txt": b"n"})
    source, layout = both(data)
    content = read_content(source, layout)
    assert content is not None
    spans = list(plan_spans(layout, len(data), [(0, len(data))], content.storages))
    tensors = [(span.offset, span.length) for span in spans if span.item_bytes == 4]
    assert tensors == [(storage.offset, storage.length) for storage in content.storages]


def test_a_changed_file_inside_never_surprises():
    """Each byte of each file changed behind a right checksum, some at a time: an answer or ``ContainerBroken``."""
    chance = np.random.default_rng(1)
    for data in FILES.values():
        parts = parts_of(data)
        records = [record for record in parts if record.endswith((".pth", ".h5", ".pkl", ".storage", "data"))]
        for _ in range(60):
            record = records[chance.integers(len(records))]
            part = bytearray(parts[record])
            for at in chance.integers(len(part), size=3):
                part[at] ^= 1 << int(chance.integers(8))
            with contextlib.suppress(ContainerBroken):
                read_content(*both(rezipped({**parts, record: bytes(part)})))
