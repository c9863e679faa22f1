import os
import sqlite3
import stat
import threading
from contextlib import closing

import pytest

from mlsync.errors import StateDamaged, StateError, StateFull
from mlsync.source import state_database
from mlsync.source.cached_file import CachedFile, CachedPiece, is_same
from mlsync.source.scan import FileStat, Found
from mlsync.source.state import Head, KnownWriter, Made, State

STAT = FileStat(64 << 56, (1 << 64) - 3, 0o100644, 1000, 1000, 1, 10, 10**18 + 1, 10**18 + 2)


def remembered(number=0, pieces=2):
    return CachedFile(
        STAT._replace(inode=number),
        10**18 + 10**10,
        b"entry %d" % number,
        [CachedPiece(n * 4194304, 4194304, bytes([n % 256]) * 16, (1 << 64) - 1 - n, -n % 9) for n in range(pieces)],
    )


@pytest.fixture
def path(tmp_path):
    """Where the state lies; the directory is not there yet."""
    return tmp_path / "deep" / "state.sqlite"


@pytest.fixture
def state(path):
    """A fresh state, open."""
    with State.open(path) as state:
        yield state


def test_what_is_remembered_comes_back(path):
    """Heads, files and chunks are there after reopening, with every field, large inodes included."""
    files = {b"a/\xff\n": CachedFile(STAT, 5, b"e", []), b"b": remembered(1, pieces=300)}
    with State.open(path) as state:
        seed = state.seed
        state.set_head("run", Head(3, b"digest"))
        state.replace_files("run", files.items(), [])
        state.add_chunks([(b"name", b"pack", b"location")])
    with State.open(path) as state:
        assert state.seed == seed
        assert state.head("run") == Head(3, b"digest")
        assert state.cached_files("run") == files
        assert state.chunk(b"name") == b"location"
        assert (state.head("other"), state.cached_files("other"), state.chunk(b"other")) == (None, {}, None)


def test_every_state_has_a_seed_of_its_own(tmp_path):
    """Nobody who knows one state's digests knows another's."""
    seeds = set()
    for number in range(3):
        with State.open(tmp_path / str(number)) as state:
            seeds.add(state.seed)
    assert len(seeds) == 3
    assert all(0 <= seed < 1 << 64 for seed in seeds)


def test_files_are_replaced_and_removed_within_their_run(state):
    """A replacement touches the paths that it names, of its run only."""
    state.replace_files("one", {b"a": remembered(1), b"b": remembered(2)}.items(), [])
    state.replace_files("two", {b"a": remembered(3)}.items(), [])
    state.replace_files("one", {b"b": remembered(4)}.items(), [b"a", b"unknown"])
    assert state.cached_files("one") == {b"b": remembered(4)}
    assert state.cached_files("two") == {b"a": remembered(3)}


def test_a_replacement_that_fails_changes_nothing(state):
    """Files change all together or not at all, and the state is usable afterwards."""
    state.replace_files("run", {b"a": remembered(1)}.items(), [])

    def removed():
        yield b"a"
        raise KeyError

    with pytest.raises(KeyError):
        state.replace_files("run", {b"b": remembered(2)}.items(), removed())
    assert state.cached_files("run") == {b"a": remembered(1)}
    state.replace_files("run", {b"b": remembered(2)}.items(), [b"a"])
    assert state.cached_files("run") == {b"b": remembered(2)}


def test_many_chunks_are_asked_for_at_once(state):
    """Each that is known is returned by its name, however many are asked for; the others are not."""
    known = {number.to_bytes(32, "little"): b"at %d" % number for number in range(0, 3000, 2)}
    state.add_chunks((name, b"pack", location) for name, location in known.items())
    assert state.chunks([number.to_bytes(32, "little") for number in range(3000)]) == known
    assert state.chunks([]) == {}


def test_chunks_are_forgotten_by_pack(state):
    """Forgetting packs forgets the chunks that lie in them, also those that lay elsewhere before."""
    state.add_chunks([(b"1", b"p", b"x"), (b"2", b"q", b"y"), (b"3", b"q", b"z")])
    state.add_chunks([(b"3", b"p", b"moved")])
    state.forget_packs([b"p", b"unknown"])
    assert [state.chunk(name) for name in (b"1", b"2", b"3")] == [None, b"y", None]


