"""An evaluation: which checkpoint a command gets, what it sees, what it may say, and what is left behind."""

from __future__ import annotations

import os
import time

import pytest

from flow_parts import RUN, World, checkpoint, small_checkpoint
from mlsync.errors import EvaluationFailed, EvaluationUnavailable, ObjectDamaged, Stopped
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving import load as loading
from mlsync.proving.evaluate import EvaluationOptions, evaluate, label_of
from mlsync.repository import names


@pytest.fixture
def world(tmp_path):
    """A run with a version: a best and a last checkpoint, settings, and a log."""
    world = World(tmp_path)
    world.write("weights/last.pt", small_checkpoint(1))
    world.write("weights/best.pt", small_checkpoint(2))
    world.write("args.yaml", b"data: coco\n")
    world.write("plots/val.csv", b"x")
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    yield world
    world.close()


def measured(world, script, number=None, tick=lambda: None, **more):
    """Evaluate a version by a shell's words, which get the checkpoint as $1 and the result's file as $2."""
    words = ("sh", "-c", script, "sh", "{checkpoint}", "{result}", "{directory}")
    options = EvaluationOptions("check", words, world.base / "loading", device="cpu", **more)
    stored = world.repository.stored(RUN, number or world.numbers()[-1])
    return evaluate(world.repository, stored, options, world.monitor, tick=tick)


def left_behind(world):
    """What lies where checkpoints are restored."""
    return list((world.base / "loading").glob("*"))


def test_numbers_are_kept_beside_the_version(world):
    """What the command printed is stored with the version's manifest, and the copy is gone."""
    done = measured(world, "echo accuracy 0.5; echo noise >&2; echo loss 0.25")
    stored = world.repository.stored(RUN, 1)
    (kept,) = world.repository.evaluations(stored)
    assert kept == done.evaluation
    assert (kept.by_name, kept.manifest) == ({"accuracy": 0.5, "loss": 0.25}, stored.digest)
    assert (kept.path, kept.label, kept.device) == (b"weights/best.pt", "check", "cpu")
    assert left_behind(world) == []


def test_the_command_sees_a_private_copy_and_no_secret(world, monkeypatch):
    """It has the very bytes, small files beside and above, modes for nobody else, and none of mlsync's environment."""
    monkeypatch.setenv("MLSYNC_PASSPHRASE", "a secret of mlsync")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    seen = world.base / "seen"
    seen.mkdir()
    script = (
        f'cp "$1" {seen}/best.pt; env > {seen}/env; (cd "$3" && find . | sort) > {seen}/tree; '
        f'stat -c %a "$1" "$3" "$3/weights" "$3/.." > {seen}/modes; echo a 1'
    )
    measured(world, script, environment={"DATA": "/data"})
    assert (seen / "best.pt").read_bytes() == small_checkpoint(2)
    assert (seen / "modes").read_text().split() == ["600", "755", "700", "700"]  # the last is above all
    assert (seen / "tree").read_text().split() == [".", "./args.yaml", "./weights", "./weights/best.pt"]
    said = dict(line.split("=", 1) for line in (seen / "env").read_text().splitlines())
    assert not [name for name in said if name.startswith(("AWS_", "MLSYNC_")) and "EVALUATE" not in name]
    own = {name.removeprefix("MLSYNC_EVALUATE_"): value for name, value in said.items() if "EVALUATE" in name}
    assert (own["RUN"], own["VERSION"], own["EPOCH"], own["DEVICE"]) == (RUN, "1", "2", "cpu")
    assert own["CHECKPOINT"] == own["DIRECTORY"] + "/weights/best.pt"
    assert own["RUN_DIRECTORY"] == os.fsdecode(world.path("")).rstrip("/")
    assert (said["DATA"], said["OMP_NUM_THREADS"], said["CUDA_VISIBLE_DEVICES"]) == ("/data", "1", "")


