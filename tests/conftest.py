"""What holds for every test: a clean environment, no warning that nobody expected, and an S3 server on demand."""

from __future__ import annotations

import fcntl
import gc
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from aws_emulator import AwsEmulator
from compiled_once import compile_share
from fake_mlflow import FakeMlflow
from fault_proxy import FaultProxy
from kms_service import KmsService
from parsed_once import parse_once
from seaweed import S3Server, Seaweed
from temporary_place import TemporaryPlace, on_disk

if TYPE_CHECKING:
    from flow_parts import World

RANKS_PROGRAM = Path(__file__).with_name("formats") / "dcp_ranks.py"

_PLACE = pytest.StashKey[TemporaryPlace]()
_FAILED = pytest.StashKey[bool]()

_AT_START = dict(os.environ)
# Test knobs stay; all else of these families would make a test depend on whose machine it runs on.
_KEPT = re.compile(r"MLSYNC_TEST_")
_WIPED = re.compile(
    r"MLSYNC_|AWS_|BOTO|(?:https?|all|no)_proxy$|NOTIFY_SOCKET$|WATCHDOG_|CREDENTIALS_DIRECTORY$", re.IGNORECASE
)
_NUMBERS = itertools.count()
_HOMES = {
    "HOME": "home",
    "XDG_CONFIG_HOME": "home/.config",
    "XDG_STATE_HOME": "home/.local/state",
    "XDG_DATA_HOME": "home/.local/share",
    "XDG_CACHE_HOME": "home/.cache",
    "XDG_RUNTIME_DIR": "run",
}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose where files lie, make markers known, and let processes that tests start hear the signals they are sent."""
    # Before the first temporary directory; processes of pytest-xdist inherit it.
    place = config.stash[_PLACE] = TemporaryPlace()
    if place.path is not None and config.option.basetemp is None:
        config.option.basetemp = str(place.path / "t")
    # Hundreds of commands are started: each would compile all of its modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A busy machine makes one example of many slow, which says nothing of the code.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    # A runner that was started in the background, or by nohup, has them ignored, which whom it starts inherits.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if hasattr(config, "workerinput"):
        _leave_first_session()
    config.addinivalue_line(
        "markers", "expected_warnings(*patterns): the test logs warnings; each matches a pattern, each pattern comes"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keep Python's garbage collector from what is there before the first test: some 860,000 objects that stay.

    Each full collection would look at them all, which takes half a second; one comes with every fifty tests or so.
    """
    gc.disable()
    config = session.config
    # Only for a run of all files: one of a few has less to compile than there is to share.
    if hasattr(config, "workerinput") and set(config.getini("testpaths")) <= set(config.args):
        compile_share(config)
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Note whether anything failed."""
    session.config.stash[_FAILED] = exitstatus != 0


def pytest_unconfigure(config: pytest.Config) -> None:
    """Free the memory that files took, unless somebody wants to look at them."""
    if _PLACE in config.stash:
        config.stash[_PLACE].leave(keep=config.stash.get(_FAILED, True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests that need the S3 server out of the quick round: it takes longer than they do."""
    for item in items:
        if not {"s3_process", "aws_process", "strict_aws_process"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def _leave_first_session() -> None:
    """Have the tests run in a session that the kernel weighs, as a user's are.

    What a machine's first process starts without ``setsid``, as some runners are, is in none: /proc says nothing of it.
    """
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists() and not autogroup.read_text():
        with suppress(PermissionError):
            os.setsid()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The test's directory: on a disk if the test is marked so, else in memory where that is possible."""
    disk = on_disk() if request.node.get_closest_marker("disk") else None
    if disk is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="mlsync-test-", dir=disk) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def _environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test's home lies: apart, since pytest numbers a directory by listing all beside it."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, _environments: Path) -> None:
    """No setting of the developer's reaches a test, and no test writes to the developer's home."""
    for name in list(os.environ):
        if _WIPED.match(name) and not _KEPT.match(name):
            monkeypatch.delenv(name)
    base = _environments / str(next(_NUMBERS))
    base.mkdir(mode=0o700)
    for name, place in _HOMES.items():
        directory = base / place
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        monkeypatch.setenv(name, str(directory))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # On a rented machine, agents of tests would ask its cloud.
    monkeypatch.setenv("MLSYNC_PREEMPTION_NOTICES", "off")
    # The tests themselves need all processors, and a second pass would wait for that to end.
    monkeypatch.setenv("MLSYNC_LIMITS_PROCESSOR_SHARE", "100%")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.levelname}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def _no_unexpected_log_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    """A logged warning that no ``expected_warnings`` marker names fails the test, as does one that did not come."""
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(collector)
    patterns = [pattern for mark in request.node.iter_markers("expected_warnings") for pattern in mark.args]
    unexpected = [text for text in collector.messages if not any(re.search(p, text) for p in patterns)]
    absent = [p for p in patterns if not any(re.search(p, text) for text in collector.messages)]
    if unexpected:
        pytest.fail("warnings that nobody expected were logged:\n" + "\n".join(unexpected))
    if absent:
        pytest.fail("warnings that were expected did not come: " + ", ".join(absent))


