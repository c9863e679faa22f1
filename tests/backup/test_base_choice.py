"""Which base a changed tensor is offered: by the names of files and tensors, the proofs, and what came of it before."""

import os

import pytest

from mlsync.backup.bases.choice import PAUSE, ROUNDS_MAX, Bases, Offer, rounds_after
from mlsync.backup.bases.siblings import newest_of_each, pattern_of
from mlsync.backup.files_cache import CachedPath, CacheRow
from mlsync.backup.parents.parent import Parent
from mlsync.codec.compression import Coding
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.source.cached_file import CachedFile, CachedPiece
from mlsync.source.chunker import Piece
from mlsync.source.scan import FileStat, Found
from mlsync.values import Proof

LENGTH = 2 << 20
STAT = FileStat(1, 2, 0o100644, 0, 0, 1, LENGTH, 5, 5)


def ref(name, base=None, plain_bytes=LENGTH):
    coding = Coding.PLANES if base is None else Coding.DIFFERENCE
    return ChunkRef(name * 32, b"p" * 16, 0, 64, 100, plain_bytes, coding, base=base)


PLAIN, OTHER = ref(b"a"), ref(b"b")
DIFFERENCE = ref(b"d", OTHER)


def proof(level):
    return Proof(level, "torch-zip", "", "", 0, 0.0, 1, LENGTH, {}, [])


def entry(path, *chunks, level=3, mtime_ns=5):
    size_bytes = sum(chunk.plain_bytes for chunk in chunks)
    proved = None if level is None else proof(level)
    return Entry(path, EntryKind.FILE, 0o644, 0, 0, mtime_ns, size_bytes, chunks=chunks, proof=proved)


def cached(one, *tensors, rounds=0):
    """What the local state knows of an entry whose chunks are these tensors."""
    pieces = [
        CachedPiece(number * LENGTH, LENGTH, bytes(16), tensor, rounds if tensor else 0)
        for number, tensor in enumerate(tensors)
    ]
    return CachedPath(CacheRow(None), one, CachedFile(STAT, 5, b"", pieces))


def found(path, mtime_ns=6):
    return Found(path, "file", STAT._replace(mtime_ns=mtime_ns))


class Content:
    """Bases that are all there; it notes what is kept."""

    is_stored = False

    def __init__(self, has=True):
        self.kept = []
        self._has = has

    def has(self, _ref):
        """All or none."""
        return self._has

    def read(self, _ref, into):
        """Zeros."""
        into[:] = bytes(len(into))
        return True

    def keep(self, one, _plain, instead_of):
        """Note it."""
        self.kept.append((one.name[:1], instead_of[:1]))

    def close(self):
        """Nothing is held."""


def bases_of(path, *entries, rows=(), files=None, level=3, may_use=lambda _ref: True, content=None):
    """The bases of the file at *path*, after a version of these *entries*."""
    parent = Parent(1, b"", is_remembered=True, entries={one.path: one for one in entries})
    known = {row.entry.path: row for row in rows}
    scan = files or [found(path), *(found(one.path, one.mtime_ns) for one in entries if one.path != path)]
    asked = []

    def open_content(names, size_bytes):
        asked.append((names, size_bytes))
        return content or Content()

    one = Bases(parent, known, scan, level, may_use, open_content).of(path, LENGTH)
    return one, asked


