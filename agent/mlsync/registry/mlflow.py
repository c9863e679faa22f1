"""What mlsync asks of MLflow's registry: models, their versions with tags, and aliases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlsync.errors import RegistryAway, RegistryRefused

if TYPE_CHECKING:
    # Only for annotations: HTTP is loaded with the first request.
    from mlsync.registry.rest import Rest

_READY: Final = "READY"
_PENDING: Final = "PENDING_REGISTRATION"
_PAGE: Final = 100
_PAGES_MAX: Final = 50
# A server makes a version ready at once, or within seconds.
READY_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model, as the server shows it."""

    model: str
    number: int
    status: str = _READY
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry of one server."""

    rest: Rest
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def place(self) -> str:
        """Where it is, without credentials."""
        return self.rest.address.url

    def make_model(self, name: str) -> bool:
        """Make a model unless it is there, and return whether it was made."""
        try:
            self.rest.send("POST", "registered-models/create", {"name": name})
        except RegistryRefused as error:
            if "RESOURCE_ALREADY_EXISTS" not in error.what:
                raise
            return False
        return True

    def has_model(self, name: str) -> bool:
        """Return whether there is such a model."""
        try:
            self.rest.get("registered-models/get", name=name)
        except RegistryRefused as error:
            if not error.is_missing:
                raise
            return False
        return True

    def find(self, model: str, source: str, key: str, digest: bytes) -> ModelVersion | None:
        """Return the newest version of a model that has this source; its tag *key* is the *digest* in hex.

        Whoever may write tags can give ours to a version with a source of his own: that one is not meant.
        """
        # Of a value that is hex nothing can be taken for more of the filter.
        asked = f"tags.`{key}` = '{digest.hex()}'"
        found = [one for one in self._search(asked) if one.model == model and one.source == source]
        return max(found, key=lambda one: one.number, default=None)

    def create(self, model: str, source: str, tags: Mapping[str, str]) -> ModelVersion:
        """Make a version of a model, with its tags, in one request."""
        body = {
            "name": model,
            "source": source,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        said = self.rest.send("POST", "model-versions/create", body)
        return self._version(said.get("model_version"))

    def get(self, model: str, number: int) -> ModelVersion | None:
        """Return a version of a model; ``None`` if it is not there, or not any more."""
        try:
            said = self.rest.get("model-versions/get", name=model, version=number)
        except RegistryRefused as error:
            if not error.is_missing:
                raise
            return None
        return self._version(said.get("model_version"))

    def await_ready(self, one: ModelVersion) -> ModelVersion:
        """Return a version once it is ready; raise a ``RegistryError`` if it is not within half a minute."""
        until_s = self.clock() + READY_WITHIN_S
        while one.status == _PENDING and self.clock() < until_s:
            self.sleep(_POLL_S)
            found = self.get(one.model, one.number)
            if found is None:
                raise RegistryRefused(f"version {one.number} of {one.model} was deleted meanwhile", where=self.place)
            one = found
        if one.status == _PENDING:
            raise RegistryAway(f"version {one.number} of {one.model} is not ready yet", where=self.place)
        if one.status != _READY:
            raise RegistryRefused(f"version {one.number} of {one.model} is {one.status[:80]!r}", where=self.place)
        return one

    def tag(self, one: ModelVersion, key: str, value: str) -> None:
        """Set a tag of a version."""
        body = {"name": one.model, "version": str(one.number), "key": key, "value": value}
        self.rest.send("POST", "model-versions/set-tag", body)

    def alias(self, one: ModelVersion, alias: str) -> None:
        """Move an alias of the model to a version."""
        body = {"name": one.model, "alias": alias, "version": str(one.number)}
        self.rest.send("POST", "registered-models/alias", body)

    def delete(self, model: str, number: int) -> bool:
        """Delete a version of a model, and return whether it was there."""
        try:
            self.rest.send("DELETE", "model-versions/delete", {"name": model, "version": str(number)})
        except RegistryRefused as error:
            if not error.is_missing:
                raise
            return False
        return True

    def _search(self, asked: str) -> Iterator[ModelVersion]:
        token = ""
        for _ in range(_PAGES_MAX):
            more: dict[str, str | int] = {"page_token": token} if token else {}
            said = self.rest.get("model-versions/search", filter=asked, max_results=_PAGE, **more)
            listed = said.get("model_versions", [])
            if not isinstance(listed, list):
                raise self._impossible()
            yield from map(self._version, listed)
            token = str(said.get("next_page_token") or "")
            if not token:
                return
        raise RegistryRefused("the server lists versions without end", where=self.place)

    def _version(self, said: Any) -> ModelVersion:
        """Return what an answer says of a version."""
        try:
            tags = {str(one["key"]): str(one.get("value", "")) for one in said.get("tags", [])}
            aliases = tuple(str(one) for one in said.get("aliases", []))
            number = int(said["version"])
            status, source = str(said.get("status", _READY)), str(said.get("source", ""))
            name = str(said["name"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._impossible() from None
        if not 0 < number < 1 << 63:
            raise self._impossible()
        return ModelVersion(name, number, status, source, tags, aliases)

    def _impossible(self) -> RegistryRefused:
        return RegistryRefused("the answer is none of MLflow's registry", where=self.place)
