"""What cannot be taken keeps what it had, for as long as it takes, whatever becomes of the local state meanwhile."""

from __future__ import annotations

import os

import pytest

from flow_parts import RUN, as_nobody, noise, small_checkpoint

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


@needs_root
@pytest.mark.parametrize("lose_state", [False, True])
def test_an_unreadable_directory_keeps_its_files_for_any_number_of_versions(directory_world, lose_state):
    """What lies below a directory that cannot be read stays in every version until it can be read again."""
    world = directory_world
    world.write("secret/a.bin", b"a" * 1000)
    world.write("secret/deep/b.bin", b"b" * 1000)
    world.write("log.csv", b"1\n")
    for place in ("secret", "secret/deep"):
        os.chown(world.path(place), 0, 0)
    world.backup()
    os.chmod(world.path("secret"), 0o700)
    if lose_state:
        world.lose_state()
    for place in world.base.rglob("*"):
        if "secret" not in place.parts:
            os.chown(place, 65534, 65534)
    for number in range(2, 5):
        world.append("log.csv", b"2\n")
        with as_nobody():
            result = world.backup()
        assert result.version == number
        assert result.troubles[0].path == b"secret"
        paths = {entry.path for entry in world.manifest().entries}
        assert paths == {b"secret", b"secret/a.bin", b"secret/deep", b"secret/deep/b.bin", b"log.csv"}
    os.chmod(world.path("secret"), 0o755)
    world.append("log.csv", b"3\n")
    world.backup()
    assert world.restored() == world.tree()


@pytest.mark.parametrize("lose_state", [False, True])
def test_a_checkpoint_that_never_holds_still_keeps_its_content_for_any_number_of_versions(world, lose_state):
    """A file that changes at each reading keeps its last good content in every version, state or no state."""
    good = small_checkpoint(1)
    world.write("last.pt", good)
    world.backup()
    if lose_state:
        world.lose_state()
    for number in range(2, 5):
        turn = [100 * number]

        def restless(turn=turn):
            turn[0] += 1
            world.write("last.pt", small_checkpoint(turn[0]))
            return False

        restless()
        world.on_sleep = restless
        world.write("log.csv", noise(50, number))
        result = world.backup(stop=restless)
        assert result.version == number
        assert world.troubles()[b"last.pt"].kept
        assert world.restored()[b"last.pt"][3] == good


def test_troubles_are_told_by_every_backup_until_they_end(world):
    """An unchanged tree that holds a torn checkpoint is reported as such each time, without a byte being read."""
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    world.write("last.pt", small_checkpoint(2)[:-50])
    first = world.backup()
    again = world.backup()
    assert [trouble.path for trouble in first.troubles] == [b"last.pt"]
    assert again.troubles == first.troubles
    assert again.read_bytes == 0


def test_a_file_that_is_gone_leaves_the_files_cache(world):
    """A deleted file loses its row in the files cache: with it, each look would find a change."""
    for name in ("a.bin", "b.bin"):
        world.write(name, b"1")
    world.backup()
    os.unlink(world.path("b.bin"))
    assert world.backup(accept_loss=True).version == 2
    assert set(world.state.cached_files(RUN)) == {b"a.bin"}


def test_a_link_to_a_torn_checkpoint_that_nobody_touches_stays_named(world):
    """Each backup of another file reports both names again, and which version their content is from."""
    world.write("a.pt", small_checkpoint(1))
    os.link(world.path("a.pt"), world.path("b.pt"))
    world.backup()
    world.write("a.pt", small_checkpoint(2)[:-50])
    for number in (2, 3):
        world.write("log.csv", b"%d\n" % number)
        result = world.backup()
        assert result.version == number
        assert [(trouble.path, trouble.kept) for trouble in result.troubles] == [(b"a.pt", 1), (b"b.pt", 1)]
    assert result.read_bytes == 2
