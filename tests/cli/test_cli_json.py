"""``--json``: one value on stdout, on success and on error, with the fields that docs/json.md lists and no others."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from answering_agent import answering
from machine import MLSYNC, checkpoint

from mlsync.app.pass_result import PassResult
from mlsync.bucket.apply import BucketApplied
from mlsync.bucket.facts import BucketFacts, RoleFacts, SettingAnswer
from mlsync.bucket.plan import Seen
from mlsync.bucket.plan import plan as plan_for
from mlsync.bucket.providers import AWS
from mlsync.bucket.wanted import Second, Wanted
from mlsync.cli.reports.cold_report import cold_json
from mlsync.cli.reports.json import (
    bucket_plan_json,
    bucket_show_json,
    check_json,
    forgotten_stretched_json,
    key_json,
    notify_json,
    now_json,
)
from mlsync.codec.keys import Keys
from mlsync.cold.find import ColdPack
from mlsync.config.model import Config, MirrorSettings, MlflowSettings, NotifySettings
from mlsync.demo import report
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.errors import StoreDenied, StoreUnavailable
from mlsync.monitor import SilentMonitor
from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.service.afterwards.mirrors import AgentMirrors
from mlsync.service.afterwards.registrations import Registrations
from mlsync.service.passes.pass_process import Opened
from mlsync.service.preemption_watch import PreemptionWatch
from mlsync.service.talk.ask_now import AskedPass
from mlsync.service.talk.client import AgentAt
from mlsync.service.talk.place import AgentPlace
from mlsync.service.telling.telling import Telling, TellOptions
from mlsync.store.prices import AWS_LIST
from mlsync.store.s3.settings import Setting
from mlsync.tell.letter import Receipt
from mlsync.upkeep.check import CheckResult
from mlsync.upkeep.extend_lock import Extended
from mlsync.upkeep.key_slots import SlotAdded

DOCUMENT = (Path(__file__).parents[2] / "docs" / "json.md").read_text()


def tables():
    """Every table of the document by its heading: field and type."""
    found = {}
    for section in re.split(r"^##+ ", DOCUMENT, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        fields = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", body, flags=re.MULTILINE)
        assert len(fields) == len(dict(fields)), heading
        found[heading] = dict(fields)
    # A shown version has all that a listed one has.
    found["mlsync show"] = found["version"] | found["mlsync show"]
    return found


TABLES = tables()
PLAIN = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "document": lambda value: isinstance(value, dict),
    "facts": lambda value: (
        isinstance(value, dict) and all(isinstance(one, str | int | float) for one in value.values())
    ),
}
seen = set()


def compare(kind, value, at):
    """The value is of the documented kind, all the way down."""
    if kind.endswith(" or null"):
        if value is None:
            return
        kind = kind.removesuffix(" or null")
    if kind.startswith("list of "):
        assert isinstance(value, list), at
        for one in value:
            compare(kind.removeprefix("list of "), one, f"{at}[]")
    elif kind in PLAIN:
        assert PLAIN[kind](value), (at, value)
    else:
        fields = TABLES[kind]
        assert value.keys() == fields.keys(), (at, value.keys() ^ fields.keys())
        seen.add(kind)
        for name, below in fields.items():
            compare(below, value[name], f"{at}.{name}")


def one_value(done):
    """The value, which is all that stands on stdout, in ASCII."""
    assert done.out.count("\n") == 1
    assert done.out.isascii()
    return json.loads(done.out)


@pytest.fixture
def eventful(saved):
    """A machine whose repository has everything to tell: proofs, links, troubles, an unused pack."""
    train = saved.training
    (train / "weights" / "best.pt").symlink_to("last.pt")
    (train / "weights" / "epoch2.pt").write_bytes(checkpoint(2))
    (train / "weights" / "broken.pt").write_bytes(checkpoint(3)[:-100])
    (train / "weights" / "last.pt").write_bytes(checkpoint(4)[:-100])
    saved.configure('[proof]\ndevice = "cpu"\n')
    return saved


def test_results_are_as_documented(eventful, fresh):
    """What each command prints when all goes well, or finds something, has the documented fields and types."""
    done = fresh.good("init", fresh.url, "--json")
    compare("mlsync init", one_value(done), "init")
    backup = eventful.run("backup", "--json")
    assert backup.status == 42, backup
    compare("mlsync backup", one_value(backup), "backup")
    assert one_value(backup)["runs"][0]["troubles"]
    for name, command in {
        "mlsync evaluate": ["evaluate", "latest", "--quickly", "--command", "sh -c 'echo loss 0.5'"],
        "mlsync versions": ["versions"],
        "mlsync show": ["show"],
        "mlsync verify": ["verify"],
        "mlsync prove": ["prove", "latest", "--device", "cpu"],
        "mlsync restore": ["restore", "--to", "back"],
        "mlsync check": ["check", "--read-data"],
    }.items():
        compare(name, one_value(eventful.good(*command, "--json")), name)


def test_what_is_passed_over_is_as_documented(saved):
    """What was put in the place of a version has the documented fields."""
    saved.object("versions/*/*", 1).with_name("0000000009").write_bytes(b"")
    compare("mlsync versions", one_value(saved.good("versions", "--json")), "versions")


def test_a_dry_run_is_as_documented(machine):
    """What a backup would do has the documented fields, and its directories add up."""
    machine.configure('exclude = ["wandb/"]\n')
    (machine.training / "wandb").mkdir()
    (machine.training / "wandb" / "run.bin").write_bytes(bytes(5000))
    (machine.training / "x.part").write_bytes(bytes(10))
    (machine.training / "x").write_bytes(bytes(20))
    os.mkfifo(machine.training / "pipe")
    value = one_value(machine.good("backup", "--dry-run", "--json"))
    compare("mlsync backup --dry-run", value, "dry-run")
    (run,) = value["runs"]
    assert {group["reason"] for group in run["left_out"]} == {"excluded", "unfinished", "special"}
    assert sum(one["read_bytes"] for one in run["directories"]) == run["read_bytes"] == run["new_bytes_max"]


def test_a_diagnosis_is_as_documented(saved):
    """What doctor found has the documented fields, whatever it found on this machine."""
    compare("mlsync doctor", one_value(saved.run("doctor", "--json", "--no-write")), "doctor")


def test_a_policy_is_as_documented(fresh):
    """A policy has the documented fields, and is itself a JSON document."""
    value = one_value(fresh.good("iam-policy", "s3://bucket/runs", "--role", "writer", "--json"))
    compare("mlsync iam-policy", value, "iam-policy")
    assert json.loads(value["policy"])["Version"] == "2012-10-17"


def test_a_share_is_as_documented(saved):
    """What a process proved that has a share has the documented fields, whatever was its own."""
    done = saved.good("prove", "--pending", "--level", "2", "--share", "2/3", "--json")
    compare("mlsync prove", one_value(done), "share")


def test_a_partial_restore_is_as_documented(saved):
    """A restore that named what it could not have prints its result, with the failures, and ends with their status."""
    (saved.base / "out" / "results.csv").mkdir(parents=True)
    done = saved.run("restore", "--to", "out", "--json")
    value = one_value(done)
    compare("mlsync restore", value, "restore")
    (failure,) = value["failures"]
    assert (failure["path"], failure["exit_status"], done.status) == ("results.csv", 60, 60)
    assert "results.csv" in done.err


def test_broken_checkpoint_is_as_documented(eventful):
    """What turned out not to load has the documented fields."""
    torch.save({"model": {"weight": torch.full((64, 64), float("nan"))}}, eventful.training / "weights" / "nan.pt")
    eventful.run("backup")
    eventful.configure('[proof]\nrefuse = ["nan", "inf"]\n')
    done = eventful.run("prove", "latest", "--device", "cpu", "--json")
    assert done.status == 50
    (broken,) = one_value(done)["versions"][0]["broken"]
    compare("broken checkpoint", broken, "broken")


def test_metrics_are_as_documented(saved):
    """What a trainer logged, and how far each version has it, has the documented fields."""
    value = one_value(saved.good("metrics", "--json"))
    compare("mlsync metrics", value, "metrics")
    assert [row["values"] for row in value["rows"]] == [{"loss": 0.5}, {"loss": 0.25}]
    assert [mark["version"] for mark in value["marks"]] == [1, 2]


def test_diff_is_as_documented(saved):
    """What changed between two versions, down to tensors that moved, came and went, has the documented fields."""
    model = {"weight": torch.ones(64, 64), "more": torch.ones(3)}
    torch.save({"epoch": 9, "model": model}, saved.training / "weights" / "last.pt")
    (saved.training / "results.csv").unlink()
    saved.good("backup")
    saved.good("evaluate", "--quickly", "--command", "sh -c 'echo loss 0.5'")
    value = one_value(saved.good("diff", "--json"))
    compare("mlsync diff", value, "diff")
    files = [(file["path"], file["change"]) for file in value["files"]]
    assert files == [("results.csv", "went"), ("weights/last.pt", "changed")]
    checkpoint = value["files"][1]["checkpoint"]
    assert [tensor["change"] for tensor in checkpoint["tensors"]] == ["changed", "new"]
    assert (checkpoint["facts_before"]["epoch"], checkpoint["facts_after"]["epoch"]) == (1, 9)


def test_finding_is_as_documented(eventful):
    """What was noticed of a checkpoint has the documented fields."""
    weights = torch.full((64, 64), float("nan"))
    torch.save({"epoch": 5, "model": {"weight": weights}}, eventful.training / "weights" / "nan.pt")
    eventful.run("backup")
    entries = eventful.good("show", "--json").json()["entries"]
    findings = [finding for entry in entries if entry["proof"] for finding in entry["proof"]["findings"]]
    assert findings
    for finding in findings:
        compare("finding", finding, "finding")


def test_problems_are_as_documented(saved):
    """``check`` with problems prints its result and not an error besides, and ends with 33."""
    max(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size).unlink()
    done = saved.run("check", "--json")
    assert done.status == 33
    value = one_value(done)
    compare("mlsync check", value, "check")
    assert value["problems"][0]["versions"] == [{"run": "yolo", "version": 1}, {"run": "yolo", "version": 2}]


def test_a_repair_is_as_documented(saved):
    """What is healed and what stays lost has the documented fields."""
    saved.object("versions/*/*", 1).unlink()
    max(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size).unlink()
    done = saved.run("repair", "--yes", "--json")
    assert done.status == 35, done
    value = json.loads(done.out)
    compare("mlsync repair", value, "repair")
    assert [one["healed"] for one in value["objects"]] == [True]
    assert value["lost"]


def test_failed_run_is_as_documented(machine):
    """Of several runs those that failed stand beside those that did not."""
    machine.configure(f'[[watch]]\ndirectory = "{machine.base}/gone"\n[proof]\ndevice = "none"\n')
    done = machine.run("backup", "--json")
    assert done.status == 40
    value = one_value(done)
    compare("mlsync backup", value, "backup")
    assert [run["run"] for run in value["runs"]] == ["yolo"]
    assert [(run["run"], run["kind"]) for run in value["errors"]] == [("gone", "SourceMissing")]


def test_agent_is_as_documented(machine):
    """The agent ends with 0 on SIGTERM; its last word, and its status file, have the documented fields."""
    process = subprocess.Popen(
        [MLSYNC, "agent", "--quickly", "--json"],
        env=machine.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=machine.base,
    )
    assert process.stderr is not None
    assert f"yolo: watching {machine.training} for {machine.url}" in process.stderr.readline()
    # Between them is what it says of this machine's disks and of the key slots.
    while "version 1" not in (said := process.stderr.readline()):
        assert said
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["runs"][0]["last_version"] == 1
    compare("mlsync agent", json.loads(out), "agent")
    compare("mlsync agent", json.loads((machine.state / "status.json").read_text()), "status.json")


def test_status_is_as_documented(fresh, saved):
    """What ``status`` prints has the documented fields without a configuration, with a right and a wrong one."""
    compare("mlsync status", one_value(fresh.good("status", "--json")), "none")
    with answering(saved, proved_s=1.5):
        compare("mlsync status", one_value(saved.good("status", "--json")), "live")
    compare("mlsync status --fleet", one_value(saved.good("status", "--fleet", "--json")), "fleet")
    (saved.state / "status.json").write_text(
        json.dumps({"format": 1, "repository": saved.url, "pid": 1, "host": "vm", "started_s": 1.5, "runs": []})
    )
    compare("mlsync status", one_value(saved.good("status", "--json")), "ready")
    saved.configuration.write_text("x = 1")
    compare("mlsync status", one_value(saved.good("status", "--json")), "invalid")


def test_keys_are_as_documented(saved):
    """The list of key slots, and what adding one prints, have the documented fields."""
    compare("mlsync key add", one_value(saved.good("key", "add", "--recovery", "--json")), "add")
    slots = [SlotAdded("00" * 16, 1.5)]
    compare("mlsync key add", key_json("11" * 16, None, None, slots), "change beside another one")
    compare("mlsync key list", one_value(saved.good("key", "list", "--json")), "list")
    for count in (None, 2):
        compare("mlsync key forget", forgotten_stretched_json(count), f"forget {count}")
    compare("mlsync key rotate", one_value(saved.good("key", "rotate", "--yes", "--json")), "rotate")
    compare("mlsync key reseal", one_value(saved.good("key", "reseal", "--dry-run", "--json")), "reseal --dry-run")
    compare("mlsync key rotate", one_value(saved.good("key", "rotate", "--reseal", "--yes", "--json")), "rotate again")


def test_a_discarding_is_as_documented(saved):
    """What is given up has the documented fields."""
    for name in ("versions", "copies"):
        place = saved.object(f"{name}/*/*", 0)
        place.chmod(0o600)
        place.write_bytes(b"planted" * 20)
    value = one_value(saved.good("repair", "--discard", "yolo/1", "--yes", "--json"))
    compare("mlsync repair --discard", value, "discard")
    assert [one["done"] for one in value["discarded"]] == [True]


def test_an_extended_lock_is_as_documented():
    """What a check says of locks has the documented fields."""
    denied = {"packs/aa/1": StoreDenied("no")}
    done = Extended(3, 3, 1, 1, denied=denied, lost={bytes(16)}, unread=["versions/aa/1"])
    compare(
        "mlsync check", check_json(CheckResult(), done, None, read_data=False, dry_run=False), "check --extend-lock"
    )


def test_a_copy_is_as_documented(saved):
    """A copy of some versions, one that fails, one that finds the mirror ahead, and the check of a mirror."""
    (saved.training / "results.csv").write_text("epoch,loss\n3,0.125\n")
    saved.good("backup")
    copy = ("copy", "--to", saved.base / "mirror", "--create", "--json")
    compare("mlsync copy", saved.good(*copy, "--version", "2").json(), "copy")
    compare("mlsync check", saved.good("check", "--repo", saved.base / "mirror", "--json").json(), "check")
    pack = max(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_mtime_ns)
    content = pack.read_bytes()
    pack.unlink()
    values = json.loads(saved.run(*copy).out.splitlines()[0])
    compare("mlsync copy", values, "copy")
    assert values["left_out"]
    pack.write_bytes(content)
    saved.good(*copy)
    for kind in ("versions", "copies"):
        saved.object(f"{kind}/*/0000000003").unlink()
    mirror = saved.base / "mirror"
    next(mirror.glob("versions/*/0000000002")).write_bytes(b"another")
    values = json.loads(saved.run(*copy, "--accept-rollback").out.splitlines()[0])
    compare("mlsync copy", values, "copy")
    assert values["conflicts"]
    assert values["ahead"]


def test_a_prune_is_as_documented(saved):
    """What would go, what goes, and what keeps a prune from deleting have the documented fields."""
    (saved.training / "results.csv").write_text("epoch,loss\n3,0.125\n")
    saved.good("backup")
    saved.good("forget", "1", "--yes")
    value = one_value(saved.good("prune", "--grace", "0s", "--dry-run", "--json"))
    compare("mlsync prune", value, "dry run")
    assert [(one["version"], one["removed"]) for one in value["versions"]] == [(1, False)]
    value = one_value(saved.good("prune", "--grace", "0s", "--yes", "--json"))
    compare("mlsync prune", value, "prune")
    assert [one["removed"] for one in value["versions"]] == [True]
    saved.object("versions/*/*", -1).write_bytes(b"damaged")
    saved.object("copies/*/*", -1).unlink()
    done = saved.run("prune", "--yes", "--json")
    assert done.status == 96, done
    compare("mlsync prune", json.loads(done.out), "blocked")


def test_what_is_decided_is_as_documented(saved):
    """What the commands print for programs has the documented fields, and versions' too."""
    (saved.training / "results.csv").write_text("epoch,loss\n3,0.125\n")
    saved.good("backup")
    compare("mlsync pin", one_value(saved.good("pin", "1", "--name", "paper", "--json")), "pin")
    value = one_value(saved.good("versions", "--json"))
    compare("mlsync versions", value, "versions")
    assert value["versions"][0]["pin"]["name"] == "paper"
    assert value["decided"] == [
        {
            "run": "yolo",
            "pinned_count": 1,
            "registered_count": 0,
            "forgotten_count": 0,
            "gone_count": 0,
            "hidden": None,
        }
    ]
    compare("mlsync show", one_value(saved.good("show", "paper", "--json")), "show")
    compare("mlsync pin", one_value(saved.good("unpin", "1", "--json")), "unpin")
    compare("mlsync forget", one_value(saved.good("forget", "1", "--dry-run", "--json")), "dry run")
    compare("mlsync forget", one_value(saved.good("forget", "1", "--yes", "--json")), "forget")
    value = one_value(saved.good("versions", "--all", "--json"))
    compare("mlsync versions", value, "versions --all")
    assert [one["forgotten"] is not None for one in value["versions"]] == [True, False, False]
    assert [one["version"] for one in one_value(saved.good("versions", "--json"))["versions"]] == [2, 3]
    rules = ("--keep", "last 1", "--json")
    compare("mlsync forget without numbers", one_value(saved.good("forget", "--dry-run", *rules)), "rules")
    refused = one_value(saved.run("forget", "--yes", "--keep", "every 1 steps", "--json"))
    compare("mlsync forget without numbers", refused, "refused rules")
    compare("mlsync unforget", one_value(saved.good("unforget", "1", "--json")), "unforget")


