"""When a notice goes: together with others, at most twenty a minute, and again after a failure; clocks are injected."""

from __future__ import annotations

import math

from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Receipt
from mlsync.tell.onsets import Condition, Onsets
from mlsync.tell.outbox import Outbox

TAKEN, REFUSED = Receipt(is_taken=True, said=""), Receipt(is_taken=False, said="no")


def best(number=1, at_s=0.0):
    """An event."""
    return NoticeEvent("best", "yolo", number, at_s=at_s)


def test_what_waits_goes_together():
    """All that came while a message was under way is told by the next one, and nothing goes meanwhile."""
    box = Outbox()
    assert box.due_s() == math.inf
    box.put(best(1))
    assert [one.version for one in box.take(0, 0)] == [1]
    box.put(best(2))
    box.put(best(3))
    assert box.take(0, 0) == ()
    box.done(TAKEN, 0)
    assert [one.version for one in box.take(0, 0)] == [2, 3]
    box.done(TAKEN, 0)
    assert (box.sent_count, box.waiting) == (3, ())


def test_at_most_twenty_messages_a_minute():
    """Of a hundred events, one each second, no minute has more than twenty messages, and every event is told."""
    box, sent_s, told = Outbox(), [], []
    for now_s in range(200):
        if now_s < 100:
            box.put(best(now_s))
        batch = box.take(now_s, 0)
        if batch:
            sent_s.append(now_s)
            told += [one.version for one in batch]
            box.done(TAKEN, now_s)
    assert told == list(range(100))
    assert max(sum(begin <= one < begin + 60 for one in sent_s) for begin in range(200)) == 20


def test_a_failure_is_tried_again_later_and_later():
    """The pauses double up to a quarter of an hour, a wish of the service counts, and a success ends the row."""
    box, pauses = Outbox(), []
    box.put(best())
    now_s = 0.0
    for count in range(9):
        assert box.take(now_s, 0)
        assert box.done(REFUSED, now_s) == (count == 0)
        pauses.append(box.due_s() - now_s)
        assert box.take(box.due_s() - 0.1, 0) == ()
        now_s = box.due_s()
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert box.as_json() == {
        "waiting": 1, "sent": 0, "failed": 9, "dropped": 0, "failures": 9, "last_failure": "no"
    }  # fmt: skip
    box.take(now_s, 0)
    box.done(Receipt(is_taken=False, said="slow", wait_s=3000), now_s)
    assert box.due_s() == now_s + 3000
    now_s = box.due_s()
    box.take(now_s, 0)
    assert box.done(TAKEN, now_s)
    assert (box.failures, box.last_failure, box.waiting) == (0, "", ())


def test_what_waits_is_bounded_in_number_and_age():
    """Two hundred events wait, the newest ones, also while a message is under way; what is a day old is not told."""
    box = Outbox()
    for number in range(300):
        box.put(best(number))
    assert (box.waiting[0].version, len(box.waiting), box.dropped_count) == (100, 200, 100)
    batch = box.take(0, 0)
    for number in range(300, 600):
        box.put(best(number))
    assert box.waiting[: len(batch)] == batch
    box.done(TAKEN, 0)
    assert (box.waiting[0].version, len(box.waiting)) == (420, 180)
    assert Outbox([best(1), best(2, at_s=86_000)]).take(0, 86_401.0)[0].version == 2


def test_a_condition_is_told_when_it_begins_and_when_it_ends():
    """Looks that find the same say nothing; a restart with what was told says nothing either."""
    onsets, away = Onsets(), Condition("store_away:yolo", NoticeEvent("store_away", "yolo", facts={"since_s": 300.0}))
    assert [one.kind for one in onsets.update([away], 1)] == ["store_away"]
    assert onsets.update([away], 2) == []
    again = Onsets({key: NoticeEvent.of_json(one) for key, one in onsets.as_json().items()})
    assert again.update([away], 3) == []
    assert again.update([], 4, covers=lambda key: key.startswith("disk")) == []
    (over,) = again.update([], 5)
    assert (over.kind, over.run, over.is_over, over.at_s, over.facts) == ("store_away", "yolo", True, 5, {})
    assert over.id != away.event.id
    assert again.update([], 6) == []
    assert again.once("first", best())
    assert not again.once("first", best())
