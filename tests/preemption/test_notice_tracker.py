"""What of the notices is news, with 5, 15, 30 and 120 seconds, and what vanishes."""

from __future__ import annotations

import pytest

from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.preemption.tracker import Act, Tracker

NOW_S = 1000.0


def notice(deadline_s=None, effect=Effect.ENDS, ident="one", platform="aws"):
    """A notice of some kind."""
    return PlatformNotice(platform, "termination", effect, deadline_s, certain=True, ident=ident)


def update(tracker, *notices, now_s=NOW_S, platform="aws", lead_s=120.0):
    """What is new, in short."""
    return [(one.act, one.deadline_s) for one in tracker.update(notices, now_s, platform=platform, lead_s=lead_s)]


@pytest.mark.parametrize("left_s", [5, 15, 30, 120, 300])
def test_an_end_that_is_near_is_hurried_once(left_s):
    """The first word of it is what counts; the same word again is no news."""
    tracker = Tracker()
    assert update(tracker, notice(NOW_S + left_s)) == [(Act.HURRY, NOW_S + left_s)]
    for later_s in range(left_s):
        assert update(tracker, notice(NOW_S + left_s), now_s=NOW_S + later_s) == []


@pytest.mark.parametrize("lead_s", [5, 15, 30, 120])
def test_an_end_without_a_date_is_that_far_ahead(lead_s):
    """As far as the platform mostly tells; counted from the first word."""
    tracker = Tracker()
    assert update(tracker, notice(), lead_s=lead_s) == [(Act.HURRY, NOW_S + lead_s)]
    assert update(tracker, notice(), now_s=NOW_S + 3, lead_s=lead_s) == []


def test_an_end_that_is_over_gets_a_few_seconds():
    """A machine that is due may live some seconds more, and each word that it is due is the same one."""
    tracker = Tracker()
    assert update(tracker, notice(NOW_S - 3600)) == [(Act.HURRY, NOW_S + 5)]
    for later_s in range(60):
        assert update(tracker, notice(NOW_S + later_s), now_s=NOW_S + later_s) == []


def test_an_end_that_is_far_is_backed_up_now_and_hurried_later():
    """Maintenance is announced days ahead; the hurry begins five minutes before."""
    tracker = Tracker()
    far_s = NOW_S + 86_400
    assert update(tracker, notice(far_s)) == [(Act.FLUSH, far_s)]
    assert update(tracker, notice(far_s), now_s=far_s - 301) == []
    assert update(tracker, notice(far_s), now_s=far_s - 300) == [(Act.HURRY, far_s)]


def test_an_end_that_comes_nearer_is_hurried_anew():
    """An event that begins before its date leaves less time."""
    tracker = Tracker()
    update(tracker, notice(NOW_S + 250))
    assert update(tracker, notice(NOW_S + 10), now_s=NOW_S + 1) == [(Act.HURRY, NOW_S + 10)]
    assert update(tracker, notice(NOW_S + 10.5), now_s=NOW_S + 2) == []


def test_a_risk_is_backed_up_and_a_pause_is_only_told():
    """Neither stops a proof, and neither ends."""
    tracker = Tracker()
    assert update(tracker, notice(effect=Effect.RISK)) == [(Act.FLUSH, None)]
    assert update(tracker, notice(effect=Effect.RISK), notice(NOW_S + 5, Effect.PAUSE, "two")) == [(Act.TELL, None)]
    assert update(tracker, notice(effect=Effect.RISK), notice(NOW_S + 5, Effect.PAUSE, "two"), now_s=5000.0) == []


def test_an_event_that_vanishes_is_withdrawn():
    """The platform cancelled it: the agent goes on as before, and the same event again is news again."""
    tracker = Tracker()
    update(tracker, notice(NOW_S + 120))
    assert update(tracker, now_s=NOW_S + 5) == [(Act.RELAX, NOW_S + 120)]
    assert tracker.current == []
    assert update(tracker, now_s=NOW_S + 10) == []
    assert update(tracker, notice(NOW_S + 120), now_s=NOW_S + 15) == [(Act.HURRY, NOW_S + 120)]


def test_an_end_that_does_not_come_is_over_after_a_minute():
    """A notice that stays for ever must not put off the proofs for ever; it is not told again."""
    tracker = Tracker()
    update(tracker, notice(NOW_S + 30))
    assert update(tracker, notice(NOW_S + 30), now_s=NOW_S + 90) == []
    assert update(tracker, notice(NOW_S + 30), now_s=NOW_S + 91) == [(Act.RELAX, NOW_S + 30)]
    assert tracker.current == []
    assert update(tracker, notice(NOW_S + 30), now_s=NOW_S + 1000) == []
    assert update(tracker, now_s=NOW_S + 1001) == []


def test_one_platform_does_not_withdraw_what_another_told():
    """Slurm's silence says nothing of the cloud below."""
    tracker = Tracker()
    update(tracker, notice(NOW_S + 120))
    assert update(tracker, platform="slurm") == []
    assert [one.notice.platform for one in tracker.current] == ["aws"]


def test_a_flood_of_events_is_cut():
    """What is remembered has a bound."""
    tracker = Tracker()
    events = update(tracker, *(notice(NOW_S + 5, ident=str(number)) for number in range(1000)))
    assert len(events) == len(tracker.current) == 12
    many = [notice(effect=Effect.RISK, ident=f"risk {number}") for number in range(1000)]
    assert len(update(Tracker(), *many)) == 64


def test_one_event_after_the_other_is_not_heeded_for_ever():
    """Who forges them could put off all proofs; after twelve in an hour no more is heard, and an hour later again."""
    tracker = Tracker()
    acts = [
        act
        for second in range(100)
        for act, _ in update(tracker, notice(NOW_S + 100, ident=str(second)), now_s=NOW_S + second)
    ]
    assert acts.count(Act.HURRY) == 12
    assert acts.count(Act.RELAX) == 12
    late_s = NOW_S + 3700
    assert update(tracker, notice(late_s + 60, ident="late"), now_s=late_s) == [(Act.HURRY, late_s + 60)]
