"""Which entries the paths and patterns of a restore mean, and what is said of those that mean none."""

from __future__ import annotations

import os
import time

import pytest

from flow_parts import World, contents, tree_of
from mlsync import errors
from mlsync.repository.manifest import Manifest
from mlsync.restore.selection import select_entries

NAMES = (
    b"args.yaml",
    b"weights/last.pt",
    b"weights/best.pt",
    b"weights/a[1].pt",
    b"weights/a1.pt",
    b"weights/.hidden.pt",
    b"weights/caf\xe9.pt",
    b"checkpoint-5/model.data",
    b"checkpoint-5/rng/state.pth",
    b"checkpoint-10/model.data",
    b"back\\slash",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A version with names of all kinds."""
    world = World(tmp_path_factory.mktemp("paths"))
    for name in NAMES:
        world.write(name, name)
    world.backup()
    yield world
    world.close()


def restored(world, *paths, **options):
    """The files that these paths brought back to an empty place."""
    to = f"out-{time.monotonic_ns()}"
    world.restore(None, to, *paths, **options)
    return set(contents(tree_of(world.base / to)))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (b"weights/*.pt", {name for name in NAMES if name.endswith(b".pt")}),
        (b"weights/????.pt", {b"weights/a[1].pt", b"weights/last.pt", b"weights/best.pt", b"weights/caf\xe9.pt"}),
        (b"weights/[bl]*.pt", {b"weights/last.pt", b"weights/best.pt"}),
        (b"weights/[!bl]*", {b"weights/a[1].pt", b"weights/a1.pt", b"weights/.hidden.pt", b"weights/caf\xe9.pt"}),
        (b"weights/a\\[1\\].pt", {b"weights/a[1].pt"}),
        (b"*.yaml", {b"args.yaml"}),
        (b"check*", {name for name in NAMES if name.startswith(b"check")}),
        (b"checkpoint-*/", {name for name in NAMES if name.startswith(b"check")}),
        (b"*/model.*", {b"checkpoint-5/model.data", b"checkpoint-10/model.data"}),
        (b"**/state.pth", {b"checkpoint-5/rng/state.pth"}),
        (b"checkpoint-5/**", {b"checkpoint-5/model.data", b"checkpoint-5/rng/state.pth"}),
        (b"weights/caf\xe9.*", {b"weights/caf\xe9.pt"}),
        (b"**", set(NAMES)),
        (b"*", set(NAMES)),
    ],
)
def test_a_pattern_brings_what_it_matches_and_what_is_below(world, pattern, names):
    """Stars stay within a name, two stars cross directories, dots and bytes that are no UTF-8 are like any other."""
    assert restored(world, pattern) == names


def test_a_path_that_is_there_is_no_pattern(world):
    """Of ``a[1].pt`` and ``a1.pt`` the name that was typed is meant, although it would match the other as a pattern."""
    assert restored(world, b"weights/a[1].pt") == {b"weights/a[1].pt"}


@pytest.mark.parametrize("shown", [b"weights/caf\\xe9.pt", b"back\\\\slash"])
def test_a_path_as_listings_print_it_is_understood(world, shown):
    """A name that cannot be printed is found by the form in which ``mlsync show`` prints it."""
    name = {b"weights/caf\\xe9.pt": b"weights/caf\xe9.pt"}.get(shown, b"back\\slash")
    assert restored(world, shown) == {name}


def test_paths_are_relative_to_the_run_however_they_are_written(world):
    """Dots, slashes, and the absolute path of the watched directory or of the target all lead to the same file."""
    watched = os.fsencode(world.directory)
    for path in (b"./args.yaml", b"weights/../args.yaml", b".//args.yaml", watched + b"/args.yaml", b"args.yaml/"):
        assert restored(world, path) == {b"args.yaml"}
    assert restored(world, watched + b"/weights/l*.pt") == {b"weights/last.pt"}
    result = world.restore(None, "to", os.fsencode(world.base / "to/weights") + b"/")
    assert (result.is_whole, result.file_count) == (False, 6)


def test_the_runs_own_directory_means_the_whole_version(world):
    """A path that is the run's directory itself is a restore without paths."""
    for path in (b".", b"./", os.fsencode(world.directory)):
        assert world.restore(None, "whole", path, b"args.yaml").is_whole
    assert tree_of(world.base / "whole") == world.tree()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"weights/lst.pt", "holds nothing at weights/lst.pt: run yolo (did you mean weights/last.pt"),
        (b"last.pt", "did you mean weights/last.pt? nothing was written; mlsync show 1 --run yolo lists"),
        (b"lst.pt", "did you mean weights/last.pt"),
        (b"runs/train/weights/last.pt", "did you mean weights/last.pt?"),
        (b"Args.yaml", "did you mean args.yaml?"),
        (b"*.pth", "did you mean '**/*.pth'?"),
        (b"quux", "(nothing was written; mlsync show 1"),
        (b"/elsewhere/last.pt", "/elsewhere/last.pt is outside of the run's directory"),
        (b"../args.yaml", "../args.yaml is outside of the run's directory"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(world, path, text):
    """The error says what the version lacks, what is near to it, and which command lists what there is."""
    with pytest.raises(errors.PathMissing) as found:
        restored(world, path)
    assert text in str(found.value)


def test_one_path_that_is_not_there_refuses_all(world):
    """Nothing is written, not even the directory, and every missing path is named."""
    with pytest.raises(errors.PathMissing, match="nothing at none and x\\*"):
        world.restore(None, "refused", b"args.yaml", b"none", b"x*")
    assert not (world.base / "refused").exists()


def test_an_empty_path_is_refused(world):
    """What a shell makes of an unset variable does not restore the whole version."""
    with pytest.raises(errors.ConfigInvalid, match="empty PATH"):
        world.restore(None, "refused", b"")


def test_a_bad_character_class_is_refused(world):
    """A range that ends before it begins is an error of the arguments."""
    with pytest.raises(errors.ConfigInvalid, match=r"bad character class \[z-a\]"):
        world.restore(None, "refused", b"[z-a]")


@pytest.mark.parametrize(
    "pattern",
    [
        b"*a" * 25 + b"b",
        b"**/a*/" * 25 + b"b",
        b"*" * 10_000 + b"b",
        b"*a" * 10_000 + b"b",
        b"**/" * 10_000 + b"b",
        b"**/a*/" * 5_000 + b"b",
    ],
)
def test_no_pattern_takes_exponential_time(world, pattern):
    """A pattern of many stars against long names of one letter is answered in seconds, with no."""
    entry = world.entry(b"args.yaml")
    import msgspec

    paths = [b"a" * 255, b"/".join([b"a"] * 1000), b"/".join([b"aa" * 50] * 30)]
    entries = tuple(msgspec.structs.replace(entry, path=path) for path in paths)
    started_s = time.monotonic()
    with pytest.raises(errors.PathMissing) as found:
        select_entries(Manifest(world.manifest().root, entries), [pattern])
    assert time.monotonic() - started_s < 10
    assert len(str(found.value)) < 1000
