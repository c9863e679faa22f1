"""Asks running agents over their sockets: what ``mlsync status`` and ``mlsync now`` do.

``GET /status`` answers with the JSON of ``mlsync status --json``'s agent, ``POST /backup?run=NAME`` requests passes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from mlsync.errors import AgentAway
from mlsync.service.talk.local_socket import connected, local_sockets

TIMEOUT_S: Final = 5.0
_TAKEN: Final = 202
_ANSWER_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What an agent answered: a status of HTTP, and JSON or text."""

    status: int
    body: bytes

    def as_json(self) -> Any:
        """Return the JSON that the body holds; raise ``ValueError`` if it holds none."""
        return json.loads(self.body)

    def status_checked(self, wanted: int, agent: AgentAt) -> Any:
        """Return the JSON of an answer with the status that is *wanted*; raise ``AgentAway`` for any other."""
        try:
            if self.status == wanted:
                return self.as_json()
        except ValueError:
            pass
        said = self.body[:200].decode("utf-8", "replace").strip()
        raise AgentAway(f"the agent refuses: {said} ({self.status})", where=str(agent.path))


class AgentAt:
    """A running agent, by its socket."""

    def __init__(self, path: Path, uids: Collection[int], timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._uids = uids
        self._timeout_s = timeout_s

    def within(self, timeout_s: float) -> AgentAt:
        """Return the same agent, that has to answer in this time."""
        return AgentAt(self.path, self._uids, min(self._timeout_s, timeout_s))

    def ask(self, target: str, *, method: str = "GET") -> AgentAnswer:
        """Return what the agent answers to one request; raise ``AgentAway`` if it does not."""
        try:
            connection = connected(self.path, self._timeout_s, uids=self._uids)
            with connection:
                connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: agent\r\n\r\n".encode("ascii"))
                received = bytearray()
                while block := connection.recv(64 << 10):
                    received += block
                    if len(received) > _ANSWER_BYTES_MAX:
                        raise AgentAway("the agent's answer is too long", where=str(self.path))
        except TimeoutError:
            what = f"the agent has not answered for {self._timeout_s:.0f} s"
            raise AgentAway(what, where=str(self.path), advice="is it stopped? its log says more") from None
        except PermissionError as error:
            what = "the agent's socket belongs to another user"
            raise AgentAway(f"{what}: {error}", where=str(self.path), advice="work as that user, or as root") from None
        except OSError as error:
            away = AgentAway(f"the agent does not answer: {error.strerror}", where=str(self.path))
            away.is_gone = isinstance(error, (ConnectionRefusedError, FileNotFoundError))
            raise away from None
        return _answer(bytes(received), self.path)

    def tell(self, news: Any) -> bool:
        """Return whether the agent takes news of a command, to tell its channels; raise ``AgentAway`` as above."""
        return self.ask(f"/news?{urlencode({'json': json.dumps(news)})}", method="POST").status == _TAKEN


def agents(directory: Path, *, timeout_s: float = TIMEOUT_S) -> Iterator[AgentAt]:
    """Yield the agents that have a socket in the state *directory*; one that is left over fails when it is asked.

    This user's agents are believed, root's, and those of the directory's owner.
    """
    try:
        owner = directory.stat().st_uid
    except OSError:
        return
    for path in local_sockets(directory):
        yield AgentAt(path, {0, os.geteuid(), owner}, timeout_s)


def _answer(received: bytes, path: Path) -> AgentAnswer:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    lengths = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("content-length:")]
    if words[0] != "HTTP/1.1" or lengths != [str(len(body))] or not words[1].isdigit():
        raise AgentAway("the agent's answer was cut short", where=str(path), advice="give the command again")
    return AgentAnswer(int(words[1]), body)
