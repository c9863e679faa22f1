"""Which requests the log names, with a store that answers when the test lets it."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from doubles.memory_store import MemoryStore
from mlsync.store.slow import SlowRequestLog
from mlsync.store.wrapping import WrappingStore

PATIENCE_S = 30.0


class StuckStore(WrappingStore):
    """Answers no call before the test says so."""

    def __init__(self, store):
        super().__init__(store)
        self.answers = threading.Event()

    def call(self, method, key, work):
        """Wait for the test."""
        assert self.answers.wait(PATIENCE_S)
        return super().call(method, key, work)


@pytest.fixture
def stuck():
    """A store that does not answer, and the log of its requests."""
    inner = MemoryStore()
    inner.put("packs/ab", b"content")
    stuck = StuckStore(inner)
    logged = SlowRequestLog(stuck, slow_s=0.05)
    yield stuck, logged
    stuck.answers.set()
    logged.close()


def wait_for(caplog, text):
    """Wait until a line with *text* was logged."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(text in line for line in caplog.messages):
        assert time.monotonic() < deadline, caplog.messages
        time.sleep(0.01)


def test_a_request_without_an_answer_is_named_while_it_waits(stuck, caplog):
    """The log names the method and the object before the answer comes, and the time that it took after that."""
    caplog.set_level(logging.DEBUG, "mlsync.store.slow")
    store, logged = stuck
    thread = threading.Thread(target=lambda: logged.get("packs/ab", limit_bytes=100))
    thread.start()
    wait_for(caplog, "store: get of packs/ab has had no answer for ")
    assert not any(" took " in line for line in caplog.messages)
    store.answers.set()
    thread.join()
    assert caplog.messages[-1].startswith("store: get of packs/ab took ")


def test_a_listing_is_named_by_its_prefix(stuck, caplog):
    """A listing that stands still, at its beginning or in the middle, is a request like others."""
    caplog.set_level(logging.DEBUG, "mlsync.store.slow")
    store, logged = stuck
    thread = threading.Thread(target=lambda: list(logged.list("packs/")))
    thread.start()
    wait_for(caplog, "store: list of packs/ has had no answer for ")
    store.answers.set()
    thread.join()


def test_a_fast_request_is_not_logged(caplog):
    """What the store answers at once leaves no line, also long after."""
    caplog.set_level(logging.DEBUG, "mlsync.store.slow")
    logged = SlowRequestLog(MemoryStore(), slow_s=0.2)
    logged.put("packs/ab", b"content")
    assert [found.key for found in logged.list("packs/")] == ["packs/ab"]
    time.sleep(0.5)
    logged.close()
    assert caplog.messages == []
