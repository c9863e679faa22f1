"""Limits in the stores: what a put, the parts of several threads and a read ask for before their bytes move."""

from __future__ import annotations

import threading

import pytest

from limited_s3 import LimitedS3
from mlsync.courtesy import limit as limits
from mlsync.courtesy.slowness import Slowness
from mlsync.courtesy.timetable import parse_timetable
from mlsync.store.directory import pending_file
from mlsync.store.directory import store as directory
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3.transfer import SeekableBody

MIB = 1 << 20


class Counted(limits.Limit):
    """A limit that counts what it admits, by a clock that only its waits move."""

    def __init__(self, rate):
        self.admitted = []
        self.now_s = 0.0
        self._adding = threading.Lock()
        super().__init__("upload", Slowness(), clock=lambda: self.now_s, wait=self._pass)
        self.set(parse_timetable(rate))

    def _pass(self, seconds, _why):
        with self._adding:
            self.now_s += seconds

    def admit(self, size_bytes):
        """Count it, and do as ever."""
        with self._adding:
            self.admitted.append(size_bytes)
        super().admit(size_bytes)


@pytest.fixture
def counted(monkeypatch):
    """Make the stores ask a counting limit of a rate, for sending and fetching."""

    def start(rate):
        made = Counted(rate)
        monkeypatch.setattr(pending_file, "UPLOAD", made)
        monkeypatch.setattr(directory, "DOWNLOAD", made)
        return made

    return start


@pytest.fixture
def s3_parts(monkeypatch):
    """Open a store on a small server, with a counting limit, and keep the bodies that the server gets."""
    from mlsync.store.s3 import store as s3
    from mlsync.store.s3 import transfer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    opened = []

    def start(rate, **options):
        made = Counted(rate)
        for module, name in ((s3, "UPLOAD"), (s3, "DOWNLOAD"), (transfer, "DOWNLOAD")):
            monkeypatch.setattr(module, name, made)
        server = LimitedS3()
        server.start()
        store = open_store("s3://bucket", StoreOptions(endpoint_url=server.endpoint_url, **options))
        opened.append((store, server))
        return store, server, made

    yield start
    for store, server in opened:
        store.close()
        server.stop()


def test_every_byte_of_parts_in_several_threads_is_asked_for(directory_store, counted):
    """Three threads' parts are admitted once each, in pieces, and together take what the rate says."""
    limit = counted("64 KiB/s")
    upload = directory_store.upload("packs/a")
    part_bytes = directory_store.part_bytes
    threads = [threading.Thread(target=upload.write, args=(n * part_bytes, b"x" * part_bytes)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    upload.finish(3 * part_bytes)
    assert sum(limit.admitted) == 3 * part_bytes
    assert max(limit.admitted) < part_bytes
    assert limit.now_s >= 3 - limits.BURST_S - max(limit.admitted) / (64 << 10) - 0.001
    assert directory_store.stat("packs/a").size_bytes == 3 * part_bytes


def test_a_put_and_a_read_of_a_directory_are_asked_for(directory_store, counted):
    """Small objects count like large ones, and so does what is fetched."""
    limit = counted("1 MiB/s")
    directory_store.put("a", b"x" * 1000)
    directory_store.read("a", 0, memoryview(bytearray(500)))
    assert limit.admitted == [1000, 500]


def test_without_a_limit_a_directory_writes_in_one_piece(directory_store, counted):
    """No limit cuts nothing."""
    limit = counted("unlimited")
    directory_store.put("a", b"x" * (8 * MIB))
    assert (limit.admitted, limit.now_s) == ([8 * MIB], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("signing", ["auto", "always"])
def test_a_body_goes_to_s3_in_pieces_and_comes_back_so(s3_parts, signing):
    """Each byte is admitted once, signed bodies too, and what the server has and gives is right."""
    store, _, limit = s3_parts("1 MiB/s", payload_signing=signing)
    body = bytes(range(256)) * 4096
    store.put("a", body)
    assert (sum(limit.admitted), max(limit.admitted)) == (MIB, MIB // 8)
    limit.admitted.clear()
    content = bytearray(MIB)
    store.read("a", 0, memoryview(content))
    assert (sum(limit.admitted), bytes(content) == body) == (MIB, True)
    assert store.get("a", limit_bytes=MIB) == body
    assert (store.writes_at_once, store.reads_at_once) == (2, 2)


@pytest.mark.slow
def test_without_a_limit_s3_gets_its_body_as_before(s3_parts):
    """Plain memory, no 100-continue, and as many requests at once as ever."""
    store, server, limit = s3_parts("unlimited")
    store.put("a", b"x" * 1000)
    headers = {name.lower() for _, _, of_request in server.requests for name in of_request}
    assert (limit.admitted, "expect" in headers) == ([], False)
    assert store.writes_at_once > 2


def test_a_limited_body_reads_like_a_file():
    """What is asked for in small bits is admitted in pieces; all at once is all; a body sent again counts again."""
    limit = Counted("1 MiB/s")
    body = SeekableBody(memoryview(b"0123456789" * 100_000), limit)
    first = bytes(body.read(16384))
    assert (len(first), limit.admitted) == (16384, [MIB // 8])
    assert len(body.read()) == 1_000_000 - 16384
    assert body.read(5) == b""
    assert sum(limit.admitted) == 1_000_000
    body.seek(0)
    assert len(body.read(-1)) == 1_000_000
    assert sum(limit.admitted) == 2_000_000


def test_a_body_that_is_hashed_first_is_limited_the_second_time():
    """Nothing is sent while it is hashed."""
    limit = Counted("1 MiB/s")
    body = SeekableBody(memoryview(bytes(MIB)), limit, is_hashed_first=True)
    while body.read(MIB):
        pass
    assert limit.admitted == []
    body.seek(0)
    while body.read(16384):
        pass
    assert sum(limit.admitted) == MIB
