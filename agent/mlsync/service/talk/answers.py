"""What the agent answers: which paths there are, and what each of them shows or does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self

from mlsync.service.status import RunStatus
from mlsync.service.talk.http import HttpAnswer, HttpRequest
from mlsync.service.talk.metrics import CONTENT_TYPE
from mlsync.service.talk.page import CONTENT_TYPE as PAGE_TYPE
from mlsync.service.talk.page import HEADERS

_NOBODY: Final = -1


class TalkingAgent(Protocol):
    """What the answers need of the agent; its methods do not block, and any thread calls them."""

    def as_json(self) -> dict[str, Any]:
        """Return the state of the agent and of every run."""

    def request_backup(self, runs: Sequence[str], query: Mapping[str, list[str]]) -> dict[str, Any]:
        """Request a pass over each of *runs* (all if there are none); return JSON that says what was requested.

        *query* holds all parameters of the request. Raise ``KeyError`` with a run's name if the agent does not keep it.
        """

    def tell_saved(
        self, paths: Sequence[bytes], runs: Sequence[str], uid: int | None, *, is_awaited: bool = False
    ) -> dict[str, Any]:
        """Note that what is at each of *paths* is whole; return JSON that says which passes will read it.

        They are absolute; without any, all that is in *runs* is whole. With *uid* only runs of this user count. What
        *is_awaited* leaves the processors to nobody. Raise ``KeyError`` if no run is concerned.
        """

    def requested(self, ids: Sequence[int], uid: int | None = None) -> dict[str, Any]:
        """Return JSON that says what became of passes that were requested, with *uid* of those by this user."""

    def tell(self, news: Any) -> None:
        """Tell what a command did, as JSON; raise ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""

    def statuses(self) -> Sequence[RunStatus]:
        """Return the state of every run, with what is remembered of it."""

    def metrics(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""

    def page(self) -> bytes:
        """Return the status page."""

    def unhealthy(self) -> str | None:
        """Return why the agent cannot do its work, as with a run that hangs; ``None`` if it can."""

    def unready(self) -> str | None:
        """Return why the agent keeps no watch yet, or no more; ``None`` if it does."""


@dataclass(frozen=True, slots=True)
class _Path:
    methods: tuple[str, ...]
    answer: Callable[[HttpRequest], HttpAnswer]


class Answers:
    """Answers requests; *may_act* allows those that make the agent do something: by its private socket alone."""

    def __init__(self, agent: TalkingAgent, *, may_act: bool) -> None:
        self._agent = agent
        self._is_private = True
        reads = ("GET", "HEAD")
        self._paths = {
            "/status": _Path(reads, self._status),
            "/": _Path(reads, lambda _: HttpAnswer(200, agent.page(), PAGE_TYPE, HEADERS)),
            "/metrics": _Path(reads, lambda _: HttpAnswer(200, agent.metrics(), CONTENT_TYPE)),
            "/versions": _Path(reads, self._versions),
            "/healthz": _Path(reads, lambda _: _is_well(agent.unhealthy())),
            "/readyz": _Path(reads, lambda _: _is_well(agent.unhealthy() or agent.unready())),
        }
        if may_act:
            self._paths["/backup"] = _Path(("POST",), self._backup)
            self._paths["/news"] = _Path(("POST",), self._news)
            self._add_saves()

    @classmethod
    def for_trainings(cls, agent: TalkingAgent) -> Self:
        """Return what answers any user: he tells of saves in his own runs, and learns what became of them."""
        answers = cls(agent, may_act=False)
        answers._is_private = False
        answers._paths = {}
        answers._add_saves()
        return answers

    def _add_saves(self) -> None:
        self._paths["/saved"] = _Path(("POST",), self._saved)
        self._paths["/passes"] = _Path(("GET", "HEAD"), self._passes)

    def __call__(self, request: HttpRequest) -> HttpAnswer:
        """Return the answer to *request*."""
        path = self._paths.get(request.path)
        if path is None:
            return HttpAnswer.of_text("there is nothing here; known: " + " ".join(sorted(self._paths)), 404)
        if request.method not in path.methods:
            allowed = ", ".join(path.methods)
            return HttpAnswer(405, f"only {allowed}\n".encode(), more=(f"Allow: {allowed}",))
        return path.answer(request)

    def _status(self, _request: HttpRequest) -> HttpAnswer:
        return HttpAnswer.of_json(self._agent.as_json())

    def _passes(self, request: HttpRequest) -> HttpAnswer:
        ids = [int(one) for one in request.query.get("id", []) if one.isascii() and one.isdigit()]
        return HttpAnswer.of_json(self._agent.requested(ids, self._asker(request)))

    def _saved(self, request: HttpRequest) -> HttpAnswer:
        runs = request.query.get("run", [])
        try:
            # In hexadecimal, since paths are bytes of any kind.
            paths = [bytes.fromhex(one) for one in request.query.get("path", [])]
        except ValueError:
            return HttpAnswer.of_text("a path has to be in hexadecimal", 400)
        try:
            is_awaited = "waits" in request.query
            told = self._agent.tell_saved(paths, runs, self._asker(request), is_awaited=is_awaited)
            return HttpAnswer.of_json(told, 202)
        except KeyError:
            return HttpAnswer.of_text("no run of yours is concerned", 404)

    def _asker(self, request: HttpRequest) -> int | None:
        """Return the user whose runs alone are spoken of; ``None`` for all, as at the private socket."""
        if self._is_private:
            return None
        # Nobody has it: of a stranger nothing is known, and he owns no run.
        return _NOBODY if request.uid is None else request.uid

    def _versions(self, _request: HttpRequest) -> HttpAnswer:
        runs = self._agent.statuses()
        return HttpAnswer.of_json({run.run: [asdict(one) for one in run.record.versions] for run in runs})

    def _news(self, request: HttpRequest) -> HttpAnswer:
        """Have what a command did be told; nobody but the agent's user can ask for it."""
        try:
            (text,) = request.query["json"]
            self._agent.tell(json.loads(text))
        except (ValueError, KeyError, TypeError, RecursionError):
            return HttpAnswer.of_text("that is no news", 400)
        return HttpAnswer.of_json({"told": True}, 202)

    def _backup(self, request: HttpRequest) -> HttpAnswer:
        runs = request.query.get("run", [])
        try:
            return HttpAnswer.of_json(self._agent.request_backup(runs, request.query), 202)
        except KeyError as error:
            return HttpAnswer.of_text(f"the agent keeps no run {error.args[0]!r}", 404)


def _is_well(why_not: str | None) -> HttpAnswer:
    return HttpAnswer.of_text("ok") if why_not is None else HttpAnswer.of_text(why_not, 503)
