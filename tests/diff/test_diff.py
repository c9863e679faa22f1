"""What differs between two versions, held against the trees and tensors that they were made from."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save as safetensors_bytes
from torch.distributed import checkpoint as distributed

from checkpoint_files import parts_of, rezipped
from flow_parts import RUN, checkpoint, noise
from mlsync.diff import side_by_side
from mlsync.diff import tensors as tensor_view
from mlsync.diff.checkpoint import compare_checkpoints
from mlsync.diff.diff import diff
from mlsync.diff.sides import Side
from mlsync.errors import ObjectDamaged, ObjectMissing, PathMissing
from mlsync.formats.layout import Storage, Tensor
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import names
from mlsync.repository.encoding.tokens import EntryKind

MIB = 1 << 20


def compare(world, before, after, *paths):
    """The difference between two versions; the store's counts are of it alone."""
    world.counted.reset()
    old, new = (world.repository.stored(RUN, number) for number in (before, after))
    return diff(world.repository, Side(old), Side(new), paths, world.monitor)


def save(world, *values, name="last.pt"):
    """A version of the file for each of *values*, as torch saves them; the difference of the last two."""
    for value in values:
        file = io.BytesIO()
        torch.save(value, file)
        world.write(name, file.getvalue())
        world.backup()
    return compare(world, *world.numbers()[-2:])


def only(result):
    """What changed inside the one checkpoint that did."""
    (file,) = result.files
    assert file.checkpoint.why_not == ""
    return file.checkpoint


def told(result):
    """What became of each path."""
    return {file.path: file.change for file in result.files}


def fates(checkpoint):
    """What became of each tensor that is not the same."""
    return {tensor.name: tensor.fate for tensor in checkpoint.tensors}


