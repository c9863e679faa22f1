"""What was refused by the user's wish is refused as long as he wishes it, and is looked at again when he does not."""

from __future__ import annotations

import os

import pytest

from flow_parts import World, checkpoint, damaged, small_checkpoint
from mlsync.proof.framework import Framework
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.judge import refusing_policy
from mlsync.proving.load import LoadingOptions
from mlsync.proving.policy import Policy
from mlsync.proving.prove_later import LaterProver
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.values import Finding, Proof, Severity
from mlsync.versions.proof_status import proof_statuses

LAX, STRICT = Policy(numbers=""), Policy(numbers="nan")


class Kept(Prover):
    """A prover whose process outlives a backup, so that torch is imported once for all tests."""

    def __exit__(self, *what):
        """Nothing is closed by the end of a backup."""


@pytest.fixture(scope="module")
def lax():
    """A prover that lets NaN be."""
    prover = Kept(ProofOptions(device="cpu"))
    yield prover
    prover.close()


@pytest.fixture(scope="module")
def strict():
    """A prover that refuses NaN."""
    prover = Kept(ProofOptions(device="cpu", refuse=frozenset({"nan"})))
    yield prover
    prover.close()


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def with_nan():
    """A checkpoint with a number that is none."""
    import torch

    return checkpoint(torch.tensor([1.0, float("nan")]))


def at_rest(world):
    """So that what is remembered of the files by their times is believed."""
    for folder, _, names in os.walk(world.path("")):
        for name in [*names, b"."]:
            os.utime(os.path.join(folder, name), ns=(10**18, 10**18))


def loaded_by(world, script):
    """Have *script* load checkpoints."""
    return LoadingOptions(Framework("check", ("sh", "-c", script, "sh", "{path}")), world.base / "loading")


def test_numbers_that_are_refused_no_longer_are_judged_anew(world, strict, lax):
    """The next pass takes the file in although nobody touched it; before that it is neither read nor judged again."""
    world.write("last.pt", with_nan())
    at_rest(world)
    assert world.backup(prover=strict, policy=STRICT).troubles[0].kind is TroubleKind.BROKEN
    world.backup(prover=strict, policy=STRICT)
    result = world.backup(prover=strict, policy=STRICT)
    assert (result.read_bytes, result.read_back_bytes, len(result.troubles)) == (0, 0, 1)
    result = world.backup(prover=lax, policy=LAX)
    assert (result.troubles, world.entry(b"last.pt").proof.level) == ((), 4)
    assert result.stored_bytes < 4000  # its content lay in the store already
    assert world.backup(prover=lax, policy=LAX).read_bytes == 0


def test_what_another_wish_refuses_too_is_told_and_judged_once(world, strict):
    """Where the new policy refuses the file as well there is no new version, and it is not looked at a third time."""
    world.write("last.pt", with_nan())
    at_rest(world)
    world.backup(prover=strict, policy=STRICT)
    stricter = Policy(numbers="inf nan")
    assert world.backup(prover=strict, policy=stricter).read_back_bytes > 0
    result = world.backup(prover=strict, policy=stricter)
    assert (result.read_bytes, result.read_back_bytes, len(result.troubles)) == (0, 0, 1)
    assert world.numbers() == []


def test_the_last_good_content_stays_until_then(world, strict, lax):
    """A file that had good content before keeps that, and gets its own when the policy lets it."""
    world.write("last.pt", small_checkpoint(1))
    world.backup(prover=strict, policy=STRICT)
    world.write("last.pt", with_nan())
    at_rest(world)
    world.backup(prover=strict, policy=STRICT)
    assert world.restored()[b"last.pt"][3] == small_checkpoint(1)
    world.backup(prover=lax, policy=LAX)
    assert world.restored()[b"last.pt"][3] == with_nan()


