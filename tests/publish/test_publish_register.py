"""Registering: what is refused, what MLflow gets, in which order, and what the repository holds afterwards."""

from __future__ import annotations

import hashlib

import pytest

from flow_parts import RUN, World, small_checkpoint
from mlsync.errors import (
    CheckpointBroken,
    ConfigInvalid,
    DecisionsHidden,
    NotProvedYet,
    PathMissing,
    RegistryAway,
    Stopped,
    VersionKept,
    VersionMissing,
)
from mlsync.publish.register import RegisterOptions, newest_proved, register
from mlsync.publish.registrations import hold, let_go
from mlsync.registry.address import Tracking
from mlsync.registry.mlflow import Registry
from mlsync.registry.rest import Rest
from mlsync.registry.source import ModelSource
from mlsync.repository.history.decisions import By, find_decided
from mlsync.retention.grammar import parse_rule
from mlsync.retention.policy import KeepPolicy
from mlsync.upkeep.forget import BY_HAND, forget, needs_of
from mlsync.upkeep.retained import retained

BY = By("node-1", 1_795_435_200_000_000_000)


@pytest.fixture
def world(tmp_path):
    """A run with two versions of a checkpoint and a log, proved without a device."""
    world = World(tmp_path)
    for epoch in (1, 2):
        world.write("weights/best.pt", small_checkpoint(epoch))
        world.write("log.txt", b"%d" % epoch)
        world.backup()
    yield world
    world.close()


@pytest.fixture
def registry(mlflow):
    """The registry of the stand-in."""
    return Registry(Rest(Tracking(mlflow.url)), sleep=lambda _seconds: None)


def registered(world, registry, number=2, **more):
    """Register a version."""
    values = {"model": "yolo", "repository": "s3://bucket/runs"} | more
    stored = world.repository.stored(RUN, number)
    return register(world.repository, registry, stored, RegisterOptions(**values), world.monitor)


def held(world):
    """As what each version counts as registered."""
    return {
        number: [one.uri for one in items] for number, items in find_decided(world.repository, RUN).registered.items()
    }


def test_a_version_becomes_a_models_version(world, registry, mlflow):
    """Source and tags say where it is and what is known of it, the alias points to it, and the repository holds it."""
    done = registered(world, registry, aliases=("champion",), tags={"dataset": "coco"})
    assert (done.uri, done.is_new, done.path) == ("models:/yolo/1", True, b"weights/best.pt")
    source = ModelSource.parse(mlflow.versions("yolo")[1]["source"])
    stored = world.repository.stored(RUN, 2)
    assert (source.run, source.number, source.path) == (RUN, 2, b"weights/best.pt")
    assert (source.repository_id, source.manifest) == (world.repository.repository_id.hex(), stored.digest.hex())
    tags = mlflow.tags("yolo", 1)
    assert tags["mlsync.sha256"] == done.sha256 == hashlib.sha256(small_checkpoint(2)).hexdigest()
    wanted = {"mlsync.run": RUN, "mlsync.version": "2", "mlsync.manifest": stored.digest.hex(), "dataset": "coco"}
    assert wanted.items() <= tags.items()
    assert tags["mlsync.proof"] == "L2"
    assert mlflow.aliases("yolo") == {"champion": 1}
    assert held(world) == {2: ["models:/yolo/1"]}


def test_the_same_again_makes_no_second_one(world, registry, mlflow):
    """It is found by its tag and its source; aliases and tags are brought up to date."""
    registered(world, registry)
    done = registered(world, registry, aliases=("newest",), tags={"more": "1"})
    assert (done.uri, done.is_new, list(mlflow.versions("yolo"))) == ("models:/yolo/1", False, [1])
    assert (mlflow.aliases("yolo"), mlflow.tags("yolo", 1)["more"]) == ({"newest": 1}, "1")
    assert done.sha256 == hashlib.sha256(small_checkpoint(2)).hexdigest()
    decisions = [info.key for info in world.store.list("decisions/")]
    assert len(decisions) == 1


