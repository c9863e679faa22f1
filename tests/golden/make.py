"""Make a golden repository with this mlsync: it is kept for ever, so that tests show that every later mlsync reads it.

``python tests/golden/make.py NAME`` makes ``tests/golden/NAME`` and describes its versions in ``expected.json``.
It refuses a name that exists: from release 1.0 on, a golden repository is never edited and never made again. Its key
slots are weak on purpose, and ``expected.json`` has the passphrase.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch

import mlsync
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, BackupResult, Source
from mlsync.monitor import SilentMonitor
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.repository import names
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.keyslot import KeyFile, Passphrase, Stretching
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.pack.base import Base
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter, PlacedChunk, Release
from mlsync.source.state import State
from mlsync.store.directory.store import DirectoryStore

HERE = Path(__file__).parent.resolve()
PASSPHRASE = "a golden passphrase, schön öffentlich"
KEY_FILE = hashlib.sha256(b"golden key file").digest()
LABEL_COUNT = 700


class Trainer:
    """Writes what a trainer would, into one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        torch.manual_seed(20)
        # As large as it takes for a tensor to be cut at its own edges, and its numbers to be stored in planes.
        self.model = torch.nn.Sequential(torch.nn.Linear(130, 130), torch.nn.ReLU(), torch.nn.Linear(130, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.epoch = 0

    def begin(self) -> None:
        """Write the files before the first epoch: one entry of each kind, and odd names."""
        labels = self.directory / "labels"
        labels.mkdir(parents=True)
        for number in range(LABEL_COUNT):
            # As many and as long as it takes for the list of files to be kept in chunks.
            (labels / f"a-label-with-a-long-name-so-that-the-list-of-files-is-long-{number:06d}.txt").touch()
        (self.directory / "args.yaml").write_text("imgsz: 640\nlr0: 0.01\n")
        (self.directory / "empty").mkdir(mode=0o750)
        (self.directory / "newest").symlink_to("weights/last.pt")
        Path(os.fsdecode(bytes(self.directory) + b"/not-utf8-\xff\xfe")).write_bytes(b"a name of other bytes")
        (self.directory / "two\nlines").write_bytes(b"a name with a newline")
        with (self.directory / "sparse.bin").open("wb") as file:
            file.truncate(3 << 20)
            file.seek(1 << 20)
            file.write(b"an island " * 500)
        with (self.directory / "holes.bin").open("wb") as file:
            file.truncate(600 << 10)
            file.seek(300 << 10)
            file.write(b"an island " * 500)

    def train(self) -> None:
        """Do one epoch and write its checkpoints."""
        self.epoch += 1
        self.model(torch.randn(4, 130)).square().mean().backward()
        self.optimizer.step()
        weights = self.directory / "weights"
        weights.mkdir(exist_ok=True)
        checkpoint = {"epoch": self.epoch, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(checkpoint, weights / "last.pt")
        tensors = {"layer.0": self.model[0].weight.detach().half().contiguous()}
        safetensors.torch.save_file(tensors, weights / "ema.safetensors", {"format": "pt"})
        best = weights / "best.pt"
        if not best.exists():
            best.hardlink_to(weights / "last.pt")
        with (self.directory / "results.csv").open("a") as log:
            log.write(f"{self.epoch},{1 / self.epoch:.6f}\n")

    def tear(self) -> None:
        """Leave a checkpoint as a killed trainer does: its first half."""
        last = self.directory / "weights" / "last.pt"
        half = last.read_bytes()[: last.stat().st_size // 2]
        last.unlink()
        last.write_bytes(half)


class Bases:
    """Offers each tensor's chunk of earlier versions as the base of a chunk of the same length in this one."""

    def __init__(self) -> None:
        self._put = PackWriter.put
        self._last: dict[tuple[int, int], tuple[PlacedChunk, bytes]] = {}
        self._new: dict[tuple[int, int], tuple[PlacedChunk, bytes]] = {}
        self._counts: Counter[int] = Counter()

    def put(
        self, writer: PackWriter, plain: memoryview, release: Release = lambda: None, item_bytes: int = 0
    ) -> PlacedChunk:
        """Store a chunk as ``PackWriter.put`` does."""
        # Tensors of one shape come in the same order in each version.
        self._counts[len(plain)] += 1
        key, kept = (len(plain), self._counts[len(plain)]), bytes(plain)
        base = None
        if item_bytes and key in self._last:
            placed, content = self._last[key]

            def read(into: memoryview) -> bool:
                into[:] = content
                return True

            base = Base(placed.ref, read)
        placed = self._put(writer, plain, release, item_bytes, base)
        self._new[key] = placed, kept
        return placed

    def next_version(self) -> None:
        """Offer the chunks of this version, too, but for differences."""
        self._last |= {key: one for key, one in self._new.items() if one[0].ref.base is None}
        self._new = {}
        self._counts.clear()


def make(place: Path, work: Path) -> None:
    """Make the repository and its ``expected.json`` at *place*."""
    place.mkdir()
    store = DirectoryStore(place / "repository", create=True)
    stretching = Stretching(memory_kib=64, iterations=1, lanes=1)
    repository = Repository.create(store, Passphrase(PASSPHRASE.encode()), stretching=stretching)
    slot = keyslot.make(KeyFile(KEY_FILE), repository.keys.master, repository.repository_id, os.urandom(16), stretching)
    store.put(names.key_slot(os.urandom(names.SLOT_ID_BYTES)), slot)
    versions = []
    bases = Bases()
    offering = mock.patch.object(PackWriter, "put", lambda *given, **named: bases.put(*given, **named))  # noqa: PLW0108 - bound
    with State.open(work / "state.sqlite") as state, offering:

        def take(run: str, directory: Path) -> BackupResult:
            source = Source(run, os.fsencode(directory))
            options = BackupOptions(sleep=lambda _: None)
            result = backup(repository, state, source, lambda: Prover(ProofOptions()), options, SilentMonitor())
            bases.next_version()
            manifest = repository.manifest(repository.stored(run, result.version))
            versions.append(expected(manifest, directory, versions))
            return result

        trainer = Trainer(Path("yolo"))
        trainer.begin()
        trainer.train()
        take("yolo-1", trainer.directory)
        trainer.train()
        trainer.tear()
        assert [trouble.kept for trouble in take("yolo-1", trainer.directory).troubles] == [1]
        trainer.train()
        take("yolo-1", trainer.directory)
        other = Trainer(Path("other"))
        other.directory.mkdir()
        other.train()
        take("zweiter lauf", other.directory)
        prove_later(repository, versions)
        evaluate(repository, versions)
    store.close()
    description = {
        "written_by": f"mlsync {mlsync.__version__}",
        "passphrase": PASSPHRASE,
        "key_file": KEY_FILE.hex(),
        "versions": versions,
    }
    (place / "expected.json").write_text(json.dumps(description, indent=1) + "\n")


def prove_later(repository: Repository, versions: list[dict[str, Any]]) -> None:
    """Prove the first version again, as a machine with another device would, and describe the result."""
    stored = repository.stored("yolo-1", 1)
    with Prover(ProofOptions(device="cpu")) as prover, LaterProver(repository, prover, SilentMonitor()) as later:
        result = later.anew(stored)
    versions[0]["proved_later"] = {_text(path): judged.proof.level for path, judged in result.verdicts.items()}


def expected(manifest: Manifest, directory: Path, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe a version by the files of its source; labels are all alike and only counted."""
    entries = [entry for entry in manifest.entries if not entry.path.startswith(b"labels/")]
    kept = {trouble.path for trouble in manifest.root.troubles}
    return {
        "run": manifest.root.run,
        "number": manifest.root.number,
        "created_ns": manifest.root.created_ns,
        "machine": manifest.root.origin.machine.decode(),
        "top": None if manifest.root.top is None else [oct(manifest.root.top.mode), manifest.root.top.mtime_ns],
        "notes": list(manifest.root.notes),
        "previous": None if manifest.root.previous is None else manifest.root.previous.number,
        "troubles": [[_text(trouble.path), trouble.kind.name, trouble.kept] for trouble in manifest.root.troubles],
        "label_count": len(manifest.entries) - len(entries),
        "entries": {
            _text(entry.path): {
                "kind": entry.kind.name,
                "mode": oct(entry.mode),
                "mtime_ns": entry.mtime_ns,
                "size_bytes": entry.size_bytes,
                "target": _text(entry.target),
                "sha256": _earlier_sha256(earlier, entry) if entry.path in kept else _sha256(directory, entry),
                "blake3": None if entry.blake3 is None else entry.blake3.hex(),
                "holes": [list(hole) for hole in entry.holes],
                "proof": None if entry.proof is None else [entry.proof.level, entry.proof.container],
            }
            for entry in entries
        },
    }


def _sha256(directory: Path, entry: Entry) -> str | None:
    path = os.path.join(os.fsencode(directory), entry.path)
    if entry.kind not in (EntryKind.FILE, EntryKind.HARD_LINK):
        return None
    return hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()


def evaluate(repository: Repository, versions: list[dict[str, Any]]) -> None:
    """Add what a command measured of the first version, and describe it."""
    stored = repository.stored("yolo-1", 1)
    numbers = [Measure("accuracy", 0.75), Measure("loss", 0.5)]
    made_ns, writer = 1_795_525_200_000_000_000, f"mlsync {mlsync.__version__}"
    command = hashlib.sha256(b"golden").digest()
    made = Evaluation(
        "yolo-1", 1, stored.digest, made_ns, writer, "node", "eval.py", command, b"weights/best.pt", "cpu", 1.5, numbers
    )
    repository.add_evaluation(made)
    versions[0]["evaluated"] = made.by_name


def _earlier_sha256(earlier: list[dict[str, Any]], entry: Entry) -> str:
    return str(earlier[-1]["entries"][_text(entry.path)]["sha256"])


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def main() -> None:
    """Make the repository that is named on the command line, and write the digests of its files."""
    place = HERE / sys.argv[1]
    if place.exists():
        sys.exit(f"{place} is there: a golden repository is never made again")
    # Neither this machine's name nor its paths are kept for ever.
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.chdir(work),
        mock.patch("socket.gethostname", return_value="golden-node"),
        mock.patch("mlsync.backup.parents.ownership.machine_mark", return_value=b"a golden machine"),
    ):
        make(place, Path(work))
    files = sorted(path for path in HERE.rglob("*") if path.is_file() and path.parent != HERE)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(HERE)}" for path in files]
    (HERE / "SHA256SUMS").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
