"""The listener: how often each platform is asked, what it hands on, and what it says of one that does not answer."""

from __future__ import annotations

import threading

import pytest

from cloud_service import CloudService, http, wait_until
from doubles.recording_monitor import RecordingMonitor
from mlsync.preemption.asian_clouds import Tencent
from mlsync.preemption.azure import Azure
from mlsync.preemption.by_signal import BySignal, Slurm
from mlsync.preemption.find import FoundPlatform
from mlsync.preemption.listener import Listener
from mlsync.preemption.metadata import Endpoint, NoAnswer
from mlsync.preemption.tracker import Act

PATH = "/latest/meta-data/spot/termination-time"


class Time:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self):
        """The time."""
        return self.now_s


@pytest.fixture
def cloud():
    """A service of Tencent's that tells nothing."""
    service = CloudService()
    yield service
    service.close()


def listener(platforms, time, events, monitor=None):
    """A listener without a thread."""
    found = [FoundPlatform(one, "the test says so") for one in platforms]
    clocks = {"clock": time, "wall": lambda: 1_600_000_000.0 + time.now_s - 100.0}
    return Listener(found, events.extend, monitor or RecordingMonitor(), **clocks)


def test_each_platform_is_asked_when_its_time_has_come(cloud):
    """In an hour of a listener that looks each second, a cloud is asked as often as it wants to be."""
    time, events = Time(), []
    one = listener([Tencent(cloud.endpoint), Slurm({})], time, events)
    for second in range(61):
        time.now_s = 100.0 + second
        assert 0 <= one.step() <= 5
    assert len(cloud.requests) == 13
    assert events == []


def test_news_comes_once(cloud):
    """An event that the cloud goes on to tell of is handed on once, and its end once more."""
    time, events = Time(), []
    one = listener([Tencent(cloud.endpoint)], time, events)
    cloud.answers[PATH] = http("2020-09-13 20:28:40")
    for second in range(0, 60, 5):
        time.now_s = 100.0 + second
        one.step()
    assert [(event.act, event.deadline_s) for event in events] == [(Act.HURRY, 1_600_000_120.0)]
    del cloud.answers[PATH]
    time.now_s += 5
    one.step()
    assert [event.act for event in events] == [Act.HURRY, Act.RELAX]


def test_an_answer_that_fails_withdraws_nothing(cloud):
    """A service that stumbles has not said that the machine stays."""
    time, events = Time(), []
    one = listener([Tencent(cloud.endpoint)], time, events)
    cloud.answers[PATH] = http("2020-09-13 20:28:40")
    one.step()
    cloud.answers[PATH] = http("", 500)
    for _ in range(2):
        time.now_s += 5
        one.step()
    assert [event.act for event in events] == [Act.HURRY]
    assert len(one.current) == 1


def test_a_service_that_stays_away_is_told_once_and_asked_seldom(cloud):
    """After three questions in vain a person is told; from the twelfth on one a minute is enough."""
    time, events, monitor = Time(), [], RecordingMonitor()
    one = listener([Tencent(cloud.endpoint)], time, events, monitor)
    cloud.answers[PATH] = http("", 503)
    for second in range(0, 300, 5):
        time.now_s = 100.0 + second
        one.step()
    (notice,) = monitor.notices
    assert notice[0] == "warning"
    assert "tencent: no notice could be had of a preemption: spot/termination-time: status 503" in notice[1]
    assert len(cloud.requests) == 12 + 4
    del cloud.answers[PATH]
    time.now_s += 60
    one.step()
    assert monitor.notices[-1] == ("info", "tencent: the metadata service answers again")


def test_the_first_answers_of_azure_may_take_minutes(cloud):
    """Asking switches the service on; silence in the first three minutes is no fault."""
    time, monitor = Time(), RecordingMonitor()
    one = listener([Azure(Endpoint("127.0.0.1", cloud.port, 5))], time, [], monitor)
    for second in range(0, 179, 2):
        time.now_s = 100.0 + second
        one.step()
    assert monitor.notices == []
    time.now_s = 400.0
    one.step()
    assert len(monitor.notices) == 1


def test_a_bug_in_one_platform_does_not_cost_the_notices_of_the_others(cloud):
    """What nobody expected is a fault like others."""

    class Broken(BySignal):
        poll_s = 1.0

        def notices(self, now_s):
            raise ZeroDivisionError

    time, events = Time(), []
    one = listener([Broken("broken", 5.0), Tencent(cloud.endpoint)], time, events)
    cloud.answers[PATH] = http("2020-09-13 20:28:40")
    one.step()
    assert len(events) == 1


def test_a_thread_listens_until_it_is_stopped(cloud):
    """With real clocks, news comes by itself."""
    events = []
    cloud.answers[PATH] = http("2020-09-13 20:28:40")
    found = [FoundPlatform(Tencent(cloud.endpoint), "")]
    one = Listener(found, events.extend, RecordingMonitor())
    one.start()
    wait_until(lambda: events)
    one.stop()
    assert events[0].notice.kind == "termination"


def test_a_platform_that_only_signals_costs_no_thread():
    """There is nothing to ask."""

    class Refusing(BySignal):
        def notices(self, now_s):
            raise NoAnswer

    one = Listener([FoundPlatform(Refusing("x", 5.0), "")], lambda _: None, RecordingMonitor())
    one.start()
    assert one.current == []


def test_what_is_to_come_is_read_whole_while_news_come(cloud):
    """The agent's main thread reads the events while the listener's thread changes them."""
    time, seen = Time(), []
    one = listener([Tencent(cloud.endpoint)], time, [])
    update = one._tracker.update

    def slow(*values, **named):
        reader = threading.Thread(target=lambda: seen.append(one.current), daemon=True)
        reader.start()
        reader.join(0.05)
        assert seen == []
        return update(*values, **named)

    one._tracker.update = slow
    cloud.answers[PATH] = http("2020-09-13 20:28:40")
    one.step()
    wait_until(lambda: seen)
    assert len(seen[0]) == 1
