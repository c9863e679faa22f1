from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from checkpoint_files import MemorySource, flipped, parts_of, records, rezipped, yolo_bytes
from doubles.verdict_status import status
from mlsync.proof import inspection
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """A prover on the CPU."""
    with Prover(ProofOptions(device="cpu")) as prover:
        yield prover


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.random.default_rng(3).standard_normal(50_000), b=np.zeros(400_000))
    return file.getvalue()


NPZ = npz_bytes()
TORCH = rezipped(parts_of(yolo_bytes()), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("block_bytes", [1000, 1 << 20])
@pytest.mark.parametrize(("data", "path"), [(NPZ, b"a.npz"), (TORCH, b"last.pt")], ids=["npz", "torch"])
def test_a_compressed_checkpoint_is_proved_to_level_2_and_says_why_no_further(prover, data, path, block_bytes):
    """Its records unpack to their checksums and its tensors fill them; nothing of them went to a device."""
    verdict = prover.prove(MemorySource(data, block_bytes), path)
    assert (status(verdict), verdict.proof.level) == ("proved", 2)
    assert ["went to no device" in finding.what for finding in verdict.proof.findings] == [True]


def test_a_flipped_bit_anywhere_in_a_compressed_record_is_found_at_level_1(prover):
    """Damage shows as data that do not unpack, or unpack to another length or checksum; the record is named."""
    for name, (at, length) in records(NPZ).items():
        for place in (0, length // 3, length // 2, length - 1):
            verdict = prover.prove(MemorySource(flipped(NPZ, at + place, 2)), b"a.npz")
            assert (status(verdict), verdict.proof.level) == ("broken", 0)
            assert {(finding.level, finding.record) for finding in verdict.proof.findings} == {(1, name)}


def test_records_that_unpack_to_more_than_is_worth_it_are_not_unpacked(prover, monkeypatch):
    """Beyond the bound nothing is unpacked, and the file is unknown, not broken."""
    monkeypatch.setattr(inspection, "PLAIN_BYTES_MIN", 1 << 20)
    monkeypatch.setattr(inspection, "PLAIN_FACTOR_MAX", 2)
    verdict = prover.prove(MemorySource(NPZ), b"a.npz")
    assert (status(verdict), verdict.proof.level) == ("unknown", 0)
    assert ["more than is unpacked" in finding.what for finding in verdict.proof.findings] == [True]


def test_some_records_may_be_compressed_and_others_not(prover):
    """What lies in the file as it is goes to the device, and both kinds are held against their checksums."""
    mixed = io.BytesIO()
    with zipfile.ZipFile(mixed, "w") as archive:
        for name, part in parts_of(yolo_bytes()).items():
            archive.writestr(name, part, zipfile.ZIP_DEFLATED if name.endswith(("/1", "/5")) else zipfile.ZIP_STORED)
    data = mixed.getvalue()
    verdict = prover.prove(MemorySource(data), b"last.pt")
    assert (status(verdict), verdict.proof.level, verdict.proof.device) == ("proved", 2, "cpu")
    assert [finding.what for finding in verdict.proof.findings] == ["2 tensors are compressed, and went to no device"]
    for name in ("archive/data/1", "archive/data/2"):
        broken = prover.prove(MemorySource(flipped(data, sum(records(data)[name]) - 1)), b"last.pt")
        assert [finding.record for finding in broken.proof.findings] == [name]
