"""``mlsync check --repair-from-mirror``: what is lost or damaged comes back, and what was removed stays away."""

from __future__ import annotations

import json
import shutil

import pytest
from machine import NO_DEVICE, content

HEAL = ("check", "--read-data", "--repair-from-mirror")


def broken(file, keep_bytes=None):
    """Damage a file of a store: one bit in its middle, or its end cut off."""
    file.chmod(0o600)
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body[:keep_bytes])


@pytest.fixture
def mirrored(saved):
    """A machine whose repository has a complete mirror."""
    saved.good("pin", "1")
    # A version that names what was decided.
    (saved.training / "args.yaml").write_text("lr0: 0.02\n")
    saved.good("backup")
    saved.mirror = saved.base / "mirror"
    shutil.copytree(saved.repository, saved.mirror)
    saved.configure(f'{NO_DEVICE}[[mirror]]\nurl = "{saved.mirror}"\nname = "far"\n')
    return saved


def objects(machine, *patterns):
    found = [path for pattern in patterns for path in sorted(machine.repository.glob(pattern))]
    assert found
    return found


ALL = ("packs/*/*", "versions/*/*", "decisions/*/*")


@pytest.mark.parametrize("harm", ["lost", "damaged", "cut"])
@pytest.mark.parametrize("pattern", ["packs/*/*", "all"])
def test_what_is_missing_or_damaged_comes_back(mirrored, pattern, harm):
    """Afterwards the store has the same objects as before, byte for byte, and a check finds nothing."""
    whole = content(mirrored.repository)
    patterns = ALL if pattern == "all" else (pattern,)
    for file in objects(mirrored, *patterns):
        file.unlink() if harm == "lost" else broken(file, 70 if harm == "cut" else None)
    dry = mirrored.run("--json", *HEAL, "--dry-run")
    assert {one["mirror"] for one in json.loads(dry.out)["healing"]["healed"]} == {"far"}
    assert content(mirrored.repository) != whole
    told = json.loads(mirrored.good("--json", *HEAL).out)
    assert told["problems"] == told["healing"]["failed"] == []
    assert {one["was_damaged"] for one in told["healing"]["healed"]} == {harm != "lost"}
    assert content(mirrored.repository) == whole
    mirrored.configure()
    mirrored.good("check", "--read-data")


def test_a_check_says_what_a_mirror_has(mirrored):
    """It still ends with 33: the repository is damaged, whatever a mirror has."""
    objects(mirrored, "packs/*/*")[0].unlink()
    done = mirrored.run("check", COLUMNS="400")
    assert done.status == 33
    assert "the pack is missing; the mirror 'far' has it (mlsync check --repair-from-mirror)" in done.out
    shutil.rmtree(mirrored.mirror)
    done = mirrored.run("check")
    assert done.status == 33
    assert "is of no help" in done.err


def test_what_is_damaged_in_both_places_is_named(mirrored):
    """The rest is healed, the damaged object stays as it was, and the command ends with 66."""
    first, *others = objects(mirrored, "packs/*/*")
    for file in (first, *others):
        broken(file)
    before = first.read_bytes()
    broken(mirrored.mirror / first.relative_to(mirrored.repository))
    done = mirrored.run(*HEAL, COLUMNS="400")
    assert done.status == 66
    assert f"{first.relative_to(mirrored.repository)}: not healed: mirror 'far': " in done.out
    assert first.read_bytes() == before
    assert mirrored.run("check", "--read-data").status == 33


def test_each_heals_the_other(mirrored):
    """The repository lost packs, the mirror manifests: after both ways both are whole."""
    whole = content(mirrored.repository)
    for file in objects(mirrored, "packs/*/*"):
        broken(file)
    for file in mirrored.mirror.glob("versions/*/*"):
        file.unlink()
    mirrored.good(*HEAL)
    assert content(mirrored.repository) == whole
    text = mirrored.configuration.read_text()
    text = text.replace(f'"{mirrored.url}"', '"SWAPPED"').replace(f'"{mirrored.mirror}"', f'"{mirrored.url}"')
    mirrored.configuration.write_text(text.replace('"SWAPPED"', f'"{mirrored.mirror}"'))
    mirrored.good(*HEAL)
    assert content(mirrored.mirror) == whole


