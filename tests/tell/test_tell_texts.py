"""The words of notices: within their bytes, in two languages, and without what does not belong into a chat."""

from __future__ import annotations

import json

import pytest

from mlsync.tell.choices import KINDS, LANGUAGES
from mlsync.tell.event import NoticeEvent, clean
from mlsync.tell.texts import cut, markdown, message, plain


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words(kind, language):
    """Each kind of event has a title in each language, and one for its end."""
    said = plain(NoticeEvent(kind, "yolo", 3), language)
    assert "yolo/3" in said
    assert plain(NoticeEvent(kind, "yolo", 3, is_over=True), language) != said
    assert language == "en" or any("\u4e00" <= one <= "\u9fff" for one in said)


def test_facts_are_shown_with_their_units():
    """A length of time, an amount and a number are written for people, in their language."""
    event = NoticeEvent(
        "silence", "yolo", facts={"since_s": 7200.0, "free_bytes": 5 << 30, "fitness": 0.123456789, "odd": 1}
    )
    assert plain(event, "en").splitlines()[1:] == ["for: 2 h", "free: 5 GiB", "fitness: 0.123457"]
    assert plain(event, "zh").splitlines()[1] == "持续时间: 2 小时"


@pytest.mark.parametrize("limit_bytes", [*range(1, 60), 2048])
def test_texts_are_cut_between_characters(limit_bytes):
    """A text of Chinese and of marks has at most so many bytes, whatever the limit, and stays text."""
    text = "检查点✅a" * 400
    assert len(cut(text, limit_bytes).encode()) <= limit_bytes
    events = [NoticeEvent("best", "训练" * 20, number, {"path": "权重/" * 40}) for number in range(1, 30)]
    for show in (plain, markdown):
        said = message(events, "zh", show, 2048)
        assert len(said.encode()) <= 2048
        assert said.endswith("条")


def test_a_long_first_event_still_says_how_many_follow():
    """One event that fills the message is cut, and the others are counted."""
    events = [
        NoticeEvent("digest", "r" * 290, facts={"what": "字" * 300, "path": "字" * 300}),
        NoticeEvent("best"),
        NoticeEvent("best"),
    ]
    said = message(events, "en", plain, 400)
    assert said.endswith("…\n\n… and 2 more")
    assert len(said.encode()) <= 400


def test_no_url_path_or_markup_gets_into_an_event():
    """What leads out of the run, and what a chat takes for a mention or a link, is not told."""
    said = clean("s3://bucket/secret at /home/me/.aws/key and ~/x: weights/last.pt <!here> [a](b)\n\x1b[31m`rm`")
    assert said == "… at … and …: weights/last.pt (!here) [a] (b)  [31m'rm'"
    event = NoticeEvent("broken", "a\nb", facts={"path": "/data/runs/x", "what": "w" * 1000})
    assert event.run == "a b"
    assert event.facts["path"] == "…"
    assert len(event.facts["what"]) == 300


def test_an_event_survives_json():
    """Events are stored and handed on; what is none is refused."""
    event = NoticeEvent("best", "yolo", 3, {"fitness": 0.5, "path": "best.pt"}, 5.0, host="gpu1")
    assert NoticeEvent.of_json(json.loads(json.dumps(event.as_json()))) == event
    for wrong in ({}, {**event.as_json(), "kind": "rm"}, {**event.as_json(), "version": "x"}):
        with pytest.raises((ValueError, KeyError, TypeError)):
            NoticeEvent.of_json(wrong)
