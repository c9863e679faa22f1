import mmap
import threading

import pytest

from mlsync.buffers import BufferPool, aligned_memory


def test_a_buffer_is_page_aligned_and_of_the_asked_size():
    """A buffer's view covers its whole size and begins on a page."""
    numpy = pytest.importorskip("numpy")
    with BufferPool(1, 10_000) as pool, pool.acquire() as buffer:
        assert len(buffer.view) == 10_000
        assert numpy.frombuffer(buffer.view, dtype="u1").ctypes.data % 4096 == 0


def test_acquire_waits_until_a_buffer_is_free():
    """With all buffers out, acquire returns only after a release, with the very memory that was released."""
    with BufferPool(1, 4096) as pool:
        first = pool.acquire()
        first.view[:3] = b"abc"
        got = []
        waiting = threading.Thread(target=lambda: got.append(pool.acquire()))
        waiting.start()
        waiting.join(0.05)
        assert not got
        first.release()
        waiting.join()
        assert bytes(got[0].view[:3]) == b"abc"
        got[0].release()


def test_a_second_release_frees_nothing_twice():
    """Releasing a hold again does not give away the buffer of its next holder."""
    with BufferPool(2, 4096) as pool:
        first = pool.acquire()
        first.release()
        first.release()
        second, third = pool.acquire(), pool.acquire()
        second.view[:1], third.view[:1] = b"2", b"3"
        assert bytes(second.view[:1]) == b"2"


def test_a_shared_buffer_is_free_after_its_last_release():
    """The memory stays taken while any hold on it is left."""
    with BufferPool(1, 4096) as pool:
        first = pool.acquire()
        second = first.share()
        first.release()
        assert not pool._free
        second.release()
        assert len(pool._free) == 1


def test_a_released_buffer_is_not_looked_at():
    """View and share of a released hold raise, so that a use after release shows."""
    with BufferPool(1, 4096) as pool:
        buffer = pool.acquire()
        buffer.release()
        with pytest.raises(ValueError, match="released"):
            _ = buffer.view
        with pytest.raises(ValueError, match="released"):
            buffer.share()


def test_close_gives_the_memory_back():
    """After close the memory of free buffers is unmapped at once, of held ones on release."""
    pool = BufferPool(2, 4096)
    held, free = pool.acquire(), pool.acquire()
    blocks = held._block, free._block
    free.release()
    pool.close()
    assert [block.memory.closed for block in blocks] == [False, True]
    held.release()
    assert [block.memory.closed for block in blocks] == [True, True]


def test_close_ends_a_wait():
    """A reader that waits for a buffer is told when the pool closes."""
    pool = BufferPool(1, 4096)
    held = pool.acquire()
    told = []

    def wait():
        with pytest.raises(ValueError, match="closed"):
            pool.acquire()
        told.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pool.close()
    waiting.join()
    assert told
    held.release()


def test_many_threads_never_hold_the_same_memory():
    """Eight threads over three buffers: what a thread wrote is there until it releases."""
    with BufferPool(3, 4096) as pool:
        spoiled = []

        def work(number):
            mark = bytes([number]) * 4096
            for _ in range(200):
                with pool.acquire() as buffer:
                    buffer.view[:] = mark
                    if bytes(buffer.view) != mark:
                        spoiled.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not spoiled
        assert pool._made_count <= 3


def test_memory_is_had_where_the_kernel_has_no_huge_pages(monkeypatch):
    """Huge pages are a wish: a kernel that refuses the advice gives its memory all the same."""
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999)
    memory = aligned_memory(1 << 20)
    memory[-4:] = b"used"
    memory.close()