def test_a_hundred_thousand_files_are_remembered(state):
    """A large run comes back whole, and pieces are taken apart for those files only that ask."""
    blob = remembered(0, pieces=3).packed()[2]
    files = {b"dir/%d" % n: CachedFile(STAT, n, b"entry", blob) for n in range(100_000)}
    state.replace_files("run", files.items(), [])
    back = state.cached_files("run")
    assert back.keys() == files.keys()
    assert all(isinstance(row._pieces, bytes) for row in back.values())
    assert back[b"dir/99999"].pieces == remembered(0, pieces=3).pieces


def test_rows_come_in_the_order_of_paths_and_page_by_page(state, monkeypatch):
    """However they were remembered, rows come in the order of path bytes, and each page is a query of its own."""
    files = {b"%d" % (n * 7919 % 1000): remembered(n) for n in range(1000)}
    state.replace_files("other", {b"5": remembered(5)}.items(), [])
    state.replace_files("run", files.items(), [])
    sizes = []
    query = state._query
    monkeypatch.setattr(state, "_query", lambda *given: (rows := query(*given), sizes.append(len(rows)))[0])
    rows = list(state.file_rows("run"))
    assert [(path, entry) for path, _, entry in rows] == [(path, files[path].entry) for path in sorted(files)]
    assert all(is_same(stat, Found(path, "file", files[path].stat)) for path, stat, _ in rows)
    assert sizes == [256, 256, 256, 232, 0]


def test_only_the_user_can_read_it(path):
    """The directory is made with mode 0700, and each file of the state has 0600, also if it was wider before."""
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o644)
    os.chmod(path, 0o644)
    with State.open(path) as state:
        state.set_head("run", Head(1, b""))
        modes = {name: stat.S_IMODE(os.stat(path.parent / name).st_mode) for name in os.listdir(path.parent)}
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_a_directory_that_is_made_is_private(state, path):
    """Nobody else may look into a directory that was made for the state."""
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def foreign_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE something (else_)")
    connection.close()


def newer_schema(path):
    State.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def without_seed(path):
    State.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM seed")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is no database" * 1000),
        lambda path: path.write_bytes(b"SQLite format 3\0" + os.urandom(4080)),
        foreign_database,
        newer_schema,
        without_seed,
    ],
)
def test_what_is_no_state_is_put_aside(path, damage):
    """A file that cannot be used is kept under another name, and a fresh state begins."""
    path.parent.mkdir()
    damage(path)
    before = path.read_bytes()
    with State.open(path) as state:
        state.set_head("run", Head(1, b"d"))
        assert state.head("run") == Head(1, b"d")
    assert path.with_name(path.name + ".damaged-1").read_bytes() == before


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_is_no_file_is_put_aside_with_the_files_beside_it(path, make):
    """A directory, a link to nothing or a pipe in the state's place is kept, and a fresh state has no old log."""
    path.parent.mkdir()
    make(path)
    path.with_name(path.name + "-wal").write_bytes(b"a log")
    for _ in range(2):
        with State.open(path) as state:
            state.set_head("run", Head(1, b"d"))
    assert stat.S_ISREG(path.lstat().st_mode)
    aside = path.with_name(path.name + ".damaged-1")
    assert stat.S_IFMT(aside.lstat().st_mode) != stat.S_IFREG
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"a log"


def test_a_second_damaged_file_takes_the_next_number(path):
    """No damaged file overwrites another."""
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"damage %d" % number)
        State.open(path).close()
    for number in (1, 2):
        assert path.with_name(f"{path.name}.damaged-{number}").read_bytes() == b"damage %d" % number


def test_damage_found_later_is_said_and_the_next_open_begins_anew(path):
    """A damaged page raises StateDamaged when it is met, the file is put aside, and opening again works."""
    with State.open(path) as state:
        state.replace_files("run", {b"%d" % n: remembered(n) for n in range(2000)}.items(), [])
    content = bytearray(path.read_bytes())
    content[10 * 4096 :] = os.urandom(len(content) - 10 * 4096)
    path.write_bytes(content)
    with State.open(path) as state:
        with pytest.raises(StateDamaged, match="put aside"):
            state.cached_files("run")
        with pytest.raises(StateDamaged):
            state.head("run")
    assert path.with_name(path.name + ".damaged-1").exists()
    with State.open(path) as state:
        assert state.cached_files("run") == {}


