"""A store that learns how many calls at a time it wants, as S3 does, and shows how many it gets."""

from __future__ import annotations

import threading
import time

from mlsync.store.counting import CountingStore


class ElasticStore(CountingStore):
    """A store that says how many at a time it wants, holds each call up, and counts how many wait."""

    def __init__(self, store, at_once):
        super().__init__(store)
        self.at_once = at_once
        self.hold_s = 0.0
        self.waiting_count = self.most_count = 0
        self.may_go = threading.Event()
        self._changed = threading.Condition()

    @property
    def writes_at_once(self):
        """What the test says."""
        return self.at_once

    @property
    def reads_at_once(self):
        """What the test says."""
        return self.at_once

    def call(self, method, key, work):
        """Hold up what moves bytes."""
        if method in ("upload.write", "read"):
            self._hold()
        return super().call(method, key, work)

    def _hold(self):
        with self._changed:
            self.waiting_count += 1
            self.most_count = max(self.most_count, self.waiting_count)
            self._changed.notify_all()
        assert self.may_go.wait(30)
        time.sleep(self.hold_s)
        with self._changed:
            self.waiting_count -= 1

    def wait_for(self, count):
        """Return when so many calls wait."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting_count >= count, 30)