def test_a_file_that_it_wrote_counts_before_what_it_printed(world):
    """With numbers in the result's file, the standard output is a log."""
    done = measured(world, 'echo loss 9; echo "{\\"loss\\": 0.5}" > "$2"')
    assert done.evaluation.by_name == {"loss": 0.5}


def test_a_pattern_names_the_checkpoint(world):
    """The pattern of a file or a directory chooses; one that means nothing says so, before anything runs."""
    assert measured(world, "echo a 1", path="last.pt").evaluation.path == b"weights/last.pt"
    assert measured(world, "echo a 1", path="weights/").evaluation.path == b"weights"
    with pytest.raises(EvaluationUnavailable, match="no checkpoint that path = 'x'"):
        measured(world, f"touch {world.base}/ran; echo a 1", path="x")
    assert not (world.base / "ran").exists()


def test_without_a_best_one_the_newest_checkpoint_is_measured(tmp_path):
    """Of checkpoints that nobody calls the best, the one that was written last counts; a hard link is a file too."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write(f"epoch-{number}.pt", small_checkpoint(number))
        os.utime(world.path(f"epoch-{number}.pt"), ns=(0, (4 - number) * 10**9))
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    assert measured(world, "echo a 1").evaluation.path == b"epoch-1.pt"
    os.link(world.path("epoch-3.pt"), world.path("best.pt"))
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    assert measured(world, 'cmp "$1" "$3/best.pt" && echo a 1').evaluation.path == b"best.pt"
    world.close()


def test_a_directory_that_is_a_checkpoint_is_measured_as_one(tmp_path):
    """A model with its configuration is restored whole, and the command gets the directory."""
    import numpy as np
    import safetensors.numpy

    world = World(tmp_path)
    world.write("model/config.json", b"{}")
    world.write("model/tokenizer.json", b"{}" * 1000)
    tensors = {"w": np.ones((2, 2), dtype=np.float32)}
    world.write("model/model.safetensors", safetensors.numpy.save(tensors))
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    done = measured(world, 'test -f "$1/model.safetensors" && test -f "$1/tokenizer.json" && echo a 1')
    assert done.evaluation.path == b"model"
    world.close()


@pytest.mark.parametrize(
    ("script", "error", "why"),
    [
        ("echo out; echo Error: no data >&2; exit 3", EvaluationFailed, "check ended with 3: .*Error: no data"),
        ("exit 75", EvaluationUnavailable, "check could not evaluate"),
        ("exec /nowhere/python", EvaluationUnavailable, "check does not start"),
        ("kill -9 $$", EvaluationFailed, "was killed, for want of memory it seems"),
        ("kill -11 $$", EvaluationFailed, "was ended by signal 11"),
        ("true", EvaluationFailed, "what check said cannot be read: it is empty"),
        ("echo loss nan", EvaluationFailed, "loss: no finite number"),
        ('echo a 1; printf "a 1\\nb" > "$2"', EvaluationFailed, "result that check wrote cannot be read: a line is no"),
        ('echo a 1; ln -s /etc/passwd "$2"', EvaluationFailed, "the file is no plain one"),
        ('echo a 1; mkfifo "$2"', EvaluationFailed, "the file is no plain one"),
        ('echo a 1 > x; ln x "$2"', EvaluationFailed, "the file is no plain one"),
        ('echo a 1; mkdir "$2"', EvaluationFailed, "the file is no plain one"),
        ('head -c 1100000 /dev/zero | tr "\\0" x', EvaluationFailed, "longer than 1 MiB"),
        ('head -c 1100000 /dev/zero > "$2"', EvaluationFailed, "longer than 1 MiB"),
        ("sleep 100", EvaluationFailed, "did not end within 0 s"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_what_fails_says_why_and_stores_nothing(world, script, error, why):
    """A command that fails, is killed, takes too long or says nothing of use is an error, and leaves nothing."""
    timeout_s = 0.3 if script.startswith("sleep") else 20.0
    with pytest.raises(error, match=why):
        measured(world, script, timeout_s=timeout_s)
    assert keys(world) == left_behind(world) == []


def keys(world):
    """The names of the evaluations in the store."""
    return [info.key for info in world.store.list(names.EVALUATIONS)]


def test_a_missing_program_is_named(world):
    """A command that is not there ends with what it is called and why, not with its arguments."""
    options = EvaluationOptions("nosuch", ("/nowhere/nosuch", "--token=secret"), world.base / "loading")
    with pytest.raises(EvaluationUnavailable, match="nosuch does not start: No such file") as caught:
        evaluate(world.repository, world.repository.stored(RUN, 1), options, world.monitor)
    assert "secret" not in str(caught.value)


def test_all_that_it_started_ends_with_it(world):
    """Children that outlive the command, or its time, are killed with its session."""
    pid = world.base / "pid"
    measured(world, f"(echo $BASHPID > /dev/null; exec sleep 1000) & echo $! > {pid}; echo a 1")
    assert_gone(int(pid.read_text()))
    with pytest.raises(EvaluationFailed):
        measured(world, f"sleep 1000 & echo $! > {pid}; wait", timeout_s=0.3)
    assert_gone(int(pid.read_text()))


def assert_gone(pid):
    """No process of that id is left, but for one that is not reaped yet."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError(pid)