def test_the_log_of_a_damaged_file_goes_with_it(path):
    """Where another process has the file open its log is put aside as well: a fresh file would be read through it."""
    with State.open(path) as state:
        state.replace_files("run", {b"%d" % n: remembered(n) for n in range(2000)}.items(), [])
    content = bytearray(path.read_bytes())
    content[10 * 4096 :] = os.urandom(len(content) - 10 * 4096)
    path.write_bytes(content)
    with State.open(path) as state, closing(sqlite3.connect(path)) as other:
        state.set_head("run", Head(1, b"d"))
        assert other.execute("SELECT count(*) FROM heads").fetchone() == (1,)
        log = path.with_name(path.name + "-wal").read_bytes()
        with pytest.raises(StateDamaged, match="put aside"):
            state.cached_files("run")
    assert log
    assert path.with_name(path.name + ".damaged-1-wal").read_bytes() == log
    assert not path.with_name(path.name + "-wal").exists()


def test_rows_that_do_not_parse_are_damage(path):
    """A row of the wrong length is damage, not a crash, and never the same as what was found."""
    with State.open(path) as state:
        state.replace_files("run", {b"a": remembered(1)}.items(), [])
        state._connection.execute("UPDATE files SET stat = x'00'")
        [(_, packed, _)] = state.file_rows("run")
        assert not is_same(packed, Found(b"a", "file", STAT))
        with pytest.raises(StateDamaged):
            state.cached_files("run")


def test_a_full_disk_is_said_and_the_state_stays_whole(state):
    """When SQLite gets no more room the change is undone and StateFull is raised."""
    state.replace_files("run", {b"a": remembered(1)}.items(), [])
    [(pages,)] = state._connection.execute("PRAGMA page_count")
    state._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StateFull):
        state.replace_files("run", {b"%d" % n: remembered(n) for n in range(2000)}.items(), [b"a"])
    assert state.cached_files("run") == {b"a": remembered(1)}


