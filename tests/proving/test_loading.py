"""Level 5 in a backup: what a command says of a checkpoint that came back from the store, and what is left behind."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from flow_parts import World, as_nobody, small_checkpoint
from mlsync.beneath import Beneath
from mlsync.errors import CommandUnavailable, ProofTimedOut, Stopped
from mlsync.proof.framework import Framework
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving import load as loading
from mlsync.proving.load import LoadingOptions, clear_leftovers, private_directory
from mlsync.proving.verify import verify
from mlsync.repository.encoding.tokens import TroubleKind

ON_CPU = ProofOptions(device="cpu")


@pytest.fixture
def world(tmp_path):
    """A run, and a command that loads its checkpoints: a shell's words, given the file's path as $1."""
    world = World(tmp_path)
    yield world
    world.close()


def options(world, script, **more):
    """Have *script* load checkpoints."""
    framework = Framework("check", ("sh", "-c", script, "sh", "{path}"), **more)
    return LoadingOptions(framework, world.base / "loading")


def back_up(world, script, *, required_level=3, stop=lambda: False, wait_for_proof=False, **more):
    """Back up, with proofs on the CPU and checkpoints loaded by *script*."""
    return world.backup(
        prover=Prover(ON_CPU),
        loading=options(world, script, **more),
        required_level=required_level,
        wait_for_proof=wait_for_proof,
        stop=stop,
    )


def left_behind(world):
    """What lies where checkpoints are loaded."""
    return list((world.base / "loading").glob("*"))


def test_a_checkpoint_that_loads_is_proved_to_level_5(world):
    """The version says so, and by what; the command saw the very bytes, in a directory for nobody else."""
    world.write("weights/last.pt", small_checkpoint())
    seen = world.base / "seen"
    result = back_up(world, f'cp "$1" {seen}; stat -c "%a %n" "$1" . .. ../file > {seen}.modes')
    proof = world.entry(b"weights/last.pt").proof
    assert (result.lowest_level, proof.level, proof.facts["loaded_by"], proof.device) == (5, 5, "check", "cpu")
    assert seen.read_bytes() == small_checkpoint()
    modes = [line.split() for line in Path(f"{seen}.modes").read_text().splitlines()]
    assert [mode for mode, _ in modes][:3] == ["600", "700", "700"]
    assert os.path.basename(modes[0][1]) == "last.pt"
    assert left_behind(world) == []


def test_a_checkpoint_that_does_not_load_keeps_its_last_content(world):
    """It is a broken one like any other: the last good content stays, and the command's last words are on record."""
    world.write("last.pt", small_checkpoint(1))
    back_up(world, "true")
    world.write("last.pt", small_checkpoint(2))
    result = back_up(world, "echo KeyError: ema; exit 1")
    assert world.entry(b"last.pt").proof.facts["epoch"] == 1
    trouble = result.troubles[0]
    assert (trouble.kind, trouble.kept) == (TroubleKind.BROKEN, 1)
    assert trouble.text == "level 5: check ended with 1: KeyError: ema"
    assert left_behind(world) == []


def test_what_could_not_be_loaded_is_committed_at_level_4(world):
    """A command that could not tell leaves the checkpoint at what it reached, and the reason on record."""
    world.write("last.pt", small_checkpoint())
    result = back_up(world, "echo no GPU; exit 75")
    proof = world.entry(b"last.pt").proof
    assert (result.version, proof.level, proof.shortfall) == (1, 4, "check could not tell: no GPU")
    assert result.troubles == ()


def test_who_requires_level_5_waits_for_it(world):
    """No version is made while the load cannot be had; once it can, there is one."""
    world.write("last.pt", small_checkpoint())
    with pytest.raises(ProofTimedOut):
        back_up(world, "sleep 1000", required_level=5, wait_for_proof=True, timeout_s=0.2)
    assert (world.numbers(), left_behind(world)) == ([], [])
    assert back_up(world, "true", required_level=5, wait_for_proof=True).pending == ()


def test_files_that_the_command_is_not_meant_for_do_not_wait(world):
    """One that it skips and one that the patterns leave out are proved to level 4, whatever is required."""
    world.write("last.pt", small_checkpoint(1))
    world.write("rng.pth", small_checkpoint(2))
    world.write("optimizer.pt", small_checkpoint(3))
    script = 'case "$1" in */optimizer.pt) exit 77;; *.pth) exit 1;; esac'
    result = back_up(world, script, patterns=("*.pt",), required_level=5, wait_for_proof=True)
    levels = {name: world.entry(name).proof.level for name in (b"last.pt", b"rng.pth", b"optimizer.pt")}
    assert levels == {b"last.pt": 5, b"rng.pth": 4, b"optimizer.pt": 4}
    assert result.pending == ()  # nothing more is to come of these two


def test_one_content_is_loaded_once(world):
    """Files of the same content are loaded together, a file that stands is not loaded again, and none by its path."""
    log = world.base / "log"
    script = f'basename "$1" >> {log}'
    for name in ("last.pt", "best.pt", "other.pth"):
        world.write(name, small_checkpoint())
    back_up(world, script, patterns=("*.pt",))
    world.write("results.csv", b"epoch,loss\n")
    back_up(world, script, patterns=("*.pt",))
    assert log.read_text().split() == ["best.pt"]
    levels = [world.entry(name).proof.level for name in (b"best.pt", b"last.pt", b"other.pth")]
    assert levels == [5, 5, 4]


def test_what_is_broken_at_a_lower_level_is_never_loaded(world):
    """No code of a checkpoint runs that its own structure speaks against."""
    log = world.base / "log"
    world.write("last.pt", small_checkpoint()[:-100])
    result = back_up(world, f"touch {log}")
    assert (len(result.troubles), log.exists()) == (1, False)