def test_a_version_without_checkpoint_has_nothing_to_measure(tmp_path):
    """It is said, and nothing runs."""
    world = World(tmp_path)
    world.write("log.txt", b"x")
    world.backup()
    with pytest.raises(EvaluationUnavailable, match="there is no checkpoint in the version"):
        measured(world, "echo a 1")
    world.close()


def test_a_broken_checkpoint_is_not_measured(tmp_path):
    """One that does not load is passed over for one that does; where none does, that is said."""
    world = World(tmp_path)
    world.write("best.pt", checkpoint(float("nan")))
    world.write("last.pt", small_checkpoint())
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    assert measured(world, "echo a 1").evaluation.path in (b"last.pt", b"best.pt")
    world.close()


def test_without_room_nothing_runs(world, monkeypatch):
    """A disk that is too small for the copy says how much is needed, and nothing is left on it."""
    monkeypatch.setattr(loading, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(EvaluationUnavailable, match=r"no room to load a checkpoint of .* state_directory"):
        measured(world, "echo a 1")
    assert left_behind(world) == []


def test_a_byte_that_does_not_come_back_is_damage(world):
    """A pack that was changed fails the evaluation as it fails a restore, and the command does not run."""
    (pack,) = [info.key for info in world.store.list(names.PACKS)]
    data = world.store.get(pack, limit_bytes=1 << 30)
    world.store.delete(pack)
    world.store.put(pack, data[:100] + bytes(len(data) - 100))
    with pytest.raises(ObjectDamaged):
        measured(world, f"touch {world.base}/ran; echo a 1")
    assert not (world.base / "ran").exists()
    assert left_behind(world) == []


def test_a_stop_ends_the_command_and_cleans_up(world):
    """What the caller raises ends it at once, and the copy is gone."""
    ticks = []

    def stop():
        ticks.append(1)
        if (world.base / "began").exists():
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        measured(world, f"touch {world.base}/began; sleep 1000", tick=stop)
    assert left_behind(world) == keys(world) == []


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (("python", "-B", "/opt/eval.py", "--token=secret"), "eval.py"),
        (("/usr/bin/python3.12", "evaluate.py", "{checkpoint}"), "evaluate.py"),
        (("/opt/measure", "--data", "x.py"), "measure"),
        (("sh", "-c", "secret 0.5"), "sh"),
        (("env", "TOKEN=secret", "python3", "x/eval.py"), "eval.py"),
        (("x" * 300,), "x" * 200),
        (("é" * 150,), "é" * 100),
        (("a\nb",), "a?b"),
    ],
    ids=str,
)
def test_a_label_is_the_program_without_arguments(words, label):
    """A script is called by its name and not its interpreter's, and no argument is in it."""
    assert label_of(words) == label
