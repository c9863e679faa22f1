"""A child process with its device, and the transfer of one file's tensors to it."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from mlsync.errors import ProofDisbelieved, ProofUnavailable
from mlsync.formats.layout import BIG_ENDIAN, Content, Storage
from mlsync.proof.child import WINDOW_STRIDE_BYTES, DeviceInfo, ProofChild
from mlsync.proof.digest import WindowDigest, window_digest
from mlsync.proof.options import ProofOptions
from mlsync.proof.spans import SpanCursor
from mlsync.proof.user import User

if TYPE_CHECKING:
    from mlsync.proof.windows import Counts, WindowSender

_LOG: Final = logging.getLogger(__name__)
# The windows of a child on the CPU; chunks are opened directly into them.
_SHORT_WINDOW_BYTES = 1 << 20
# The time to give memory back or take it again, both of which are done in an instant.
_REST_TIMEOUT_S = 30.0


class Engine:
    """A child with its key and windows; ``info`` is its device once it is ready."""

    def __init__(self, options: ProofOptions, user: User | None, as_root: str) -> None:
        self.info: DeviceInfo
        self._options = options
        self._stride_bytes = stride_bytes(options.device)
        self._home = os.path.expanduser("~") if user is None else user.home
        self._as_root = as_root
        self._digest: WindowDigest | None = None
        self._seed = os.urandom(32)
        self._child = ProofChild(options.python or sys.executable, options.device, user)
        self._started_s = time.monotonic()
        _LOG.debug("proof process %d started with %s for %s", self.pid, self._child.python, options.device)
        try:
            self._send_opening()
        except BaseException:
            self._child.close()
            raise

    def _send_opening(self) -> None:
        from mlsync.proof.windows import windows_in_memory

        options = self._options
        self._child.set_timeout(options.start_timeout_s)
        self._child.send(
            {
                "device": options.device,
                "seed": self._seed.hex(),
                "memory_bytes": options.memory_bytes,
                "windows": windows_in_memory(self._child.memory, self._stride_bytes),
                "threads": options.threads,
                # Where "pip install --user" puts numpy or torch; the child has no HOME to find it by.
                "user_base": os.path.join(self._home, ".local"),
            }
        )

    def set_tick(self, call: Callable[[], None] | None) -> None:
        """Have *call* called now and then while the child is waited for."""
        self._child.on_tick = call

    @property
    def is_ready(self) -> bool:
        """Whether the child has its device."""
        return self._digest is not None

    def wait_ready(self) -> None:
        """Wait until the child has its device."""
        if self.is_ready:
            return
        _LOG.debug("waiting for proof process %d", self.pid)
        answer = self._child.wait_answer()
        window_bytes = answer.get("window_bytes")
        if answer.get("ready") is not True or window_bytes not in (1 << 20, 16 << 20):
            self._child.protocol_error("an answer that does not parse")
        digest = window_digest(str(answer.get("digest")), self._seed, window_bytes)
        if digest is None:
            self._child.protocol_error("an answer that does not parse")
        self._child.mark_ready()
        names = ("device", "torch", "cuda", "driver", "note", "unconfined")
        texts = {name: str(answer.get(name, ""))[:300] for name in names}
        self.info = DeviceInfo(window_bytes=window_bytes, as_root=self._as_root, **texts)
        self._digest = digest
        started_in_s = time.monotonic() - self._started_s
        _LOG.debug("proof process %d is ready on %s after %.1f s", self.pid, self.info.device, started_in_s)

    @property
    def is_on_gpu(self) -> bool:
        """Whether the device of a child that is ready is a GPU."""
        return self.info.device.startswith("cuda:")

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Whether the child still runs."""
        return self._child.is_alive()

    def begin(self, storages: Sequence[Storage], timeout_s: float) -> WindowSender:
        """Begin a file, and return what sends its tensors."""
        from mlsync.proof.windows import WindowSender

        assert self._digest is not None
        self._child.set_timeout(timeout_s)
        self._child.send({"begin": True, "cpu_s": int(timeout_s) + 60})
        return WindowSender(self._child, self._digest, self.info.window_bytes, self._stride_bytes, storages)

    def rest(self, stay_s: float) -> int | None:
        """Have the child, which is between two files, wait for another version; it ends by itself after *stay_s*.

        Nothing of what was proved stays with it. Return how much of the GPU's memory it keeps; ``None`` if it leaves at
        once, because others need that.
        """
        self._child.on_tick = None
        self._child.forget_windows()
        self._forget_key()
        self._child.set_timeout(_REST_TIMEOUT_S)
        self._child.send({"rest_s": stay_s})
        answer = self._child.wait_answer()
        rests, taken_bytes = answer.get("rests"), answer.get("taken_bytes")
        if not isinstance(rests, bool) or not isinstance(taken_bytes, int) or taken_bytes < 0:
            self._child.protocol_error("an answer to a question that was not asked")
        return taken_bytes if rests else None

    def wake(self) -> None:
        """Have a child that waits take memory again, and a new key; raises ``ProofUnavailable`` if it has left."""
        self._seed = os.urandom(32)
        self._child.set_timeout(_REST_TIMEOUT_S)
        self._child.send({"wake": self._seed.hex(), "cpu_s": int(_REST_TIMEOUT_S)})
        digest = window_digest("nh", self._seed, self.info.window_bytes)  # while the child makes the same key
        if self._child.wait_answer() != {"awake": True}:
            self._child.protocol_error("an answer to a question that was not asked")
        self._digest = digest

    def protocol_error(self, what: str) -> NoReturn:
        """Raise that the child sent *what*."""
        self._child.protocol_error(what)

    def kill(self) -> None:
        """Have the child end now, from any thread; ``close`` has to follow."""
        self._child.kill()

    def close(self) -> None:
        """End the child."""
        self._child.close()
        self._forget_key()

    def _forget_key(self) -> None:
        digest, self._digest = self._digest, None
        if digest is not None:
            digest.close()


