import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from source_parts import watched

from mlsync.errors import ConfigInvalid, SourceMissing, SourceUnreadable
from mlsync.repository.encoding import validation
from mlsync.source.cached_file import CachedFile
from mlsync.source.paths import display
from mlsync.source.scan import TIME_NS_MAX, FileStat, Found, Walk, scan


def names(root, exclude=()):
    return [entry.path for entry in scan(watched(root), exclude).found]


def make(root, *paths):
    for path in paths:
        target = Path(root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")


def test_everything_is_found_in_path_order(root):
    """Files, directories and symlinks come sorted by path bytes, with their kind and stat."""
    make(root, "b", "a/z", "a.txt")
    (root / "link").symlink_to("nowhere/at all")
    found = scan(watched(root)).found
    assert [(entry.path, entry.kind) for entry in found] == [
        (b"a", "directory"),
        (b"a.txt", "file"),
        (b"a/z", "file"),
        (b"b", "file"),
        (b"link", "symlink"),
    ]
    assert found[4].target == b"nowhere/at all"
    assert found[3].stat == FileStat.of(os.lstat(root / "b"))


def test_names_around_a_slash_keep_the_order_of_whole_paths(root):
    """What comes between a directory's name and its content, byte by byte, comes between them, at any depth."""
    paths = ["a", "a!/z", "a-", "a-/x", "a.b/c", "a.b/c-d", "a.b/c/e", "a/b", "a/b!", "a/b/c", "a0", "ab/c"]
    files = [path for path in paths if not any(other.startswith(path + "/") for other in paths)]
    make(root, *files)
    found = names(root)
    assert found == sorted(found)
    assert {path for path in found if os.path.isfile(root / os.fsdecode(path))} == {os.fsencode(path) for path in files}


def test_a_walk_holds_no_more_than_what_it_has_listed(root):
    """Of a hundred directories with ten files each, a walk never holds the files of more than one."""
    make(root, *(f"{directory:02}/{file}" for directory in range(100) for file in range(10)))
    walk = Walk(watched(root))
    assert max(len(walk._pending) for _ in walk) == 100 + 10 - 1


def test_symlinks_are_not_followed(root, tmp_path):
    """A symlink to a directory is an entry, and nothing behind it is."""
    make(tmp_path, "elsewhere/secret")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert names(root) == [b"link"]


def test_the_root_may_be_a_symlink(root, tmp_path):
    """The root itself is followed, as people put runs on other disks."""
    make(root, "a")
    (tmp_path / "alias").symlink_to(root)
    assert names(tmp_path / "alias") == [b"a"]


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe no utf-8", b"n" * 255, b"*", b"\x1b[31m"])
def test_any_name_works(root, name):
    """A name is any bytes that the kernel allows."""
    path = os.fsencode(root) + b"/" + name
    os.mkdir(path)
    os.close(os.open(path + b"/" + name, os.O_CREAT))
    assert names(root) == [name, name + b"/" + name]


def test_hard_links_name_the_first_path(root):
    """Each further name of a file points to its first one in path order."""
    make(root, "m")
    os.link(root / "m", root / "z")
    os.link(root / "m", root / "a")
    assert [(entry.path, entry.link_to) for entry in scan(watched(root)).found] == [
        (b"a", None),
        (b"m", b"a"),
        (b"z", b"a"),
    ]


def test_special_files_are_counted_and_left_out(root):
    """A pipe and a socket are no files to back up."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)  # a socket's path may not be long
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        result = scan(watched(root))
    assert (result.found, result.problems, result.skipped_special) == ([], [], 2)


def test_temporary_names_are_left_out(root):
    """What writers have not finished, and all below it, is not found."""
    make(root, "last.pt", ".tmpAb12", "3.orbax-checkpoint-tmp-7/d/a", "x/tmp-checkpoint-9/model", "x/.metadata.tmp")
    assert names(root) == [b"last.pt", b"x"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.log", ["a/b/k.pt", "a/k.pt", "cache/f", "k.pt", "é.pt"]),
        ("k.pt", ["a/b/x.log", "cache/f", "x.log", "é.pt"]),
        ("/k.pt", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "cache/f", "x.log", "é.pt"]),
        ("a/*.pt", ["a/b/k.pt", "a/b/x.log", "cache/f", "k.pt", "x.log", "é.pt"]),
        ("a/**/k.pt", ["a/b/x.log", "cache/f", "k.pt", "x.log", "é.pt"]),
        ("a/**", ["cache/f", "k.pt", "x.log", "é.pt"]),
        ("**/b", ["a/k.pt", "cache/f", "k.pt", "x.log", "é.pt"]),
        ("cache/", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "k.pt", "x.log", "é.pt"]),
        ("x.log/", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "cache/f", "k.pt", "x.log", "é.pt"]),
        ("?.pt", ["a/b/x.log", "cache/f", "x.log"]),
        ("[!k].pt", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "cache/f", "k.pt", "x.log"]),
        ("/a[!x]k.pt", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "cache/f", "k.pt", "x.log", "é.pt"]),
        ("\\*.log", ["a/b/k.pt", "a/b/x.log", "a/k.pt", "cache/f", "k.pt", "x.log", "é.pt"]),
    ],
)
def test_excludes_are_as_in_gitignore(root, pattern, left):
    """Each pattern takes away just what git would ignore by it."""
    make(root, "k.pt", "x.log", "é.pt", "a/k.pt", "a/b/k.pt", "a/b/x.log", "cache/f")
    found = scan(watched(root), [pattern]).found
    assert [os.fsdecode(entry.path) for entry in found if entry.kind == "file"] == left


@pytest.mark.parametrize("pattern", ["", "/", "!keep", "[z-a]"])
def test_a_pattern_that_means_nothing_is_refused(root, pattern):
    """An exclude that cannot be what the user meant is an error of the configuration."""
    with pytest.raises(ConfigInvalid):
        scan(watched(root), [pattern])


def test_a_missing_root_raises(tmp_path):
    """A watched directory that is not there is not an empty one."""
    with pytest.raises(SourceMissing):
        scan(watched(tmp_path / "gone"))
    make(tmp_path, "file")
    with pytest.raises(SourceMissing):
        scan(watched(tmp_path / "file"))


def test_an_unreadable_directory_is_a_problem_and_the_rest_is_found(open_to_all, unprivileged):
    """The scan goes on beside a directory that it may not read, and names it."""
    make(open_to_all, "a/1", "b/2", "c/3")
    os.chmod(f"{open_to_all}/b", 0)
    with unprivileged():
        result = scan(watched(open_to_all))
    os.chmod(f"{open_to_all}/b", 0o700)
    assert [entry.path for entry in result.found] == [b"a", b"a/1", b"b", b"c", b"c/3"]
    [(path, problem)] = result.problems
    assert path == b"b"
    assert isinstance(problem, SourceUnreadable)
    assert "Permission denied" in str(problem)


def test_an_unreadable_root_raises(open_to_all, unprivileged):
    """A root that may not be read is not an empty one."""
    os.chmod(open_to_all, 0)
    with unprivileged(), pytest.raises(SourceUnreadable):
        scan(watched(open_to_all))
    os.chmod(open_to_all, 0o755)


def test_entries_may_vanish_during_the_scan(root):
    """While another thread makes and deletes files and directories, what stays is found and nothing is a problem."""
    make(root, *(f"stays/{number}" for number in range(50)))
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            make(root, "comes/and/goes", "comes/too")
            os.unlink(root / "comes/and/goes")
            os.rmdir(root / "comes/and")
            os.unlink(root / "comes/too")
            os.rmdir(root / "comes")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(100):
            result = scan(watched(root))
            assert result.problems == []
            assert sum(entry.path.startswith(b"stays/") for entry in result.found) == 50
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("swap", ["symlink", "directory"])
def test_a_directory_swapped_after_it_was_seen_is_left_out(root, tmp_path, swap):
    """Nothing is listed below a path whose directory is not the one any more that its parent showed."""
    make(tmp_path, "secret/key")
    make(root, "d/x")
    seen = Found(b"d", "directory", FileStat.of(os.lstat(root / "d")))
    os.rename(root / "d", tmp_path / "moved")
    if swap == "symlink":
        (root / "d").symlink_to(tmp_path / "secret")
    else:
        make(root, "d/other")
    walk = Walk(watched(root))
    assert not walk._enter(seen)
    assert (walk._pending, walk.problems) == ([], [])


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"runs/exp 1/last.pt", "runs/exp 1/last.pt"),
        ("é".encode(), "é"),
        (b"\xff\n\x1b[31m", "\\xff\\u000a\\u001b[31m"),
        (b"a\\x", "a\\\\x"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        ("\U000e0001".encode(), "\\U000e0001"),
    ],
)
def test_display_shows_nothing_that_a_terminal_obeys(path, shown):
    """Control characters, direction marks and stray bytes are shown as escapes, one path never like another."""
    assert display(path) == shown


def raw_stat(**changed):
    """A stat as Python gives it, with some numbers of a strange file system."""
    plain = {"st_dev": 1, "st_ino": 2, "st_mode": 0o100644, "st_uid": 0, "st_gid": 0, "st_nlink": 1, "st_size": 3}
    return SimpleNamespace(**plain | {"st_mtime_ns": 5, "st_ctime_ns": 6} | changed)


@pytest.mark.parametrize(
    ("changed", "field", "value"),
    [
        ({"st_mtime_ns": 1 << 63}, "mtime_ns", TIME_NS_MAX),
        ({"st_mtime_ns": (1 << 34) * 10**9}, "mtime_ns", TIME_NS_MAX),
        ({"st_mtime_ns": -(1 << 70)}, "mtime_ns", -TIME_NS_MAX),
        ({"st_mtime_ns": -5}, "mtime_ns", -5),
        ({"st_ctime_ns": 1 << 90}, "ctime_ns", TIME_NS_MAX),
        ({"st_uid": -1}, "uid", 65534),
        ({"st_gid": -1}, "gid", 65534),
        ({"st_mtime_ns": -5}, "uid", 0),
        ({"st_mtime_ns": -5}, "gid", 0),
        ({"st_mtime_ns": -5, "st_uid": (1 << 32) - 1}, "uid", 65534),
        ({"st_mtime_ns": -5, "st_gid": (1 << 32) - 1}, "gid", 65534),
        ({"st_mtime_ns": -5, "st_dev": -1}, "device", (1 << 64) - 1),
        ({"st_ino": (1 << 64) - 1, "st_uid": (1 << 32) - 2}, "inode", (1 << 64) - 1),
    ],
)
def test_numbers_of_a_file_system_are_kept_as_near_as_can_be(changed, field, value):
    """What a version or the local state could not hold becomes the nearest that they can, and both take it."""
    stat = FileStat.of(raw_stat(**changed))
    assert getattr(stat, field) == value
    assert CachedFile(stat, 7, b"", ()).stat == stat
    assert abs(stat.mtime_ns) <= validation.TIME_NS_MAX
    assert max(stat.uid, stat.gid) <= validation.OWNER_MAX


def test_what_is_left_out_for_its_name_is_noted_or_taken(root):
    """Unfinished names are counted and named, or found where that is wished; those of a restore never are."""
    make(root, "a.tmp", "d/b.part", ".mlsync-restore-1", "c.pt", "tmp-checkpoint-5/model.pt")
    walk = Walk(watched(root))
    assert [found.path for found in walk] == [b"c.pt", b"d"]
    assert (walk.left_out.count, sorted(walk.left_out.paths)) == (
        4,
        [b".mlsync-restore-1", b"a.tmp", b"d/b.part", b"tmp-checkpoint-5"],
    )
    kept = scan(watched(root), keep_temporary=True)
    assert [found.path for found in kept.found] == [
        b"a.tmp",
        b"c.pt",
        b"d",
        b"d/b.part",
        b"tmp-checkpoint-5",
        b"tmp-checkpoint-5/model.pt",
    ]
    assert kept.left_out.paths == [b".mlsync-restore-1"]
