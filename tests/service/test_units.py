"""The systemd units say what the code does, and systemd understands them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlsync import errors
from mlsync.app import secrets
from mlsync.service.grace import STOP_WITHIN_S

pytestmark = pytest.mark.slow

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = ("mlsync-agent.service", "mlsync-agent-user.service")
TEMPLATE = "mlsync@.service"
TIMED = ("mlsync-check.service", "mlsync-prune.service")


def value(name, key):
    return re.search(rf"^{key}=(.*)$", (UNITS / name).read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("name", [*NAMES, TEMPLATE, *TIMED, "mlsync-check.timer", "mlsync-prune.timer"])
def test_systemd_understands_the_unit(name, tmp_path):
    """``systemd-analyze verify`` has nothing to say against the unit."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (UNITS / name).read_text(), flags=re.MULTILINE)
    (tmp_path / name).write_text(text)
    if name.endswith(".timer"):
        (tmp_path / f"{name.removesuffix('timer')}service").write_text("[Service]\nExecStart=/bin/true\n")
    manager = ["--user"] if "user" in name else []
    done = subprocess.run(
        ["systemd-analyze", "verify", *manager, str(tmp_path / name)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# Root's unit is what the project promises; of the user's all that its manager can do is done.
@pytest.mark.parametrize(
    ("name", "most"), [*zip(NAMES, (2.0, 6.4), strict=True), *((name, 2.0) for name in (TEMPLATE, *TIMED))]
)
def test_systemd_finds_the_unit_hardened(name, most, tmp_path):
    """``systemd-analyze security`` counts no more against a unit than the README says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    manager = ["--user"] if "user" in name else []
    done = subprocess.run(
        ["systemd-analyze", "security", *manager, "--offline=yes", str(UNITS / name)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze (before 250) reads no unit from a file")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure, done
    assert float(exposure[1]) <= most


def test_the_template_is_the_machines_unit_for_a_configuration_each():
    """Each line of the template is the unit's, or has the name of the instance in the place of a name."""
    unit, template = ((UNITS / name).read_text().splitlines() for name in (NAMES[0], TEMPLATE))
    plain = [line for line in unit if line and not line.startswith("# ")]
    instances = [line for line in template if line and not line.startswith("# ")]
    for ours, theirs in zip(plain, instances, strict=True):
        if ours != theirs:
            assert "%i" in theirs
            assert ours.partition("=")[0] == theirs.partition("=")[0]
    places = [line for line in instances if re.match(r"(State|Cache)Directory=|ExecStart=|Environment=TMPDIR", line)]
    assert len(places) == 4
    assert all("%i" in line for line in places)


@pytest.mark.parametrize("name", TIMED)
def test_what_runs_by_the_clock_gives_way(name):
    """The commands of the timers are the lowest priority, and the timer of the same name starts them."""
    assert (value(name, "Nice"), value(name, "CPUWeight"), value(name, "Slice")) == ("19", "1", "-.slice")
    assert (UNITS / name.replace(".service", ".timer")).is_file()


def test_a_gpu_opens_its_devices_and_no_more():
    """The drop-in gives back no device but NVIDIA's, and the unit alone has none."""
    assert value(NAMES[0], "PrivateDevices") == "yes"
    drop_in = (UNITS / "mlsync-agent-gpu.conf").read_text()
    settings = [line for line in drop_in.splitlines() if line and not line.startswith(("#", "["))]
    devices = [line for line in settings if line.startswith("DeviceAllow=")]
    assert sorted(settings) == sorted(["PrivateDevices=no", *devices])
    assert all(re.fullmatch(r"DeviceAllow=char-nvidia(-[a-z]+)? rw", line) for line in devices)


def test_priorities_are_set_where_they_cannot_be_changed():
    """The machine's unit sets what the program would, which then may not touch it: in its group only weights count."""
    settings = {key: value(NAMES[0], key) for key in ("Nice", "CPUSchedulingPolicy", "IOSchedulingClass")}
    assert settings == {"Nice": "19", "CPUSchedulingPolicy": "batch", "IOSchedulingClass": "idle"}
    assert "SystemCallFilter=~@resources" in (UNITS / NAMES[0]).read_text()


def test_a_users_unit_leaves_priorities_to_the_program():
    """Where nice values may be what counts, passes load their program before they lower their own."""
    text = (UNITS / NAMES[1]).read_text()
    assert re.findall(r"^(?:Nice|CPUSchedulingPolicy|SystemCallFilter=~@resources).*", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_units_weigh_little_beside_all_else(name):
    """A weight counts among siblings only: the units stand at the top, beside the slices of services and of logins."""
    assert (value(name, "Slice"), value(name, "CPUWeight")) == ("-.slice", "10")


@pytest.mark.parametrize("name", NAMES)
def test_restarts_stop_at_errors_that_need_a_person(name):
    """The exit statuses that are not tried again are those of the errors that the unit's comment names."""
    needs_a_person = (
        errors.ConfigInvalid,
        errors.Untrusted,
        errors.FormatUnsupported,
        errors.PassphraseMissing,
        errors.WrongPassphrase,
    )
    assert value(name, "RestartPreventExitStatus") == " ".join(str(error.exit_code) for error in needs_a_person)


@pytest.mark.parametrize("name", NAMES)
def test_systemd_waits_longer_than_the_agent(name):
    """SIGKILL comes later than the agent's own end."""
    assert float(value(name, "TimeoutStopSec").removesuffix("s")) > STOP_WITHIN_S


@pytest.mark.parametrize("name", NAMES)
def test_the_proofs_process_may_confine_itself(name):
    """The calls with which the sandbox is made are allowed after all that is taken away."""
    *_, last = re.findall(r"^SystemCallFilter=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
    needed = {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset"}
    assert needed <= set(last.split())


def test_credentials_are_called_what_the_agent_looks_for():
    """The unit's and the README's credentials have the names that are looked up."""
    for text in ((UNITS / NAMES[0]).read_text(), (UNITS / "README.md").read_text()):
        named = set(re.findall(r"mlsync-(?:passphrase|key)\b", text))
        assert named == {secrets.CREDENTIAL_PASSPHRASE, secrets.CREDENTIAL_KEY}
