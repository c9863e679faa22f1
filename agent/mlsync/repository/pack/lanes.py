"""The packs that a writer is writing: each is being filled, being sent, or free.

Different threads code and send. A few threads fill packs, as many as the processors can serve. A pack that sends a part
takes only its own memory, so many can be sent at once to a store that is far away. The store says how many, and may
change its answer while it learns.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Protocol

from mlsync.buffers import aligned_memory
from mlsync.codec.keys import Keys
from mlsync.repository import names
from mlsync.repository.pack.builder import PackBuilder, buffer_bytes
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.pack.pack import PACK_ID_BYTES
from mlsync.store.base import Store

_LOG: Final = logging.getLogger(__name__)
# More threads than any store asks for; the pool starts them when they are needed.
_SENDERS_MAX: Final = 64


class Outcome(Protocol):
    """Receives the results of the packs."""

    @property
    def fault(self) -> BaseException | None:
        """The first error; after it nothing more is sent."""

    def fail(self, error: BaseException) -> None:
        """Record an error."""

    def pack_stored(self, pack_id: bytes, size_bytes: int) -> None:
        """Record that a pack is durable."""


class Lanes:
    """At most *at_once* packs that are not free; ``None`` lets the store say how many."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        outcome: Outcome,
        *,
        at_once: int | None,
        pack_bytes: int,
        journal: PackJournal | None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._outcome = outcome
        self._at_once = at_once
        self._pack_bytes = pack_bytes
        self._journal = journal
        self._changed = threading.Condition()
        self._busy_count = 0
        self._free: list[PackBuilder] = []
        self._memories: list[mmap.mmap] = []
        self._spare: list[mmap.mmap] = []
        self._memory_of: dict[bytes, mmap.mmap] = {}
        self._senders = ThreadPoolExecutor(_SENDERS_MAX, thread_name_prefix="mlsync-send")

    def take(self) -> PackBuilder:
        """Return a pack that has room for a chunk; it is the caller's alone until ``give_back``."""
        with self._changed:
            # At least one, whatever the store says: with none, this would wait for ever.
            self._changed.wait_for(lambda: self._busy_count < max(1, self._at_once or self._store.writes_at_once))
            self._busy_count += 1
            try:
                # The fullest first, so that a backup makes few packs.
                if self._free:
                    return self._free.pop(max(range(len(self._free)), key=lambda at: self._free[at].unsent_bytes))
                return self._new()
            except BaseException:
                self._busy_count -= 1
                raise

    def is_due(self, pack: PackBuilder) -> bool:
        """Return whether the pack must be given back before another chunk: it has a part to send, or is full."""
        return pack.has_part or self._is_full(pack)

    def give_back(self, pack: PackBuilder) -> None:
        """Send the parts of the pack that are full; then it is free."""
        if not self.is_due(pack):
            self._set_free(pack)
            return
        try:
            self._senders.submit(self._send, pack)
        except RuntimeError:  # no thread could be started
            self._set_free(pack)
            raise

    def close(self) -> None:
        """Finish every pack, or after a fault abort it; call this when nobody takes packs any more.

        The outcome holds the errors.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._busy_count == 0)
            packs, self._free = self._free, []
        for pack in packs:
            self._senders.submit(self._end, pack)
        self._senders.shutdown(wait=True)
        self._memory_of = {}
        for memory in self._memories:
            with suppress(BufferError):  # a fault's traceback may hold a view of it: it goes when the fault does
                memory.close()

    def _send(self, pack: PackBuilder) -> None:
        try:
            if self._outcome.fault is None:
                pack.send_parts()
        except BaseException as error:  # noqa: BLE001 - kept whole and raised by the writer's owner
            self._outcome.fail(error)
        if self._is_full(pack):
            self._end(pack)
            self._set_free(None)
        else:
            self._set_free(pack)

    def _end(self, pack: PackBuilder) -> None:
        try:
            if self._outcome.fault is None:
                size_bytes = pack.finish()
                self._outcome.pack_stored(pack.pack_id, size_bytes)
                _LOG.debug("stored %s, %d bytes", names.pack(pack.pack_id), size_bytes)
        except BaseException as error:  # noqa: BLE001 - as above
            self._outcome.fail(error)
        try:
            # This does nothing after a finish that succeeded.
            pack.abort()
        except BaseException as error:  # noqa: BLE001 - as above
            self._outcome.fail(error)
        with self._changed:
            self._spare.append(self._memory_of.pop(pack.pack_id))

    def _is_full(self, pack: PackBuilder) -> bool:
        return pack.size_bytes >= self._pack_bytes or pack.is_full

    def _set_free(self, pack: PackBuilder | None) -> None:
        with self._changed:
            if pack is not None:
                self._free.append(pack)
            self._busy_count -= 1
            self._changed.notify_all()

    def _new(self) -> PackBuilder:
        """Begin a pack, in the memory of a finished one if there is any."""
        if not self._spare:
            self._spare.append(aligned_memory(buffer_bytes(self._store)))
            self._memories.append(self._spare[-1])
        pack_id = os.urandom(PACK_ID_BYTES)
        memory = self._memory_of[pack_id] = self._spare.pop()
        return PackBuilder(self._store, self._keys, memoryview(memory), pack_id, self._journal)