def test_what_is_handed_on_is_as_documented(saved, mlflow):
    """What is registered, let go and exported has the documented fields."""
    register = ("register", "--tracking-uri", mlflow.url, "--allow-unproved", "--json")
    compare("mlsync register", one_value(saved.good(*register)), "register")
    compare("mlsync register", one_value(saved.good(*register, "--path", ".")), "register all")
    compare("mlsync show", one_value(saved.good("show", "--json")), "show")
    value = one_value(saved.good("versions", "--json"))
    compare("mlsync versions", value, "versions")
    assert [one["model_version"] for one in value["versions"][-1]["registered"]] == [1, 2]
    compare(
        "mlsync unregister",
        one_value(saved.good("unregister", "2", "--delete", "--json", "--tracking-uri", mlflow.url)),
        "unregister",
    )
    value = one_value(saved.good("export", "2", "results.csv", "--to", saved.base / "copy", "--json"))
    compare("mlsync export", value, "export")
    assert value["files"][0]["is_new"]


def test_a_service_is_as_documented(machine):
    """What was installed and removed has the documented fields."""
    for what in ("install", "uninstall"):
        compare("mlsync service", one_value(machine.good("service", what, "--user", "--json")), what)


@pytest.mark.parametrize(
    ("arguments", "kind", "status"),
    [
        (["init"], "RepositoryExists", 11),
        (["init", "{url}", "--config", "o.toml"], "RepositoryExists", 11),
        (["backup", "none"], "ConfigInvalid", 2),
        (["agent", "--config", "none"], "ConfigInvalid", 2),
        (["versions", "none"], "RunMissing", 14),
        (["show", "9"], "VersionMissing", 15),
        (["diff", "9"], "VersionMissing", 15),
        (["diff", "1", "2", "none"], "PathMissing", 19),
        (["restore", "none"], "PathMissing", 19),
        (["metrics", "--name", "none"], "MetricMissing", 113),
        (["metrics", "--log", "none"], "LogMissing", 112),
        (["verify", "--version", "9"], "VersionMissing", 15),
        (["check", "--repo", "/nonexistent"], "RepositoryMissing", 10),
        (["check", "--key-file", "/nonexistent"], "PassphraseMissing", 20),
        (["versions", "--no-such-option"], "UsageError", 2),
        (["verify", "--device", "tpu"], "UsageError", 2),
        (["nothing"], "UsageError", 2),
    ],
)
def test_errors_are_as_documented(saved, arguments, kind, status):
    """An error is one JSON value too, with its kind and status, also where the arguments are wrong."""
    done = saved.run(*(argument.format(url=saved.url) for argument in arguments), "--json")
    value = one_value(done)
    compare("Errors", value, "error")
    assert (value["error"]["kind"], value["error"]["exit_status"], done.status) == (kind, status, status)
    assert value["error"]["what"] in done.err