def test_metrics_are_tags(world, registry, mlflow):
    """What the trainer logged last, under its names as far as MLflow takes them, and what the checkpoint holds."""
    world.write("args.yaml", b"task: detect\n")
    world.write("results.csv", b"epoch,metrics/mAP50(B),val/box_loss\n1,0.25,1\n2,0.5,0.75\n")
    world.backup()
    registered(world, registry, 3)
    tags = mlflow.tags("yolo", 1)
    wanted = {"mlsync.metric.metrics/mAP50_B_": "0.5", "mlsync.metric.val/box_loss": "0.75", "mlsync.epoch": "2"}
    assert wanted.items() <= tags.items(), tags


def test_a_planted_version_is_not_taken_for_ours(world, registry, mlflow):
    """Somebody who may write tags gives ours to a source of his own: it gets neither alias nor hold."""
    registry.make_model("yolo")
    stored = world.repository.stored(RUN, 2)
    registry.create("yolo", "mlsync:///evil/1", {"mlsync.manifest": stored.digest.hex(), "mlsync.version": "2"})
    assert registered(world, registry, aliases=("champion",)).number == 2
    assert mlflow.aliases("yolo") == {"champion": 2}


@pytest.mark.parametrize("ends_at", ["registered-models/create", "model-versions/create", "registered-models/alias"])
def test_what_ended_early_is_completed(world, registry, mlflow, ends_at):
    """Wherever it ends, also with an answer that is lost, the next try makes it whole and no second version."""
    was: list[str] = []

    def fail(_method, what):
        # The server does it, and its answer does not arrive.
        if what == ends_at and not was:
            was.append(what)
            mlflow.lost = True

    mlflow.before = fail
    with pytest.raises(RegistryAway):
        registered(world, registry, aliases=("champion",))
    done = registered(world, registry, aliases=("champion",))
    assert (list(mlflow.versions("yolo")), mlflow.aliases("yolo"), held(world)) == (
        [1],
        {"champion": 1},
        {2: ["models:/yolo/1"]},
    )
    assert done.number == 1


def test_no_alias_moves_before_the_version_is_held(world, registry, mlflow, monkeypatch):
    """What people are pointed to has to stay: without the hold there is no alias."""

    def refuse(*_arguments, **_more):
        raise VersionKept("no room")

    monkeypatch.setattr("mlsync.publish.register.hold", refuse)
    with pytest.raises(VersionKept):
        registered(world, registry, aliases=("champion",))
    assert mlflow.aliases("yolo") == {}


def test_a_server_that_is_away_leaves_nothing_held(world, registry, mlflow):
    """Nothing was registered, so nothing is held."""
    mlflow.broken = 503
    with pytest.raises(RegistryAway):
        registered(world, registry)
    assert held(world) == {}


def test_what_is_not_proved_is_refused(tmp_path, registry, mlflow):
    """A checkpoint below the required level waits, unless that is allowed; nothing reaches the server."""
    world = World(tmp_path / "unproved")
    world.write("best.pt", small_checkpoint())
    world.backup(required_level=4)
    with pytest.raises(NotProvedYet, match="not proved as far as L4"):
        registered(world, registry, 1)
    with pytest.raises(VersionMissing, match="no version"):
        newest_proved(world.repository, RUN)
    assert mlflow.asked == []
    assert registered(world, registry, 1, allow_unproved=True).number == 1
    world.close()


def test_a_file_that_is_no_checkpoint_is_proved_by_nobody(world, registry):
    """Without a checkpoint at the path there is no proof."""
    with pytest.raises(NotProvedYet, match="holds no checkpoint"):
        registered(world, registry, path=b"log.txt")
    assert registered(world, registry, path=b"log.txt", allow_unproved=True).number == 1