def normal(seed, *shape, dtype=torch.float32):
    """Numbers, the same at every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative(before, after):
    """How far torch says that a tensor moved."""
    return ((after.double() - before.double()).norm() / before.double().norm()).item()


# ---------------------------------------------------------------- files


def test_an_unchanged_pair_costs_two_manifests(world):
    """Of two versions that hold the same, manifests are read, and what was measured is listed; and nothing else."""
    for content in (b"a", b"b", b"a"):
        world.write("log.txt", content)
        world.write("last.pt", checkpoint(normal(1, 200_000)))
        world.backup()
    result = compare(world, 1, 3)
    assert world.counted.calls == {"get": 2, "list": 2}
    assert (result.files, result.same_count, result.new_bytes, result.read_bytes) == ([], 2, 0, 0)


def test_files_that_came_went_and_changed(world):
    """Each path that differs is named with what became of it and how much of its content is new."""
    world.write("stays.txt", b"same")
    world.write("grows.csv", noise(300_000, 1))
    world.write("goes.txt", b"old")
    world.backup()
    world.append("grows.csv", noise(1000, 2))
    world.write("comes/here.bin", noise(5000, 3))
    os.unlink(world.path("goes.txt"))
    world.backup()
    result = compare(world, 1, 2)
    assert told(result) == {b"comes/here.bin": "came", b"goes.txt": "went", b"grows.csv": "changed"}
    came, went, changed = result.files
    assert (came.new_bytes, went.new_bytes) == (5000, 0)
    assert 1000 <= changed.new_bytes < 270_000
    assert (changed.before.size_bytes, changed.after.size_bytes) == (300_000, 301_000)
    assert result.new_bytes == changed.new_bytes + 5000
    assert result.same_count == 1
    assert set(world.counted.calls) == {"get", "list"}
    assert told(compare(world, 2, 1)) == {b"comes/here.bin": "went", b"goes.txt": "came", b"grows.csv": "changed"}


def test_content_that_several_files_hold_is_new_once(world):
    """Each file says what of it is new; the sum counts what they share once."""
    world.write("a", b"1")
    world.backup()
    for name in ("last.bin", "best.bin"):
        world.write(name, noise(9000))
    world.backup()
    result = compare(world, 1, 2)
    assert [file.new_bytes for file in result.files] == [9000, 9000]
    assert result.new_bytes == 9000


def test_moved_and_copied_files_are_recognised(world):
    """A file whose content was under another path is renamed if it left that path, else copied; nothing is read."""
    data = checkpoint(normal(1, 5000))
    world.write("epoch1.pt", data)
    world.write("best.pt", checkpoint(normal(2, 5000)))
    world.write("empty", b"")
    world.backup()
    os.rename(world.path("epoch1.pt"), world.path("kept.pt"))
    world.write("more.pt", data)
    world.write("other.pt", checkpoint(normal(2, 5000)))
    os.rename(world.path("empty"), world.path("nothing"))
    world.backup()
    result = compare(world, 1, 2)
    assert told(result) == {
        b"empty": "went",
        b"kept.pt": "renamed",
        b"more.pt": "copied",
        b"nothing": "came",
        b"other.pt": "copied",
    }
    was = {file.path: file.before.path for file in result.files if file.before}
    assert (was[b"kept.pt"], was[b"more.pt"], was[b"other.pt"]) == (b"epoch1.pt", b"epoch1.pt", b"best.pt")
    assert result.new_bytes == result.read_bytes == 0


def test_links_modes_and_directories(world):
    """Targets, modes and kinds are part of what differs; a directory is named where nothing in it is."""
    world.write("a.txt", b"a")
    world.write("b.txt", b"b")
    os.symlink("a.txt", world.path("latest"))
    world.write("deep/er/file", b"x")
    world.backup()
    os.unlink(world.path("latest"))
    os.symlink("b.txt", world.path("latest"))
    os.chmod(world.path("a.txt"), 0o600)
    os.unlink(world.path("b.txt"))
    os.symlink("a.txt", world.path("b.txt"))
    os.mkdir(world.path("empty"))
    world.write("new/file", b"y")
    os.utime(world.path("deep/er/file"), ns=(1, 1))
    world.backup()
    result = compare(world, 1, 2)
    expected = {b"a.txt": "changed", b"b.txt": "changed", b"empty": "came", b"latest": "changed", b"new/file": "came"}
    assert told(result) == expected
    by_path = {file.path: file for file in result.files}
    assert (by_path[b"a.txt"].before.mode, by_path[b"a.txt"].after.mode) == (0o644, 0o600)
    assert (by_path[b"latest"].before.target, by_path[b"latest"].after.target) == (b"a.txt", b"b.txt")
    assert by_path[b"b.txt"].after.kind is EntryKind.SYMLINK
    assert result.same_count == 1


def test_only_the_paths_that_are_asked_for(world):
    """Files and directories that are named limit what is looked at, by the path that a file has or had."""
    for number, name in enumerate(("a/one.bin", "a/two.bin", "a/same.bin", "ab.bin", "b/one.bin", "b/same.bin")):
        world.write(name, noise(500, number))
    world.backup()
    for name in ("a/one.bin", "ab.bin", "b/one.bin"):
        world.write(name, noise(600, len(name)))
    os.rename(world.path("a/two.bin"), world.path("b/two.bin"))
    world.write("b/copy.bin", noise(500, 2))
    world.backup()
    moved = {b"b/two.bin": "renamed"}
    assert told(compare(world, 1, 2, b"b/")) == moved | {b"b/copy.bin": "copied", b"b/one.bin": "changed"}
    assert told(compare(world, 1, 2, b"./a/two.bin")) == moved
    result = compare(world, 1, 2, b"a", b"ab.bin")
    assert told(result) == moved | {b"a/one.bin": "changed", b"ab.bin": "changed"}
    assert told(compare(world, 1, 2, b"a")) == moved | {b"a/one.bin": "changed"}
    assert result.same_count == 1
    with pytest.raises(PathMissing, match="neither version 1 nor 2 holds anything at a/on"):
        compare(world, 1, 2, b"a/on")


# ---------------------------------------------------------------- tensors


def test_how_far_tensors_moved(world):
    """What is said of a changed tensor is what torch computes; one that is frozen is the same."""
    before = {"frozen": normal(1, 300, 400), "weight": normal(2, 300, 400), "bias": normal(3, 300)}
    after = before | {"weight": before["weight"] + normal(4, 300, 400) / 50, "bias": normal(5, 300)}
    result = save(
        world, {"epoch": 3, "best_fitness": 0.5, "model": before}, {"epoch": 4, "best_fitness": 0.75, "model": after}
    )
    checkpoint = only(result)
    assert checkpoint.facts == {"epoch": (3, 4), "best_fitness": (0.5, 0.75)}
    assert checkpoint.same_count == 1
    assert [tensor.name for tensor in checkpoint.tensors] == ["model.bias", "model.weight"]
    for tensor in checkpoint.tensors:
        name = tensor.name.removeprefix("model.")
        moved = (after[name].double() - before[name].double()).abs()
        assert tensor.drift.relative == pytest.approx(relative(before[name], after[name]), rel=1e-12)
        assert tensor.drift.mean == pytest.approx(moved.mean().item(), rel=1e-12)
        assert tensor.drift.largest == moved.max().item()
        assert tensor.note == ""


def test_tensors_that_are_the_same_cost_no_bytes(world):
    """Of 16 MiB of which one tensor of 2 MiB changed, that is read of both versions, and what lies around tensors."""
    tensors = {f"layer{number}": normal(number, MIB // 2) for number in range(8)}
    result = save(world, {"model": tensors}, {"model": tensors | {"layer5": normal(99, MIB // 2)}})
    assert fates(only(result)) == {"model.layer5": "changed"}
    assert only(result).same_count == 7
    assert result.read_bytes < 2 * 2 * MIB + 60_000
    assert world.counted.read_bytes < result.read_bytes + 20_000


def test_tensors_that_moved_in_the_file_are_the_same(world):
    """What is written before them puts frozen tensors elsewhere in the file: they are not read for that."""
    tensors = {f"layer{number}": normal(number, MIB // 2) for number in range(4)}
    result = save(world, {"log": [0.5], "model": tensors}, {"log": [n / 7 for n in range(9000)], "model": tensors})
    assert fates(only(result)) == {}
    assert only(result).same_count == 4
    assert result.read_bytes < 200_000


def test_of_a_tensor_that_changed_in_part_what_is_the_same_is_read_once(world):
    """The norm of what was needs all of it; the pieces that both versions share come from the store once."""
    before = normal(1, 4 * MIB // 4 * 4)
    after = before.clone()
    after[MIB : MIB + 100] += 1
    result = save(world, {"weight": before}, {"weight": after})
    (tensor,) = only(result).tensors
    assert tensor.drift.relative == pytest.approx(relative(before, after), rel=1e-12)
    assert (tensor.drift.changed_count, tensor.drift.number_count) == (100, len(before))
    assert result.read_bytes < 18 * MIB + 100_000


def test_checkpoints_that_were_and_are_alike_are_read_once(world):
    """``last`` and ``best`` of one content cost what one of them costs, and say the same."""
    read_bytes = []
    for files in (("last.pt",), ("last.pt", "best.pt")):
        for seed in (1, 2):
            for name in files:
                world.write(name, checkpoint(normal(seed, 100_000)))
            world.backup()
        result = compare(world, *world.numbers()[-2:])
        read_bytes.append(result.read_bytes)
    assert len({id(file.checkpoint) for file in result.files}) == 1
    assert len(result.files) == 2
    assert abs(read_bytes[1] - read_bytes[0]) < 1000


def test_small_tensors_in_another_order(world):
    """Where small tensors lie in another order than before, the chunks that they share are fetched once."""
    before = {f"t{number}": normal(number, 300) for number in range(2000)}
    order = np.random.default_rng(1).permutation(sorted(before))
    result = save(world, {"model": before}, {"model": {str(name): before[name] + 1 for name in order}})
    assert only(result).count("changed") == 2000
    sizes = sum(file.before.size_bytes + file.after.size_bytes for file in result.files)
    assert result.read_bytes < 2 * sizes


def random_model(generator, count=60):
    """Tensors of many sizes and types: most of them small and side by side, some with chunks of their own."""
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int8, torch.bool]
    model = {}
    for number in range(count):
        size = int(generator.choice([1, 3, 17, 400, 5000, 40_000]))
        values = torch.from_numpy(generator.standard_normal(size) * 3)
        model[f"t{number}"] = values.to(dtypes[int(generator.integers(len(dtypes)))])
    return model


@pytest.mark.parametrize("window_bytes", [16, 48, 2 * MIB])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_tensors_there_are_in_windows_of_any_size(world, monkeypatch, seed, window_bytes):
    """Of a checkpoint whose tensors change, come, go and change places, each is told as torch would tell it."""
    monkeypatch.setattr(side_by_side, "WINDOW_BYTES", window_bytes)
    generator = np.random.default_rng(seed)
    before = random_model(generator, 60 if window_bytes > 48 else 25)
    if window_bytes <= 48:
        before = {name: tensor[:3000] for name, tensor in before.items()}
    after = dict(before)
    for name in generator.choice(sorted(before), len(before) // 2, replace=False):
        after[name] = (before[name].double() * 1.25 + 1).to(before[name].dtype)
    for name in generator.choice(sorted(before), 4, replace=False):
        del after[name]
    after["fresh"] = torch.ones(7)
    order = generator.permutation(sorted(after))
    checkpoint = only(save(world, {"model": before}, {"model": {str(name): after[name] for name in order}}))
    expected = {f"model.{name}": "gone" for name in before.keys() - after.keys()} | {"model.fresh": "new"}
    both = before.keys() & after.keys()
    changed = {name for name in both if not torch.equal(before[name], after[name])}
    assert fates(checkpoint) == expected | {f"model.{name}": "changed" for name in changed}
    assert checkpoint.same_count == len(both - changed)
    for tensor in checkpoint.tensors:
        if tensor.fate == "changed":
            was, now = (model[tensor.name.removeprefix("model.")] for model in (before, after))
            assert tensor.drift.changed_count == torch.count_nonzero(was != now)
            if was.dtype.is_floating_point:
                assert tensor.drift.relative == pytest.approx(relative(was, now), rel=1e-12)
            else:
                assert tensor.drift.relative is None


def test_the_farthest_first(world):
    """What became no number or came out of nothing comes first, counters last, and the optimizer's state behind."""

    def values(steps, **numbers):
        model = {name: torch.full((10,), float(number)) for name, number in numbers.items()}
        moment = model.pop("moment")
        model["steps"] = torch.tensor([steps])
        return {"model": model, "optimizer": {"state": {0: {"exp_avg": moment}}}}

    before = values(1, a=1, b=1, zero=0, nan=1, cut=1, moment=1)
    after = values(2, a=1.5, b=3, zero=1, nan="nan", cut=1, moment=99, more=1)
    after["model"]["cut"] = torch.ones(9)
    tensors = only(save(world, before, after)).tensors
    assert {tensor.name for tensor in tensors[:2]} == {"model.nan", "model.zero"}
    assert [tensor.name for tensor in tensors[2:]] == [
        "model.b",
        "model.a",
        "model.steps",
        "optimizer.state.0.exp_avg",
        "model.cut",
        "model.more",
    ]
    assert [tensor.fate for tensor in tensors[5:]] == ["changed", "reshaped", "new"]