def piece(tensor=7, offset=0, length=LENGTH):
    return Piece(offset, length, memoryview(b""), b"", None, 4, tensor)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("checkpoint-20/model.safetensors", "checkpoint-30/model.safetensors"),
        ("epoch5.pt", "epoch12.pt"),
        ("global_step100/zero_pp_rank_3_mp_rank_00.pt", "global_step200/zero_pp_rank_3_mp_rank_00.pt"),
        ("step_1/__2_0.distcp", "step_9/__2_0.distcp"),
        ("checkpoint-5/model-00001-of-00002.bin", "checkpoint-6/model-00001-of-00002.bin"),
    ],
)
def test_saves_of_one_file_have_one_pattern(one, other):
    """The numbers of steps and epochs make no difference, in directories and in names."""
    assert pattern_of(os.fsencode(one)) == pattern_of(os.fsencode(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("checkpoint-5/model-00001-of-00002.bin", "checkpoint-5/model-00002-of-00002.bin"),
        ("global_step1/zero_pp_rank_0_mp_rank_00.pt", "global_step1/zero_pp_rank_1_mp_rank_00.pt"),
        ("step_1/__0_0.distcp", "step_1/__1_0.distcp"),
        ("last.pt", "best.pt"),
        ("a/epoch1.pt", "b/epoch1.pt"),
    ],
)
def test_parts_of_one_save_have_different_patterns(one, other):
    """Shards and ranks hold other tensors, and are no earlier saves of each other."""
    assert pattern_of(os.fsencode(one)) != pattern_of(os.fsencode(other))


def test_the_newest_file_of_a_pattern_is_by_its_time():
    """Not the highest number: a training may begin anew."""
    times = [(b"epoch9.pt", 1), (b"epoch2.pt", 3), (b"epoch1.pt", 2), (b"last.pt", 1)]
    assert newest_of_each(times) == {b"epoch#.pt": b"epoch2.pt", b"last.pt": b"last.pt"}


def test_the_same_tensor_of_the_same_file_is_offered():
    """Another order of tensors in the file makes no difference; a tensor that is new has no base."""
    before = entry(b"last.pt", PLAIN, OTHER)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7, 8)])
    offers = [bases.tried(piece(tensor)) for tensor in (8, 7, 9)]
    assert [one.ref if isinstance(one, Offer) else one for one in offers] == [OTHER, PLAIN, 0]


def test_a_difference_offers_its_own_base():
    """A base is never a difference: the chain has one link."""
    before = entry(b"last.pt", DIFFERENCE)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7, rounds=2)])
    offer = bases.tried(piece())
    assert offer.ref == OTHER
    assert rounds_after(offer, ref(b"n", OTHER)) == 3


def test_a_new_file_continues_the_newest_sibling():
    """A directory of step 30 gets bases of the newest of the last version, if it has no file of that name."""
    older, newer = entry(b"c-10/m.pt", PLAIN, mtime_ns=1), entry(b"c-20/m.pt", OTHER, mtime_ns=2)
    bases, _ = bases_of(b"c-30/m.pt", older, newer, rows=[cached(older, 7), cached(newer, 7)])
    assert bases.tried(piece()).ref == OTHER


def test_without_the_local_state_tensors_are_found_by_their_place():
    """A new node finds bases by distance from the end of the file: what grows lies before the tensors."""
    head = ref(b"h", plain_bytes=1000)
    before = entry(b"last.pt", head, PLAIN, OTHER)
    parent = Parent(1, b"", is_remembered=True, entries={b"last.pt": before})
    one = Bases(parent, {}, [found(b"last.pt")], 3, lambda _ref: True, lambda *_: Content())
    bases = one.of(b"last.pt", 1064 + 2 * LENGTH)
    assert [bases.tried(piece(offset=1064 + at * LENGTH)).ref for at in range(2)] == [PLAIN, OTHER]
    assert bases.tried(piece(offset=1000)) == 0


@pytest.mark.parametrize(("level", "serves"), [(None, False), (2, False), (3, True), (5, True)])
def test_only_proved_content_becomes_a_base(level, serves):
    """What has not come back from the store and loaded yet is no base."""
    before = entry(b"last.pt", PLAIN, level=level)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7)])
    assert isinstance(bases.tried(piece()), Offer) is serves


def test_a_base_of_something_not_yet_proved_still_serves():
    """It was proved when it became a base."""
    before = entry(b"last.pt", DIFFERENCE, level=1)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7, rounds=1)])
    assert bases.tried(piece()).ref == OTHER


def test_no_base_that_a_new_version_must_not_rely_on():
    """A pack that is lost, cold or about to be deleted gives no base."""
    before = entry(b"last.pt", PLAIN)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7)], may_use=lambda one: one != PLAIN)
    assert bases.tried(piece()) == 0


