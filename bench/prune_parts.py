"""Parts of prune.py that run in processes of their own, so that the one that measures stays small (see process.py).

    python bench/prune_parts.py in-memory COUNT
    python bench/prune_parts.py history-in-bucket URL ENDPOINT COUNT [PACKS]
    python bench/prune_parts.py check-bucket URL ENDPOINT
    python bench/prune_parts.py backups CONFIG SOURCE COUNT
    python bench/prune_parts.py restores CONFIG TARGET NUMBER...

Each prints its result as JSON. The last two run ``mlsync`` so often that its start would be most of the time: they
import it once, and each command is a fork of that process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prune_tree
from peers import SECRET

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "repository")]

from format_parts import file_entry, new_repository, unknown, version, write_chunks  # noqa: E402 - it lies there

from doubles.memory_store import MemoryStore  # noqa: E402
from doubles.recording_monitor import RecordingMonitor  # noqa: E402
from mlsync.repository.commit import commit  # noqa: E402
from mlsync.repository.history.decision import Forgotten  # noqa: E402
from mlsync.repository.history.decisions import By, decide  # noqa: E402
from mlsync.repository.history.seen_decision import half  # noqa: E402
from mlsync.repository.keys.keyslot import Passphrase  # noqa: E402
from mlsync.repository.manifest import Entry, Previous  # noqa: E402
from mlsync.repository.repository import Repository  # noqa: E402
from mlsync.store.counting import CountingStore  # noqa: E402
from mlsync.store.location import StoreOptions, open_store  # noqa: E402
from mlsync.upkeep.check import check  # noqa: E402
from mlsync.upkeep.prune import PruneOptions, carry_out, plan  # noqa: E402

NOW_NS = 4 * 10**18
DAY_NS = 86_400 * 10**9
AT_ONCE = 8


# ---------------------------------------------------------------- a history in memory


def in_memory(count: str) -> dict[str, object]:
    """Prune nine of ten versions of a history in memory, so that all counts are the store's, all seconds mlsync's."""
    versions = int(count)
    repository = new_repository(MemoryStore())
    digests = commit_history(repository, versions)

    def forget(_decided: object, draft: object) -> None:
        for number, digest in digests.items():
            if number % 10 and number != versions:
                draft.forgotten[number] = Forgotten(number, half(digest), "bench", 0)  # type: ignore[attr-defined]

    decide(repository, "run", None, forget, By("bench", 1))
    before_mib = memory_mib()
    result = {
        "versions": versions,
        "first_prune": pruned(repository, NOW_NS),
        "second_prune": pruned(repository, NOW_NS + 8 * DAY_NS),
        "memory_mib": {"with_the_store_before": before_mib, "peak": memory_mib()},
    }
    return result | {"problems_afterwards": problems(repository)}


def commit_history(repository: Repository, count: int, packs: int = 1, run: str = "run") -> dict[int, bytes]:
    """Make so many versions, each with a file and packs of its own; return the digests of their manifests."""
    previous, digests = None, {}

    def entry(_number: int) -> Entry:
        content = [os.urandom(300) for _ in range(packs)]
        refs = [ref for piece in content for ref in write_chunks(repository.store, repository.keys, [piece])]
        return file_entry(b"a", refs, content)

    with ThreadPoolExecutor(AT_ONCE) as executor:
        for number, made in enumerate(executor.map(entry, range(count)), start=1):
            digest = commit(repository, version((made,), number, previous, run), unknown).digest
            previous, digests[number] = Previous(number, digest), digest
    return digests


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


def problems(repository: Repository) -> int:
    """How many problems a check finds that reads all data."""
    return len(check(repository, RecordingMonitor(), read_data=True).problems)


# ---------------------------------------------------------------- a history in a bucket


def history_in_bucket(url: str, endpoint_url: str, count: str, packs: str = "1") -> dict[str, object]:
    """Make a run of so many versions, each with so many packs, in a repository that is there."""
    return {"versions": len(commit_history(in_bucket(url, endpoint_url), int(count), int(packs)))}


def check_bucket(url: str, endpoint_url: str) -> dict[str, object]:
    """Read everything that the repository has."""
    return {"problems_afterwards": problems(in_bucket(url, endpoint_url))}


def in_bucket(url: str, endpoint_url: str) -> Repository:
    """Open the repository that ``mlsync init`` made."""
    store = open_store(url, StoreOptions(endpoint_url=endpoint_url))
    return Repository.open(store, Passphrase(SECRET.encode()))


# ---------------------------------------------------------------- many commands


def backups(config: str, source: str, count: str) -> dict[str, object]:
    """Make the tree's versions one after the other, and back each up."""
    for number in range(1, int(count) + 1):
        prune_tree.save(Path(source), number)
        in_fork(lambda: command("backup", "--quickly", "--quiet", "--config", config))
    return {"versions": int(count)}


def restores(config: str, target: str, *numbers: str) -> dict[str, object]:
    """Restore versions, each to a directory of its number."""
    for number in numbers:
        into = str(Path(target, number))
        in_fork(
            lambda into=into, number=number: command("restore", "--version", number, "--to", into, "--config", config)
        )
    return {"restored": len(numbers)}


def command(*arguments: str) -> None:
    """Run ``mlsync`` in this process, and end with it."""
    from mlsync.cli.main import main as mlsync_main

    sys.argv = ["mlsync", *arguments]
    sys.stdout = sys.stderr
    mlsync_main()


def in_fork(work: Callable[[], None]) -> None:
    """Do the work in a child; one that fails ends the benchmark."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except SystemExit as leaving:
            os._exit(leaving.code if isinstance(leaving.code, int) else 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"a command ended with {os.waitstatus_to_exitcode(status)}")


def preload() -> None:
    """Import what the commands import, before there are any of them."""
    import mlsync.app.passes
    import mlsync.backup.new_version
    import mlsync.cli.backup
    import mlsync.cli.restore  # noqa: F401


PARTS: dict[str, Callable[..., dict[str, object]]] = {
    "in-memory": in_memory,
    "history-in-bucket": history_in_bucket,
    "check-bucket": check_bucket,
    "backups": backups,
    "restores": restores,
}


if __name__ == "__main__":
    if sys.argv[1] in ("backups", "restores"):
        preload()
    name, *words = sys.argv[1:]
    print(json.dumps(PARTS[name](*words)))
