"""``mlsync repair`` on the command line: what it shows, asks, heals, and how it ends."""

from __future__ import annotations

import shutil


def test_it_heals_a_header_and_a_manifest(saved):
    """After a repair, the repository opens with the same secret, and every version restores."""
    header, manifest = saved.repository / "repository", saved.object("versions/*/*", 0)
    before = header.read_bytes(), manifest.read_bytes()
    header.unlink()
    manifest.unlink()
    assert saved.run("check").status == 10
    done = saved.good("repair", "--yes")
    assert "from the master key" in done.out
    assert "from its copy" in done.out
    assert done.out.endswith("2 objects healed\n")
    assert (header.read_bytes(), manifest.read_bytes()) == before
    assert "no problem" in saved.good("check", "--read-data").out
    saved.good("restore", "--version", 1, "--to", "one")
    assert "nothing to heal" in saved.good("repair").out


def test_a_changed_header_is_made_anew(saved):
    """A header that opens no more, or that says another id, is replaced, and the secret is asked for once."""
    header = saved.repository / "repository"
    before = header.read_bytes()
    for change in (
        lambda body: body[:-20],
        lambda body: body.replace(b'"conditional_create": true', b'"conditional_create": false'),
    ):
        header.chmod(0o600)
        header.write_bytes(change(before))
        saved.good("repair", "--yes")
        assert header.read_bytes() == before


def test_a_dry_run_changes_nothing(saved):
    """It shows what it would do and which files are lost, and ends with 0."""
    saved.object("versions/*/*", 1).unlink()
    max(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size).unlink()
    files = sorted(saved.repository.rglob("*"))
    done = saved.good("repair", "--dry-run")
    assert sorted(saved.repository.rglob("*")) == files
    assert "from its copy" in done.out
    assert "lost in yolo: weights/last.pt" in done.out


def test_without_a_terminal_it_asks_for_yes(saved):
    """Nobody can be asked: nothing is changed, and the status says so."""
    manifest = saved.object("versions/*/*", 0)
    manifest.unlink()
    done = saved.run("repair")
    assert done.status == 37, done
    assert "--yes" in done.err
    assert not manifest.exists()


def test_a_lost_versions_folder_asks_for_rebuild(saved):
    """All manifests are gone: that may have been meant, so it takes a word of its own."""
    shutil.rmtree(saved.repository / "versions")
    done = saved.run("repair", "--yes")
    assert done.status == 36, done
    assert "--rebuild" in done.err
    saved.good("repair", "--yes", "--rebuild")
    saved.good("restore", "--to", "back")


def test_lost_content_ends_with_35_and_heals_with_the_next_backup(saved):
    """What stays lost is named by file and version; the next backup stores it again from the directory."""
    max(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size).unlink()
    done = saved.run("repair")
    assert done.status == 35, done
    assert "lost in yolo: weights/last.pt" in done.out
    saved.good("backup")
    saved.good("restore", "--to", "back")
    assert (saved.base / "back/weights/last.pt").read_bytes() == (saved.training / "weights/last.pt").read_bytes()


def test_no_repository_is_nothing_to_repair(saved):
    """A place without a key slot is refused as by every command, and stays as it is."""
    empty = saved.base / "empty"
    assert saved.run("repair", "--repo", empty).status == 10
    assert not empty.exists()
    empty.mkdir()
    assert saved.run("repair", "--repo", empty).status == 10
    assert list(empty.iterdir()) == []


def test_what_is_lost_for_good_is_given_up_after_a_question(saved):
    """It says what is lost, does nothing without --yes or in a dry run, and then prune has nothing to wait for."""
    for name in ("versions", "copies"):
        place = saved.object(f"{name}/*/*", 0)
        place.chmod(0o600)
        place.write_bytes(b"planted" * 20)
    assert saved.run("prune", "--dry-run").status == 96
    for more, status in ((["--dry-run"], 0), ([], 37)):
        done = saved.run("repair", "--discard", "yolo/1", *more)
        assert done.status == status, done
        assert "version 1 of run 'yolo' is lost for good" in " ".join(done.out.split())
        assert saved.run("prune", "--dry-run").status == 96
    assert "1 object discarded" in saved.good("repair", "--discard", "yolo/1", "--yes").out
    saved.good("prune", "--dry-run")
    saved.good("check")
    done = saved.run("show", "1")
    assert done.status == 15
    assert "was removed" in done.err
    sound = saved.run("repair", "--discard", "yolo/2", "--yes")
    assert sound.status == 34
    assert "mlsync forget" in sound.err
    assert saved.run("repair", "--discard", "yolo/2", "--rebuild").status == 2
    assert saved.run("repair", "--even-newer").status == 2