def test_a_broken_checkpoint_is_never_registered(world, registry, monkeypatch):
    """Whatever is allowed, what does not load is given to nobody."""
    from mlsync.values import Proof

    monkeypatch.setattr(Proof, "is_broken", True)
    with pytest.raises(CheckpointBroken, match="does not load"):
        registered(world, registry, path=b"weights/best.pt", allow_unproved=True)


def test_the_path_is_found_or_asked_for(world, registry, mlflow):
    """The one checkpoint, or best; otherwise the message names those that there are."""
    world.write("weights/last.pt", small_checkpoint(3))
    world.backup()
    assert registered(world, registry, 3).path == b"weights/best.pt"
    world.write("weights/best.onnx.pt", small_checkpoint(4))
    world.backup()
    with pytest.raises(ConfigInvalid, match="last"):
        registered(world, registry, 4)
    assert registered(world, registry, 4, path=b"weights/last.pt").number == 2
    assert registered(world, registry, 4, path=b"weights").number == 3
    assert registered(world, registry, 4, path=b".").path == b""
    assert "mlsync.sha256" not in mlflow.tags("yolo", 4)
    with pytest.raises(PathMissing):
        registered(world, registry, 4, path=b"weights/nobody.pt")
    with pytest.raises(PathMissing):
        registered(world, registry, 4, path=b"../etc/passwd")


def test_of_several_matches_the_newest_counts(world, registry):
    """A pattern is for trainers that number their checkpoints."""
    for number in (9, 10):
        world.write(f"checkpoint-{number}/model.pt", small_checkpoint(number))
        world.backup()
    assert registered(world, registry, 4, path=b"checkpoint-*").path == b"checkpoint-10"


def test_a_registered_version_is_kept(world, registry):
    """Neither by hand nor by a rule it is forgotten; the rule registered says so; let go, it may be."""
    world.write("log.txt", b"3")
    world.backup()
    registered(world, registry, 1)
    assert needs_of(world.repository, RUN).reason(1, [1]) == "it is registered as models:/yolo/1"
    with pytest.raises(VersionKept, match="registered as models:/yolo/1"):
        forget(world.repository, RUN, [(1, BY_HAND)], BY)
    policy = KeepPolicy((parse_rule("registered"),), 2, 0.0)
    found = retained(world.repository, RUN, policy, 2**62, with_all_reasons=True).evaluation
    assert {one.version.number: "registered" in one.reasons for one in found.judged} == {1: True, 2: False, 3: False}
    let_go(world.repository, RUN, 1, "yolo", BY)
    assert forget(world.repository, RUN, [(1, BY_HAND)], BY).items


def test_a_forgotten_version_comes_back(world, registry):
    """As with a pin."""
    world.write("log.txt", b"3")
    world.backup()
    forget(world.repository, RUN, [(1, BY_HAND)], BY)
    registered(world, registry, 1)
    assert find_decided(world.repository, RUN).forgotten == {}


def test_nothing_is_held_or_let_go_beside_a_hidden_decision(world, registry):
    """A store that hides what a version names might hide a hold: unless that is accepted, nothing is decided."""
    registered(world, registry, 1)
    world.write("log.txt", b"3")
    world.backup()
    (newest,) = [info.key for info in world.store.list("decisions/")]
    world.store.delete(newest)
    stored = world.repository.stored(RUN, 2)
    at = ("http://h", "yolo", 9, b"")
    with pytest.raises(DecisionsHidden):
        hold(world.repository, stored, at, BY)
    assert hold(world.repository, stored, at, BY, accept_hidden=True).uri == "models:/yolo/9"
    world.write("log.txt", b"4")
    world.backup()
    for info in list(world.store.list("decisions/")):
        world.store.delete(info.key)
    with pytest.raises(DecisionsHidden):
        let_go(world.repository, RUN, 2, None, BY)
    with pytest.raises(VersionMissing):
        let_go(world.repository, RUN, 2, None, BY, accept_hidden=True)


