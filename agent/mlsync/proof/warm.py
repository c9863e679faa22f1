"""A child on a GPU that waits for the next version, so that nobody imports torch for each of many that come soon.

Its context keeps some hundreds of megabytes from the trainer. So it waits for a limited time, and goes by itself after
that and as soon as little memory of the GPU is free; whoever owns it has it go whenever there is a reason. Whatever
went wrong in a child has ended it before it could come here.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from mlsync.errors import ProofUnavailable

if TYPE_CHECKING:
    from mlsync.proof.engine import Engine
    from mlsync.proof.options import ProofOptions

_LOG: Final = logging.getLogger(__name__)


class WarmEngine:
    """At most one engine whose child waits; used from one thread, which started the child, but for ``leave``."""

    def __init__(self) -> None:
        #: How long a child waits that is left here; 0 if none is to wait.
        self.stay_s = 0.0
        self._engine: Engine | None = None
        self._options: ProofOptions | None = None
        self._until_s = 0.0

    @property
    def left_s(self) -> float:
        """For how many seconds yet a child waits here; 0 if none does."""
        engine = self._engine
        return 0.0 if engine is None or not engine.is_alive() else max(0.0, self._until_s - time.monotonic())

    def has(self, options: ProofOptions) -> bool:
        """Return whether a child waits that was started with these options."""
        return self._options == options and self.left_s > 0

    def keep(self, engine: Engine, options: ProofOptions) -> None:
        """Have the engine's child wait for the next version, or end it: all that is not ready on a GPU."""
        self.close()
        if not (self.stay_s and engine.is_ready and engine.is_on_gpu):
            engine.close()
            return
        # Counted from here on both sides, and here it begins first.
        self._until_s = time.monotonic() + self.stay_s
        try:
            taken_bytes = engine.rest(self.stay_s)
        except ProofUnavailable as error:
            _LOG.debug("proof process %d does not stay: %s", engine.pid, error)
            engine.close()
            return
        if taken_bytes is None:
            _LOG.info("%s has little free memory, so the proof's process does not stay there", engine.info.device)
            engine.close()
            return
        self._engine, self._options = engine, options
        size = f"{taken_bytes >> 20} MiB" if taken_bytes else "some hundreds of MiB"
        what = "the proof's process %d stays on %s for %.0f s at most, with about %s of its memory"
        _LOG.info(what, engine.pid, engine.info.device, self.stay_s, size)

    def take(self, options: ProofOptions) -> Engine | None:
        """Return the engine that waits, with a new key, if it was started with these options and has not left."""
        engine = self._engine if self.has(options) else None
        if engine is None:
            self.close()
            return None
        self._engine = None
        try:
            engine.wake()
        except ProofUnavailable as error:
            # It left a moment ago, or its device failed while it waited: another one finds out.
            _LOG.debug("proof process %d waits no more: %s", engine.pid, error)
            engine.close()
            return None
        _LOG.debug("proof process %d goes on with another version", engine.pid)
        return engine

    def leave(self) -> None:
        """Have a child that waits end now; any thread may call this."""
        engine = self._engine
        if engine is not None:
            engine.kill()

    def close(self) -> None:
        """End the child that waits."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
