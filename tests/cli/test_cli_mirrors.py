"""Commands that read take from a mirror what the repository has lost, say so, and believe the mirror no more."""

from __future__ import annotations

import json
import shutil

import pytest
from machine import NO_DEVICE, content


def broken(file, keep_bytes=None):
    """Damage a file of a store: one bit in its middle, or its end cut off."""
    file.chmod(0o600)
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body[:keep_bytes])


@pytest.fixture
def mirrored(saved):
    """A machine whose repository has a complete mirror."""
    saved.mirror = saved.base / "mirror"
    shutil.copytree(saved.repository, saved.mirror)
    saved.configure(f'{NO_DEVICE}[[mirror]]\nurl = "{saved.mirror}"\nname = "far"\n')
    return saved


def lose_pack(machine):
    for pack in machine.repository.glob("packs/*/*"):
        pack.unlink()


def damage_pack(machine):
    for pack in machine.repository.glob("packs/*/*"):
        broken(pack)


def cut_pack(machine):
    for pack in machine.repository.glob("packs/*/*"):
        broken(pack, 60)


def lose_manifest(machine):
    machine.object("versions/*/*", 0).unlink()


def lose_all_manifests(machine):
    for manifest in machine.repository.glob("versions/*/*"):
        manifest.unlink()


def damage_manifest(machine):
    for manifest in machine.repository.glob("versions/*/*"):
        broken(manifest)


def fence_like(machine):
    """What stands in the place of the manifest has a fence's length, and is none."""
    broken(machine.object("versions/*/*", 1), 96)


def lose_store(machine):
    machine.repository.rename(machine.base / "elsewhere")


def empty_store(machine):
    shutil.rmtree(machine.repository)
    machine.repository.mkdir()


def lose_header(machine):
    (machine.repository / "repository").unlink()


def damage_header(machine):
    broken(machine.repository / "repository")


LOSSES = [
    lose_pack,
    damage_pack,
    cut_pack,
    lose_manifest,
    lose_all_manifests,
    damage_manifest,
    fence_like,
    lose_store,
    empty_store,
    lose_header,
    damage_header,
]


@pytest.mark.parametrize("harm", LOSSES, ids=[harm.__name__ for harm in LOSSES])
def test_a_restore_takes_what_is_lost_from_the_mirror(mirrored, harm):
    """Every version comes back bit for bit, the mirror is named, and without a mirror it would not."""
    whole = content(mirrored.training)
    harm(mirrored)
    for version in ("1", "2"):
        out = mirrored.base / f"out{version}"
        done = mirrored.good("--json", "restore", "--version", version, "--to", out)
        found = content(out)
        assert found == whole if version == "2" else found.keys() == whole.keys()
    if harm is not lose_manifest:
        assert "the mirror 'far'" in done.err
        told = json.loads(done.out)["from_mirror"]
        assert told["stand_in"] == "far" or [one["mirror"] for one in told["objects"]] == ["far"] * told["count"]
    mirrored.configure()
    missing = [mirrored.run("restore", "--version", number, "--to", mirrored.base / "no").status for number in "12"]
    assert any(missing)


def test_nothing_is_said_of_a_mirror_that_is_not_needed(mirrored):
    """A sound repository is read alone: the mirror may even be away."""
    shutil.rmtree(mirrored.mirror)
    done = mirrored.good("--json", "verify")
    assert "mirror" not in done.err
    assert "from_mirror" not in json.loads(done.out)


def test_verify_says_that_the_repository_lacks_what_the_mirror_has(mirrored):
    """It ends with 67: what came from the mirror proves nothing of the repository."""
    damage_pack(mirrored)
    done = mirrored.run("verify")
    assert done.status == 67
    assert "could be had from a mirror alone" in done.err
    assert "--repair-from-mirror" in done.err
    lose_store(mirrored)
    assert mirrored.run("verify").status == 67


def test_each_object_is_told_once(mirrored):
    """However many chunks of a pack are damaged, one line names the pack."""
    damage_pack(mirrored)
    done = mirrored.good("restore", "--to", mirrored.base / "out")
    lines = [line for line in done.err.splitlines() if "is taken from the mirror" in line]
    assert len(lines) == len(set(lines)) > 0