def test_another_type_is_another_tensor(world):
    """A tensor that was stored in half precision from then on is not compared, and both types are named."""
    (tensor,) = only(save(world, {"w": normal(1, 50)}, {"w": normal(1, 50).half()})).tensors
    assert (tensor.fate, tensor.before.dtype, tensor.after.dtype) == ("reshaped", "float32", "float16")


def test_tied_weights_are_read_once(world):
    """Two names of one storage are both told, and its bytes are fetched once."""
    results = []
    for number in (1, 2):
        pair = [normal(seed, 500_000) for seed in (1, 2)]
        values = [{f"name{place}": one.view(-1) for place in range(number)} for one in pair]
        results.append(save(world, *values))
    assert fates(only(results[1])) == {"name0": "changed", "name1": "changed"}
    assert abs(results[1].read_bytes - results[0].read_bytes) < 1000


def test_views_of_one_storage(world):
    """Of two tensors that lie behind each other in one storage, only the one whose numbers changed is told of."""
    before = normal(1, 900)
    after = before.clone()
    after[500:] += 1
    checkpoint = only(save(world, *({"head": one[:500], "tail": one[500:]} for one in (before, after))))
    (tensor,) = checkpoint.tensors
    assert (tensor.name, tensor.drift.number_count, checkpoint.same_count) == ("tail", 400, 1)
    assert tensor.drift.relative == pytest.approx(relative(before[500:], after[500:]), rel=1e-12)


