"""``mlsync backup --dry-run``: what it prints, and that it needs neither store nor passphrase and leaves no trace."""

from __future__ import annotations

import fcntl

from machine import NO_DEVICE, content

from mlsync.app.look_ahead import look_ahead
from mlsync.config.load import load
from mlsync.monitor import SilentMonitor


def filled(machine, more=""):
    """Some directories with files, and what is left out."""
    machine.configure(more + NO_DEVICE)
    for number in range(30):
        directory = machine.training / "ckpt" / f"step-{number}"
        directory.mkdir(parents=True)
        (directory / "x.bin").write_bytes(bytes(1000 + number))
    (machine.training / "wandb").mkdir()
    (machine.training / "wandb" / "run.bin").write_bytes(bytes(5000))
    (machine.training / "x.part").write_bytes(bytes(10))


def test_before_the_first_backup(machine):
    """A screen of directories, what is left out and why, and totals at the end; deep directories are folded."""
    filled(machine, 'exclude = ["wandb/"]\n')
    done = machine.good("backup", "--dry-run")
    lines = done.out.splitlines()
    assert len(lines) < 24
    assert max(len(line) for line in lines[1:8]) <= 80
    text = " ".join(done.out.split())
    assert "this machine has made no version of it" in text
    assert "30 29.7 KiB - - ckpt/" in text
    assert '1 file, 4.9 KiB: excluded by "wandb/": wandb/' in text
    assert "1 file, 10 B: the name of an unfinished file (keep_temporary = true includes it): x.part" in text
    assert "and store at most" in text
    assert text.endswith("Nothing was read or written.")
    assert done.err == ""


def test_verbose_lists_every_directory_in_natural_order(machine):
    """-v folds nothing, and puts step-2 before step-10."""
    filled(machine)
    out = machine.good("backup", "--dry-run", "-v").out
    assert [line.split()[-1] for line in out.splitlines() if "step-" in line] == [
        f"ckpt/step-{number}/" for number in range(30)
    ]


def test_too_many_directories_are_summed_up(machine):
    """The smallest of many directories are one row, and the total is that of all."""
    machine.configure()
    for number in range(40):
        (machine.training / f"d{number}").mkdir()
        (machine.training / f"d{number}" / "x").write_bytes(bytes(100 * number))
    out = machine.good("backup", "--dry-run").out
    assert len([line for line in out.splitlines() if line.endswith("/")]) == 19
    assert "more; -v lists all)" in out
    assert out.index("d39/") < out.index("d30/")


def test_no_trace_and_no_store(machine):
    """It works without a repository and without a secret, and makes no local state."""
    filled(machine)
    before = content(machine.base)
    done = machine.good("backup", "--dry-run", CREDENTIALS_DIRECTORY="")
    assert "a backup would read" in done.out
    machine.configuration.write_text(machine.configuration.read_text().replace("file://", "s3://nowhere-"))
    assert machine.good("backup", "--dry-run", CREDENTIALS_DIRECTORY="").out == done.out
    machine.configuration.write_text(machine.configuration.read_text().replace("s3://nowhere-", "file://"))
    assert content(machine.base) == before


def test_after_a_backup(machine):
    """Only what differs is listed; with nothing changed there is no table."""
    filled(machine)
    machine.good("backup", "-q")
    out = machine.good("backup", "--dry-run").out
    assert "nothing changed since version 1; a backup would make no version" in " ".join(out.split())
    assert "DIRECTORY" not in out
    (machine.training / "ckpt" / "step-3" / "x.bin").write_bytes(b"other")
    (machine.training / "ckpt" / "step-4" / "x.bin").unlink()
    out = machine.good("backup", "--dry-run").out
    assert "ckpt/step-3/" in out
    assert "(all others)" in out
    assert "1 path of version 1 would not be in the next" in " ".join(out.split())
    assert machine.good("backup", "--json").json()["runs"][0]["changed_count"] == 1


def test_everything_gone(machine):
    """A directory without files, after a version with some, would be refused, and that is said."""
    filled(machine)
    machine.good("backup", "-q")
    for path in sorted(machine.training.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    out = " ".join(machine.good("backup", "--dry-run").out.split())
    assert "a backup would refuse that (status 43)" in out


def test_while_another_process_works_on_the_run(machine):
    """A run that is locked, as by an agent, is looked at all the same."""
    filled(machine)
    machine.good("backup", "-q")
    (lock,) = machine.base.rglob("*.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert machine.run("backup").status != 0
        machine.good("backup", "--dry-run")


def test_a_run_that_is_away_does_not_hide_the_others(machine):
    """Of two runs the one that is there is shown; the status is that of the other."""
    filled(machine)
    text = machine.configuration.read_text()
    machine.configuration.write_text(f'{text}\n[[watch]]\ndirectory = "{machine.base}/away"\nrun = "away"\n')
    done = machine.run("backup", "--dry-run")
    assert done.status == 40
    assert "yolo: a backup would read" in done.out
    assert "away: the watched directory is not there" in done.err
    assert machine.run("backup", "away", "--dry-run").status == 40


def test_not_with_a_takeover(machine):
    """--take-over changes something, so the two are refused together."""
    machine.configure()
    done = machine.run("backup", "--dry-run", "--take-over")
    assert (done.status, done.out) == (2, "")


def test_two_repositories_of_one_directory(machine):
    """If the directory is backed up to two repositories, the store says whose state counts."""
    filled(machine)
    machine.good("backup", "-q")
    first = machine.configuration.read_text()
    machine.good("init", f"file://{machine.base}/other", "--config", machine.base / "other.toml")
    second = first.replace(machine.url, f"file://{machine.base}/other")
    (machine.training / "more").write_bytes(b"1")
    machine.configuration.write_text(second)
    machine.good("backup", "-q")
    (machine.training / "more").write_bytes(b"22")
    machine.good("backup", "-q")

    def previous():
        config = load(machine.configuration)
        return look_ahead(config, config.watches[0], SilentMonitor()).previous

    assert previous() == 2
    machine.configuration.write_text(first)
    assert previous() == 1