def test_now_is_as_documented():
    """What an agent did for ``mlsync now`` has the documented fields, with an error and without."""
    agent = AgentAt(Path("/socket"), [])
    done = AskedPass(agent, 1, "a", True, 3, True, "version 3 in 1.0 s", ("torn",), None)
    failed = AskedPass(agent, 2, "b", True, None, False, None, (), StoreUnavailable("away"))
    compare("mlsync now", now_json([done, failed], waited=True), "now")


def test_wrong_passphrase_is_as_documented(saved):
    """Without --json an error leaves stdout empty; with it the same words stand there."""
    plain = saved.run("versions", MLSYNC_PASSPHRASE="wrong")
    assert plain.out == ""
    value = one_value(saved.run("versions", "--json", MLSYNC_PASSPHRASE="wrong"))["error"]
    assert value["what"] in plain.err
    assert value["exit_status"] == 21


def test_demo_is_as_documented():
    """The demo's report, which its own test makes, has the documented fields."""
    named = {
        "mlsync demo": report.Report,
        "demo version": report.VersionMade,
        "trouble": report.FileTrouble,
        "torn checkpoint": report.Torn,
        "demo restore": report.Restored,
        "resumed training": report.Resumed,
        "losses of an epoch": report.EpochLosses,
    }
    for name, kind in named.items():
        assert list(TABLES[name]) == [field.name for field in dataclasses.fields(kind)], name
        seen.add(name)