def test_a_number_that_mlflow_lost_is_replaced(world, registry, mlflow):
    """The models' version was deleted there: the next one takes its place here."""
    registered(world, registry)
    registry.delete("yolo", 1)
    assert registered(world, registry).number == 2
    assert held(world) == {2: ["models:/yolo/2"]}


def test_letting_go_names_what_there_is(world, registry):
    """One that is not registered, or not as that model, is no success."""
    registered(world, registry)
    for number, model in ((1, None), (2, "other")):
        with pytest.raises(VersionMissing, match="not registered") as caught:
            let_go(world.repository, RUN, number, model, BY)
        assert "2 as models:/yolo/1" in caught.value.advice
        assert caught.value.what.endswith("is not registered" + ("" if model is None else " as 'other'"))
    assert [one.uri for one in let_go(world.repository, RUN, 2, None, BY)] == ["models:/yolo/1"]
    assert held(world) == {}


def test_a_run_has_room_for_so_many(world, monkeypatch):
    """What an object has no room for is refused by a message, and the old state stays."""
    monkeypatch.setattr("mlsync.repository.history.decisions.ROOM_BYTES_MAX", 300)
    stored = world.repository.stored(RUN, 2)
    hold(world.repository, stored, ("http://h", "one", 1, b""), BY)
    with pytest.raises(VersionKept, match="as many registered versions"):
        hold(world.repository, stored, ("http://h", "x" * 300, 1, b""), BY)
    assert held(world) == {2: ["models:/one/1"]}


def test_a_run_without_room_makes_no_models_version(world, registry, mlflow, monkeypatch):
    """The registry gets nothing that the repository could not keep, and what it has can be registered again."""
    registered(world, registry, number=1)
    monkeypatch.setattr("mlsync.repository.history.decisions.ROOM_BYTES_MAX", 150)
    with pytest.raises(VersionKept, match="as many registered versions"):
        registered(world, registry)
    assert list(mlflow.versions("yolo")) == [1]
    assert not registered(world, registry, number=1).is_new


def test_a_check_misses_a_registered_version(world, registry):
    """A version that is held and is gone from the store is damage."""
    registered(world, registry)
    world.write("log.txt", b"3")
    world.backup()
    key = world.repository.stored(RUN, 2).key
    world.store.delete(key)
    assert any("the version is registered" in one.text for one in world.check(read_data=False).problems)


def test_a_stop_is_heeded(world, registry, mlflow):
    """While the file is read back for its SHA-256."""

    def stop():
        raise Stopped("enough")

    with pytest.raises(Stopped):
        registered(world, registry, stop=stop)
    assert "yolo" not in mlflow.models


def test_the_best_is_named_once(world, registry):
    """The version with the best checkpoint, until it is registered in that place and model."""
    from mlsync.publish.register import best_unless_registered

    where = registry.place, "yolo"

    def best(place=where, by=None):
        return best_unless_registered(world.repository, RUN, place, b"weights/best.pt", by)

    with pytest.raises(VersionMissing, match="best"):
        best()
    results = "epoch,metrics/mAP50(B),metrics/mAP50-95(B)\n1,0.5,0.{}\n"
    world.write("args.yaml", b"task: detect\n")
    for score in (4, 6, 5):
        world.write("weights/best.pt", small_checkpoint(score))
        world.write("results.csv", results.format(score).encode())
        world.backup()
    assert best() == 4
    registered(world, registry, 4)
    assert best() is None
    assert best((registry.place, "other")) == 4
    assert best(by="results.csv:metrics/mAP50-95(B) min") == 3
    # As good, and the same file: nothing new. As good, and another one: that is.
    for epoch, wanted in ((6, None), (7, 7)):
        world.write("weights/best.pt", small_checkpoint(epoch))
        world.write("results.csv", results.format(6).encode() + b"%d,0.5,0.6\n" % epoch)
        world.backup()
        assert best() == wanted
