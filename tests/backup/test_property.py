"""Any series of changes, backups, restores and losses: every version is the tree that was there."""

# ruff: noqa: D102 - the rules of a machine are named for what they do
from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from flow_parts import World, noise, tree_of

NAMES = st.sampled_from(["a", "b", "log.csv", "d/x", "d/y", "d/e/z", "f", "f-"])
SIZES = st.sampled_from([0, 1, 700, 20_000, 70_000])
SEEDS = st.integers(0, 5)


class Machine(RuleBasedStateMachine):
    """A run's life; what each version should be is what the tree was."""

    @initialize()
    def begin(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="mlsync-test-"))
        self.world = World(self.base / "world")
        self.trees = {}
        for place, name in enumerate(["a", "log.csv", "d/x", "d/e/z"]):
            self.world.write(name, noise(20_000, place))
        self.backup()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            shutil.rmtree(self.base)

    def place(self, name: str) -> bytes | None:
        """Where *name* lies if something that is no directory can be there."""
        path = self.world.path(name)
        parts = name.split("/")
        above = [self.world.path("/".join(parts[:count])) for count in range(1, len(parts))]
        is_blocked = any(os.path.lexists(folder) and not os.path.isdir(folder) for folder in above)
        return None if is_blocked or (os.path.isdir(path) and not os.path.islink(path)) else path

    def file(self, name: str) -> bytes | None:
        """Where *name* lies if it is a file."""
        path = self.place(name)
        return path if path is not None and os.path.isfile(path) and not os.path.islink(path) else None

    @rule(name=NAMES, size=SIZES, seed=SEEDS)
    def write(self, name, size, seed):
        path = self.place(name)
        if path is not None and not os.path.islink(path):
            self.world.write(name, noise(size, seed))

    @rule(name=NAMES, size=SIZES, seed=SEEDS)
    def append(self, name, size, seed):
        if self.file(name):
            self.world.append(name, noise(size, seed))

    @rule(name=NAMES, size=SIZES)
    def truncate(self, name, size):
        if path := self.file(name):
            os.truncate(path, size)

    @rule(name=NAMES, other=NAMES)
    def rename(self, name, other):
        source, target = self.file(name), self.place(other)
        if source and target:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)

    @rule(folder=st.sampled_from(["d", "d/e"]), other=st.sampled_from(["d2", "d/e2", "d"]))
    def rename_directory(self, folder, other):
        source, target = self.world.path(folder), self.world.path(other)
        is_free = not os.path.lexists(target) and os.path.isdir(os.path.dirname(target))
        if os.path.isdir(source) and is_free and not target.startswith(source + b"/"):
            os.rename(source, target)

    @rule(name=NAMES)
    def delete(self, name):
        path = self.place(name)
        if path and os.path.lexists(path):
            os.unlink(path)

    @rule(folder=st.sampled_from(["d", "d/e", "d2"]))
    def delete_directory(self, folder):
        shutil.rmtree(self.world.path(folder), ignore_errors=True)

    @rule(name=NAMES, time=st.integers(-(10**18), 10**18))
    def touch(self, name, time):
        if path := self.file(name):
            os.utime(path, ns=(time, time))

    @rule(name=NAMES, mode=st.sampled_from([0o600, 0o644, 0o4711, 0o400]))
    def chmod(self, name, mode):
        if path := self.file(name):
            os.chmod(path, mode)

    @rule(name=NAMES, other=NAMES)
    def link(self, name, other):
        source, target = self.file(name), self.place(other)
        if source and target and not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.link(source, target)

    @rule(name=NAMES, other=NAMES)
    def symlink(self, name, other):
        target = self.place(other)
        if target and not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(name, target)

    @rule(name=st.sampled_from(["a", "f", "d"]))
    def replace_by_a_directory(self, name):
        path = self.world.path(name)
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)
            os.mkdir(path)

    @rule()
    def lose_state(self):
        self.world.lose_state()

    def has_files(self) -> bool:
        return any(found[0] == "file" for found in self.world.tree().values())

    @rule()
    def backup(self):
        if not self.has_files():
            return
        result = self.world.backup()
        assert result.troubles == ()
        if result.version:
            assert result.version == len(self.trees) + 1
            self.trees[result.version] = self.world.tree()
            assert self.world.restored(result.version) == self.trees[result.version]
        assert timeless(self.trees[result.version or result.previous]) == timeless(self.world.tree())

    @rule(data=st.data(), fresh=st.booleans())
    def restore(self, data, fresh):
        number = data.draw(st.sampled_from(sorted(self.trees)))
        if fresh:
            shutil.rmtree(self.world.base / "out", ignore_errors=True)
        else:
            self.make_room(number)
        self.world.restore(number, delete=True)
        assert tree_of(self.world.base / "out") == self.trees[number]

    def make_room(self, number: int) -> None:
        """Take away what a restore refuses to replace: files where directories go, and the other way round."""
        out = self.world.base / "out"
        for path, found in (tree_of(out) if out.exists() else {}).items():
            wanted = self.trees[number].get(path, found)
            if (wanted[0] == "directory") != (found[0] == "directory"):
                place = out / os.fsdecode(path)
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                elif place.is_symlink() or place.exists():
                    place.unlink()


def timeless(tree):
    """A tree without the times of its files and directories."""
    return {path: (*found[:2], *found[3:]) if found[0] != "symlink" else found for path, found in tree.items()}


class TestAnyLife(Machine.TestCase):
    """Every committed version restores exactly the tree that was there."""

    settings = settings(
        max_examples=8,
        stateful_step_count=15,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
