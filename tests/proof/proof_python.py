"""The Python that the children of these tests run in, and what there is to know of it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

PROOF_PYTHON = os.environ.get("MLSYNC_TEST_PROOF_PYTHON") or sys.executable


@cache
def asked(expression: str, imports: str = "sys") -> str:
    """What an *expression* comes to in that Python, as text."""
    command = [PROOF_PYTHON, "-I", "-c", f"import {imports}\nprint({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
