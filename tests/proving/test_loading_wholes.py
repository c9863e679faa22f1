"""Level 5 of checkpoints of several files: a command gets the directory, once, and what it says holds for all of it."""

from __future__ import annotations

import json
import os

import pytest

from flow_parts import RUN, World, contents, small_checkpoint
from mlsync.errors import CommandUnavailable
from mlsync.proof.framework import SEVERAL_FILES, Framework
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving import load as loading
from mlsync.proving.load import LoadingOptions
from mlsync.proving.policy import Policy
from mlsync.proving.prove_later import LaterProver
from mlsync.proving.shares import Share
from mlsync.proving.verify import verify
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.versions.proof_status import manifest_of, proof_statuses

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
AS_EVER = Policy(loading="a")


class StaysOpen(Prover):
    """A prover whose process the next backup finds still there: torch is imported once for all tests."""

    def __exit__(self, *what):
        """Nothing is closed by the end of a backup."""


@pytest.fixture(scope="module")
def prover():
    """A prover on the CPU."""
    prover = StaysOpen(ProofOptions(device="cpu"))
    yield prover
    prover.close()


@pytest.fixture
def world(tmp_path, prover):
    """A run without versions."""
    world = World(tmp_path)
    world.prover = prover
    yield world
    world.close()


def sharded(world, value, directory="final/"):
    """Write weights in two files, their index, and what else lies beside them."""
    import torch
    from safetensors.torch import save

    for number, name in enumerate(SHARDS):
        world.write(directory + name, save({f"layer{number}": torch.full((100,), float(value))}))
    index = {"metadata": {"total_size": 800}, "weight_map": {f"layer{n}": name for n, name in enumerate(SHARDS)}}
    world.write(directory + INDEX, json.dumps(index).encode())
    world.write(directory + "config.json", json.dumps({"value": value}).encode())
    world.write(directory + "tokenizer/merges.txt", b"a b")


def options(world, script, **more):
    """Have *script* load checkpoints: a shell's words, given the path as $1."""
    more = {"kinds": SEVERAL_FILES} | more
    return LoadingOptions(Framework("check", ("sh", "-c", script, "sh", "{path}"), **more), world.base / "loading")


def back_up(world, script, *, required_level=3, wait_for_proof=False, policy=AS_EVER, **more):
    """Back up, with proofs on the CPU and checkpoints loaded by *script*."""
    return world.backup(
        prover=world.prover,
        loading=options(world, script, **more),
        required_level=required_level,
        wait_for_proof=wait_for_proof,
        policy=policy,
    )


def levels(world):
    """How far each checkpoint of the last version was proved."""
    return {entry.path.decode(): entry.proof.level for entry in world.manifest().entries if entry.proof is not None}


def logged(world):
    """A script that writes the name of what it is given to a log, and the log."""
    log = world.base / "log"
    return f'basename "$1" >> {log}', log


def test_the_command_gets_the_whole_directory_once(world):
    """All files below it are there under their names, for nobody else, and every checkpoint in it is at level 5."""
    sharded(world, 1)
    world.write("last.pt", small_checkpoint())
    script, log = logged(world)
    seen = world.base / "seen"
    back_up(
        world, script + f'; test -f "$1" || {{ cp -r "$1" {seen}; stat -c %a "$1" "$1/config.json" > {seen}.modes; }}'
    )
    assert sorted(log.read_text().split()) == ["final", "last.pt"]
    assert contents_of(seen) == contents_of(world.directory / "final")
    assert (world.base / "seen.modes").read_text().split() == ["700", "600"]
    assert levels(world) == {"final/" + SHARDS[0]: 5, "final/" + SHARDS[1]: 5, "last.pt": 5}
    facts = world.entry(b"final/" + SHARDS[0].encode()).proof.facts
    assert (facts["loaded_by"], facts["loaded_in"]) == ("check", "final")
    assert "loaded_in" not in world.entry(b"last.pt").proof.facts
    assert list((world.base / "loading").glob("*")) == []


