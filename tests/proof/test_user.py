"""Where mlsync is root the proof's child is the trainer's user from its first instruction on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint_files import MemorySource, weights_bytes
from doubles.verdict_status import status
from mlsync.errors import PythonUnfit
from mlsync.proof import user as module
from mlsync.proof.child import ProofChild
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.user import User, cannot_change_user
from unprivileged import place_of_his_own, proof_python, python_for_all

TRAINER = User(4242, 4242, (4243,), "alice", "/nonexistent")
CAN = pytest.mark.skipif(os.geteuid() != 0 or bool(cannot_change_user()), reason="this process cannot be another user")


@pytest.fixture
def python():
    """A Python that everybody may run, and that notes as whom it was started."""
    plain = python_for_all()
    with place_of_his_own() as place:
        file = proof_python(place, plain)
        note = place / "started"
        note.touch()
        note.chmod(0o666)
        file.write_text(file.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\nid -u >> {note}; id -G >> {note}\n"))
        place.chmod(0o755)
        yield file, note


def ids(pid: int) -> dict[str, list[str]]:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, _, value in lines if name in ("Uid", "Gid", "Groups", "CapPrm")}


@CAN
def test_the_child_is_the_user_before_its_interpreter_starts(python):
    """All its ids are his, it has no right of root's, it is what is proved with, and it ends when it is told to."""
    file, note = python
    with Prover(ProofOptions(device="cpu", python=str(file), user=TRAINER)) as prover:
        info = prover.open()
        assert (info.as_root, info.unconfined) == ("", "")
        pid = prover._engine.pid
        assert ids(pid) == {"Uid": ["4242"] * 4, "Gid": ["4242"] * 4, "Groups": ["4243"], "CapPrm": ["0" * 16]}
        verdict = prover.prove(MemorySource(weights_bytes()), b"w.pt")
        assert (status(verdict), [one.what for one in verdict.proof.findings if "root" in one.what]) == ("proved", [])
    assert not Path(f"/proc/{pid}").exists()
    assert note.read_text() == "4242\n4242 4243\n"


@CAN
def test_a_python_that_he_cannot_run_is_run_by_root_and_that_is_noted(python):
    """A Python below a directory that only root enters proves all the same, and each proof says as whom."""
    file, note = python
    file.parent.chmod(0o700)
    os.chown(file.parent, 0, 0)
    with Prover(ProofOptions(device="cpu", python=str(file), user=TRAINER)) as prover:
        verdict = prover.prove(MemorySource(weights_bytes()), b"w.pt")
    assert status(verdict) == "proved"
    said = [one.what for one in verdict.proof.findings if one.what.startswith("proved as root: alice cannot run ")]
    assert len(said) == 1
    assert "Permission denied" in said[0]
    assert note.read_text().splitlines()[0] == "0"


@CAN
def test_a_python_that_does_not_start_is_not_tried_with_each_piece_of_a_file(python, monkeypatch):
    """A child that could not be started ahead of its work is started next when it is needed, and as root then."""
    file, _ = python
    file.parent.chmod(0o700)
    os.chown(file.parent, 0, 0)
    tried = []
    start = ProofChild._start
    monkeypatch.setattr(ProofChild, "_start", lambda child, *rest: tried.append(rest) or start(child, *rest))
    with Prover(ProofOptions(device="cpu", python=str(file), user=TRAINER)) as prover:
        for _ in range(9):
            prover.start()
        assert len(tried) == 1
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"


@CAN
def test_a_python_that_others_can_change_is_never_run_by_root(python):
    """Where it may not be root there is no proof, and the error is that of the user's Python."""
    file, note = python
    file.parent.chmod(0o700)
    os.chown(file.parent, 0, 0)
    with Prover(ProofOptions(device="cpu", python=str(file), user=TRAINER, may_be_root=False)) as prover:
        verdict = prover.prove(MemorySource(weights_bytes()), b"w.pt")
    assert (status(verdict), type(verdict.unavailable)) == ("unavailable", PythonUnfit)
    assert note.read_text() == ""


def test_what_it_takes_to_change_the_user_is_named(monkeypatch, tmp_path):
    """Who lacks one of the three rights is told which."""
    real = open

    def opened(path, *arguments, **more):
        return real(tmp_path / "status" if path == "/proc/self/status" else path, *arguments, **more)

    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t0000000000000040\n")
    monkeypatch.setattr(module, "open", opened, raising=False)
    assert cannot_change_user() == "mlsync has no CAP_SETUID, CAP_KILL"
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t00000000000000e4\n")
    assert cannot_change_user() == ""


def test_root_and_numbers_without_a_name():
    """Root is nobody; a number of a container that has no such user is that number, in no group but its own."""
    assert User.of(0).name == "nobody"
    assert User.of(4242) == User(4242, 4242, (), "4242", "/nonexistent")
