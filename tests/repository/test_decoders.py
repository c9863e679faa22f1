"""Decoders are made before threads need them: while msgspec makes a struct's first one, another thread would crash."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "agent" / "mlsync"
# Each child decodes for the first time in its life, in several threads at once, which change places all the time.
CHILDREN = textwrap.dedent("""
    import os, sys, threading
    sys.path[:0] = sys.argv[1:]
    from forged import packed, read_root, root_value
    from mlsync.repository.encoding.canonical import decode_as
    from mlsync.repository.manifest import ManifestRoot
    plain, threads = packed(root_value()), 4
    sys.setswitchinterval(1e-6)

    def child():
        barrier = threading.Barrier(threads)
        def run():
            barrier.wait()
            decode_as(plain, ManifestRoot, "here")
        all_of_them = [threading.Thread(target=run) for _ in range(threads)]
        for one in all_of_them:
            one.start()
        for one in all_of_them:
            one.join()

    ended = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            child()
            os._exit(0)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(sorted(set(ended)))
""")


def test_versions_may_be_read_by_several_threads_from_the_first_on():
    """Threads that read their first manifests at once all get them; no process ends by a signal."""
    command = [sys.executable, "-c", CHILDREN, str(TESTS), str(TESTS / "repository")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ""})
    assert (done.stdout, done.stderr) == ("[0]\n", "")


def test_no_decoder_is_made_where_it_is_used():
    """Nothing is decoded with a type alone, which makes a decoder, in whatever thread it is."""
    once = re.compile(r"msgspec\.(?:json|msgpack)\.decode\(|msgspec\.convert\(")
    found = [str(path) for path in PACKAGE.rglob("*.py") if once.search(path.read_text())]
    assert found == []
