import itertools
import os
import random
import threading
import zipfile
import zlib
from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_parts import watched

from mlsync.buffers import BufferPool
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.errors import ChangedWhileReading
from mlsync.formats.containers import read_layout, storages_of
from mlsync.formats.layout import Extent, Layout
from mlsync.source import chunker as cutting
from mlsync.source import spans as plan
from mlsync.source.chunker import PIECE_BYTES_MAX, TENSOR_PIECE_BYTES, read_pieces
from mlsync.source.reading import SourceFile
from mlsync.source.record_crc import RecordChecks
from mlsync.source.scan import scan
from mlsync.source.spans import Chunking, Span, plan_spans

KIB, MIB = 1024, 1024 * 1024


def pieces_of(file, layout, pool, seed=7, whole=None, extents=None, earlier=None):
    """Read a file and give (offset, bytes, digest) of its pieces."""
    out = []
    extents = file.data_extents() if extents is None else extents
    for piece in read_pieces(file, layout, extents, pool, seed, whole, earlier=earlier or {}):
        assert len(piece.view) == piece.length
        out.append((piece.offset, bytes(piece.view), piece.digest))
        piece.release()
    return out


def layout_of_zip(path):
    """Lay out a zip of stored records, as the parser of torch files does."""
    extents = []
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            at = info.header_offset
            name, extra = (int.from_bytes(content[at + k : at + k + 2], "little") for k in (26, 28))
            extents.append(Extent(info.filename, at + 30 + name + extra, info.file_size, info.CRC))
    return Layout("torch-zip", len(content), tuple(sorted(extents, key=lambda extent: extent.offset)))


@pytest.fixture(scope="module")
def torch():
    """The real torch, imported once."""
    return pytest.importorskip("torch")


