from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from proof_python import asked

from checkpoint_files import (
    MemorySource,
    flipped,
    network,
    parts_of,
    records,
    rezipped,
    torch_bytes,
    weights_bytes,
    with_pickle,
    yolo_bytes,
    zeroed,
)
from doubles.verdict_status import status
from gguf_file import gguf_bytes, gguf_tensors
from mlsync.errors import ObjectDamaged
from mlsync.proof import windows
from mlsync.proof.child import ProofChild
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.values import Finding, Severity

CPU = ProofOptions(device="cpu")


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """A prover on the CPU, whose child serves all tests of this file."""
    with Prover(CPU) as prover:
        yield prover


def refusals(verdict: Verdict) -> list[tuple[int, str | None]]:
    return [
        (finding.level, finding.record) for finding in verdict.proof.findings if finding.severity == Severity.REFUSE
    ]


def of_numbers(verdict: Verdict) -> list[Finding]:
    return [finding for finding in verdict.proof.findings if finding.level == 4]


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.arange(1000.0), b=np.ones(3, dtype="f2"))
    return file.getvalue()


def safetensors_bytes() -> bytes:
    return safetensors.torch.save({"a": torch.randn(300, 30), "b": torch.zeros(0), "c": torch.ones(7).bfloat16()})


SOUND = {
    "yolo": (yolo_bytes(), b"last.pt", "torch-zip"),
    "weights over several windows": (weights_bytes(), b"w.pth", "torch-zip"),
    "safetensors": (safetensors_bytes(), b"model.safetensors", "safetensors"),
    "npz": (npz_bytes(), b"a.npz", "npz"),
    "no tensors": (torch_bytes({"epoch": 3, "lr": 0.1}), b"scheduler.pt", "torch-zip"),
    "many types": (
        torch_bytes(
            [
                torch.randn(77).to(dtype)
                for dtype in (
                    torch.half,
                    torch.bfloat16,
                    torch.double,
                    torch.cfloat,
                    torch.cdouble,
                    torch.float8_e4m3fn,
                )
            ]
            + [torch.arange(77).to(dtype) for dtype in (torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32)]
        ),
        b"types.pt",
        "torch-zip",
    ),
    "views": (torch_bytes({"a": torch.randn(9, 9)[::2, 1:4], "z": torch.zeros(0, 3)}), b"views.pt", "torch-zip"),
    "before 1.6": (
        torch_bytes({"a": torch.randn(999), "b": torch.ones(7).half()}, _use_new_zipfile_serialization=False),
        b"old.pt",
        "torch-legacy",
    ),
    "gguf": (gguf_bytes({"general.architecture": "llama"}, gguf_tensors()[1:]), b"m.gguf", "gguf"),
    "optimizer": (torch_bytes(torch.optim.AdamW(network().parameters()).state_dict()), b"optimizer.pt", "torch-zip"),
}


@pytest.mark.parametrize(("data", "path", "container"), SOUND.values(), ids=SOUND.keys())
def test_a_sound_checkpoint_is_proved_to_level_4(prover, data, path, container):
    """Files of real libraries are proved, and nothing is held against them."""
    verdict = prover.prove(MemorySource(data), path)
    assert (status(verdict), verdict.proof.level, verdict.proof.container) == ("proved", 4, container)
    assert [finding for finding in verdict.proof.findings if finding.severity != Severity.NOTE] == []
    assert verdict.unavailable is None


def test_what_was_proved_is_described(prover):
    """Device, what counted there, counts and facts are told."""
    verdict = prover.prove(MemorySource(yolo_bytes()), b"last.pt")
    assert (verdict.proof.device, verdict.proof.torch) == ("cpu", "numpy " + asked("numpy.__version__", "numpy"))
    assert verdict.proof.facts["framework"] == "ultralytics"
    assert verdict.proof.facts["nan_count"] == 0
    assert verdict.proof.tensor_bytes == sum(n for name, (_, n) in records(yolo_bytes()).items() if "/data/" in name)
    assert verdict.proof.tensor_count == 27
    assert verdict.proof.seconds > 0