class Transfer:
    """Sends one file's tensors to the device; an ``error`` stops that, and the pass over the file goes on."""

    def __init__(
        self,
        storages: Sequence[Storage],
        engine: Engine | None = None,
        sender: WindowSender | None = None,
        error: ProofUnavailable | None = None,
    ) -> None:
        self.error = error
        self._engine = engine
        self._sender = sender
        self._cursor = SpanCursor(storages)

    def allocate(self, offset: int, length: int) -> memoryview | None:
        """Return shared memory for what is fed later as one block, or ``None`` if that is to be copied."""
        return None if self._sender is None or self.error is not None else self._sender.allocate(offset, length)

    @property
    def lent_memory(self) -> bool:
        """Whether bytes of the file were in memory that the child can write to."""
        return self._sender is not None and self._sender.lent_memory

    def feed(self, offset: int, block: memoryview) -> None:
        """Send the parts of *block* that belong to storages."""
        if self._sender is None or self.error is not None:
            return
        try:
            for index, piece, ends in self._cursor.pieces(offset, block):
                self._sender.add(index, piece, offset)
                if ends:
                    self._sender.close_storage()
        except ProofUnavailable as error:
            self.error = without_frames(error)

    def protocol_error(self, what: str) -> None:
        """Drop the answers of the child, which sent *what*."""
        assert self._engine is not None
        try:
            self._engine.protocol_error(what)
        except ProofDisbelieved as error:
            self.error = without_frames(error)

    def finish(self) -> None:
        """Wait for the last answer."""
        if self._sender is None or self.error is not None:
            return
        try:
            self._sender.finish()
        except ProofUnavailable as error:
            self.error = without_frames(error)

    def counts(self) -> dict[int, Counts]:
        """Return what the device counted, by storage, in the order of the file."""
        return dict(sorted(self._sender.counts.items())) if self._sender is not None else {}

    def uncounted(self) -> list[str]:
        """Return the types whose numbers the device's torch does not support."""
        return sorted(self._sender.uncounted) if self._sender is not None else []

    def unseen(self) -> list[str]:
        """Return the types whose numbers no torch supports."""
        return sorted(self._sender.unseen) if self._sender is not None else []

    def info(self) -> DeviceInfo | None:
        """Return the device, if one was used."""
        return self._engine.info if self._engine is not None else None


def stride_bytes(device: str) -> int:
    """Return the distance of the windows: large if there may be a GPU, else small enough for a CPU's cache."""
    return WINDOW_STRIDE_BYTES if may_use_gpu(device) else _SHORT_WINDOW_BYTES


def may_use_gpu(device: str) -> bool:
    """Return whether the child looks for a GPU, for which it imports torch."""
    from mlsync.proof.programs.gpus import why_none

    return device.startswith("cuda") or (device != "cpu" and not why_none())


def storages_to_send(content: Content) -> Sequence[Storage]:
    """Return the storages; those of the other byte order are digested as bytes, for their numbers would be misread."""
    if content.facts.get("byteorder") != "big":
        return content.storages
    return [
        storage._replace(dtype=BIG_ENDIAN + storage.dtype) if storage.item_bytes > 1 else storage
        for storage in content.storages
    ]


def without_frames(error: ProofUnavailable) -> ProofUnavailable:
    """Return the error without its frames, which would keep the child's memory alive."""
    error.__context__ = None
    return error.with_traceback(None)