def test_a_removed_version_stays_removed(mirrored):
    """A fence stands in its place, and what was decided says so: healing changes nothing."""
    text = mirrored.configuration.read_text().partition('run = "yolo"\n')[2]
    mirrored.good("unpin", "1")
    mirrored.configure(f'{text}[retention]\ngrace = "0s"\n')
    mirrored.good("forget", "1", "--yes")
    mirrored.good("prune", "--yes")
    before = content(mirrored.repository)
    mirrored.good(*HEAL)
    assert content(mirrored.repository) == before
    objects(mirrored, "versions/*/*")[0].unlink()
    mirrored.good(*HEAL)
    assert not (mirrored.repository / next(mirrored.mirror.glob("versions/*/*1")).relative_to(mirrored.mirror)).exists()


def test_what_was_decided_in_the_mirror_is_no_decision_of_the_repository(mirrored):
    """A policy of the mirror's own forgets versions there: that never comes back as what was decided here."""
    mirrored.good("pin", "2", "--repo", f"file://{mirrored.mirror}")
    before = content(mirrored.repository)
    assert len(list(mirrored.mirror.glob("decisions/*/*"))) == 2
    mirrored.good(*HEAL)
    assert content(mirrored.repository) == before
    mirrored.good("pin", "3")
    broken(objects(mirrored, "decisions/*/*")[1])
    done = mirrored.run(*HEAL, COLUMNS="400")
    assert done.status == 66
    assert "nothing in the repository says that this is the decision that was here" in done.out


def test_a_version_of_another_history_does_not_come_back(mirrored):
    """The repository lost version 3 and made another one since: the fourth of the mirror does not follow that."""
    (mirrored.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n3,0.2\n")
    mirrored.good("backup")
    for kind in ("versions", "copies", "packs"):
        shutil.copytree(mirrored.repository / kind, mirrored.mirror / kind, dirs_exist_ok=True)
    for number in (4, 3):
        objects(mirrored, f"versions/*/*{number}")[0].unlink()
        objects(mirrored, f"copies/*/*{number}")[0].unlink()
    shutil.rmtree(mirrored.state)
    (mirrored.training / "results.csv").write_text("epoch,loss\n1,0.7\n")
    mirrored.good("backup", "--take-over")
    done = mirrored.run(*HEAL, COLUMNS="400")
    assert done.status == 66
    assert "it follows another version 3 than the repository has" in done.out
    assert [path.name[-1] for path in objects(mirrored, "versions/*/*")] == ["1", "2", "3"]


def test_a_mirror_that_gives_other_bytes_each_time_heals_nothing(mirrored, tmp_path):
    """What was checked is what is stored, or nothing is."""
    from doubles.memory_store import MemoryStore
    from mlsync.errors import NotFound
    from mlsync.upkeep.healing.snapshot import Snapshot

    mirror = MemoryStore()
    mirror.put("packs/a", b"a" * 100)
    snapshot = Snapshot(MemoryStore(), "packs/a", mirror, part_bytes=30)
    into = bytearray(100)
    snapshot.read("packs/a", 0, memoryview(into))
    assert into == b"a" * 100
    mirror.replace("packs/a", b"a" * 60 + b"b" * 40)
    parts = snapshot.parts()
    assert [next(parts)[0], next(parts)[0]] == [0, 30]
    with pytest.raises(NotFound, match="other bytes"):
        next(parts)


def test_without_a_mirror_nothing_can_be_healed(saved):
    """It is said before anything is asked; and --dry-run belongs to healing."""
    done = saved.run(*HEAL)
    assert done.status == 2
    assert "the configuration has no mirror" in done.err
    assert saved.run("check", "--dry-run").status == 2
