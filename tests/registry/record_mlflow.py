"""Records what a real MLflow server answers: ``python tests/registry/record_mlflow.py http://127.0.0.1:5000``.

The server has to be a new one: ``mlflow server --backend-store-uri sqlite:///m.db``. What it answers goes to
``mlflow_answers.json``, with which a test compares the stand-in.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

ANSWERS = Path(__file__).with_name("mlflow_answers.json")
API = "/api/2.0/mlflow/"
_SOURCE = "mlsync:///yolo/7/weights/best.pt?repository=s3%3A%2F%2Fbucket%2Fruns&id=00&manifest=aa"
_DIGEST = "ab" * 32
_TAG = [{"key": "mlsync.manifest", "value": _DIGEST}]
_TIME = re.compile(rb'("(?:creation|last_updated)_timestamp": )\d+')


def _post(what, **body):
    return "POST", what, body


def _get(what, **query):
    return "GET", f"{what}?{urlencode(query)}", None


#: The requests, in order: each may rely on those before it.
REQUESTS = [
    _get("registered-models/get", name="yolo"),
    _post("model-versions/create", name="yolo", source=_SOURCE, tags=_TAG),
    _post("registered-models/create", name="yolo"),
    _post("registered-models/create", name="yolo"),
    _post("registered-models/create", name="a/b"),
    _post("registered-models/create", name="a:b"),
    _post("registered-models/create", name=""),
    _get("model-versions/search", filter=f"tags.`mlsync.manifest` = '{_DIGEST}'", max_results=100),
    _post("model-versions/create", name="yolo", source=_SOURCE, tags=_TAG),
    _post("model-versions/create", name="yolo", source="mlsync:///yolo/8?id=00", tags=[]),
    _post("model-versions/create", name="yolo", source="mlsync+s3://bucket/runs", tags=[]),
    _post("model-versions/create", name="yolo", source="https://example.org/model", tags=[]),
    _post("model-versions/create", name="yolo", source="mlsync:///yolo/7/../x", tags=[]),
    _get("model-versions/search", filter=f"tags.`mlsync.manifest` = '{_DIGEST}'", max_results=100),
    _get("model-versions/get", name="yolo", version="1"),
    _get("model-versions/get", name="yolo", version="99"),
    _post("registered-models/alias", name="yolo", alias="champion", version="1"),
    _post("registered-models/alias", name="yolo", alias="latest", version="1"),
    _post("registered-models/alias", name="yolo", alias="v1", version="1"),
    _post("registered-models/alias", name="yolo", alias="a/b", version="1"),
    _post("registered-models/alias", name="yolo", alias="champion", version="99"),
    _post("registered-models/alias", name="nobody", alias="champion", version="1"),
    _get("registered-models/alias", name="yolo", alias="champion"),
    _get("registered-models/alias", name="yolo", alias="nobody"),
    _post("model-versions/set-tag", name="yolo", version="1", key="dataset", value="coco"),
    _post("model-versions/set-tag", name="yolo", version="1", key="a$b", value="1"),
    _get("model-versions/get", name="yolo", version="1"),
    ("DELETE", "model-versions/delete", {"name": "yolo", "version": "2"}),
    ("DELETE", "model-versions/delete", {"name": "yolo", "version": "2"}),
]


def answer(url: str, method: str, what: str, body: dict | None) -> dict:
    """What a server answers, with its times made alike."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + API + what, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            status, text = got.status, got.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return {
        "method": method,
        "what": what,
        "body": body,
        "status": status,
        "answer": _TIME.sub(rb"\g<1>0", text).decode(),
    }


def main() -> None:
    """Record all of them."""
    recorded = [answer(sys.argv[1], *request) for request in REQUESTS]
    ANSWERS.write_text(json.dumps(recorded, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
