"""``mlsync prune``: what it says before and after, what it asks, and how it ends."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def forgotten(saved):
    """A run of three versions, the second of which was forgotten."""
    (saved.training / "results.csv").write_text("epoch,loss\n3,0.125\n")
    saved.good("backup")
    saved.good("forget", "2", "--yes")
    return saved


def test_a_dry_run_shows_what_would_go_and_changes_nothing(forgotten):
    """It names the version and its rule, and the amounts."""
    before = sorted(path for path in forgotten.repository.rglob("*") if path.is_file())
    done = forgotten.good("prune", "--dry-run", "--grace", "0s")
    assert "/2: to be removed, forgotten by" in done.out
    assert "1 version to remove, 2 stay" in done.out
    assert sorted(path for path in forgotten.repository.rglob("*") if path.is_file()) == before


def test_within_the_grace_nothing_goes(forgotten):
    """The default is a week."""
    assert "0 versions to remove, 3 stay" in forgotten.good("prune", "--yes").out


def test_the_grace_is_that_of_the_configuration(forgotten):
    """The longest of the configuration counts without --grace, and --grace before it."""
    written = forgotten.configuration.read_text()
    forgotten.configuration.write_text(written + '\n[retention]\ngrace = "0s"\n')
    assert "1 version to remove, 2 stay" in forgotten.good("prune", "--dry-run").out
    assert "0 versions to remove" in forgotten.good("prune", "--dry-run", "--grace", "1d").out
    forgotten.configuration.write_text(written + '\n[watch.retention]\ngrace = "1d"\n[retention]\ngrace = "0s"\n')
    assert "0 versions to remove" in forgotten.good("prune", "--dry-run").out


def test_without_a_terminal_it_asks_for_yes(forgotten):
    """Nothing is changed if nobody can answer, and the status says so."""
    done = forgotten.run("prune", "--grace", "0s")
    assert done.status == 97, done
    assert "--yes" in done.err


def test_it_removes_and_says_what(forgotten):
    """The forgotten version goes, and the others restore."""
    done = forgotten.good("prune", "--yes", "--grace", "0s")
    assert "1 version removed, 0 packs (0 B) deleted" in done.out
    forgotten.good("prune", "--yes", "--grace", "0s")
    forgotten.good("check", "--read-data")
    assert forgotten.run("show", "2").status == 15


def test_what_it_cannot_see_is_named_and_nothing_goes(forgotten):
    """A manifest that opens nowhere keeps all: status 96."""
    forgotten.object("versions/*/*", 2).write_bytes(b"damaged")
    forgotten.object("copies/*/*", 2).unlink()
    done = forgotten.run("prune", "--yes", "--grace", "0s")
    assert done.status == 96, done
    assert "versions/" in done.out


def test_a_grace_that_is_no_time_is_refused(forgotten):
    """The message shows what a length of time looks like."""
    done = forgotten.run("prune", "--grace", "soon")
    assert done.status == 2
    assert '"1d"' in done.err


def test_compact_says_what_it_costs_and_moves_within_what_is_allowed(forgotten):
    """With --compact what is left of mostly dead packs is moved, unless it is more than --max-move: then nothing is."""
    forgotten.good("prune", "--yes", "--grace", "0s")
    before = sorted(path.name for path in forgotten.repository.glob("packs/*/*"))
    assert "Also move" in forgotten.good("prune", "--help").out
    shown = forgotten.good("prune", "--dry-run", "--compact", "--grace", "0s", "--json")
    assert json.loads(shown.out)["to_move"].keys() == {"packs", "read_bytes", "written_bytes", "freed_bytes"}
    done = forgotten.run("prune", "--yes", "--compact", "--max-move", "much")
    assert done.status == 2
    forgotten.good("prune", "--yes", "--compact", "--max-move", "1GiB", "--grace", "0s")
    forgotten.good("prune", "--yes", "--grace", "0s")
    forgotten.good("check", "--read-data")
    assert before
