"""A stand-in for an MLflow server's registry: an HTTP server whose answers are those of MLflow 3.17.2, byte for byte.

``tests/registry/mlflow_answers.json`` holds what a real server answered to a list of requests; a test compares each of
them with what this one answers, and ``tests/registry/record_mlflow.py`` records them anew.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow/"
_TAG_FILTER = re.compile(r"tags\.`([^`]+)` = '([0-9a-f]*)'")
_CLASSES = {"RESOURCE_DOES_NOT_EXIST": "RESOURCE_NOT_FOUND"}
_TAG_KEY = re.compile(r"[\w. :/-]+")
_ALIAS = re.compile(r"[\w-]+")


class Refusal(Exception):
    """What the server does not do."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error_code": code,
            "message": message,
            "sqlstate": "KAM00",
            "error_class": _CLASSES.get(code, code),
        }


class FakeMlflow:
    """One server with its models; set *token* or *login* for one that wants to know who asks, *broken* for a fault."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.authorizations: list[str | None] = []
        self.token: str | None = None
        self.login: tuple[str, str] | None = None
        self.may_write = True
        self.broken: int | None = None
        #: What is answered instead, whatever was asked: status, headers, body.
        self.instead: tuple[int, dict[str, str], bytes] | None = None
        #: Called before each answer.
        self.before: Any = lambda _method, _what: None
        #: The next answer is lost, although the server did what was asked.
        self.lost = False
        #: How often a new version says that it is not ready yet.
        self.pending = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def versions(self, name: str) -> dict[int, dict[str, Any]]:
        """The versions of a model, by number."""
        return self.models[name]["versions"]

    def tags(self, name: str, number: int) -> dict[str, str]:
        """The tags of a version."""
        return dict(self.versions(name)[number]["tags"])

    def aliases(self, name: str) -> dict[str, int]:
        """To which version each alias points."""
        return self.models[name]["aliases"]

    def answer(self, method: str, target: str, body: bytes, authorization: str | None) -> tuple[int, dict, bytes]:
        """The answer to one request."""
        place = urlsplit(target)
        what = place.path.removeprefix(API)
        with self._lock:
            self.asked.append((method, what))
            self.authorizations.append(authorization)
            self.before(method, what)
            if self.instead is not None:
                return self.instead
            if self.broken is not None:
                return self.broken, {"Content-Type": "text/html"}, b"<html>down</html>"
            denied = self._denied(method, authorization)
            if denied is not None:
                return denied
            given = {key: values[0] for key, values in parse_qs(place.query, keep_blank_values=True).items()}
            given |= json.loads(body) if body else {}
            try:
                done = getattr(self, "_" + re.sub(r"[/-]", "_", what) + "_" + method.lower())(given)
            except Refusal as refusal:
                return refusal.status, {"Content-Type": "application/json"}, json.dumps(refusal.body).encode()
            text = json.dumps(done, indent=2) if done else "{}"
            if self.lost:
                self.lost = False
                return 502, {}, b"the answer was lost"
            return 200, {"Content-Type": "application/json"}, text.encode()

    def _denied(self, method: str, authorization: str | None) -> tuple[int, dict, bytes] | None:
        wanted = None if self.token is None else f"Bearer {self.token}"
        if self.login is not None:
            wanted = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
        if wanted is not None and authorization != wanted:
            return 401, {"WWW-Authenticate": 'Basic realm="mlflow"'}, b"You are not authenticated."
        if not self.may_write and method != "GET":
            return 403, {}, b"Permission denied"
        return None

    # ------------------------------------------------------------ models

    def _registered_models_create_post(self, given: dict) -> dict:
        name = self._wanted(given, "name")
        if "/" in name or ":" in name:
            what = f"Invalid model name '{name}'. Names cannot contain '/' or ':'."
            raise Refusal("INVALID_PARAMETER_VALUE", what)
        if name in self.models:
            raise Refusal("RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists.")
        self.models[name] = {"made": now(), "versions": {}, "aliases": {}, "last": 0}
        return {"registered_model": {"name": name, "creation_timestamp": now(), "last_updated_timestamp": now()}}

    def _registered_models_get_get(self, given: dict) -> dict:
        model = self._model(given["name"])
        return {
            "registered_model": {
                "name": given["name"],
                "creation_timestamp": model["made"],
                "last_updated_timestamp": model["made"],
            }
        }

    def _registered_models_alias_post(self, given: dict) -> dict:
        alias = self._wanted(given, "alias")
        if alias.lower() == "latest":
            raise Refusal("INVALID_PARAMETER_VALUE", "'latest' alias name (case insensitive) is reserved.")
        if not _ALIAS.fullmatch(alias):
            what = (
                f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
            )
            raise Refusal("INVALID_PARAMETER_VALUE", what)
        if re.fullmatch(r"[vV]\d+", alias):
            raise Refusal("INVALID_PARAMETER_VALUE", f"Version alias name '{alias}' is reserved.")
        self._version(given["name"], given["version"])
        self.models[given["name"]]["aliases"][alias] = int(given["version"])
        return {}

    def _registered_models_alias_get(self, given: dict) -> dict:
        number = self._model(given["name"])["aliases"].get(given["alias"])
        if number is None:
            raise Refusal("INVALID_PARAMETER_VALUE", f"Registered model alias {given['alias']} not found.")
        return {"model_version": self._shown(given["name"], number)}

    # ------------------------------------------------------------ versions

    def _model_versions_create_post(self, given: dict) -> dict:
        name, source = self._wanted(given, "name"), self._wanted(given, "source")
        self._refuse_source(source)
        model = self._model(name)
        model["last"] += 1
        model["versions"][model["last"]] = {
            "made": now(),
            "source": source,
            "tags": {one["key"]: one["value"] for one in given.get("tags", [])},
        }
        return {"model_version": self._shown(name, model["last"], with_aliases=False)}

    def _refuse_source(self, source: str) -> None:
        scheme = source.partition("://")[0]
        if scheme in ("http", "https"):
            what = (
                f"'source' cannot use the '{scheme}' scheme: the '{scheme}' scheme addresses a host other than the "
                "tracking server's configured artifact storage, so the server would connect to the host named in the "
                "URI. Set the MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES environment variable on the server to "
                "allow it."
            )
            raise Refusal("INVALID_PARAMETER_VALUE", what)
        if ".." in source.partition("?")[0].split("/") or "+" in scheme:
            what = (
                f"Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, "
                "ftp, objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path "
                "references present. Please provide an absolute path."
            )
            raise Refusal("INVALID_PARAMETER_VALUE", what)

    def _model_versions_get_get(self, given: dict) -> dict:
        self._version(given["name"], given["version"])
        return {"model_version": self._shown(given["name"], int(given["version"]))}

    def _model_versions_search_get(self, given: dict) -> dict:
        key, value = _TAG_FILTER.fullmatch(given["filter"]).groups()
        found = [
            self._shown(name, number, with_aliases=False)
            for name, model in sorted(self.models.items())
            for number, one in sorted(model["versions"].items(), reverse=True)
            if one["tags"].get(key) == value
        ]
        return {"model_versions": found} if found else {}

    def _model_versions_set_tag_post(self, given: dict) -> dict:
        key = given["key"]
        if not _TAG_KEY.fullmatch(key):
            what = (
                f"Invalid value \"{key}\" for parameter 'key' supplied: Names may only contain alphanumerics, "
                "underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."
            )
            raise Refusal("INVALID_PARAMETER_VALUE", what)
        self._version(given["name"], given["version"])["tags"][key] = given["value"]
        return {}

    def _model_versions_delete_delete(self, given: dict) -> dict:
        self._version(given["name"], given["version"])
        model, number = self.models[given["name"]], int(given["version"])
        del model["versions"][number]
        model["aliases"] = {alias: to for alias, to in model["aliases"].items() if to != number}
        return {}

    # ------------------------------------------------------------ inside

    def _wanted(self, given: dict, name: str) -> str:
        if not given.get(name):
            what = (
                f"Missing value for required parameter '{name}'. See the API docs for more information about request "
                "parameters."
            )
            raise Refusal("INVALID_PARAMETER_VALUE", what)
        return given[name]

    def _model(self, name: str) -> dict:
        if name not in self.models:
            raise Refusal("RESOURCE_DOES_NOT_EXIST", f"Registered Model with name={name} not found", 404)
        return self.models[name]

    def _version(self, name: str, number: str | int) -> dict:
        found = self.models.get(name, {"versions": {}})["versions"].get(int(number))
        if found is None:
            what = f"Model Version (name={name}, version={number}) not found"
            raise Refusal("RESOURCE_DOES_NOT_EXIST", what, 404)
        return found

    def _shown(self, name: str, number: int, *, with_aliases: bool = True) -> dict:
        one = self.versions(name)[number]
        self.pending, is_pending = max(0, self.pending - 1), self.pending > 0
        shown = {
            "name": name,
            "version": str(number),
            "creation_timestamp": one["made"],
            "last_updated_timestamp": one["made"],
            "current_stage": "None",
            "description": "",
            "source": one["source"],
            "run_id": "",
            "status": "PENDING_REGISTRATION" if is_pending else "READY",
        }
        if one["tags"]:
            shown["tags"] = [{"key": key, "value": value} for key, value in one["tags"].items()]
        shown["run_link"] = ""
        aliases = sorted(alias for alias, to in self.models[name]["aliases"].items() if to == number)
        if aliases and with_aliases:
            shown["aliases"] = aliases
        return shown


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 10**6


def _handler_of(fake: FakeMlflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, answer = fake.answer(self.command, self.path, body, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the library calls them so

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