def test_a_place_that_cannot_be_opened_is_said(tmp_path):
    """Where no file can be made, the error names the place."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDamaged, match="file/state"):
        State.open(tmp_path / "file" / "state")


def test_a_state_held_by_another_process_is_said(monkeypatch, path):
    """A writer that does not let go is an error of its own, and nothing is put aside."""
    monkeypatch.setattr(state_database, "_BUSY_TIMEOUT_S", 0.01)
    with State.open(path) as state:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="another process"):
            state.set_head("run", Head(1, b""))
        other.close()
    assert not path.with_name(path.name + ".damaged-1").exists()


def test_two_processes_may_begin_one_state(path):
    """Opened by many at once, one state comes into being, with one seed."""
    seeds, failures = set(), []

    def begin():
        try:
            with State.open(path) as state:
                seeds.add(state.seed)
        except StateError as error:
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(seeds) == 1


def test_threads_share_a_state(state):
    """Several threads change and read it at once, and nothing is lost."""

    def work(run):
        for number in range(20):
            state.replace_files(run, {b"%d" % number: remembered(number)}.items(), [])
            state.add_chunks([(run.encode() + bytes([number]), b"p", b"l")])

    threads = [threading.Thread(target=work, args=(f"run {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(state.cached_files(f"run {n}")) == 20 for n in range(4))


def found(kind="file", link_to=None, **changed):
    return Found(b"a", kind, STAT._replace(**changed), link_to=link_to)


@pytest.mark.parametrize("name", ["device", "inode", "size_bytes", "mtime_ns", "ctime_ns"])
def test_a_file_with_any_other_stat_is_not_the_same(name):
    """Each of the five fields counts alone."""
    known = CachedFile(STAT, 10**18 + 10**10, b"", [])
    assert known.is_same(found())
    assert known.is_same(found(mode=0o100600, uid=5, link_count=2))
    assert not known.is_same(found(**{name: 1}))


@pytest.mark.parametrize("thing", [{"kind": "directory"}, {"kind": "symlink"}, {"link_to": b"b"}])
def test_of_directories_and_links_other_fields_count(thing):
    """It is the same while place, mode, owner and mtime are, whatever its length and ctime, whenever it was read."""
    known = CachedFile(STAT, 0, b"", [])
    assert known.is_same(found(**thing))
    assert known.is_same(found(**thing, size_bytes=1, ctime_ns=1, link_count=5))
    for name in ("device", "inode", "mode", "uid", "gid", "mtime_ns"):
        assert not known.is_same(found(**thing, **{name: 1}))


def test_a_file_read_in_the_tick_of_its_last_write_is_not_trusted():
    """Equal stats prove nothing for a file that was read right after it was written, or before a clock was set back."""
    assert not CachedFile(STAT, STAT.ctime_ns + 1000, b"", []).is_same(found())
    assert not CachedFile(STAT, STAT.ctime_ns - 10**12, b"", []).is_same(found())


SINCE_2, SINCE_3, SINCE_4 = ("pending", "damaged", "times"), ("writers",), ("unreadable",)
SINCE_5 = ("sealed",)


def older_schema(path, version, *later_tables):
    """A state as an older mlsync would have left it."""
    with State.open(path) as state:
        state.set_head("run", Head(7, b"digest"))
        state.replace_files("run", {b"a": remembered(1)}.items(), [])
    with sqlite3.connect(path) as connection:
        for table in later_tables:
            connection.execute(f"DROP TABLE {table}")
        # Offset, length and digest of each piece were all that it knew.
        connection.execute("UPDATE files SET pieces = ?", (bytes(2 * 28),))
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize(
    ("version", "later_tables"),
    [
        (1, SINCE_2 + SINCE_3 + SINCE_4 + SINCE_5),
        (2, SINCE_3 + SINCE_4 + SINCE_5),
        (3, SINCE_4 + SINCE_5),
        (4, SINCE_5),
        (5, ()),
    ],
)
def test_a_state_of_an_older_schema_is_kept(path, version, later_tables):
    """What an older mlsync remembered is still known, and what came since can be remembered too."""
    path.parent.mkdir()
    older_schema(path, version, *later_tables)
    with State.open(path) as state:
        assert state.head("run") == Head(7, b"digest")
        assert state.cached_files("run") == {b"a": remembered(1, pieces=0)}
        state.add_pending("run", 7)
        state.set_last_ns("run", "scrubbed", 5)
        state.add_unreadable("run", {9: "100 1.5"})
        state.begin_version("run", b"/d", b"id", Made(7, 70), Made(8, 80))
        state.set_sealed("run", Head(8, b"sealed"))
    with State.open(path) as state:
        assert (state.sealed("run"), state.sealed("other")) == (Head(8, b"sealed"), None)
        assert (state.pending("run"), state.last_ns("run", "scrubbed")) == ([7], 5)
        assert (state.unreadable("run"), state.unreadable("other")) == ({9: "100 1.5"}, {})
        assert state.writer("run", b"/d") == KnownWriter(b"id", frozenset({Made(7, 70), Made(8, 80)}))


def test_a_writer_is_known_by_run_and_directory(state):
    """Each directory has its own id for a run, and the two versions that may be its last; the last call counts."""
    assert state.writer("run", b"/d") is None
    state.begin_version("run", b"/d", b"one", Made(0, 0), Made(1, 10))
    state.begin_version("run", b"/other", b"two", Made(1, 10), Made(2, 20))
    state.begin_version("run", b"/d", b"one", Made(2, 20), Made(3, 30))
    assert state.writer("run", b"/d") == KnownWriter(b"one", frozenset({Made(2, 20), Made(3, 30)}))
    assert state.writer("run", b"/other").id == b"two"
    assert state.writer("other", b"/d") is None


def test_pending_versions_are_given_newest_first(state):
    """Each is given once, by run, until it is dropped."""
    for number in (3, 5, 4, 5):
        state.add_pending("run", number)
    state.add_pending("other", 9)
    state.drop_pending("run", 4)
    assert state.pending("run") == [5, 3]


def test_a_damaged_pack_is_every_runs_affair(state):
    """Each run that has a version hears of it until it has done without; what lay in it is forgotten at once."""
    for run in ("one", "two"):
        state.set_head(run, Head(1, b"d"))
    state.add_chunks([(b"name", b"pack", b"place")])
    state.add_damaged([b"pack"])
    assert (state.damaged("one"), state.damaged("two"), state.damaged("three")) == ({b"pack"}, {b"pack"}, set())
    assert state.chunk(b"name") is None
    state.drop_damaged("one", [b"pack"])
    assert (state.damaged("one"), state.damaged("two")) == (set(), {b"pack"})


def test_a_moment_is_remembered_by_run_and_name(state):
    """The last one set is given; none was before."""
    assert state.last_ns("run", "proved") is None
    state.set_last_ns("run", "proved", 1)
    state.set_last_ns("run", "proved", 1_800_000_000_000_000_000)
    assert state.last_ns("run", "proved") == 1_800_000_000_000_000_000
    assert state.last_ns("other", "proved") is None
