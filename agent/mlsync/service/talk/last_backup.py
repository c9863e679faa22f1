"""Tell running agents that the machine ends, and wait until the last backups are committed, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mlsync.errors import AgentAway, LastBackupLate, Stopped
from mlsync.service.talk.ask_now import AskedPass, ask_for_passes, wait_for_passes

_AGAIN_S: Final = 1.0
_ADVICE: Final = "what was uploaded is used by the next backup, if the state directory is still there"


def back_up_for_the_end(
    state_directory: Path,
    repository: str,
    runs: Sequence[str],
    within_s: float,
    stop: Callable[[], bool],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[AskedPass]:
    """Have each of *runs*, or all of them, be backed up within *within_s*; return how the passes ended.

    One that fails is tried again as long as there is time. Raises ``LastBackupLate`` once that is over, ``Stopped`` if
    *stop* says so, and what ``ask_for_passes`` does.
    """
    end_s = clock() + within_s
    ended: dict[str, AskedPass] = {}
    asked = ask_for_passes(state_directory, repository, runs, within_s=within_s)
    wanted = [one.run for one in asked]
    while True:
        for one in wait_for_passes(asked, lambda: stop() or clock() >= end_s, sleep):
            ended[one.run] = one
        missing = [run for run in wanted if run not in ended or ended[run].error is not None]
        if not missing:
            break
        if stop():
            raise Stopped("no longer waiting; the agent goes on with the last backup")
        if clock() >= end_s:
            raise _late(missing, ended)
        sleep(min(_AGAIN_S, max(0.0, end_s - clock())))
        asked = ask_for_passes(state_directory, repository, missing)
    gone = [run for run in wanted if ended[run].summary is None]
    if gone:
        raise AgentAway("the agent ended before the last backup", where=gone[0])
    return [ended[run] for run in wanted]


def _late(missing: Sequence[str], ended: dict[str, AskedPass]) -> LastBackupLate:
    first = ended.get(missing[0])
    why = "" if first is None or first.error is None else f": {first.error}"
    what = f"the time is over, and the last backup of {', '.join(missing)} is not committed{why}"
    return LastBackupLate(what, advice=_ADVICE)
