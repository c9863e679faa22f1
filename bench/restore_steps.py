"""What price.py --restore measures, in a process of its own: ``restore_steps.py ARGUMENTS``, a JSON object.

A real restore, with its threads, in which each step's functions are clocked in the thread that calls them; what one
step calls of another counts for the other alone. The last line of the output is a JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

#: Each step, and the functions that do its work: module, class or empty, name.
CLOCKED = {
    "receive": [("mlsync.repository.reader", "", "read_range")],
    "unseal": [("mlsync.codec.sealing", "Seal", "open_into"), ("mlsync.codec.sealing", "Seal", "open")],
    "decode": [("mlsync.repository.reader", "", "decode_into")],
    "add base": [("mlsync.repository.reader", "", "add_base"), ("mlsync.codec.compression", "", "add_base")],
    "chunk name": [("mlsync.repository.reader", "", "is_named")],
    "file digest": [("mlsync.codec.digest", "FileDigester", "update")],
    "bases at hand": [("mlsync.restore.bases", "BasesAtHand", "read"), ("mlsync.restore.bases", "BasesAtHand", "keep")],
    "write": [("mlsync.target.staging", "Staging", "_write")],
    "fsync, name": [("mlsync.target.target", "Target", "_make_durable")],
}


class Clocks:
    """Processor seconds, and seconds in all, of each step; of several threads together."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.wall_s: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._within = threading.local()

    def around(self, step: str, work):
        def clocked(*arguments, **more):
            stack = self._within.__dict__.setdefault("stack", [])
            stack.append([0.0, 0.0])
            began = time.thread_time(), time.perf_counter()
            try:
                return work(*arguments, **more)
            finally:
                spent = time.thread_time() - began[0], time.perf_counter() - began[1]
                inner = stack.pop()
                if stack:
                    stack[-1][0] += spent[0]
                    stack[-1][1] += spent[1]
                with self._lock:
                    self.cpu_s[step] += spent[0] - inner[0]
                    self.wall_s[step] += spent[1] - inner[1]
                    self.calls[step] += 1

        return clocked


def clock_all() -> Clocks:
    """Clock every function that this commit has."""
    clocks = Clocks()
    for step, functions in CLOCKED.items():
        for module, owner, name in functions:
            try:
                place = __import__(module, fromlist=["_"])
            except ImportError:
                continue
            place = getattr(place, owner) if owner else place
            if hasattr(place, name):
                setattr(place, name, clocks.around(step, getattr(place, name)))
    return clocks


def restore(config: str, passphrase: str, to: str) -> dict[str, object]:
    """Restore the newest version; the start, the key's derivation and the manifest are apart."""
    began_s = time.perf_counter()
    from mlsync.app.session import Session
    from mlsync.config.load import load
    from mlsync.monitor import SilentMonitor
    from mlsync.repository.keys.keyslot import Passphrase
    from mlsync.restore.restore import RestoreOptions
    from mlsync.restore.restore import restore as restored
    from mlsync.versions.select import find_run, find_version

    with Session.open(load(Path(config)), lambda: Passphrase(passphrase.encode()), SilentMonitor()) as session:
        repository = session.repository
        manifest = repository.manifest(find_version(repository, find_run(repository, None), "latest"))
        clocks = clock_all()
        start_s, start_cpu_s = time.perf_counter() - began_s, time.process_time()
        before, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        result = restored(repository, manifest, os.fsencode(to), RestoreOptions(), SilentMonitor())
        wall_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    assert not result.failures
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    steps = {step: clocks.cpu_s[step] for step in CLOCKED if clocks.calls[step]}
    waited = {step: clocks.wall_s[step] - clocks.cpu_s[step] for step in steps}
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "start_s": start_s,
        "start_cpu_s": start_cpu_s,
        "steps_cpu_s": steps | {"rest": cpu_s - sum(steps.values())},
        "steps_waited_s": waited,
        "reads": clocks.calls["receive"],
        "read_bytes": result.read_bytes,
        "size_bytes": result.written_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(restore(**json.loads(sys.argv[1]))))