def contents_of(directory):
    """The files below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_directory_that_does_not_load_keeps_all_of_its_last_content(world):
    """Weights, index and config stay together as they were, it is told once, and what is logged beside goes on."""
    sharded(world, 1)
    world.write("final/train.log", b"one\n")
    back_up(world, "true")
    good = contents(world.tree())
    sharded(world, 2)
    world.append("final/train.log", b"two\n")
    result = back_up(world, "echo KeyError; exit 1")
    (trouble,) = result.troubles
    assert (trouble.path, trouble.kind, trouble.kept) == (b"final", TroubleKind.BROKEN, 1)
    assert trouble.text == "level 5: check ended with 1: KeyError"
    assert contents(world.restored()) == good | {b"final/train.log": b"one\ntwo\n"}
    assert set(levels(world).values()) == {5}


def test_a_refusal_alone_makes_a_version_that_tells_of_it(world):
    """So that whoever lists the versions learns of it, once."""
    sharded(world, 1)
    back_up(world, "true")
    sharded(world, 2)
    assert back_up(world, "exit 1").version == 2
    assert [trouble.path for trouble in world.manifest().root.troubles] == [b"final"]
    assert back_up(world, "exit 1").version == 0


def test_directories_of_the_same_content_are_loaded_once(world):
    """Whatever their names are, as their files lie in them at the same places."""
    sharded(world, 1, "best/")
    sharded(world, 1, "final/")
    script, log = logged(world)
    back_up(world, script)
    assert log.read_text().split() == ["best"]
    assert set(levels(world).values()) == {5}


def test_a_new_directory_that_does_not_load_stays_out(world):
    """None of its weights, and nothing that describes them, is in the version."""
    sharded(world, 1)
    world.write("log.txt", b"a line")
    result = back_up(world, "exit 1")
    assert [(trouble.path, trouble.kept) for trouble in result.troubles] == [(b"final", 0)]
    files = {entry.path for entry in world.manifest().entries if entry.size_bytes}
    assert files == {b"log.txt", b"final/tokenizer/merges.txt"}


def test_a_refused_directory_is_not_tried_again_until_it_changes(world):
    """Whatever else changes; and when one file of it is mended, all of it is looked at again and comes in."""
    sharded(world, 1)
    script, log = logged(world)
    back_up(world, f"{script}; exit 1")
    for text in (b"a", b"b"):
        world.write("log.txt", text)
        result = back_up(world, f"{script}; exit 1")
        assert [trouble.path for trouble in result.troubles] == [b"final"]
    assert log.read_text().split() == ["final"]
    world.write("final/config.json", b'{"value": 3}')
    result = back_up(world, script)
    assert (result.troubles, log.read_text().split()) == ((), ["final", "final"])
    assert contents(world.restored()) == contents(world.tree())
    assert levels(world) == {"final/" + name: 5 for name in SHARDS}


def test_an_untouched_refusal_is_still_told(world):
    """A backup that finds nothing changed says once that the directory was refused, and asks nobody."""
    sharded(world, 1)
    script, log = logged(world)
    back_up(world, f"{script}; exit 1")
    age(world)
    back_up(world, f"{script}; exit 1")
    result = back_up(world, f"{script}; exit 1")
    assert [trouble.path for trouble in result.troubles] == [b"final"]
    assert len(log.read_text().split()) <= 2  # once more where the times were changed


def age(world):
    """So that nobody has written to any file for long."""
    for folder, _, names in os.walk(world.path(""), topdown=False):
        for name in [*names, b"."]:
            os.utime(os.path.join(folder, name), ns=(10**18, 10**18))


def test_a_description_that_changes_has_the_directory_loaded_again(world):
    """A new config.json over weights that stand is another checkpoint; a log beside them is none."""
    sharded(world, 1)
    script, log = logged(world)
    back_up(world, script)
    world.write("final/train.log", b"a line")
    back_up(world, script)
    assert log.read_text().split() == ["final"]
    world.write("final/config.json", b'{"value": 2}')
    result = back_up(world, f"{script}; exit 1")
    assert log.read_text().split() == ["final", "final"]
    assert [trouble.path for trouble in result.troubles] == [b"final"]
    assert contents(world.restored())[b"final/config.json"] == b'{"value": 1}'


def test_a_directory_that_is_another_one_is_not_at_level_5_by_what_it_was(world):
    """Without a command, weights beside a new config.json fall back to level 4, and copies never had more."""
    sharded(world, 1)
    back_up(world, "true")
    world.write("best.safetensors", (world.directory / "final" / SHARDS[0]).read_bytes())
    world.backup(prover=world.prover)
    assert levels(world) == {"best.safetensors": 4} | {"final/" + name: 5 for name in SHARDS}
    world.write("final/config.json", b'{"value": 2}')
    world.backup(prover=world.prover)
    assert set(levels(world).values()) == {4}
    proof = world.entry(b"final/" + SHARDS[1].encode()).proof
    assert "loaded_in" not in proof.facts
    assert proof.shortfall == "the directory that was loaded is another one by now"


def test_the_runs_own_directory_is_loaded_again_when_it_changes(world):
    """The same of "./": what changes in a checkpoint that it does not hold has nothing to do with it."""
    sharded(world, 1, "")
    sharded(world, 2, "checkpoint-7/")
    script, log = logged(world)
    back_up(world, script, patterns=("./",))
    world.write("checkpoint-7/config.json", b'{"value": 3}')
    back_up(world, script, patterns=("./",))
    assert log.read_text().split() == ["checkpoint"]
    world.write("config.json", b'{"value": 3}')
    back_up(world, script, patterns=("./",))
    assert log.read_text().split() == ["checkpoint"] * 2
    assert [world.entry(name.encode()).proof.facts["loaded_in"] for name in SHARDS] == [".", "."]


def test_what_could_not_be_loaded_is_pending_as_a_whole(world):
    """With level 5 required no version is made meanwhile; without, all files are at level 4 and say why."""
    sharded(world, 1)
    with pytest.raises(CommandUnavailable):
        back_up(world, "exit 75", required_level=5, wait_for_proof=True)
    result = back_up(world, "echo no GPU; exit 75", required_level=5)
    assert result.pending == tuple("final/" + name for name in SHARDS)
    assert world.entry(b"final/" + SHARDS[1].encode()).proof.shortfall == "check could not tell: no GPU"
    stored = world.repository.stored(RUN, 1)
    script, log = logged(world)
    with LaterProver(world.repository, world.prover, world.monitor, loading=options(world, script)) as later:
        proved = later.pending(stored)
    assert (proved.lowest_level, log.read_text().split()) == (5, ["final"])


class Meanwhile:
    """A prover before whose first proof something else happens."""

    def __init__(self, prover, deed):
        self.open = prover.open
        self._prover = prover
        self._deeds = [deed]

    def prove(self, *what):
        """Let it happen, then prove."""
        while self._deeds:
            self._deeds.pop()()
        return self._prover.prove(*what)


def prove_pending(world, script, share=None, prover=None):
    """Prove what is pending, or a share of it, and have *script* load it; return how the version stands then."""
    prover = prover or world.prover
    with LaterProver(world.repository, prover, world.monitor, loading=options(world, script), share=share) as later:
        for stored in list(later.lacking(RUN)):
            later.pending(stored)
    return proof_statuses(world.repository, RUN)[0]


def test_a_directory_that_is_proved_in_shares_is_loaded_by_the_last(world):
    """Who proves the first share says that it waits, and who finds all else proved loads it."""
    sharded(world, 1)
    world.backup(required_level=5)
    script, log = logged(world)
    status = prove_pending(world, script, Share(1, 2))
    assert (status.is_pending, log.exists()) == (True, False)
    status = prove_pending(world, script, Share(2, 2))
    assert (status.lowest_level, log.read_text().split()) == (5, ["final"])


def test_a_directory_that_no_share_saw_whole_waits_to_be_loaded(world):
    """Of two processes at the same time neither loads it, both say so, and the next one does."""
    sharded(world, 1)
    world.backup(required_level=5)
    script, log = logged(world)
    second = Meanwhile(world.prover, lambda: prove_pending(world, script, Share(2, 2)))
    status = prove_pending(world, script, Share(1, 2), second)
    assert (status.lowest_level, status.is_pending, log.exists()) == (4, True, False)
    shortfalls = {entry.proof.shortfall for entry in proved_entries(world)}
    assert shortfalls == {"not loaded yet: other files of its directory were another process's share"}
    status = prove_pending(world, script)
    assert (status.lowest_level, log.read_text().split()) == (5, ["final"])


def proved_entries(world):
    """The checkpoints of the only version, as they are known by now."""
    stored = world.repository.stored(RUN, 1)
    return [entry for entry in manifest_of(world.repository, stored).entries if entry.proof is not None]


def test_a_part_of_a_checkpoint_is_not_loaded(world):
    """What a crash left without a shard is kept at level 4: the command would only speak against what is there."""
    sharded(world, 1)
    os.unlink(world.path("final/" + SHARDS[1]))
    age(world)
    script, log = logged(world)
    result = back_up(world, f"{script}; exit 1")
    assert (result.troubles, levels(world)) == ((), {"final/" + SHARDS[0]: 4})
    assert not log.exists()


def test_nothing_is_loaded_where_a_file_of_it_is_broken(world):
    """No code of a checkpoint runs one of whose files its own structure speaks against."""
    sharded(world, 1)
    shard = bytearray((world.directory / "final" / SHARDS[0]).read_bytes())
    shard[8:40] = b"{" * 32
    world.write("final/" + SHARDS[0], bytes(shard))
    script, log = logged(world)
    back_up(world, script)
    assert not log.exists()


def test_a_mixture_is_not_loaded(world):
    """Where a file of a directory keeps its last content, being torn, nothing is said of that beside the new ones."""
    import torch
    from safetensors.torch import save

    whole = save({"layer": torch.ones(100)})
    world.write("final/model.safetensors", whole)
    world.write("final/config.json", b"{}")
    script, log = logged(world)
    back_up(world, script, patterns=("final/",))
    world.write("final/model.safetensors", whole[:-8])
    world.write("final/config.json", b'{"value": 2}')
    result = back_up(world, f"{script}; exit 1", patterns=("final/",))
    assert [(trouble.path, trouble.kind) for trouble in result.troubles] == [
        (b"final/model.safetensors", TroubleKind.TORN)
    ]
    assert log.read_text().split() == ["final"]


def test_what_is_written_while_it_is_loaded_is_no_fault_of_it(world):
    """If the source has other files by the time that the command fails, the directory waits for the next backup."""
    sharded(world, 1)
    result = back_up(world, f"echo '{{}}' > {world.directory}/final/config.json; exit 1")
    (trouble,) = result.troubles
    assert (trouble.path, trouble.kind) == (b"final", TroubleKind.TORN)
    assert back_up(world, "true").troubles == ()
    assert levels(world) == {"final/" + name: 5 for name in SHARDS}


def test_verify_loads_a_directory(world):
    """A version that was made without is verified to level 5, and a command that fails then is told of each file."""
    sharded(world, 1)
    world.backup(prover=world.prover, required_level=3)
    for script, level, refused in (("test -d", 5, None), ("exit 1; true", 4, "level 5: check ended with 1")):
        loading = options(world, f'{script} "$1"')
        result = verify(world.repository, world.manifest(), world.prover, world.monitor, loading)
        assert [(one.proof.level, one.refused) for one in result.verdicts.values()] == [(level, refused)] * 2


# ---------------------------------------------------------------- which directories


def test_patterns_with_a_slash_at_their_end_are_for_directories(world):
    """A model in one file with its config beside it is loaded as that directory, files by other patterns alone."""
    import torch
    from safetensors.torch import save

    for place in ("final/", "other/"):
        world.write(place + "model.safetensors", save({"layer": torch.full((100,), float(len(place)))}))
        world.write(place + "config.json", b"{}")
    world.write("last.pt", small_checkpoint())
    script, log = logged(world)
    back_up(world, script, patterns=("final/", "*.pt"))
    assert sorted(log.read_text().split()) == ["final", "last.pt"]
    assert levels(world) == {"final/model.safetensors": 5, "last.pt": 5, "other/model.safetensors": 4}


def test_a_file_is_loaded_with_the_innermost_directory_that_is_given(world):
    """The run's own directory is given by "./", without the checkpoints in it that are given for themselves."""
    sharded(world, 1, "")
    sharded(world, 2, "final/")
    sharded(world, 3, "checkpoint-7/")
    world.write("checkpoint-7/trainer_state.json", b'{"global_step": 7}')
    script, log = logged(world)
    back_up(world, f'{script}; (cd "$1"; find . -name "*.safetensors") >> {log}', patterns=("./", "final/"))
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(["checkpoint", "final", *[f"./{name}" for name in SHARDS] * 2])
    assert {path for path, level in levels(world).items() if level == 4} == {f"checkpoint-7/{name}" for name in SHARDS}


