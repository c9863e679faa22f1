"""The packs that a writer has under way: each is with whoever fills it, on its way to the store, or free.

Coding and sending are done by different threads. A few fill packs, as many as the processor has work for; and while a
pack sends a part, it takes nothing but its own memory, so many can be on their way to a store that is far away. How
many is the store's to say, again and again: it may find out only by and by.
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
# More threads than any store asks for; they are made when they are needed.
_SENDERS_MAX: Final = 64


class Outcome(Protocol):
    """Who hears what became of the packs."""

    @property
    def fault(self) -> BaseException | None:
        """The first thing that went wrong, after which nothing more is sent."""

    def fail(self, error: BaseException) -> None:
        """Something went wrong."""

    def pack_stored(self, pack_id: bytes, size_bytes: int) -> None:
        """A pack is durable."""


class Lanes:
    """At most *at_once* packs that are not free; as many as the store says from time to time if that is ``None``."""

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
        """Give a pack that has room for a chunk, to the caller alone."""
        with self._changed:
            # At least one, whatever the store says: nothing would ever end.
            self._changed.wait_for(lambda: self._busy_count < max(1, self._at_once or self._store.writes_at_once))
            self._busy_count += 1
            try:
                # The fullest: a backup leaves no more packs than it has to.
                if self._free:
                    return self._free.pop(max(range(len(self._free)), key=lambda at: self._free[at].unsent_bytes))
                return self._new()
            except BaseException:
                self._busy_count -= 1
                raise

    def is_due(self, pack: PackBuilder) -> bool:
        """Whether the pack has to be given back before another chunk: it has a part to send, or is full."""
        return pack.has_part or self._is_full(pack)

    def give_back(self, pack: PackBuilder) -> None:
        """Have the pack sent as far as it is due; it is free after that."""
        if not self.is_due(pack):
            self._set_free(pack)
            return
        try:
            self._senders.submit(self._send, pack)
        except RuntimeError:  # no thread is to be had
            self._set_free(pack)
            raise

    def close(self) -> None:
        """Every pack is durable, or after a fault left as its journal has it; to be called when nobody takes any more.

        What went wrong is the outcome's to tell.
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
            # Does nothing after a finish that went well.
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
        """Begin a pack in memory that an earlier one had, if there is any."""
        if not self._spare:
            self._spare.append(aligned_memory(buffer_bytes(self._store)))
            self._memories.append(self._spare[-1])
        pack_id = os.urandom(PACK_ID_BYTES)
        memory = self._memory_of[pack_id] = self._spare.pop()
        return PackBuilder(self._store, self._keys, memoryview(memory), pack_id, self._journal)
