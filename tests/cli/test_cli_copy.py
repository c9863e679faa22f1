"""``mlsync copy``: what it says, what it refuses, and a restore from the copy on a fresh machine."""

from __future__ import annotations

import pytest
from machine import content

from mlsync.store.location import open_store
from mlsync.store.options import StoreOptions


@pytest.fixture
def three(saved):
    """A run of three versions."""
    (saved.training / "results.csv").write_text("epoch,loss\n3,0.125\n")
    saved.good("backup")
    return saved


def test_a_copy_restores_on_a_fresh_machine(three):
    """The mirror opens with the same secret, without a configuration and without the repository."""
    mirror = three.base / "mirror"
    done = three.good("copy", "--to", mirror, "--create")
    assert "the mirror was made" in done.out
    assert "3 versions copied" in done.out
    assert "yolo: up to date with version 3" in done.out
    three.repository.rename(three.base / "lost")
    three.good("restore", "--repo", mirror, "--to", "back", MLSYNC_CONFIG="", STATE_DIRECTORY=str(three.base / "s2"))
    assert content(three.base / "back") == content(three.training)


def test_without_create_an_empty_place_stays_empty(three):
    """The disk may not be mounted: the message says what the first copy takes."""
    mirror = three.base / "mirror"
    for make in (lambda: None, mirror.mkdir):
        make()
        done = three.run("copy", "--to", mirror)
        assert done.status == 10, done
        assert "--create" in done.err
    assert list(mirror.iterdir()) == []


def test_some_versions_and_a_policy(three):
    """What was left out is said by the copy, and by a check of the mirror."""
    done = three.good("copy", "--to", three.base / "one", "--create", "--version", "1-2", "--version", "latest")
    assert "3 versions copied" in done.out
    done = three.good("copy", "--to", three.base / "two", "--create", "--policy", "last 1")
    assert "left in the repository alone: versions 1, 2" in done.out
    done = three.good("check", "--repo", three.base / "two", "--read-data")
    assert "yolo: not copied to this mirror: 1-2" in done.out
    assert "no problem" in done.out


def test_a_dry_run_makes_nothing(three):
    """Not even the directory."""
    done = three.good("copy", "--to", three.base / "mirror", "--create", "--dry-run")
    assert "3 versions to copy" in done.out
    assert not (three.base / "mirror").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--version", "1", "--policy", "last 1"), 2, "--version and --policy"),
        (("--policy", "lst 1"), 2, "last"),
        (("--run", "yola"), 14, "yola"),
        (("--version", "9"), 15, "9"),
        (("--version", "7-9"), 2, "no such version"),
    ],
)
def test_what_cannot_be_meant_is_refused(three, arguments, status, says):
    """Before anything is written."""
    done = three.run("copy", "--to", three.base / "mirror", "--create", *arguments)
    assert done.status == status, done
    assert says in done.err
    assert not (three.base / "mirror" / "versions").exists()


def test_places_that_are_no_mirror_are_refused(three):
    """The repository itself, a place inside it, and another repository."""
    for place in (three.repository, three.repository / "mirror"):
        done = three.run("copy", "--to", place, "--create")
        assert done.status == 2, done
    three.good("init", three.base / "other", "--watch", three.base / "w", "--config", three.base / "o.toml")
    done = three.run("copy", "--to", three.base / "other", "--create")
    assert done.status == 64, done


def test_what_the_mirror_has_otherwise_is_named(three):
    """A version that could not be copied is 121; a mirror with what the repository lost, or with other objects, 122."""
    three.good("copy", "--to", three.base / "mirror", "--create", "--version", "1-2")
    pack = max(three.repository.glob("packs/*/*"), key=lambda path: path.stat().st_mtime_ns)
    pack.rename(three.base / "pack")
    done = three.run("copy", "--to", three.base / "mirror")
    assert done.status == 121, done
    assert "yolo/3: not copied:" in done.out
    (three.base / "pack").rename(pack)
    three.good("copy", "--to", three.base / "mirror")
    for kind in ("versions", "copies"):
        three.object(f"{kind}/*/0000000003").unlink()
    done = three.run("copy", "--to", three.base / "mirror", "--accept-rollback")
    assert done.status == 122, done
    assert "only the mirror has version 3" in done.out


def test_a_mirror_of_the_configuration_is_named(three):
    """Its place and its rules are those of the configuration."""
    written = three.configuration.read_text()
    three.configuration.write_text(
        f'{written}\n[[mirror]]\nname = "far"\nurl = "{three.base}/far"\nkeep = ["last 1"]\n'
    )
    assert "left in the repository alone: versions 1, 2" in three.good("copy", "--to", "far", "--create").out
    assert "2 versions copied" in three.good("copy", "--to", "far", "--version", "1-2").out
    assert three.run("copy", "--to", "far", "--to-region", "x").status == 2
    wrong = three.run("copy", "--to", "fra")
    assert (wrong.status, "no mirror is called 'fra' (the configuration has" in wrong.err) == (2, True)


def test_another_team_gets_versions_under_its_own_key(three):
    """They open there with that secret alone, and restore; the same command again copies nothing."""
    theirs, secret = three.base / "theirs", three.base / "secret"
    secret.write_text("another horse\n")
    secret.chmod(0o600)
    with_secret = ("--passphrase-file", secret)
    three.good("init", theirs, "--watch", three.base / "w", "--config", three.base / "o.toml", *with_secret)
    copy = ("copy", "--to", theirs, "--rekey", "--to-passphrase-file", secret)
    assert "3 versions copied" in three.good(*copy, "--verify").out
    assert "0 versions copied" in three.good(*copy).out
    assert three.run("check", "--repo", theirs).status == 21
    three.good("check", "--repo", theirs, "--read-data", *with_secret)
    three.good("restore", "--repo", theirs, "--to", "back", *with_secret, MLSYNC_CONFIG="")
    assert content(three.base / "back") == content(three.training)
    for wrong, status in ((copy[:3], 64), (copy[:4], 2), ((*copy, "--create"), 2)):
        assert three.run(*wrong).status == status, wrong
    mirror = three.base / "mirror"
    three.good("copy", "--to", mirror, "--create")
    three.good("key", "add", "--repo", mirror, "--new-passphrase-file", secret)
    assert three.run("copy", "--to", mirror, "--rekey", "--to-passphrase-file", secret).status == 65


def test_a_bucket_is_a_mirror_with_a_server_of_its_own(three, s3_server):
    """--to-endpoint-url is the mirror's; the repository is a directory."""
    url, keys = f"s3://{s3_server.make_bucket()}/mirror", s3_server.environment()
    options = ("--to-endpoint-url", s3_server.endpoint_url)
    done = three.good("copy", "--to", url, "--create", *options, "--verify", "--json", **keys).json()
    assert done["verified_bytes"] == done["size_bytes"] > 0
    store = open_store(url, StoreOptions(endpoint_url=s3_server.endpoint_url))
    assert len(list(store.list("versions/"))) == 3
    store.close()