def test_a_structure_that_is_broken_is_so_whatever_is_wished(world, strict, lax):
    """What speaks against a file by itself is not looked at again when a policy changes."""
    world.write("last.pt", damaged(small_checkpoint()))
    at_rest(world)
    world.backup(prover=strict, policy=STRICT)
    world.backup(prover=strict, policy=STRICT)
    result = world.backup(prover=lax, policy=LAX)
    assert (result.read_bytes, len(result.troubles)) == (0, 1)


@pytest.mark.parametrize(("levels", "by"), [([4], "numbers nan"), ([5], "loading a"), ([1, 4], ""), ([2], "")])
def test_only_numbers_and_commands_refuse_by_a_wish(levels, by):
    """What a lower level found stands whatever the policy is, also where a wish speaks against the file as well."""
    findings = [Finding(level, Severity.REFUSE, "something") for level in levels]
    proof = Proof(0, "", "", "", 0, 0.0, 0, 0, {}, findings)
    assert refusing_policy(proof, Policy("nan", "a")) == by


@pytest.mark.parametrize("script", ["true", None])
def test_a_command_that_changed_is_asked_again(world, lax, script):
    """A checkpoint that one command refused is loaded by the next, or let in where none is asked any more."""
    world.write("last.pt", small_checkpoint())
    at_rest(world)
    first = {"loading": loaded_by(world, "exit 1"), "policy": Policy(loading="a")}
    assert world.backup(prover=lax, **first).troubles[0].text == "level 5: check ended with 1"
    world.backup(prover=lax, **first)
    assert world.backup(prover=lax, **first).read_bytes == 0
    second = {} if script is None else {"loading": loaded_by(world, script), "policy": Policy(loading="b")}
    assert world.backup(prover=lax, **second).troubles == ()
    assert world.entry(b"last.pt").proof.level == (4 if script is None else 5)


def test_what_turned_out_to_be_broken_later_is_judged_anew_too(world, strict, lax):
    """Its version stays marked; the next ones have it as soon as the policy that it was left out by is another one."""
    world.write("last.pt", with_nan())
    world.backup(required_level=3, prover=Prover(ProofOptions(device="cpu", python="/nowhere/python")))
    with LaterProver(world.repository, strict, world.monitor) as later:
        later.pending(world.repository.stored("yolo", 1))
    world.write("log.txt", b"a line")
    assert world.backup(prover=strict, policy=STRICT).troubles[0].path == b"last.pt"
    assert world.backup(prover=lax, policy=LAX).troubles == ()
    assert [entry.path for entry in world.manifest().entries] == [b"last.pt", b"log.txt"]
    assert [status.broken_count for status in proof_statuses(world.repository, "yolo")] == [1, 0, 0]


def test_what_level_5_is_not_meant_for_is_not_pending(world, lax):
    """With level 5 required, a version with files at level 4 that no command is meant for lacks nothing."""
    world.write("last.pt", small_checkpoint(1))
    world.write("rng.pth", small_checkpoint(2))
    loading = LoadingOptions(Framework("check", ("true", "{path}"), patterns=("*.pt",)), world.base / "loading")
    world.backup(prover=lax, loading=loading, required_level=5, wait_for_proof=True)
    (status,) = proof_statuses(world.repository, "yolo")
    assert (status.lowest_level, status.is_pending) == (4, False)
    with LaterProver(world.repository, lax, world.monitor) as later:
        assert list(later.lacking("yolo")) == []
        assert later.pending(world.repository.stored("yolo", 1)).verdicts == {}
    with LaterProver(world.repository, lax, world.monitor, level=5) as later:
        assert [stored.root.number for stored in later.lacking("yolo")] == [1]


def test_what_level_5_could_not_be_had_for_is_pending(world, lax):
    """The same files are, where it was not to be had."""
    world.write("last.pt", small_checkpoint(1))
    world.backup(prover=lax, loading=loaded_by(world, "exit 75"), required_level=5)
    (status,) = proof_statuses(world.repository, "yolo")
    assert (status.lowest_level, status.is_pending) == (4, True)