@pytest.fixture(scope="session", autouse=True)
def _parsed_once() -> None:
    """A client of S3 costs a test a tenth of what it would."""
    parse_once()


@pytest.fixture(scope="session")
def kms_process() -> Iterator[KmsService]:
    """The session's stand-in for AWS KMS, which is started when asked for."""
    service = KmsService()
    yield service
    service.stop()


@pytest.fixture
def mlflow() -> Iterator[FakeMlflow]:
    """A stand-in for an MLflow server, with no model."""
    fake = FakeMlflow()
    yield fake
    fake.stop()


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's S3 server: the one of MLSYNC_TEST_S3_ENDPOINT, or a SeaweedFS that is started when asked for."""
    endpoint_url = _AT_START.get("MLSYNC_TEST_S3_ENDPOINT")
    if endpoint_url:
        yield S3Server(
            endpoint_url,
            _AT_START["AWS_ACCESS_KEY_ID"],
            _AT_START["AWS_SECRET_ACCESS_KEY"],
            _AT_START.get("AWS_DEFAULT_REGION", "us-east-1"),
        )
        return
    seaweed = Seaweed(tmp_path_factory.mktemp("seaweed"))
    try:
        yield seaweed.start()
    finally:
        seaweed.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A run without files, a repository in memory, an empty local state."""
    from flow_parts import World

    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def directory_world() -> Iterator[World]:
    """The same on a directory repository, in a place that every user can reach: pytest closes its own to others."""
    # Late, as above: tests of the lowest layers run although a layer above them does not even import.
    from flow_parts import World
    from mlsync.store.directory.store import DirectoryStore

    with tempfile.TemporaryDirectory(prefix="mlsync-test-") as name:
        base = Path(name)
        os.chmod(base, 0o755)
        world = World(base, DirectoryStore(base / "repo", create=True))
        yield world
        world.close()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``dcp_ranks.py`` saves, once for all processes of the tests: ``checkpoint``, ``fsdp`` and ``hf``.

    It is for reading: a test that changes it works on a copy.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "two_ranks"
    with (shared / "two_ranks.lock").open("w") as lock:
        # Whoever comes first makes it, and the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = shared / "two_ranks.making"
            making.mkdir(exist_ok=True)
            # Long, since what is slow on a busy machine says nothing of the code.
            subprocess.run([sys.executable, RANKS_PROGRAM, "2", making], check=True, timeout=280)
            making.rename(folder)
    return folder


@pytest.fixture(scope="module")
def proxy(s3_process: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the session's S3 server, at its ``url``; each test sets the faults that it wants."""
    proxy = FaultProxy(s3_process.endpoint_url)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def s3_server(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with its keys in the environment."""
    for name, value in s3_process.environment().items():
        monkeypatch.setenv(name, value)
    return s3_process


@pytest.fixture(scope="session")
def aws_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's server that plays AWS, where everybody may do everything; it is started when asked for."""
    emulator = AwsEmulator(tmp_path_factory.mktemp("aws"))
    try:
        yield emulator.start()
    finally:
        emulator.stop()


@pytest.fixture(scope="session")
def strict_aws_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's server that plays AWS and holds everybody but the root to his policies."""
    emulator = AwsEmulator(tmp_path_factory.mktemp("strict-aws"), enforces=True)
    try:
        yield emulator.start()
    finally:
        emulator.stop()


@pytest.fixture
def aws_server(aws_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server that plays AWS, with its keys in the environment."""
    for name, value in aws_process.environment().items():
        monkeypatch.setenv(name, value)
    return aws_process