@pytest.mark.parametrize("line", ["prove --pending", "check", "prune --yes", "pin 1", "backup"])
def test_what_writes_or_checks_never_asks_the_mirror(mirrored, line):
    """The repository alone decides: none of these succeeds because a mirror has what it lacks."""
    lose_store(mirrored)
    done = mirrored.run(*line.split())
    assert done.status == 10
    assert not mirrored.repository.exists()


def test_a_mirror_that_lies_is_not_believed(mirrored):
    """Damaged in both places is damaged: the repository's own damage is what counts."""
    damage_pack(mirrored)
    for pack in mirrored.mirror.glob("packs/*/*"):
        broken(pack)
    done = mirrored.run("restore", "--to", mirrored.base / "out")
    assert done.status == 31
    assert "is taken from" not in done.err


def test_what_is_lost_in_one_place_each_comes_from_both(mirrored):
    """The repository lost a pack, the mirror a manifest: together they have all."""
    lose_pack(mirrored)
    for manifest in mirrored.mirror.glob("versions/*/*"):
        manifest.unlink()
    mirrored.good("restore", "--to", mirrored.base / "out")
    assert content(mirrored.base / "out") == content(mirrored.training)


def test_another_repository_is_no_mirror(mirrored, fresh):
    """Its objects are never used, and it is said once why."""
    mirrored.good("backup")
    lose_pack(mirrored)
    shutil.rmtree(mirrored.mirror)
    fresh.good("init", fresh.url)
    shutil.copytree(fresh.repository, mirrored.mirror)
    done = mirrored.run("restore", "--to", mirrored.base / "out")
    assert done.status == 30
    assert done.err.count("is another repository") == 1
    lose_store(mirrored)
    assert mirrored.run("versions").status == 10


def test_a_mirror_that_is_behind_is_no_silent_step_back(mirrored):
    """A machine that saw a newer version is told so before an older one of the mirror takes its place."""
    sorted(mirrored.mirror.glob("versions/*/*"))[1].unlink()
    lose_store(mirrored)
    done = mirrored.run("restore", "--to", mirrored.base / "out")
    assert done.status == 16
    assert "the mirror 'far' may be behind" in done.err
    mirrored.good("restore", "--accept-rollback", "--to", mirrored.base / "out")


def test_a_version_that_was_removed_does_not_come_back_from_the_mirror(mirrored):
    """A fence says that it went on purpose, whatever a mirror still has."""
    mirrored.configure(
        mirrored.configuration.read_text().partition('run = "yolo"\n')[2] + '[retention]\ngrace = "0s"\n'
    )
    mirrored.good("forget", "1", "--yes")
    mirrored.good("prune", "--yes")
    assert mirrored.object("versions/*/*").stat().st_size == 96
    assert mirrored.run("restore", "--version", "1", "--to", mirrored.base / "out").status == 15


def test_init_names_a_mirror(fresh):
    """The configuration has it; one at the repository's place is refused before anything is made."""
    mirror = fresh.base / "far"
    done = fresh.run("init", fresh.url, "--mirror", fresh.repository / "below")
    assert done.status == 2
    assert "the same place" in done.err
    assert not fresh.repository.exists()
    fresh.good("init", fresh.url, "--watch", fresh.training, "--mirror", mirror)
    assert "\n[[mirror]]\n" in fresh.configuration.read_text()
    assert f'\nurl = "{mirror.as_uri()}"\n' in fresh.configuration.read_text()
    assert not mirror.exists()
    assert fresh.run("init", "--mirror", mirror).status == 2


def test_status_tells_of_mirrors_from_the_stores(mirrored):
    """Where no agent runs, --mirrors says what is there, what is missing, and which mirror cannot be had."""
    assert mirrored.good("status", "--mirrors").out == "mirror far: has all, yolo/2\n"
    (mirrored.training / "more.bin").write_bytes(b"more")
    mirrored.good("backup")
    assert "mirror far: yolo: has version 2, 1 version, " in mirrored.good("status", "--mirrors").out
    value = mirrored.good("status", "--mirrors", "--json").json()
    told = value["mirrors"][0]["runs"][0]
    assert (told["run"], told["newest"], told["version"], told["behind_versions"]) == ("yolo", 3, 2, 1)
    shutil.rmtree(mirrored.mirror)
    gone = mirrored.run("status", "--mirrors", "--json")
    assert gone.status != 0
    assert value["mirrors"][0]["error"] is None
    assert json.loads(gone.out.splitlines()[0])["mirrors"][0]["error"] is not None