def test_elements_in_another_order(world):
    """A tensor whose memory format changed and nothing else is the same; one that moved besides moved that far."""
    one, other = normal(1, 2, 8, 5, 5), normal(2, 2, 8, 5, 5)
    moved = other + 1
    last = {"memory_format": torch.channels_last}
    before = {"same": one, "moved": other}
    after = {"same": one.contiguous(**last), "moved": moved.contiguous(**last)}
    checkpoint = only(save(world, before, after))
    (tensor,) = checkpoint.tensors
    assert (tensor.name, tensor.note, checkpoint.same_count) == ("moved", "", 1)
    assert tensor.drift.relative == pytest.approx(relative(other, moved), rel=1e-12)


def test_the_same_bytes_in_another_order(world):
    """A matrix that was transposed where it lies has the same bytes and other elements: it changed."""
    one = normal(1, 200, 200)
    (tensor,) = only(save(world, {"w": one}, {"w": one.t()})).tensors
    assert tensor.drift.relative == pytest.approx(relative(one, one.t()), rel=1e-12)


def test_dense_elements_in_one_other_order_are_compared_as_they_lie(world):
    """RangePair in channels-last or transposed: the same places are the same elements, whatever their number."""
    pair = [normal(seed, 900, 800).t() for seed in (1, 2)]
    (tensor,) = only(save(world, *({"w": one} for one in pair))).tensors
    assert (tensor.note, tensor.drift.number_count) == ("", 720_000)
    assert tensor.drift.relative == pytest.approx(relative(*pair), rel=1e-12)


