"""Client, server and network die at random moments: what is committed comes back bit for bit."""

from __future__ import annotations

import random

import pytest

from kill_rounds import KillRounds

pytestmark = pytest.mark.slow

ROUNDS = 4


def test_kills_at_random_moments(tmp_path):
    """Each committed version is restored as it was, each next backup goes on, and little is sent twice."""
    seed = random.randrange(1 << 30)
    with KillRounds(tmp_path, seed) as rounds:
        for turn in range(ROUNDS):
            try:
                rounds.one()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {turn}") from error
        rounds.finish()
    tally = rounds.tally
    assert (tally.rounds, tally.victims.total()) == (ROUNDS, ROUNDS)
    assert tally.restores >= tally.committed_at_once + 1
    # What was sent before a kill is not sent after it; mostly it was overwritten before it all went. Where the network
    # dies alone, the client goes on with the same files, and sends again what was under way.
    assert tally.sent_bytes <= (1.2 + 0.05 * tally.victims["network"]) * tally.new_bytes