def test_no_base_whose_content_is_not_to_be_had():
    """Without its bytes near by, a base is not offered."""
    before = entry(b"last.pt", PLAIN)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7)], content=Content(has=False))
    assert bases.tried(piece()) == 0


def test_another_length_gets_no_base():
    """A tensor that was resized is no difference of what it was."""
    before = entry(b"last.pt", PLAIN)
    bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7)])
    assert bases.tried(piece(length=LENGTH - 4)) == 0


def test_after_some_versions_a_tensor_is_stored_as_a_whole():
    """One base serves a bounded number of versions; what follows is a new base."""
    before = entry(b"last.pt", DIFFERENCE)
    tried = [
        bases_of(b"last.pt", before, rows=[cached(before, 7, rounds=rounds)])[0].tried(piece())
        for rounds in (ROUNDS_MAX - 1, ROUNDS_MAX)
    ]
    assert isinstance(tried[0], Offer)
    assert tried[1] == 0
    assert rounds_after(tried[1], ref(b"n")) == 0


def test_a_difference_that_did_not_pay_is_not_tried_again_at_once():
    """Reading a base in vain, as of Adam's first moment, happens once in some versions."""
    before, rounds, tried = entry(b"last.pt", PLAIN), 0, []
    for _ in range(2 * PAUSE + 4):
        bases, _ = bases_of(b"last.pt", before, rows=[cached(before, 7, rounds=rounds)])
        one = bases.tried(piece())
        if isinstance(one, Offer):
            one.read(memoryview(bytearray(8)))
        tried.append(isinstance(one, Offer))
        rounds = rounds_after(one, ref(b"n"))
    assert [at for at, was in enumerate(tried) if was] == [0, PAUSE + 1, 2 * PAUSE + 2]


def test_a_base_that_could_not_be_read_says_nothing_against_differences():
    """After a cache was lost, the next version has bases again."""
    offer = Offer(PLAIN, 3, Content())
    assert rounds_after(offer, ref(b"n")) == 0


def test_what_is_kept_are_the_bases_of_the_next_version():
    """A whole tensor of the newest file is kept in its base's place; no difference, no older file, none on a pause."""
    before, content = entry(b"e1.pt", DIFFERENCE), Content()
    scan = [found(b"e1.pt", 1), found(b"e3.pt", 3), found(b"e2.pt", 2)]
    for path, tensor, rounds, stored in (
        (b"e3.pt", 7, ROUNDS_MAX, ref(b"n")),
        (b"e3.pt", 7, 1, ref(b"m", OTHER)),
        (b"e3.pt", 7, -3, ref(b"o")),
        (b"e2.pt", 7, ROUNDS_MAX, ref(b"q")),
        (b"e3.pt", 0, 0, ref(b"r")),
    ):
        row = cached(before, 7, rounds=rounds)
        bases, _ = bases_of(path, before, rows=[row], files=scan, content=content)
        keep = bases.keeping(piece(tensor), bases.tried(piece(tensor)))
        if keep is not None:
            keep(stored, memoryview(b""))
    assert content.kept == [(b"n", b"b")]


def test_the_content_is_opened_for_the_newest_of_each_pattern():
    """It is told which bases may be asked for, and how much room the next ones take."""
    older, newer = entry(b"e1.pt", PLAIN, mtime_ns=1), entry(b"e2.pt", DIFFERENCE, mtime_ns=2)
    _, asked = bases_of(b"e3.pt", older, newer)
    assert asked == [({OTHER.name}, LENGTH)]


def test_differences_that_are_off_open_nothing():
    """Without them every tensor is stored as a whole."""
    parent = Parent(1, b"", is_remembered=True, entries={b"last.pt": entry(b"last.pt", PLAIN)})
    bases = Bases(parent, {}, [], 3, lambda _ref: True, None)
    assert bases.of(b"last.pt", LENGTH).tried(piece()) == 0
    bases.close()