def test_views_with_gaps(world, monkeypatch):
    """Columns of a matrix are picked out if they are few; if they are many what lies between is compared, and said."""
    pair = [normal(seed, 40, 50) for seed in (1, 2)]
    values = [{"w": one[:, :20]} for one in pair]
    (tensor,) = only(save(world, *values)).tensors
    assert (tensor.note, tensor.drift.number_count) == ("", 800)
    assert tensor.drift.relative == pytest.approx(relative(*(one[:, :20] for one in pair)), rel=1e-12)
    monkeypatch.setattr(tensor_view, "WINDOW_BYTES", 1000)
    (tensor,) = only(compare(world, 1, 2)).tensors
    assert (tensor.note, tensor.drift.number_count) == ("with what lies between its elements", 39 * 50 + 20)
    spans = [one.flatten()[: 39 * 50 + 20] for one in pair]
    assert tensor.drift.relative == pytest.approx(relative(*spans), rel=1e-12)


def test_too_many_elements_in_another_order(world, monkeypatch):
    """What would have to be held whole to be put in order is not compared, and that is said."""
    monkeypatch.setattr(tensor_view, "WINDOW_BYTES", 1000)
    one = normal(1, 30, 30)
    (tensor,) = only(save(world, {"w": one}, {"w": one.t().contiguous().t()})).tensors
    assert (tensor.fate, tensor.drift) == ("not_compared", None)
    assert "another order" in tensor.note


def test_bytes_that_do_not_lie_in_the_file():
    """A tensor whose storage is not told of, as it is compressed there, is not compared, and that is said."""
    tensor = Tensor("w", "s", "float32", (4,), (1,), 0)
    there = Storage("s", 100, 16, "float32", 4)
    assert isinstance(tensor_view.view_of(tensor, there, tensor, there), tensor_view.TensorView)
    for storages in ((there, None), (None, there)):
        assert "compressed" in tensor_view.view_of(tensor, storages[0], tensor, storages[1])


def test_types_that_are_not_known_are_compared_byte_by_byte(world):
    """Numbers of four bits are told by how many bytes differ; of a type that is not known also the length must do."""
    header = b'{"w":{"dtype":"%s","shape":[8],"data_offsets":[0,%d]}}'
    for dtype, data in ((b"F4", b"abcd"), (b"F4", b"abXd"), (b"Q9", b"abXd"), (b"Q9", b"abXde")):
        text = header % (dtype, len(data))
        world.write("model.safetensors", len(text).to_bytes(8, "little") + text + data)
        world.backup()
    (tensor,) = only(compare(world, 1, 2)).tensors
    assert (tensor.fate, tensor.note, tensor.drift.changed_count) == ("changed", "byte by byte", 1)
    assert [one.fate for one in only(compare(world, 2, 3)).tensors] == ["reshaped"]
    (tensor,) = only(compare(world, 3, 4)).tensors
    assert (tensor.fate, tensor.note) == ("not_compared", "its type is not known, and its length changed")


