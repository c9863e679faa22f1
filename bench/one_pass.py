"""An agent's job on one run, for passes.py: a pass for each line that comes, and what it took of a processor.

    python bench/one_pass.py CONFIG there|starts

``there``: the process that makes passes is there already, as where versions come soon after each other; ``starts``: it
starts for each pass, as where they are more than half a minute apart.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from peers import SECRET

from mlsync.config.load import load
from mlsync.repository.keys.keyslot import Passphrase
from mlsync.service.backup_job import BackupJob, RepositoryOpener

# In /proc/PID/stat behind the name: processor time of the process and of the children that it waited for.
TIMES = slice(11, 15)


def main() -> None:
    config = load(sys.argv[1])
    is_there = sys.argv[2] == "there"
    opener = RepositoryOpener(config, Passphrase(SECRET.encode()))
    job = BackupJob(opener, config.watches[0], keeps_ready=is_there)
    job.hold()
    try:
        for _ in sys.stdin:
            print(json.dumps(one_pass(job, is_there=is_there)), flush=True)
    finally:
        job.close()


def one_pass(job: BackupJob, *, is_there: bool) -> dict[str, object]:
    """What the agent's own thread and the process with its children took of a processor until the pass was over."""
    if not is_there:
        job._process.close()  # noqa: SLF001 - as half a minute without a version would do
    pid = job._process.pid  # noqa: SLF001 - only this benchmark wants to know it
    before_s = 0.0 if pid is None else cpu_s(pid)
    own_s, began_s = time.process_time(), time.perf_counter()
    made = job.run(threading.Event())
    pid = job._process.pid  # noqa: SLF001 - as above
    assert pid is not None
    return {
        "cpu_s": cpu_s(pid) - before_s + time.process_time() - own_s,
        "wall_s": time.perf_counter() - began_s,
        "version": made.version,
        "proved": made.proved_version,
    }


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[TIMES])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