def test_notices_are_as_documented():
    """An event that is to come stands in the agent's status with the documented fields."""
    told = PlatformNotice("aws", "stop", Effect.ENDS, None, certain=True, ident="aws stop")
    watch = PreemptionWatch(None, [], SilentMonitor(), lambda: None)
    watch._listener._tracker.update([told], 1000.0, platform="aws", lead_s=120.0)
    compare("list of notice", watch.as_json(), "notices")
    assert watch.as_json()[0]["deadline_s"] == 1120


def test_channels_are_as_documented(tmp_path):
    """What a test of a channel came to, and how a channel stands, have the documented fields."""
    channel = NotifySettings(channel="wecom", name="team")
    answers = [(channel, Receipt(is_taken=False, said="errcode 93000", was_reached=True))]
    compare("mlsync notify test", notify_json(answers), "notify test")
    compare(
        "list of channel", Telling(TellOptions((channel,)), AgentPlace(tmp_path), SilentMonitor()).as_json(), "channels"
    )


def test_registrations_are_as_documented(tmp_path):
    """What the agent registers, and what of it waits, has the documented fields."""
    config = dataclasses.replace(Config("file:///r", tmp_path), mlflow=MlflowSettings(on="proved"))
    keys = Keys(bytes(32), bytes(16))
    models = Registrations(
        config, SilentMonitor(), ask=lambda *_: {"done": [], "left": [], "dropped": [], "failure": ""}
    )
    models._note("away")
    models._run(Opened(keys, conditional_create=True, slot="keys/0"), "yolo").waiting[:] = [0, 3]
    compare("registry or null", models.as_json(), "registry")
    models.close()