def test_an_expanded_tensor_costs_what_it_stores(world):
    """A number that stands for more elements than any machine holds is compared as the one that it is."""
    shape = (1 << 20, 1 << 20)
    (tensor,) = only(save(world, *({"w": torch.tensor([value]).expand(shape)} for value in (2.0, 3.0)))).tensors
    assert (tensor.drift.relative, tensor.drift.number_count) == (0.5, 1)
    assert tensor.note == "with what lies between its elements"


def test_other_containers(world):
    """Safetensors and npz, whose arrays may lie by columns, are compared by the same names and numbers."""
    pair = [{"a": normal(seed, 60, 70, dtype=torch.bfloat16), "b": normal(9, 40)} for seed in (1, 2)]
    arrays = [np.asfortranarray(np.random.default_rng(seed).standard_normal((70, 50))) for seed in (1, 2)]
    for tensors, array in zip(pair, arrays, strict=True):
        file = io.BytesIO()
        np.savez(file, array=array, still=np.arange(4))
        world.write("arrays.npz", file.getvalue())
        world.write("model.safetensors", safetensors_bytes(tensors))
        world.backup()
    found = {file.path: file.checkpoint for file in compare(world, 1, 2).files}
    (array,) = found[b"arrays.npz"].tensors
    moved = np.linalg.norm(arrays[1] - arrays[0]) / np.linalg.norm(arrays[0])
    assert (array.name, array.drift.relative) == ("array", pytest.approx(moved, rel=1e-12))
    (tensor,) = found[b"model.safetensors"].tensors
    assert tensor.drift.relative == pytest.approx(relative(pair[0]["a"], pair[1]["a"]), rel=1e-12)
    assert [one.same_count for one in found.values()] == [1, 1]


def test_numbers_in_holes(world):
    """Zeros that a sparse file does not store are numbers like others."""
    before, after = torch.zeros(MIB), torch.zeros(MIB)
    before[:70_000] = 2
    after[:70_000], after[-70_000:] = 2, 1
    for tensor in (before, after):
        data = checkpoint(tensor)
        world.write("last.pt", b"")
        with open(world.path("last.pt"), "r+b") as file:
            file.truncate(len(data))
            for at in range(0, len(data), 65536):
                if data[at : at + 65536].strip(b"\0"):
                    file.seek(at)
                    file.write(data[at : at + 65536])
        world.backup()
    assert world.entry(b"last.pt", 1).holes
    (tensor,) = only(compare(world, 1, 2)).tensors
    assert tensor.drift.relative == pytest.approx(0.5)
    assert tensor.drift.changed_count == 70_000


def test_the_highest_byte_first(world):
    """Numbers of a big-endian machine are read as what they are; what changed its order is not compared."""

    def turned(value):
        parts = parts_of(checkpoint(torch.full((30,), value)))
        return rezipped(
            {
                name: b"big"
                if name.endswith("byteorder")
                else np.frombuffer(part, "<f4").astype(">f4").tobytes()
                if "/data/" in name
                else part
                for name, part in parts.items()
            }
        )

    for data in (turned(2.0), turned(3.0), checkpoint(torch.full((30,), 3.0))):
        world.write("last.pt", data)
        world.backup()
    (tensor,) = only(compare(world, 1, 2)).tensors
    assert Fraction(tensor.drift.relative) == Fraction(1, 2)
    (file,) = compare(world, 2, 3).files
    assert file.checkpoint.why_not == "the order of its bytes changed"


