"""The files of ``deploy/``: they parse, fit together, and each call of mlsync in them is one that mlsync takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mlsync.config.units import parse_duration
from test_documents import _calls, _parse

DEPLOY = Path(__file__).parent.parent / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))


def document(name):
    """A file of YAML."""
    return yaml.safe_load((DEPLOY / name).read_text())


def pod():
    """The pod of the Job."""
    return document("kubernetes.yaml")["spec"]["template"]["spec"]


def containers():
    """Every container of the pod by its name."""
    return {one["name"]: one for one in [*pod()["initContainers"], *pod()["containers"]]}


def words_of(container):
    """Each list of words that a container runs, hooks too, as the image's entry point makes of it."""
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    if hook:
        yield hook
    probe = container.get("startupProbe", {}).get("exec", {}).get("command")
    if probe:
        yield probe
    if "command" in container:
        yield [*container["command"], *container.get("args", [])]
    elif "args" in container:
        yield ["mlsync", *container["args"]]


def calls(words):
    """The arguments of each call of mlsync in such a list, in a shell's line too."""
    if words[0] == "mlsync":
        yield words[1:]
    elif words[:2] == ["sh", "-c"]:
        yield from _calls(words[2])


def test_each_call_in_kubernetes_is_one_that_mlsync_takes():
    """What init containers, sidecar and hook call are commands and options of mlsync."""
    found = [call for one in containers().values() for words in words_of(one) for call in calls(words)]
    assert [call[0] for call in found] == ["init", "restore", "restore", "now", "now", "agent"]
    for call in found:
        _parse(call, f"kubernetes.yaml: {call}")


def test_the_sidecar_begins_before_the_trainer_and_hears_the_notice():
    """It is a native sidecar behind the restore, its hook runs at once, and its time fits the pod's."""
    before = pod()["initContainers"]
    assert [one["name"] for one in before] == ["repository", "restore", "mlsync"]
    assert [one.get("restartPolicy") for one in before] == [None, None, "Always"]
    within_s = next(one["value"] for one in before[-1]["env"] if one["name"] == "MLSYNC_AGENT_STOP_WITHIN")
    assert parse_duration(within_s) + 5 <= pod()["terminationGracePeriodSeconds"]


def test_the_pod_holds_nothing_that_outlives_it_and_no_secret():
    """All volumes go with the pod, no value is a secret, and what mlsync needs to go on is shared with the restore."""
    assert all("emptyDir" in volume for volume in pod()["volumes"])
    for one in pod()["initContainers"]:
        assert {mount["mountPath"] for mount in one["volumeMounts"]} == {"/runs", "/mlsync", "/tmp"}
        assert [env["name"] for env in one["env"] if "value" in env] == ["MLSYNC_AGENT_STOP_WITHIN"]
        assert one["securityContext"]["readOnlyRootFilesystem"]
    assert pod()["securityContext"]["runAsNonRoot"]


def test_kubernetes_knows_each_field():
    """The schema of Kubernetes has every field of the Job, where the package with the schemas is installed."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate checks the schema")
    validate.validate(document("kubernetes.yaml"), "1.29", strict=True)


def test_compose_starts_in_order_and_calls_what_mlsync_takes():
    """The restore ends before agent and trainer begin, all see the same directory, and the agent has time to end."""
    services = document("compose.yaml")["services"]
    for name in ("mlsync", "trainer"):
        assert services[name]["depends_on"] == {"restore": {"condition": "service_completed_successfully"}}
    for name, one in services.items():
        if name != "trainer":
            words = [*one.get("entrypoint", ["mlsync"]), *one["command"]]
            for call in calls([word.replace("$$", "$") for word in words]):
                _parse(call, f"compose.yaml: {call}")
        assert any("/home/me/yolo/runs" in volume for volume in one["volumes"])
        assert one["user"] == "1000:1000"
    assert parse_duration(services["mlsync"]["stop_grace_period"]) > 25
    assert (DEPLOY / services["mlsync"]["build"]["context"] / services["mlsync"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_what_shells_and_mlsync_take(script):
    """The shell reads the script, and each call of mlsync in it is one that mlsync takes."""
    text = script.read_text()
    shell = re.match(r"#!/bin/(\w+)\n", text)[1]
    read = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
    found = [call for line in text.replace("\\\n", " ").splitlines() for call in _calls(line.removeprefix("exec "))]
    assert {"init", "run"} <= {call[0] for call in found}
    for call in found:
        _parse(call, f"{script.name}: {call}")


def test_slurm_sends_its_signal_to_the_step():
    """The signal comes to what srun starts, before the grace that mlsync is given is over; the job is queued again."""
    text = (DEPLOY / "slurm.sh").read_text()
    name, before_s = re.search(r"^#SBATCH --signal=(\w+)@(\d+)$", text, re.MULTILINE).groups()
    grace = re.search(r"--grace (\w+)", text)[1]
    assert name == "TERM"
    assert parse_duration(grace) < int(before_s)
    assert "\nsrun " in text
    assert "scontrol requeue" in text


def test_the_image_is_small_and_nobodys_root():
    """The Dockerfile begins with a slim image for all architectures, runs as a user, and copies what it is told to."""
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+-slim$", text, re.MULTILINE)  # no digest: it would be of one architecture
    assert re.search(r"^USER (?!0|root)\S+$", text, re.MULTILINE)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (DEPLOY.parent / source).exists(), source
            assert f"!{source}\n" in allowed + "\n", source