def test_mirrors_are_as_documented(tmp_path):
    """How the agent's mirrors stand has the documented fields."""
    config = dataclasses.replace(Config("file:///r", tmp_path), mirrors=(MirrorSettings("s3://far/x"),))
    copied = {"copied": 3, "newest": 3, "behind": 0}
    done = {"runs": {"yolo": copied}, "versions": 1, "bytes": 9, "faults": []}
    opened = Opened(Keys(bytes(32), bytes(16)), conditional_create=True, slot="keys/0")
    mirrors = AgentMirrors(config, lambda: opened, SilentMonitor(), ask=lambda *_: done)
    mirrors.passed("yolo", PassResult("yolo", 3, 3, (), ""))
    mirrors.close()
    compare("list of mirrored copy", mirrors.as_json(), "mirrors")


def test_cold_packs_are_as_documented():
    """What lies in cold storage has the documented fields, with a price list and without."""
    packs = [ColdPack(bytes(16), 10**9, "GLACIER", is_thawing=False), ColdPack(bytes(16), 1, "OTHER", is_thawing=True)]
    for prices in (AWS_LIST, None):
        compare("list of cold class", cold_json(packs, prices, 7), "cold")
    assert cold_json(packs, AWS_LIST, 7)[0]["offers"][0]["usd"] > 0


