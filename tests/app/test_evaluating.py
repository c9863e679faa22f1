"""How a run is evaluated, by the configuration: which command, as whom, and before a registration."""

from __future__ import annotations

import dataclasses

import pytest

from doubles.recording_monitor import RecordingMonitor
from flow_parts import RUN, World, small_checkpoint
from mlsync.app.evaluating import evaluate_registered, evaluation_options, settings_of
from mlsync.config.model import Config, EvaluateSettings, ProofSettings, WatchSettings
from mlsync.errors import ConfigInvalid
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover


def config(tmp_path, own=None, **common):
    """A configuration with a run that may have settings of its own."""
    evaluate = EvaluateSettings(**common)
    watch = WatchSettings(tmp_path, RUN, evaluate=own or evaluate)
    proof = ProofSettings(device="cuda:1")
    return Config("file:///r", tmp_path, watches=(watch,), evaluate=evaluate, proof=proof)


def test_a_command_on_the_command_line_replaces_the_configured_one(tmp_path):
    """With it go label and built-in; path and environment stay, and each may be given."""
    known = config(tmp_path, builtin="ultralytics", label="ours", path="*.pt", environment=("A=1",))
    settings = settings_of(known, RUN, command=("measure",), device="cpu", path=None)
    options = evaluation_options(known, RUN, settings, tmp_path)
    assert (options.words, options.label, options.path) == (("measure",), "measure", "*.pt")
    assert (options.device, options.environment) == ("cpu", {"A": "1"})
    builtin = evaluation_options(known, RUN, settings_of(known, RUN), tmp_path)
    assert (builtin.label, builtin.words[-1], builtin.device) == ("ours", "{device}", "cuda:1")


def test_a_digest_tells_commands_apart(tmp_path):
    """Equal commands have equal digests, others have others, and the built-in one has its own wherever Python lies."""
    one, other = (
        evaluation_options(config(tmp_path), RUN, EvaluateSettings(command=words), tmp_path).digest
        for words in (("a", "b"), ("a b",))
    )
    assert one != other
    digests = {
        evaluation_options(
            config(tmp_path), RUN, EvaluateSettings(builtin="ultralytics", python=python), tmp_path
        ).digest
        for python in (None, tmp_path / "python")
    }
    assert len(digests) == 1


def test_a_run_without_a_command_is_told_where_to_name_one(tmp_path):
    """Nothing that measures is a fault of the configuration."""
    with pytest.raises(ConfigInvalid, match="nothing is there that evaluates run 'yolo'"):
        evaluation_options(config(tmp_path), RUN, EvaluateSettings(), tmp_path)


class Opened:
    """A session on a world's repository."""

    def __init__(self, world, settings):
        self.repository, self.state_directory = world.repository, world.base
        self.config = config(world.base, own=settings)


def test_a_version_is_evaluated_before_it_is_registered(tmp_path):
    """Only where that is wanted, once by one command, and a failure is told and keeps no registration back."""
    world, monitor = World(tmp_path), RecordingMonitor()
    world.write("last.pt", small_checkpoint())
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    stored = world.repository.stored(RUN, 1)
    count = tmp_path / "count"
    settings = EvaluateSettings(command=("sh", "-c", f"echo x >> {count}; echo a 1"), on="registered")
    evaluate_registered(Opened(world, dataclasses.replace(settings, on="best")), stored, monitor)
    assert not count.exists()
    for _ in range(2):
        evaluate_registered(Opened(world, settings), stored, monitor)
    assert count.read_text() == "x\n"
    assert [one.by_name for one in world.repository.evaluations(stored)] == [{"a": 1.0}]
    evaluate_registered(Opened(world, dataclasses.replace(settings, command=("false",))), stored, monitor)
    ((level, text),) = monitor.notices
    assert (level, text.startswith("yolo: version 1 is not evaluated: false ended with 1")) == ("warning", True)
    world.close()