def test_memory_does_not_grow_with_tensors(world):
    """Two versions of a tensor of 40 MiB are compared in some MiB, most of them chunks that are held."""
    for value in (1.0, 2.0):
        world.write("model.safetensors", safetensors_bytes({"w": torch.full((10 * MIB,), value)}))
        world.backup()
    compare(world, 1, 1)
    tracemalloc.start()
    try:
        result = compare(world, 1, 2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert only(result).tensors[0].drift.number_count == 10 * MIB
    assert peak_bytes < 26 * MIB


# ---------------------------------------------------------------- what cannot be looked into


def test_what_holds_no_tensor_is_a_plain_file(world):
    """A checkpoint in which no tensor is found is compared as a file, and that is said."""
    for value in (1, 2):
        world.write("state.pkl", pickle.dumps({"value": value}, 2))
        world.backup()
    (file,) = compare(world, 1, 2).files
    assert (file.change, file.checkpoint.tensors, file.checkpoint.same_count) == ("changed", [], 0)
    assert file.checkpoint.why_not == "no tensor was found in it"


def test_what_is_broken_is_a_plain_file(world):
    """A checkpoint whose content does not parse is compared as a file, and what is wrong with it is said."""
    sound = checkpoint(normal(1, 50))
    parts = parts_of(sound)
    parts["archive/data.pkl"] = b"\x80\x02no pickle."
    for data in (sound, rezipped(parts)):
        world.write("last.pt", data)
        world.backup(required_level=1, prover=Prover(ProofOptions(device="none", level=1)))
    (file,) = compare(world, 1, 2).files
    assert file.checkpoint.why_not.startswith("as it is: ")
    assert file.checkpoint.tensors == []
    (file,) = compare(world, 2, 1).files
    assert file.checkpoint.why_not.startswith("as it was: ")


def test_facts_that_only_a_proof_tells(world):
    """How many NaN there are is told by the proof: it is compared where both were proved that far."""
    save(world, {"epoch": 1, "w": normal(1, 20)}, {"epoch": 2, "w": normal(2, 20)})
    plain = [world.entry(b"last.pt", number) for number in (1, 2)]
    proved = [
        replace(entry, proof=replace(entry.proof, facts=entry.proof.facts | {"nan_count": number}))
        for number, entry in enumerate(plain)
    ]
    with world.repository.reader() as reader:
        assert compare_checkpoints(reader, *plain, ({}, {}), world.monitor).facts == {"epoch": (1, 2)}
        assert compare_checkpoints(reader, plain[0], proved[1], ({}, {}), world.monitor).facts == {"epoch": (1, 2)}
        facts = compare_checkpoints(reader, *proved, ({}, {}), world.monitor).facts
    assert facts == {"epoch": (1, 2), "nan_count": (0, 1)}


@pytest.mark.parametrize(("error", "is_cut"), [(ObjectMissing, True), (ObjectDamaged, False)])
def test_damage_is_damage(world, error, is_cut):
    """A pack that is gone or rotted ends the comparison that needs it with that, and no other."""
    save(world, {"w": normal(1, 90_000)}, {"w": normal(2, 90_000)}, {"w": normal(3, 90_000)})
    tensor = max(world.entry(b"last.pt", 2).chunks, key=lambda ref: ref.plain_bytes)
    key = names.pack(tensor.pack)
    body = bytearray(world.store.get(key, limit_bytes=MIB))
    world.store.delete(key)
    if not is_cut:
        body[len(body) // 2] ^= 1
        world.store.put(key, bytes(body))
    with pytest.raises(error):
        compare(world, 1, 2)
    assert fates(only(compare(world, 1, 3))) == {"w": "changed"}


# ---------------------------------------------------------------- distributed checkpoints


def test_a_shard_is_compared_by_its_metadata(world):
    """Tensors of a distributed checkpoint have the names that its metadata give them, and moved as torch says."""
    states = [{"frozen": normal(1, 300), "head": normal(seed, 40, 20)} for seed in (2, 3)]
    for state in states:
        with warnings.catch_warnings(action="ignore"):  # that it is one rank only
            distributed.save(state, checkpoint_id=os.fsdecode(world.path("step")), no_dist=True)
        world.backup()
    result = compare(world, 1, 2)
    (shard,) = [file.checkpoint for file in result.files if file.path.endswith(b".distcp")]
    assert shard.same_count == 1
    (head,) = shard.tensors
    assert head.name.startswith("head")
    assert head.drift.relative == pytest.approx(relative(states[0]["head"], states[1]["head"]), rel=1e-6)