def test_what_mirrors_gave_is_as_documented(saved):
    """What was read from a mirror, and what was healed from it or could not be, has the documented fields."""
    mirror = saved.base / "mirror"
    shutil.copytree(saved.repository, mirror)
    saved.configure(f'[proof]\ndevice = "none"\n[[mirror]]\nurl = "{mirror}"\n')
    compare("mlsync status --mirrors", one_value(saved.good("status", "--mirrors", "--json")), "mirrors")
    packs = [saved.object("packs/*/*", index) for index in (0, 1)]
    for pack in packs:
        pack.unlink()
    value = one_value(saved.run("verify", "--json"))
    compare("What came from mirrors", {"from_mirror": value["from_mirror"]}, "verify")
    (mirror / packs[0].relative_to(saved.repository)).unlink()
    compare("mlsync check", one_value(saved.run("check", "--repair-from-mirror", "--json")), "check")


def test_a_plan_for_a_bucket_is_as_documented():
    """What a bucket is set to, what changes in it, and what of that failed, has the documented fields."""
    first = BucketFacts(
        "first", "eu-west-1", exists=True, answers={Setting.VERSIONS: SettingAnswer({"Status": "Enabled"})}
    )
    second = BucketFacts("second", None, exists=False)
    wanted = Wanted("first", second=Second("second", "us-east-1"))
    found = Seen(AWS, first, "eu-west-1", second, "us-east-1", RoleFacts("111122223333"))
    plan = plan_for(wanted, found)
    applied = BucketApplied(plan.changes[2:], plan.changes[1:2], [(plan.changes[0], "denied")])
    for command, done in (("plan", None), ("apply", applied)):
        compare(f"mlsync bucket {command}", bucket_plan_json(found, plan, done, plan), command)
    compare("mlsync bucket show", bucket_show_json(first, AWS, [Diagnosis("lock", Grade.FINE, "off")]), "show")


def test_every_table_was_compared():
    """No table of the document stands for something that no test above has seen."""
    assert {name for name, fields in TABLES.items() if fields} == seen


def test_show_tells_what_trainers_logged(saved):
    """Epoch, step and best of a trainer's log stand beside it, as text and as facts; where it is lost, nothing does."""
    state = {"global_step": 9, "epoch": 3.0, "best_metric": 0.25, "best_model_checkpoint": "out/checkpoint-6"}
    (saved.training / "trainer_state.json").write_text(json.dumps(state))
    saved.good("backup")
    told = {"framework": "huggingface-trainer", "epoch": 3, "step": 9, "best_metric": 0.25, "best_step": 6}
    value = one_value(saved.good("show", "--json"))
    compare("mlsync show", value, "show")
    logged = {entry["path"]: entry["logged"] for entry in value["entries"] if entry["logged"] is not None}
    assert logged == {"trainer_state.json": told}
    shown = "huggingface-trainer, epoch 3, step 9, best metric 0.25, best step 6"
    assert shown in saved.good("show").out
    for pack in saved.repository.glob("packs/*/*"):
        pack.unlink()
    assert shown not in saved.good("show").out
