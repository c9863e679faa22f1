"""When a proof that could not be had is tried again: a module that the idle agent can afford to import.

A proof is lost for a moment (memory was short, a process was killed) or for good (no GPU). So the first try comes after
a minute, and the waits grow with the time since the first failure, to an hour. A proof that works starts it anew.
"""

from __future__ import annotations

from typing import Final

from mlsync.source.state import State

# Each try starts a process that looks for the device.
FIRST_S: Final = 60.0
PROVE_EVERY_S: Final = 3600.0
_TRIED: Final = "proved"
_FAILED_FIRST: Final = "proof failed first"
_NEVER: Final = 0
_NS: Final = 10**9


def is_proof_due(state: State, run: str, now_ns: int) -> bool:
    """Return whether a version of the run is pending, and its proof is to be tried now."""
    if not state.pending(run):
        return False
    tried_ns = state.last_ns(run, _TRIED)
    failed_ns = state.last_ns(run, _FAILED_FIRST)
    if tried_ns is None or not failed_ns:
        return True
    wait_s = min(max((tried_ns - failed_ns) / _NS, FIRST_S), PROVE_EVERY_S)
    # A clock that was set back must not delay it until the clock has caught up.
    return not 0 <= now_ns - tried_ns < wait_s * _NS


def note_proof(state: State, run: str, now_ns: int, *, works: bool) -> None:
    """Note that a proof was tried: whether it worked or could not be had."""
    if works:
        # Written only when it changes: most passes prove something.
        if state.last_ns(run, _FAILED_FIRST):
            state.set_last_ns(run, _FAILED_FIRST, _NEVER)
        return
    failed_ns = state.last_ns(run, _FAILED_FIRST)
    if not failed_ns or failed_ns > now_ns:
        state.set_last_ns(run, _FAILED_FIRST, now_ns)
    state.set_last_ns(run, _TRIED, now_ns)
