"""A training of two ranks, which several files of this folder look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RANK_PROGRAM = Path(__file__).with_name("dcp_rank.py")


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``dcp_rank.py`` saves: ``checkpoint``, ``fsdp`` and ``hf``."""
    folder = tmp_path_factory.mktemp("two_ranks")
    ranks = [subprocess.Popen([sys.executable, RANK_PROGRAM, str(rank), "2", folder]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return folder
