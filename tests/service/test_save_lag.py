"""How far what is stored and proved is behind the newest save that was seen."""

from __future__ import annotations

from mlsync.app.pass_result import PassResult
from mlsync.service.watching.save_lag import SaveLag


def outcome(version=None, proved=None):
    return PassResult("yolo", version, proved, (), "")


def test_a_save_counts_until_a_pass_began_after_it():
    """A pass covers the saves before its beginning, and the lag is the time between the two saves."""
    lag = SaveLag(100.0)
    assert lag.behind_s(float("-inf")) == (0.0, 0.0)
    assert lag.behind_s(130.0) == (30.0, 30.0)
    lag.passed(130.0, outcome(1, 1))
    assert lag.behind_s(130.0) == (0.0, 0.0)
    assert lag.behind_s(190.0) == (60.0, 60.0)
    # It began before the last save.
    lag.passed(130.0, outcome())
    lag.passed(120.0, outcome())
    assert lag.behind_s(190.0) == (60.0, 60.0)


def test_the_proof_has_a_lag_of_its_own():
    """A pending version is stored and not proved; a later proof brings up what was saved before that version."""
    lag = SaveLag(0.0)
    lag.passed(10.0, outcome(1))
    lag.passed(20.0, outcome(2))
    lag.passed(30.0, outcome(3))
    assert lag.behind_s(30.0) == (0.0, 30.0)
    lag.passed(30.0, outcome(None, 2))
    assert lag.behind_s(30.0) == (0.0, 10.0)
    lag.passed(40.0, outcome(4, 4))
    assert lag.behind_s(40.0) == (0.0, 0.0)


def test_a_save_without_news_is_proved_with_what_was_there():
    """A save of the same content makes no version, and nothing is behind."""
    lag = SaveLag(0.0)
    lag.passed(10.0, outcome(1, 1))
    lag.passed(20.0, outcome())
    assert lag.behind_s(20.0) == (0.0, 0.0)


def test_what_is_never_proved_here_keeps_no_more_than_a_part():
    """A machine that cannot prove has a lag that grows, and no list that does."""
    lag = SaveLag(0.0)
    for version in range(1, 2000):
        lag.passed(float(version), outcome(version))
    assert lag.behind_s(1999.0) == (0.0, 1999.0)
    assert len(lag._pending) <= 256
    lag.passed(2000.0, outcome(2000, 2000))
    assert lag.behind_s(2000.0) == (0.0, 0.0)