def test_bytes_are_read_once(prover):
    """One pass over the file serves checksums and device; only headers and the pickle are read besides."""
    source = MemorySource(weights_bytes())
    prover.prove(source, b"w.pt")
    assert source.streamed_bytes == len(source.data)
    assert source.random_bytes < 200_000


@pytest.mark.parametrize("block_bytes", [1, 7, 4096])
def test_blocks_may_be_of_any_length(prover, block_bytes):
    """Where the stream's blocks end makes no difference."""
    data = torch_bytes({"a": torch.randn(50), "b": torch.ones(3)})
    assert status(prover.prove(MemorySource(data, block_bytes), b"x.pt")) == "proved"


DATA = yolo_bytes()
PLACES = records(DATA)
BIGGEST = max((name for name in PLACES if "/data/" in name), key=lambda name: PLACES[name][1])


def bytes_of(name: str) -> bytes:
    at, length = PLACES[name]
    return DATA[at : at + length]


# Two tensors of one length: moments of the same parameter
LEFT, RIGHT = next(
    (a, b)
    for a, b in itertools.combinations([name for name in PLACES if "/data/" in name], 2)
    if PLACES[a][1] == PLACES[b][1] >= 100 and bytes_of(a) != bytes_of(b)
)


def swapped() -> bytes:
    """The two tensors' bytes changed places inside the file."""
    data = bytearray(DATA)
    for here, there in ((LEFT, RIGHT), (RIGHT, LEFT)):
        at, length = PLACES[here]
        data[at : at + length] = bytes_of(there)
    return bytes(data)


