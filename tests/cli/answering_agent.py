"""An agent that answers at its socket, with everything that a status can say."""

from __future__ import annotations

import contextlib
import time

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.service import status
from mlsync.service.job import Heartbeat
from mlsync.service.passes.doing import Doing
from mlsync.service.run_record import LastEvaluation, RunRecord
from mlsync.service.status import RunStatus
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.talk import Talk
from mlsync.service.worker import RunState
from mlsync.upkeep.version_seen import VersionSeen


class Answering:
    """An agent with the run yolo, at work, after all that can go wrong."""

    def __init__(self, machine, *, proved_s):
        now_s = time.time()
        record = RunRecord(wall=lambda: now_s - 310)
        versions = tuple(
            VersionSeen(n, now_s, checkpoint_s=now_s - 7200 + 60 * n, is_hidden=n == 3) for n in range(1, 6)
        )
        record.passed(PassResult("yolo", None, None, (), "", versions), proved_s, 1.0)
        record.evaluated(LastEvaluation(5, now_s, {"accuracy": 0.5}))
        for _ in range(2):
            record.failed(ValueError("the store was away"))
        heartbeat = Heartbeat(wall=lambda: now_s - 30)
        waits = "store: put failed, trying again in 2.0 s: away"
        heartbeat.beat(Doing("yolo: saving", "last.pt", 3 << 30, 4 << 30, "B", 95.0, waits, 4))
        state = RunState("running", 17, now_s - 60, 16, proved_s)
        run = RunStatus("yolo", machine.training, True, state, None, now_s, record, heartbeat, 130.0, now_s - 50, 5.0)
        self.value = status.as_json([run], machine.url, now_s, now_s)

    def as_json(self):
        """What ``GET /status`` answers."""
        return self.value


@contextlib.contextmanager
def answering(machine, *, proved_s):
    """The agent, at its socket."""
    agent = Answering(machine, proved_s=proved_s)
    with Talk(agent, AgentPlace(machine.state), RecordingMonitor()).going_on():
        yield agent
