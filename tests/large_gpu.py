"""A Python for proofs that sees one large GPU, which is not there: see proof/cuda_stand_in/stand_in.py."""

from __future__ import annotations

import json
import os
import struct
import sys
from array import array
from pathlib import Path

STAND_IN = Path(__file__).parent / "proof" / "cuda_stand_in"
PROOF_PYTHON = os.environ.get("MLSYNC_TEST_PROOF_PYTHON") or sys.executable
ALL_MIB, CONTEXT_MIB = 24000, 300


def tensors_file(number):
    """A file of safetensors, made without torch, with 100,000 different numbers from *number* on."""
    data = array("f", (number + place / 1e6 for place in range(100_000))).tobytes()
    header = json.dumps({"weight": {"dtype": "F32", "shape": [100_000], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


class LargeGpu:
    """The GPU, whose free memory changes by what others are said to take; *python* is the interpreter to name."""

    def __init__(self, place):
        self._others = place / "others"
        self._others.write_bytes(bytes(8))
        (place / "ledger").write_bytes(bytes(24))
        gpu = {"total_mib": ALL_MIB, "free_mib": ALL_MIB, "context_mib": CONTEXT_MIB, "others_grow": str(self._others)}
        settings = {"gpus": [gpu], "schedule": "late", "ledger": str(place / "ledger")}
        (place / "settings.json").write_text(json.dumps(settings))
        self.python = place / "python"
        # In a Python of its own: what these tests look at is the very process that the proof's parent started.
        program = f"import sys; sys.path[0] = {str(STAND_IN)!r}; import stand_in; stand_in.main(sys.argv[1:])"
        command = f'exec "{PROOF_PYTHON}" -B -c "{program}" "{place}/settings.json" "$@"'
        self.python.write_text(f"#!/bin/sh\n{command}\n")
        self.python.chmod(0o755)

    def others_leave(self, mebibytes):
        """Have all others use all but so much of what this process leaves them."""
        with open(self._others, "r+b") as file:
            file.write(struct.pack("<q", ALL_MIB - CONTEXT_MIB - mebibytes))
