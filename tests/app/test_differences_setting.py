"""When tensors may be stored as differences, by the configuration, and what a backup says of them."""

from pathlib import Path

import pytest

from mlsync.app.flow_options import differences_of
from mlsync.backup.bases.settings import Differences
from mlsync.backup.request import BackupResult, StoredDifferences
from mlsync.cli.backup import _show
from mlsync.config.load import load

STATE = Path("/state")


def differences(tmp_path, text, run="yolo"):
    """What a configuration with these lines says of a run."""
    file = tmp_path / "mlsync.toml"
    file.write_text(f'repository = "/srv/store"\n{text}')
    return differences_of(load(file), STATE, run)


@pytest.mark.parametrize(
    ("keep", "allowed"),
    [
        ('["last 5", "best 3 by fitness max", "within 3d", "pinned"]', True),
        ('["last 5", "daily 14"]', False),
        ('["every 10 epochs"]', False),
    ],
)
def test_rules_that_thin_versions_out_switch_differences_off(tmp_path, keep, allowed):
    """Unless somebody insists: what is kept of each day would keep its bases too."""
    policy = f"[retention]\nkeep = {keep}\n"
    assert (differences(tmp_path, policy) == Differences(STATE / "bases")) is allowed
    insisting = differences(tmp_path, f'{policy}[backup]\ndifferences = "on"\nbase_cache = "1GiB"\n')
    assert insisting == Differences(STATE / "bases", 1 << 30, insists=True)
    assert differences(tmp_path, f'{policy}[backup]\ndifferences = "off"\n') is None


def test_the_rules_are_those_of_the_run(tmp_path):
    """One run may have differences while the versions of another are thinned out."""
    text = """
    [[watch]]
    directory = "/a"
    run = "yolo"
    [watch.retention]
    keep = ["weekly 8"]
    [[watch]]
    directory = "/b"
    run = "bert"
    """
    assert differences(tmp_path, text) is None
    assert differences(tmp_path, text, "bert") is not None


class Verbose:
    """The options of a command that was called with -v."""

    as_json, quiet, verbose = False, False, 1


def test_a_verbose_backup_says_what_differences_saved(capsys):
    """In one line, with what the tensors would take as a whole; and none where there were no differences."""
    found = StoredDifferences(8 << 20, 5 << 20, 1 << 20)
    _show(Verbose(), [BackupResult("yolo", 1, 2, differences=found), BackupResult("bert", 1, 2)], [])
    printed = " ".join(capsys.readouterr().out.split())
    assert "yolo: 8.0 MiB of tensors stored as differences in 5.0 MiB, which would take about 6.0 MiB as" in printed
    assert "bert: 8" not in printed
    assert printed.count("differences") == 1