DAMAGE = {
    "flip in a tensor": (flipped(DATA, PLACES[BIGGEST][0] + 100), [(1, BIGGEST)]),
    "flip in the last bit": (flipped(DATA, sum(PLACES[BIGGEST]) - 1, 7), [(1, BIGGEST)]),
    "flip in the pickle": (flipped(DATA, PLACES["archive/data.pkl"][0] + 900), [(1, "archive/data.pkl")]),
    "hole in a tensor": (zeroed(DATA, PLACES[BIGGEST][0] + 64, 512), [(1, BIGGEST)]),
    "two tensors swapped": (swapped(), [(1, LEFT), (1, RIGHT)]),
    "cut short": (DATA[:-1], [(1, None)]),
    "cut in half": (DATA[: len(DATA) // 2], [(1, None)]),
    "empty": (b"", [(1, None)]),
    "all zeros": (bytes(len(DATA)), [(1, None)]),
    "extended": (DATA + b"\0", [(1, None)]),
}


@pytest.mark.parametrize(("data", "expected"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_refused_at_its_level_and_named(prover, data, expected):
    """Damage to the bytes is found by level 1, with the record that it hit."""
    verdict = prover.prove(MemorySource(data), b"last.pt")
    assert status(verdict) == "broken"
    assert verdict.proof.level == 0
    assert refusals(verdict) == expected


def test_damage_to_the_meaning_is_refused_at_level_2(prover):
    """Tensors that changed places under right checksums are found by what the pickle asks for."""
    parts = parts_of(torch_bytes({"a": torch.ones(3), "b": torch.ones(4)}))
    parts["archive/data/0"], parts["archive/data/1"] = parts["archive/data/1"], parts["archive/data/0"]
    verdict = prover.prove(MemorySource(rezipped(parts)), b"last.pt")
    assert (status(verdict), verdict.proof.level, refusals(verdict)) == ("broken", 1, [(2, "archive/data/0")])


def test_a_hostile_pickle_is_read_and_not_run(prover, tmp_path):
    """A pickle that would run a command is proved for what it holds; the command is not run."""
    trace = tmp_path / "trace"
    command = f"touch {trace}"
    pickle = b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."
    assert status(prover.prove(MemorySource(with_pickle(pickle)), b"last.pt")) == "proved"
    assert not trace.exists()


def test_a_bomb_is_unknown_and_not_broken(prover):
    """What is beyond the parsers' bounds is recorded as not looked into."""
    verdict = prover.prove(MemorySource(with_pickle(b"\x80\x02)" + b"\x85" * 5000 + b".")), b"last.pt")
    assert (status(verdict), verdict.proof.level) == ("unknown", 1)
    assert [finding.severity for finding in verdict.proof.findings] == [Severity.NOTE]


def test_damaged_safetensors_bytes_are_for_level_0_to_find(prover):
    """Safetensors has no checksums: the parsers pass a flipped tensor bit, which the store's digests do not."""
    data = safetensors_bytes()
    assert status(prover.prove(MemorySource(flipped(data, len(data) - 50)), b"m.safetensors")) == "proved"


NUMBERS = {
    "nan": (torch.tensor([1.0, float("nan"), 2.0, float("nan")]), "2 NaN in bad"),
    "inf": (torch.tensor([1.0, float("-inf"), 2.0, float("inf")]), "2 infinite numbers in bad"),
    "half inf": (torch.tensor([1.0, float("-inf")]).half(), "1 infinite numbers in bad"),
    "bfloat16 nan": (torch.full((3,), float("nan")).bfloat16(), "3 NaN in bad"),
    "complex nan": (torch.tensor([complex(0, float("nan"))]), "1 NaN in bad"),
    "float8 nan": (torch.tensor([float("nan"), 1.0]).to(torch.float8_e4m3fn), "1 NaN in bad"),
    "saturated": (torch.tensor([65504.0, -65504.0, 3.0]).half(), "2 numbers at the limit of float16 in bad"),
}


@pytest.mark.parametrize(("tensor", "what"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_that_are_none_are_told(prover, tensor, what):
    """NaN, infinity and saturation are counted on the device and told with the tensor's name."""
    data = torch_bytes({"good": torch.randn(9), "bad": tensor})
    verdict = prover.prove(MemorySource(data), b"last.pt")
    assert [(finding.severity, finding.what, finding.record) for finding in of_numbers(verdict)] == [
        (Severity.WARN, what, "archive/data/1")
    ]
    assert status(verdict) == "proved"


SMALL = {f"layer.{n}": torch.linspace(n + 1, n + 2, 3 + n % 5) for n in range(3000)} | {
    "half": torch.ones(3).half(),
    "zeros": torch.zeros(5),
    "count": torch.arange(7),
    "large": torch.linspace(1, 2, 9 << 10),
    "empty": torch.zeros(0),
    "last": torch.zeros(1),
}


def test_small_tensors_are_counted_together(prover, monkeypatch):
    """The counts are those of tensors that are counted one by one; the child is told of stretches, not of tensors."""
    told = []
    send = ProofChild.send
    monkeypatch.setattr(ProofChild, "send", lambda child, message: told.append(message) or send(child, message))
    source = MemorySource(torch_bytes(SMALL))
    together = prover.prove(source, b"last.pt")
    segment_count = sum(len(message.get("segments", ())) for message in told)
    monkeypatch.setattr(windows, "SMALL_BYTES_MAX", -1)
    one_by_one = prover.prove(source, b"last.pt")
    assert (status(together), together.proof.level, together.proof.findings) == ("proved", 4, [])
    assert together.proof.facts == one_by_one.proof.facts
    assert together.proof.facts["zero_count"] == 6
    assert segment_count <= 8


@pytest.mark.parametrize("fault", ["nan", "inf", "norm"])
def test_small_tensors_are_told_apart_where_one_is_at_fault(prover, fault):
    """Of thousands the one is named, and what is counted is the same as of each by itself."""
    odd = {"nan": float("nan"), "inf": float("-inf"), "norm": 1e300}[fault]
    tensors = {name: tensor.double() for name, tensor in SMALL.items()}
    tensors["layer.2345"][1] = odd
    verdict = prover.prove(MemorySource(torch_bytes(tensors)), b"last.pt")
    whats = {"nan": ["1 NaN in layer.2345"], "inf": ["1 infinite numbers in layer.2345"], "norm": []}[fault]
    assert [finding.what for finding in of_numbers(verdict)] == whats
    assert verdict.proof.facts["zero_count"] == 7
    assert "norm" not in verdict.proof.facts


def test_numbers_are_counted_over_windows(prover):
    """Counts of a tensor that spans several windows are sums, and its bounds are those of the whole."""
    tensor = torch.ones(3 << 18)
    tensor[:5] = 0
    tensor[-7:] = float("nan")
    verdict = prover.prove(MemorySource(torch_bytes({"x": tensor})), b"last.pt")
    assert (verdict.proof.facts["zero_count"], verdict.proof.facts["nan_count"]) == (5, 7)
    assert [finding.severity for finding in of_numbers(verdict)] == [Severity.WARN]


@pytest.mark.parametrize(
    ("tensor", "what"),
    [(torch.zeros(99_999), "all numbers are 0 in x"), (torch.ones(99_999), "all numbers are 1 in x")],
)
def test_a_large_constant_tensor_is_noted(prover, tensor, what):
    """A tensor in which all is alike is worth a note and no more."""
    verdict = prover.prove(MemorySource(torch_bytes({"x": tensor})), b"last.pt")
    assert [(finding.severity, finding.what) for finding in of_numbers(verdict)] == [(Severity.NOTE, what)]
    assert status(verdict) == "proved"


ALIKE_IN_PART = {
    "signs": torch.tensor([-1.0, 1.0]).repeat(50_000),
    "windows": torch.cat([torch.ones(1 << 18), -torch.ones(1 << 18)]),
    "a window": torch.cat([torch.ones(1 << 18), torch.linspace(1, 2, 1 << 18)]),
    "complex": torch.full((50_000,), complex(1, -1)),
}


@pytest.mark.parametrize("tensor", ALIKE_IN_PART.values(), ids=ALIKE_IN_PART.keys())
def test_a_tensor_that_is_alike_in_part_is_not_constant(prover, tensor):
    """Numbers of one magnitude and two signs, within a window or from one to the next, are not all alike."""
    verdict = prover.prove(MemorySource(torch_bytes({"x": tensor})), b"last.pt")
    assert of_numbers(verdict) == []


# A tensor with nothing but this fault, by the fault's name.
FAULTY = {
    "nan": torch.full((3,), float("nan")),
    "inf": torch.tensor([1.0, float("inf")]),
    "zero": torch.zeros(99_999),
    "constant": torch.full((99_999,), -0.5),
    "saturated": torch.tensor([65504.0, 1.0]).half(),
}


@pytest.fixture(scope="module")
def faulty_bytes() -> bytes:
    """A checkpoint with one tensor of each fault, and one without any."""
    return torch_bytes({"sound": torch.randn(99_999), **FAULTY})


def judged(data: bytes, child: Prover, **policy: frozenset[str]) -> Verdict:
    """The verdict under another policy; the child, which knows of none, is lent."""
    other = Prover(ProofOptions(device="cpu", **policy))
    other._engine = child._ready_engine()
    return other.prove(MemorySource(data), b"last.pt")


@pytest.mark.parametrize("fault", FAULTY)
def test_each_fault_of_numbers_is_refused_where_the_policy_says_so(prover, faulty_bytes, fault):
    """A checkpoint with a fault of *refuse* is broken at level 4, for the one tensor that has it."""
    verdict = judged(faulty_bytes, prover, refuse=frozenset({fault}), warn=frozenset())
    record = f"archive/data/{1 + list(FAULTY).index(fault)}"
    assert (status(verdict), verdict.proof.level, refusals(verdict)) == ("broken", 3, [(4, record)])


@pytest.mark.parametrize("fault", FAULTY)
def test_each_fault_of_numbers_is_warned_of_where_the_policy_says_so(prover, faulty_bytes, fault):
    """A fault of *warn* is a warning, those of neither list are notes, and the checkpoint is proved."""
    verdict = judged(faulty_bytes, prover, warn=frozenset({fault}))
    assert status(verdict) == "proved"
    assert [finding.severity for finding in of_numbers(verdict)] == [Severity.WARN, *[Severity.NOTE] * 4]
    assert of_numbers(verdict)[0].record == f"archive/data/{1 + list(FAULTY).index(fault)}"


def test_infinity_beside_the_weights_is_noted(prover):
    """Lightning's default checkpoint, which holds an infinite score, is proved where infinity is refused: a note."""
    data = (Path(__file__).parents[1] / "formats/made/lightning-default.ckpt").read_bytes()
    verdict = judged(data, prover, refuse=frozenset({"inf"}))
    assert (status(verdict), verdict.proof.facts["infinite_count"]) == ("proved", 1)
    assert [(finding.severity, finding.what[-9:]) for finding in of_numbers(verdict)] == [(Severity.NOTE, "kth_value")]


MASK = torch.full((9, 9), float("-inf")).triu(1)
KEPT_BESIDE = {
    "mask by its name": {"model": {"attn.mask": torch.tensor([[1.0, float("-inf")]])}},
    "mask by its numbers": {"model": {"attn.future": MASK}},
    "mask of the lowest half": {"model": {"attn.future": MASK.half().clamp(min=-65504)}},
    "limits of an observer": {"model": {"observer.min_val": torch.tensor(float("inf"))}},
    "best score": {"model": {"w": torch.ones(3)}, "best": torch.tensor(float("inf"))},
    "random states": {"rng_state": torch.tensor([float("nan")])},
}


@pytest.mark.parametrize("content", KEPT_BESIDE.values(), ids=KEPT_BESIDE.keys())
def test_numbers_of_what_is_no_weight_are_noted(prover, content):
    """Masks, limits and bookkeeping may be infinite: no policy speaks of them."""
    verdict = judged(torch_bytes(content), prover, refuse=frozenset(FAULTY))
    assert status(verdict) == "proved"
    assert [finding.severity for finding in of_numbers(verdict)] == [Severity.NOTE]


TRAINED = {
    "weight": {"model": {"attn.weight": MASK}},
    "moment": {"optimizer": {"state": {0: {"exp_avg": MASK}}, "param_groups": []}},
    "on one storage with a mask": {
        "model": dict(zip(("mask", "w"), torch.tensor([[1.0, float("inf")]] * 2), strict=True))
    },
}


@pytest.mark.parametrize("content", TRAINED.values(), ids=TRAINED.keys())
def test_infinity_in_weights_and_moments_is_refused(prover, content):
    """What is learned, or remembered by an optimizer, is held to the policy whatever its numbers look like."""
    verdict = judged(torch_bytes(content), prover, refuse=frozenset({"inf"}))
    assert (status(verdict), [finding.severity for finding in of_numbers(verdict)]) == ("broken", [Severity.REFUSE])


def test_what_is_refused_is_told_before_what_is_warned_of(prover, faulty_bytes):
    """A fault in both lists is refused, and refusals come first, then warnings, then notes."""
    verdict = judged(faulty_bytes, prover, refuse=frozenset({"constant"}), warn=frozenset({"constant", "inf"}))
    assert [finding.severity for finding in of_numbers(verdict)] == [
        Severity.REFUSE,
        Severity.WARN,
        *[Severity.NOTE] * 3,
    ]


NORMS = {
    "float32 over windows": {"x": torch.linspace(-1, 1, 3 << 18), "y": torch.full((7,), 3.0)},
    "float64": {"x": torch.linspace(-2, 3, 10_001, dtype=torch.float64)},
    "halves": {"x": torch.linspace(-2, 3, 10_001).half(), "y": torch.linspace(-2, 3, 3000).bfloat16()},
    "complex": {"x": torch.complex(torch.linspace(0, 1, 999), torch.linspace(5, 6, 999))},
    "too large for the squares of float32": {"x": torch.linspace(1e30, 2e30, 5000)},
    "too small for them": {"x": torch.full((5000,), 1e-18)},
    "zeros": {"x": torch.zeros(5000)},
}


@pytest.mark.parametrize("tensors", NORMS.values(), ids=NORMS.keys())
def test_the_norm_of_all_numbers_is_a_fact(prover, tensors):
    """The square root of the sum of all squares is recorded, to six digits."""
    verdict = prover.prove(MemorySource(torch_bytes(tensors)), b"last.pt")
    parts = [torch.view_as_real(x) if x.is_complex() else x for x in tensors.values()]
    expected = torch.cat([part.double().flatten() for part in parts]).norm().item()
    assert verdict.proof.facts["norm"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "tensors", [{"x": torch.tensor([1.0, float("nan")]), "y": torch.ones(3)}, {"x": torch.arange(9)}]
)
def test_without_numbers_or_with_some_that_are_none_there_is_no_norm(prover, tensors):
    """A checkpoint with NaN, or of whole numbers alone, has no norm."""
    assert "norm" not in prover.prove(MemorySource(torch_bytes(tensors)), b"last.pt").proof.facts


def test_other_byte_order_is_digested_and_not_counted(prover):
    """Numbers of a big-endian file would be read wrongly, so only its bytes are proved."""
    parts = parts_of(torch_bytes({"x": torch.full((3,), float("nan"))}))
    parts["archive/byteorder"] = b"big"
    verdict = prover.prove(MemorySource(rezipped(parts)), b"last.pt")
    assert (status(verdict), verdict.proof.facts["nan_count"]) == ("proved", 0)


@pytest.mark.parametrize(
    ("data", "path", "level"),
    [
        (b"\x80\x04N.", b"old.pt", 1),  # a bare pickle, which torch.load refuses under any name
        (b"GGUF\x07" + bytes(100), b"m.gguf", 0),
        (b"a,b\n1,2\n", b"results.csv", 0),
        (rezipped({"a.txt": b"x"}), b"odd.pt", 1),
    ],
)
def test_what_is_not_understood_is_unknown_and_read_to_its_end(prover, data, path, level):
    """A file of another kind is neither proved nor broken; its bytes came back."""
    source = MemorySource(data)
    verdict = prover.prove(source, path)
    assert (status(verdict), verdict.proof.level, source.streamed_bytes) == ("unknown", level, len(data))


@pytest.mark.parametrize(
    ("options", "level"), [(ProofOptions(device="none"), 2), (ProofOptions(level=2), 2), (ProofOptions(level=1), 1)]
)
def test_without_a_device_no_child_is_started(options, level):
    """Where level 2 is all that is wanted, no process is made."""
    with Prover(options) as prover:
        assert prover.open() is None
        verdict = prover.prove(MemorySource(yolo_bytes()), b"last.pt")
        assert prover._engine is None
    assert (status(verdict, wanted=level), verdict.proof.level, verdict.proof.device) == ("proved", level, "")


class FailingSource(MemorySource):
    """Comes back damaged in the middle."""

    def stream(self, allocate: object = None) -> Iterator[memoryview]:
        """The first blocks, then an error."""
        for place, block in enumerate(super().stream()):
            if place == 2:
                raise ObjectDamaged("Pack damaged", where="packs/aa")
            yield block


def test_damage_in_the_store_passes_through(prover):
    """What the store's reader raises is not the proof's to judge, and the next file is proved as if nothing was."""
    with pytest.raises(ObjectDamaged):
        prover.prove(FailingSource(weights_bytes()), b"w.pt")
    assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"


class ShortSource(MemorySource):
    """Gives less than it promised."""

    def stream(self, allocate: object = None) -> Iterator[memoryview]:
        """All bytes but the last."""
        yield memoryview(self.data)[:-1]


def test_a_stream_of_another_length_is_refused(prover):
    """All bytes came, or the file is not proved."""
    verdict = prover.prove(ShortSource(safetensors_bytes()), b"m.safetensors")
    assert (status(verdict), refusals(verdict)) == ("broken", [(0, None)])
    assert status(prover.prove(MemorySource(safetensors_bytes()), b"m.safetensors")) == "proved"
