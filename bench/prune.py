"""Prune: what it costs to delete nine of ten versions of a long history, in requests, seconds and memory.

    python bench/prune.py [--versions 10000]

The history lies in memory, so that the counts are the store's and the seconds mlsync's own: each version has a file of
its own and a pack of its own. One prune removes the versions and marks packs, one after the grace deletes these. At the
end every version left is read back. Writes results/prune.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "repository")]

from format_parts import file_entry, new_repository, unknown, version, write_chunks  # noqa: E402 - it lies there

from doubles.memory_store import MemoryStore  # noqa: E402
from doubles.recording_monitor import RecordingMonitor  # noqa: E402
from mlsync.repository.commit import commit  # noqa: E402
from mlsync.repository.decision import Forgotten  # noqa: E402
from mlsync.repository.decisions import By, decide  # noqa: E402
from mlsync.repository.manifest import Previous  # noqa: E402
from mlsync.repository.repository import Repository  # noqa: E402
from mlsync.repository.seen_decision import half  # noqa: E402
from mlsync.store.counting import CountingStore  # noqa: E402
from mlsync.upkeep.check import check  # noqa: E402
from mlsync.upkeep.prune import PruneOptions, carry_out, plan  # noqa: E402

NOW_NS = 4 * 10**18
DAY_NS = 86_400 * 10**9


def history(count: int) -> tuple[Repository, dict[int, bytes]]:
    """A run of so many versions, and the digests of their manifests."""
    store = MemoryStore()
    repository, previous, digests = new_repository(store), None, {}
    for number in range(1, count + 1):
        content = [os.urandom(300)]
        entry = file_entry(b"a", write_chunks(store, repository.keys, content), content)
        digest = commit(repository, version((entry,), number, previous), unknown).digest
        previous, digests[number] = Previous(number, digest), digest
    return repository, digests


def pruned(repository: Repository, now_ns: int) -> dict[str, object]:
    """Prune, and return what it cost."""
    counted = CountingStore(repository.store)
    options = PruneOptions(now_ns, "bench", young_s=-1e11)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    seen = Repository(counted, repository.keys)
    done = carry_out(seen, plan(seen, RecordingMonitor(), options), RecordingMonitor(), options)
    return {
        "wall_seconds": round(time.monotonic() - began_s, 1),
        "cpu_seconds": round(time.process_time() - began_cpu_s, 1),
        "requests": counted.calls,
        "versions_removed": len(done.versions),
        "packs_marked": len(done.marked),
        "packs_deleted": len(done.deleted),
    }


def memory_mib() -> int:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    count = parser.parse_args().versions
    repository, digests = history(count)

    def forget(_decided: object, draft: object) -> None:
        for number, digest in digests.items():
            if number % 10 and number != count:
                draft.forgotten[number] = Forgotten(number, half(digest), "bench", 0)  # type: ignore[attr-defined]

    decide(repository, "run", None, forget, By("bench", 1))
    before_mib = memory_mib()
    result = {
        "versions": count,
        "first_prune": pruned(repository, NOW_NS),
        "second_prune": pruned(repository, NOW_NS + 8 * DAY_NS),
        "memory_mib": {"with_the_store_before": before_mib, "peak": memory_mib()},
    }
    result["problems_afterwards"] = len(check(repository, RecordingMonitor(), read_data=True).problems)
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    (Path(__file__).parent / "results" / "prune.json").write_text(text)


if __name__ == "__main__":
    main()