def test_files_of_a_checkpoint_of_several_can_be_given_alone(world):
    """A pattern without a slash is for files, wherever they lie."""
    sharded(world, 1)
    script, log = logged(world)
    back_up(world, script, patterns=("*.safetensors",))
    assert sorted(log.read_text().split()) == sorted(SHARDS)


def test_room_is_needed_for_all_of_it(world, monkeypatch):
    """Where the whole directory and some more do not fit the load is not tried, and the message says what to do."""
    monkeypatch.setattr(loading, "_SPARE_BYTES", 1 << 60)
    sharded(world, 1)
    size = sum(len(content) for content in contents_of(world.directory / "final").values())
    back_up(world, "true")
    shortfall = world.entry(b"final/" + SHARDS[0].encode()).proof.shortfall
    assert shortfall.startswith(f"no room to load a checkpoint of {size} bytes and leave {1 << 60} free")
    assert shortfall.endswith(f"{world.base / 'loading'} (make room there, or set state_directory)")


def test_links_in_a_directory_come_along(world):
    """Symbolic links stay links, and a hard link to a file elsewhere is that file."""
    sharded(world, 1)
    world.write("a.json", b"[1]")
    os.link(world.path("a.json"), world.path("final/zz.json"))
    os.symlink("config.json", world.path("final/link.json"))
    script = 'test "$(readlink "$1/link.json")" = config.json && test "$(cat "$1/zz.json")" = "[1]"'
    assert (back_up(world, script).troubles, set(levels(world).values())) == ((), {5})