def save(torch, path, notes="", tensor_count=12, **changed):
    generator = torch.Generator().manual_seed(3)
    tensors = {f"t{n}": torch.randn(700 * KIB // 4, generator=generator) for n in range(tensor_count)}
    small = {f"s{n}": torch.full((16,), float(n)) for n in range(40)}
    torch.save({"notes": notes, **tensors, **small, **changed}, path)


def test_pieces_are_the_file(root, opened, pool, torch):
    """The pieces of a torch file, put together, are its bytes, each with the digest of its own."""
    import xxhash
    from blake3 import blake3

    save(torch, root / "last.pt")
    whole = FileDigester(FileDigestKind.WHOLE)
    with opened("last.pt") as file:
        pieces = pieces_of(file, layout_of_zip(root / "last.pt"), pool, whole=whole)
        file.confirm()
    content = (root / "last.pt").read_bytes()
    assert b"".join(data for _, data, _ in pieces) == content
    assert all(digest == xxhash.xxh3_128_digest(data, 7) for _, data, digest in pieces)
    assert whole.digest() == b"\1" + blake3(content).digest()


def test_a_grown_pickle_shifts_no_tensor_piece(root, opened, pool, torch):
    """When the pickle in front grows, every large tensor keeps its pieces though all of them moved."""
    save(torch, root / "1.pt")
    save(torch, root / "2.pt", notes="epoch,loss\n" * 1000)
    digests = []
    for name in ("1.pt", "2.pt"):
        with opened(name) as file:
            digests.append({digest: len(data) for _, data, digest in pieces_of(file, layout_of_zip(root / name), pool)})
    kept = sum(length for digest, length in digests[1].items() if digest in digests[0])
    assert kept >= 12 * 700 * KIB


def test_a_changed_tensor_changes_its_own_pieces_only(root, opened, pool, torch):
    """One changed value costs the piece that it lies in and the small records around."""
    save(torch, root / "1.pt")
    save(torch, root / "2.pt", t5=torch.zeros(700 * KIB // 4))
    digests = []
    for name in ("1.pt", "2.pt"):
        with opened(name) as file:
            digests.append({digest: len(data) for _, data, digest in pieces_of(file, layout_of_zip(root / name), pool)})
    new = sum(length for digest, length in digests[1].items() if digest not in digests[0])
    assert new <= 700 * KIB + 64 * KIB


def tensors_of(file, pool, content):
    """The id of each piece with its bytes."""
    layout = read_layout(Content(content), "torch-zip")
    found = {}
    for piece in read_pieces(file, layout, file.data_extents(), pool, 7, None, storages_of(Content(content), layout)):
        found.setdefault(piece.tensor, []).append(bytes(piece.view))
        piece.release()
    return found


class Content:
    """Bytes as a parser reads them."""

    def __init__(self, content):
        self._content = content
        self.size_bytes = len(content)

    def read_at(self, offset, length):
        """Return some of them."""
        return self._content[offset : offset + length]


def test_a_part_of_a_tensor_has_one_id_in_every_file(root, opened, pool, torch):
    """In a file of another name, with a longer pickle and other values, each part of a tensor is found by its id."""
    both = []
    for name, notes, values in (("epoch1.pt", "", 1.0), ("epoch12.pt", "longer" * 500, 2.0)):
        large = {f"t{n}": torch.full((TENSOR_PIECE_BYTES // 4 + 30_000 * (n + 1),), values + n) for n in range(3)}
        torch.save({"notes": notes, **large, "half": torch.full((50_000,), values).half()}, root / name)
        with opened(name) as file:
            both.append(tensors_of(file, pool, (root / name).read_bytes()))
    (one, other) = both
    assert one.keys() == other.keys()
    assert len(one) == 1 + 2 * 3 + 1
    for tensor in one.keys() - {0}:
        assert [len(data) for data in one[tensor]] == [len(data) for data in other[tensor]]
        assert len(one[tensor]) == 1


def test_parts_of_another_width_or_length_have_another_id():
    """What cannot be compared number by number is not taken for the same."""
    spans = [
        Span(0, 100, "whole", 4, "w"),
        Span(0, 100, "whole", 2, "w"),
        Span(0, 104, "whole", 4, "w"),
        Span(0, 100, "whole", 4, "v"),
        Span(0, 100, "whole", 4, "w", 100),
    ]
    assert len({cutting.tensor_id(span) for span in spans}) == len(spans)
    assert cutting.tensor_id(Span(64, 100, "whole", 4, "w")) == cutting.tensor_id(spans[0])
    assert cutting.tensor_id(Span(0, 100, "whole", 0, "w")) == cutting.tensor_id(Span(0, 100, "fine")) == 0


def test_a_large_tensor_is_cut_from_its_own_start(root, opened, pool):
    """A tensor's pieces are 2 MiB from its start on, the last one shorter."""
    (root / "a").write_bytes(os.urandom(7 * MIB))
    layout = Layout("safetensors", 7 * MIB, (Extent("w", 1234, 5 * MIB, None),))
    with opened("a") as file:
        edges = [(offset, len(data)) for offset, data, _ in pieces_of(file, layout, pool)]
    assert edges[:4] == [(0, 1234), (1234, 2 * MIB), (1234 + 2 * MIB, 2 * MIB), (1234 + 4 * MIB, MIB)]


def test_a_torn_record_is_found_while_reading(root, opened, pool, torch):
    """A file that is half of one save and half of another, at rest, does not match its CRCs."""
    save(torch, root / "last.pt")
    layout = layout_of_zip(root / "last.pt")
    record = layout.extents[len(layout.extents) // 4]
    with (root / "last.pt").open("r+b") as writer:
        writer.seek(record.offset + record.length // 2)
        writer.write(b"another epoch")
    with opened("last.pt") as file, pytest.raises(ChangedWhileReading, match=f"{record.name}.*CRC"):
        pieces_of(file, layout, pool)


def test_a_checkpoint_saved_in_place_while_it_is_read_is_never_mixed(root, opened, pool, torch):
    """While torch saves over a file again and again, what is parsed, read and confirmed is one whole save."""
    whole_saves = {}
    for number in range(3):
        save(torch, root / "whole.pt", tensor_count=3, epoch=torch.full((100 * KIB,), float(number)))
        whole_saves[number] = (root / "whole.pt").read_bytes()
    path = root / "last.pt"
    path.write_bytes(whole_saves[0])
    stop = threading.Event()

    def train():
        number = 0
        while not stop.is_set():
            number += 1
            path.write_bytes(whole_saves[number % 3])
            if number % 16 == 0:
                stop.wait(0.2)

    thread = threading.Thread(target=train)
    thread.start()
    confirmed = 0
    try:
        for _ in range(60):
            try:
                with opened("last.pt") as file:
                    pieces = pieces_of(file, layout_of_zip(path), pool)
                    file.confirm()
            except (ChangedWhileReading, zipfile.BadZipFile, OSError, IndexError, ValueError):
                continue
            confirmed += 1
            assert b"".join(data for _, data, _ in pieces) in whole_saves.values()
            if confirmed == 5:
                break
    finally:
        stop.set()
        thread.join()
    assert confirmed


class Counting(SourceFile):
    """Counts the bytes that are read of it."""

    read_bytes = 0

    def read_into(self, offset, view):
        """Read and count."""
        self.read_bytes += len(view)
        super().read_into(offset, view)


@pytest.mark.parametrize("structured", [True, False])
def test_every_byte_is_read_once(root, pool, structured):
    """Digests, CRCs and cuts take no second reading."""
    content = os.urandom(9 * MIB)
    (root / "a").write_bytes(content)
    layout = Layout("zip", len(content), (Extent("w", 500, 5 * MIB, zlib.crc32(content[500 : 500 + 5 * MIB])),))
    [found] = scan(watched(root)).found
    with Counting.open(watched(root), found) as file:
        pieces_of(file, layout if structured else None, pool, whole=FileDigester(FileDigestKind.WHOLE))
        assert file.read_bytes == len(content)


def test_an_appended_log_keeps_its_pieces(root, opened, pool):
    """A log that grows keeps all pieces but its last."""
    content = os.urandom(3 * MIB)
    (root / "a").write_bytes(content)
    with opened("a") as file:
        before = pieces_of(file, None, pool)
    with (root / "a").open("ab") as writer:
        writer.write(b"more\n" * 1000)
    with opened("a") as file:
        after = pieces_of(file, None, pool)
    assert after[: len(before) - 1] == before[:-1]


def test_an_appended_log_keeps_its_pieces_past_the_fine_part(monkeypatch, root, opened, pool):
    """Growing past the size where cuts become coarse does not cut the beginning anew."""
    monkeypatch.setattr(plan, "FINE_SPAN_BYTES", MIB)
    content = random.Random(1).randbytes(9 * MIB)
    results = []
    for size in (MIB - 5, 9 * MIB):
        (root / "a").write_bytes(content[:size])
        with opened("a") as file:
            results.append(pieces_of(file, None, pool))
    assert results[1][: len(results[0]) - 1] == results[0][:-1]
    assert max(len(data) for _, data, _ in results[1]) > 256 * KIB


def earlier_of(pieces):
    """What is remembered of pieces."""
    return {offset: (len(content), digest) for offset, content, digest in pieces}


def test_an_equal_file_is_not_searched_for_cuts_again(monkeypatch, root, opened, pool):
    """Where all pieces are still there, reading and digesting is all that is done."""
    (root / "log").write_bytes(random.Random(1).randbytes(3 * PIECE_BYTES_MAX + 123))
    with opened("log") as file:
        pieces = pieces_of(file, None, pool)
        monkeypatch.setattr(cutting, "_chunker", _nothing_to_cut)
        assert pieces_of(file, None, pool, earlier=earlier_of(pieces)) == pieces


def _nothing_to_cut(_):
    class Chunker:
        def cut_buf(self, view):
            assert len(view) == 0, "searched for cuts"
            return []

    return Chunker()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6 * MIB), st.integers(-MIB, 2 * MIB), st.booleans())
def test_what_is_remembered_changes_no_cut(root, opened, pool, seed, at, grown_bytes, changes):
    """A file that grew, was cut short or changed somewhere is cut as if nothing were known of it."""
    content = bytearray(random.Random(seed).randbytes(6 * MIB))
    (root / "log").write_bytes(content)
    with opened("log") as file:
        # All but the last, which ended where the file did.
        earlier = earlier_of(pieces_of(file, None, pool)[:-1])
    if changes:
        content[at : at + 5] = b"12345"
    content = content[:grown_bytes] if grown_bytes < 0 else content + random.Random(seed + 1).randbytes(grown_bytes)
    (root / "log").write_bytes(content)
    with opened("log") as file:
        assert pieces_of(file, None, pool, earlier=earlier) == pieces_of(file, None, pool)


def test_an_insertion_changes_only_what_is_near(root, opened, pool):
    """A hundred bytes put into the middle of eight MiB cost a few pieces."""
    content = random.Random(2).randbytes(8 * MIB)
    digests = []
    for data in (content, content[: 4 * MIB] + b"i" * 100 + content[4 * MIB :]):
        (root / "a").write_bytes(data)
        with opened("a") as file:
            digests.append({digest for _, _, digest in pieces_of(file, None, pool)})
    assert len(digests[0]) > 64
    assert len(digests[1] - digests[0]) <= 3


def test_a_span_without_structure_between_tensors_is_cut_by_content(root, opened, pool):
    """What lies between tensors is one piece up to 256 KiB and several above."""
    (root / "a").write_bytes(os.urandom(3 * MIB))
    extents = (Extent("a", 256 * KIB, 64 * KIB, None), Extent("b", 2 * MIB, MIB, None))
    with opened("a") as file:
        edges = [offset for offset, _, _ in pieces_of(file, Layout("zip", 3 * MIB, extents), pool)]
    assert edges[:3] == [0, 256 * KIB, 320 * KIB]
    assert len([offset for offset in edges if 320 * KIB <= offset < 2 * MIB]) > 5
    assert 2 * MIB in edges


def test_holes_give_no_pieces_and_count_as_zeros_in_crcs(root, opened, pool):
    """A sparse file with a layout gives its data only, and its records' CRCs are still checked whole."""
    with (root / "a").open("wb") as writer:
        writer.seek(MIB)
        writer.write(os.urandom(MIB))
        writer.truncate(6 * MIB)
    content = (root / "a").read_bytes()
    extents = (
        Extent("all hole", 0, MIB // 2, zlib.crc32(bytes(MIB // 2))),
        Extent("mixed", MIB // 2, 2 * MIB, zlib.crc32(content[MIB // 2 : MIB // 2 + 2 * MIB])),
        Extent("tail", 5 * MIB, MIB, zlib.crc32(bytes(MIB))),
    )
    with opened("a") as file:
        if file.data_extents() == [(0, 6 * MIB)]:
            pytest.skip("this file system keeps no holes")
        pieces = pieces_of(file, Layout("zip", 6 * MIB, extents), pool)
    rebuilt = bytearray(6 * MIB)
    for offset, data, _ in pieces:
        rebuilt[offset : offset + len(data)] = data
    assert bytes(rebuilt) == content
    assert sum(len(data) for _, data, _ in pieces) < 2 * MIB


def test_a_hole_inside_a_tensor_is_not_read(root, pool):
    """Two stretches of data in one tensor, close enough for one buffer, are two pieces, and the hole stays unread."""
    (root / "a").write_bytes(random.Random(4).randbytes(MIB))
    layout = Layout("zip", MIB, (Extent("w", 0, MIB, None),))
    [found] = scan(watched(root)).found
    with Counting.open(watched(root), found) as file:
        extents = [(0, 128 * KIB), (512 * KIB, 128 * KIB)]
        edges = [(offset, len(data)) for offset, data, _ in pieces_of(file, layout, pool, extents=extents)]
        assert edges == extents
        assert file.read_bytes == 256 * KIB


@pytest.mark.parametrize("name", ["all hole", "tail"])
def test_a_record_that_is_a_hole_but_should_not_be_is_found(root, opened, pool, name):
    """A file that a writer sized but has not filled does not match its CRCs."""
    with (root / "a").open("wb") as writer:
        writer.truncate(MIB)
    extents = (
        Extent("all hole", 0, 1000, 1 if name == "all hole" else zlib.crc32(bytes(1000))),
        Extent("tail", MIB - 1000, 1000, 1),
    )
    with opened("a") as file, pytest.raises(ChangedWhileReading, match=name):
        pieces_of(file, Layout("zip", MIB, extents), pool)


def test_a_huge_hole_costs_no_time_by_its_size():
    """The CRC of an exbibyte of zeros is had by calculation."""
    checks = RecordChecks([Extent("w", 0, 1 << 60, 1)], "a")
    with pytest.raises(ChangedWhileReading, match="CRC"):
        checks.finish()


def test_an_empty_file_has_no_pieces(root, opened, pool):
    """Zero bytes are zero pieces, with a layout or without."""
    (root / "a").write_bytes(b"")
    with opened("a") as file:
        assert pieces_of(file, None, pool) == []
        assert pieces_of(file, Layout("zip", 0, ()), pool) == []


def test_a_layout_of_another_size_is_a_change(root, opened, pool):
    """A file that grew between parsing and reading is not cut by what was parsed."""
    (root / "a").write_bytes(b"x" * 10)
    with opened("a") as file, pytest.raises(ChangedWhileReading, match="from 9 to 10"):
        pieces_of(file, Layout("zip", 9, ()), pool)


def test_a_file_cut_short_while_reading_raises_and_frees_its_buffers(root, opened, pool):
    """A file truncated between two pieces raises, and no buffer is lost."""
    (root / "a").write_bytes(os.urandom(9 * MIB))
    with opened("a") as file:
        pieces = read_pieces(file, None, file.data_extents(), pool, 7)
        next(pieces).release()
        os.truncate(root / "a", 5 * MIB)
        with pytest.raises(ChangedWhileReading, match="shorter"):
            deque((piece.release() for piece in pieces), maxlen=0)


def test_a_released_piece_cannot_be_read(root, opened, pool):
    """The view of a released piece raises, because its buffer may hold other bytes by then."""
    (root / "a").write_bytes(b"x" * 100)
    with opened("a") as file:
        [piece] = read_pieces(file, None, file.data_extents(), pool, 7)
        piece.release()
    with pytest.raises(ValueError, match="released"):
        bytes(piece.view)


@pytest.mark.parametrize("structured", [True, False])
def test_a_reader_that_stops_early_frees_its_buffers(root, opened, pool, structured):
    """Closing the iterator half-way gives back what the reader held."""
    (root / "a").write_bytes(os.urandom(9 * MIB))
    layout = Layout("zip", 9 * MIB, (Extent("w", 64, 8 * MIB, None),)) if structured else None
    with opened("a") as file:
        pieces = read_pieces(file, layout, file.data_extents(), pool, 7)
        next(pieces).release()
        pieces.close()
    assert len(pool._free) == pool._made_count


def test_a_pool_too_small_for_pieces_is_refused(root, opened):
    """A pool whose buffers hold no whole piece, or with only one of them, is a bug of the caller."""
    (root / "a").write_bytes(b"x")
    for count, size in ((1, PIECE_BYTES_MAX), (2, PIECE_BYTES_MAX - 1)):
        with BufferPool(count, size) as small, opened("a") as file, pytest.raises(ValueError, match="buffers"):
            next(read_pieces(file, None, [(0, 1)], small, 7))


@st.composite
def plans(draw):
    """Draw a size, extents of a layout inside it, and data extents inside it."""
    marks = sorted(draw(st.sets(st.integers(0, 12 * MIB), min_size=2, max_size=12)))
    size = marks[-1]
    pairs = list(itertools.pairwise(marks))
    layout = Layout("zip", size, tuple(Extent("r", a, b - a) for a, b in pairs[:: draw(st.integers(1, 2))]))
    holes = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    data = [(a, b - a) for a, b in list(itertools.pairwise(holes))[::2]]
    return draw(st.sampled_from([layout, None])), size, data


@given(plans())
def test_spans_are_exactly_the_data(drawn):
    """Whatever the layout and the holes, spans are in order, disjoint, and cover the data extents and no more."""
    layout, size, data = drawn
    covered = []
    for span in plan_spans(layout, size, data):
        assert span.length > 0
        assert span.cut != "whole" or span.length <= TENSOR_PIECE_BYTES
        if covered and covered[-1][1] == span.offset:
            covered[-1][1] = span.offset + span.length
        else:
            assert not covered or covered[-1][1] < span.offset
            covered.append([span.offset, span.offset + span.length])
    expected = []
    for offset, length in data:
        if expected and expected[-1][1] == offset:
            expected[-1][1] = offset + length
        else:
            expected.append([offset, offset + length])
    assert covered == expected


@given(
    seed=st.integers(0, 1000),
    size=st.integers(0, 40_000),
    zeros=st.integers(0, 20_000),
    rooms=st.tuples(st.integers(1024, 4000), st.integers(4000, 60_000)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cuts_do_not_depend_on_buffers(monkeypatch, root, opened, seed, size, zeros, rooms):
    """Content-defined cuts are those of one pass over the whole span, whatever the size of the buffers."""
    from pyfastcdc import FastCDC

    sizes = Chunking(64, 256, 1024)
    content = random.Random(seed).randbytes(size) + bytes(zeros) + random.Random(seed + 1).randbytes(size // 3)
    (root / "a").write_bytes(content)
    expected, at = [], 0
    for chunk in FastCDC(avg_size=256, min_size=64, max_size=1024).cut_buf(content) if content else ():
        expected.append((at, content[at : at + chunk.length]))
        at += chunk.length
    with monkeypatch.context() as patch:
        patch.setattr(cutting, "PIECE_BYTES_MAX", 1024)
        patch.setitem(plan.CHUNKINGS, "fine", sizes)
        cutting._chunker.cache_clear()
        try:
            for room in rooms:
                with BufferPool(2, room) as small, opened("a") as file:
                    extents = [(0, len(content))] if content else []
                    pieces = pieces_of(file, None, small, extents=extents)
                    assert [(offset, data) for offset, data, _ in pieces] == expected
        finally:
            cutting._chunker.cache_clear()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=6), st.data())
def test_record_checks_agree_with_zlib(gaps_and_lengths, data):
    """However a file is shown, in whatever portions and with whatever holes, right CRCs pass and wrong ones raise."""
    extents, at = [], 0
    content = random.Random(5).randbytes(4000)
    hole = sorted(data.draw(st.tuples(st.integers(0, 4000), st.integers(0, 4000))))
    content = content[: hole[0]] + bytes(hole[1] - hole[0]) + content[hole[1] :]
    for number, (gap, length) in enumerate(gaps_and_lengths):
        at += gap
        extents.append(Extent(str(number), at, length, zlib.crc32(content[at : at + length])))
        at += length

    def show(extents):
        checks = RecordChecks(extents, "a")
        edges = sorted({0, 4000, *hole, *data.draw(st.sets(st.integers(0, 4000), max_size=5))})
        for low, high in itertools.pairwise(edges):
            if not hole[0] <= low < hole[1]:
                checks.update(low, memoryview(content)[low:high])
        checks.finish()

    show(extents)
    if extents:
        broken = data.draw(st.integers(0, len(extents) - 1))
        old = extents[broken]
        extents[broken] = Extent(old.name, old.offset, old.length, old.crc32 ^ 1)
        with pytest.raises(ChangedWhileReading, match=f"'{broken}'"):
            show(extents)


def test_the_sizes_of_pieces_are_part_of_what_is_stored():
    """Changing a size would store every file again: the numbers are written down here a second time on purpose."""
    assert plan.CHUNKINGS["fine"] == Chunking(16384, 65536, 262144)
    assert plan.CHUNKINGS["coarse"] == Chunking(262144, 1048576, 4194304)
    assert (PIECE_BYTES_MAX, TENSOR_PIECE_BYTES) == (4194304, 2097152)
    assert list(plan_spans(None, 65 * MIB, [(0, 65 * MIB)])) == [
        Span(0, 64 * MIB, "fine"),
        Span(64 * MIB, MIB, "coarse"),
    ]
    content = random.Random(9).randbytes(400 * KIB)
    assert list(cutting._cuts("fine", memoryview(content), is_last=True)) == [50995, 48460, 81646, 85089, 110518, 32892]