def test_what_was_not_on_the_device_is_not_loaded(world):
    """A level holds only where all below it do: without torch a checkpoint stays at level 2, whoever could load it."""
    log = world.base / "log"
    world.write("last.pt", small_checkpoint())
    without_torch = Prover(ProofOptions(device="cpu", python="/absent/python"))
    world.backup(prover=without_torch, loading=options(world, f"touch {log}"))
    assert (world.entry(b"last.pt").proof.level, log.exists()) == (2, False)


def test_a_sparse_file_is_loaded_as_long_as_it_was(world):
    """The holes of a checkpoint, which the store holds nothing of, are there when it is loaded."""
    import io

    import torch

    file = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(1 << 20)}}, file)
    dense, size = world.base / "dense.pt", len(file.getvalue())
    dense.write_bytes(file.getvalue())
    subprocess.run(["cp", "--sparse=always", dense, world.directory / "last.pt"], check=True)
    assert back_up(world, f'test $(stat -c %s "$1") = {size} && cmp "$1" {dense}').lowest_level == 5
    assert world.entry(b"last.pt").holes


def test_no_room_says_nothing_of_the_file(world, monkeypatch):
    """Where the file and some more do not fit the load is not tried, and the checkpoint stays at level 4."""
    monkeypatch.setattr(loading, "_SPARE_BYTES", 1 << 60)
    world.write("last.pt", small_checkpoint())
    back_up(world, "true")
    proof = world.entry(b"last.pt").proof
    assert proof.level == 4
    assert proof.shortfall.startswith(f"no room to load a checkpoint of {len(small_checkpoint())} bytes")


def test_a_place_that_cannot_be_made_says_nothing_of_the_file(world):
    """Nor does a state directory that cannot be written."""
    (world.base / "loading").write_text("a file in its place")
    world.write("last.pt", small_checkpoint())
    back_up(world, "true")
    assert "no place to load a checkpoint from" in world.entry(b"last.pt").proof.shortfall


def test_a_backup_stops_while_a_command_runs(world):
    """Whoever asks the backup to stop need not wait for the command."""
    pid = world.base / "pid"
    world.write("last.pt", small_checkpoint())
    with pytest.raises(Stopped):
        back_up(world, f"echo $$ > {pid}; sleep 1000", stop=pid.exists)
    assert (world.numbers(), left_behind(world)) == ([], [])


def test_verify_loads_checkpoints_again(world):
    """A version that was made without is verified to level 5, and a command that fails then is told."""
    world.write("last.pt", small_checkpoint())
    world.backup(prover=Prover(ON_CPU), required_level=3)
    for script, level, refused in (("true", 5, None), ("exit 1", 4, "level 5: check ended with 1")):
        with Prover(ON_CPU) as prover:
            result = verify(world.repository, world.manifest(), prover, world.monitor, options(world, script))
        judged = result.verdicts[b"last.pt"]
        assert (judged.proof.level, judged.refused) == (level, refused)


# ---------------------------------------------------------------- what is left behind


def test_nothing_is_left_of_what_a_command_made(world):
    """Directories that their owner may not enter, links and files are all gone afterwards."""
    outside = world.base / "outside"
    outside.mkdir(mode=0o755)
    world.write("last.pt", small_checkpoint())
    script = f'mkdir -p a/b; touch a/b/c; ln -s {outside} a/link; chmod 0 a/b a; cp "$1" ~/copy'
    assert back_up(world, script).lowest_level == 5
    assert left_behind(world) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, who may not do everything")
def test_what_a_user_shut_himself_out_of_is_removed():
    """Also for a user who is not root, a directory that may not be entered does not stay."""
    base = Path(tempfile.mkdtemp())
    os.chown(base, 65534, 65534)
    try:
        with as_nobody():
            with private_directory(base) as place:
                (place / "a" / "b").mkdir(parents=True)
                (place / "a" / "b" / "c").touch()
                (place / "a" / "b").chmod(0)
                (place / "a").chmod(0)
            assert list(base.iterdir()) == []
    finally:
        shutil.rmtree(base)


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """What a process that is no more had put there goes with the next start; what a living one holds stays."""
    program = f"""
        import os, signal
        from pathlib import Path
        from mlsync.proving.load import private_directory
        with private_directory(Path({str(tmp_path)!r})) as place:
            (place / "last.pt").write_bytes(b"secret")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    with private_directory(tmp_path) as living:
        assert len(list(tmp_path.iterdir())) == 2
        clear_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [living]
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_clear_where_nothing_was_loaded(tmp_path):
    """A directory that was never made is not made for it."""
    clear_leftovers(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_command_of_a_program_that_is_gone_is_unavailable(world):
    """A command that cannot be started leaves checkpoints at level 4, or has a version wait, as is required."""
    world.write("last.pt", small_checkpoint())
    gone = LoadingOptions(Framework("check", ("/absent", "{path}")), world.base / "loading")
    with pytest.raises(CommandUnavailable, match="check does not start"):
        world.backup(prover=Prover(ON_CPU), loading=gone, required_level=5, wait_for_proof=True)
    world.backup(prover=Prover(ON_CPU), loading=gone, required_level=3)
    assert world.entry(b"last.pt").proof.level == 4


def test_no_mode_is_changed_through_a_link_while_leftovers_are_removed(tmp_path):
    """A directory that a command's leftover process swaps for a link, just before it is opened up, leads nowhere."""
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir(mode=0o500)
    place.mkdir()
    (place / "swapped").symlink_to(outside, target_is_directory=True)
    with Beneath.open(bytes(place)) as root, pytest.raises(OSError, match=r"Not a directory|symbolic"):
        loading._unlock(root, b"swapped")
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
