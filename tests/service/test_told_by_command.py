"""What a command has to tell, by an agent that runs here or by itself."""

from __future__ import annotations

import dataclasses
import time

import pytest

from bot_server import bot_server
from doubles.recording_monitor import RecordingMonitor
from mlsync.config.model import Config, NotifySettings
from mlsync.service.talk.local_socket import LocalSocket
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.talk import Talk
from mlsync.service.telling.telling import Telling, TellOptions
from mlsync.service.telling.told_by_command import CommandNews, tell_news
from mlsync.tell.event import NoticeEvent

STORE = "file:///r"


@pytest.fixture
def place(tmp_path):
    """A configuration with a channel, and the server that plays it."""
    with bot_server() as server:
        (tmp_path / "url").write_text(f"{server.url}/hook\n")
        (tmp_path / "url").chmod(0o600)
        channel = NotifySettings("webhook", "ops", tmp_path / "url", events=("damage", "pruned"))
        config = dataclasses.replace(
            Config.for_repository(STORE), state_directory=tmp_path / "state", channels=(channel,)
        )
        yield config, server


def damage(key):
    return CommandNews(NoticeEvent("damage", facts={"problems": 2}, at_s=time.time()), key)


HEALED = CommandNews(NoticeEvent("damage", at_s=time.time()), heals=True)


def test_without_an_agent_the_command_tells_itself_and_the_same_once(place):
    """Damage is told once, other damage again, and that all is healed once; what goes on is kept for the next one."""
    config, server = place
    monitor = RecordingMonitor()
    for news, told in (
        (damage("a"), 1),
        (damage("a"), 1),
        (damage("b"), 2),
        (HEALED, 3),
        (HEALED, 3),
        (damage("a"), 4),
    ):
        tell_news(config, news, monitor)
        assert len(server.posts) == told
    assert monitor.notices == []


def test_a_channel_that_takes_nothing_costs_a_warning(place, tmp_path):
    """The command goes on, and the event waits for the next one that tells."""
    config, server = place
    monitor = RecordingMonitor()
    (tmp_path / "url").write_text("http://127.0.0.1:1/x\n")
    tell_news(config, damage("a"), monitor)
    assert [level for level, _ in monitor.notices] == ["warning"]
    (tmp_path / "url").write_text(f"{server.url}/hook\n")
    tell_news(config, CommandNews(NoticeEvent("pruned", facts={"packs": 1}, at_s=time.time())), monitor)
    assert len(server.posts) >= 1


def test_nobody_is_told_where_there_is_no_channel(tmp_path):
    """Without channels and hooks nothing is written either."""
    config = dataclasses.replace(Config.for_repository(STORE), state_directory=tmp_path / "state")
    tell_news(config, damage("a"), RecordingMonitor())
    assert not (tmp_path / "state").exists()


class Agent:
    """What of an agent answers, and tells."""

    def __init__(self, place, repository=STORE):
        self.repository = repository
        options = TellOptions((NotifySettings("webhook", "ops", events=("damage",)),))
        self.telling = Telling(options, place, RecordingMonitor())

    def as_json(self):
        """Its state."""
        return {"repository": self.repository, "channels": self.telling.as_json(), "runs": []}

    def tell(self, news):
        """As the agent does it."""
        CommandNews.of_json(news).tell(self.telling)


@pytest.mark.parametrize(("repository", "waiting", "posts"), [(STORE, 1, 0), ("file:///other", 0, 1)])
def test_an_agent_of_the_repository_tells_it(place, repository, waiting, posts):
    """The agent that runs takes the news, once; one of another repository is not asked."""
    config, server = place
    own = AgentPlace(config.state_directory)
    agent = Agent(own, repository)
    with Talk(agent, own, RecordingMonitor()).going_on():
        for _ in range(2):
            tell_news(config, damage("a"), RecordingMonitor())
        assert agent.telling.as_json()[0]["waiting"] == waiting
    assert len(server.posts) == posts


def test_an_agent_that_does_not_answer_is_not_waited_for(place, monkeypatch):
    """A socket without an agent behind it costs nothing but the time-out."""
    monkeypatch.setattr("mlsync.service.talk.client.TIMEOUT_S", 0.05)
    config, server = place
    own = AgentPlace(config.state_directory)
    local = LocalSocket.bind(own)
    local.listening.close()
    tell_news(config, damage("a"), RecordingMonitor())
    assert len(server.posts) == 1
    local.close()
    own.release()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"event": {}, "key": "", "heals": False},
        CommandNews(NoticeEvent("preemption")).as_json(),
        CommandNews(NoticeEvent("damage"), "k" * 200).as_json(),
        {"event": 5, "key": 5, "heals": 5},
    ],
)
def test_what_is_no_news_of_a_command_is_refused(value):
    """Only what commands tell is taken, with a short key."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        CommandNews.of_json(value)
