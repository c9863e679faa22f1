"""What the frameworks need, installed once into pytest's cache, out of sight of the other tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from watched import Watched, without_mlsync

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
ROOT = HERE.parents[1]
# The server that the answers of tests/registry were recorded from, with all that it needs.
MLFLOW = "mlflow==3.17.2"
# Of the pictures.
SIDE = 64
_UNREACHABLE = re.compile("NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|ReadTimeoutError")


@pytest.fixture(scope="session")
def installed(request) -> Path:
    """Where the frameworks lie; skips without MLSYNC_TEST_FRAMEWORKS, and where no package index can be reached."""
    # Their installation and training take minutes of a round that has to stay short.
    if not os.environ.get("MLSYNC_TEST_FRAMEWORKS"):
        pytest.skip("MLSYNC_TEST_FRAMEWORKS=1 installs the frameworks and runs their tests")
    stamp = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    place = request.config.cache.mkdir("frameworks") / stamp
    # Tests in another process may be at it already.
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _install(place)
    return place


def _install(place: Path) -> None:
    made = Path(tempfile.mkdtemp(dir=place.parent))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    # Its tries are what tells an index that cannot be reached from one that lacks something.
    command += ["--retries", "2"]
    done = subprocess.run(
        [*command, "--target", str(made), "-r", str(REQUIREMENTS)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        made.rename(place)
        return
    shutil.rmtree(made)
    if _UNREACHABLE.search(done.stderr):
        # Of CI it is known that it has one.
        assert not os.environ.get("CI"), done.stderr
        pytest.skip("the frameworks are not installed, and no package index can be reached")
    pytest.fail(f"the frameworks cannot be installed: {done.stderr}")


@pytest.fixture(scope="session")
def ultralytics_python(installed, tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A Python with Ultralytics and without mlsync, and its environment: it fetches nothing and reports nothing."""
    python, environment = without_mlsync(HERE / "stand_in", installed)
    settings = tmp_path_factory.mktemp("ultralytics-settings")
    environment |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(settings)}
    return python, environment


@pytest.fixture(scope="session")
def frameworks_python(installed) -> tuple[str, dict[str, str]]:
    """A Python with transformers and Lightning and without mlsync, and its environment: it fetches nothing."""
    python, environment = without_mlsync(installed)
    return python, environment | {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def mlflow_python(request) -> Path:
    """The Python of a virtual environment with MLflow and this mlsync, made once; MLSYNC_TEST_MLFLOW may name one."""
    if not os.environ.get("MLSYNC_TEST_MLFLOW"):
        pytest.skip("MLSYNC_TEST_MLFLOW=1 installs MLflow, 850 MB")
    named = Path(os.environ["MLSYNC_TEST_MLFLOW"])
    place = named if named.is_dir() else request.config.cache.mkdir("mlflow") / MLFLOW
    with place.with_name(place.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if not (place / "whole").exists() and not named.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            subprocess.run([*pip, MLFLOW, "safetensors", str(ROOT)], check=True)
            (place / "whole").touch()
        # The tree may have changed since.
        subprocess.run([*pip, "--no-deps", "--force-reinstall", str(ROOT)], check=True)
    return place / "bin/python"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A machine with an agent that may be started, and is gone at the end."""
    machine = Watched(tmp_path_factory.mktemp("watched"))
    yield machine
    machine.kill()


def write_png(path: Path, left: int, top: int) -> None:
    """A picture of a bright square on dark ground."""
    inside = range(left, left + 28)
    rows = [
        b"\0"
        + b"".join(b"\xe0\xc0\x40" if x in inside and top <= y < top + 28 else b"\x20\x20\x20" for x in range(SIDE))
        for y in range(SIDE)
    ]

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    body = part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"".join(rows))) + part(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A data set of twelve small pictures; its description."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            left, top = 4 * index, 33 - 4 * index
            write_png(root / "images" / split / f"{index}.png", left, top)
            box = f"{(left + 14) / SIDE} {(top + 14) / SIDE} {28 / SIDE} {28 / SIDE}"
            (root / "labels" / split / f"{index}.txt").write_text(f"0 {box}\n")
    description = root / "data.yaml"
    description.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n  0: square\n")
    return description
