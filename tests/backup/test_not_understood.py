"""What looks like a model and is not understood is named once for each ending; pictures and data never are."""

from __future__ import annotations

import random

import pytest

from flow_parts import RUN, noise, small_checkpoint
from mlsync.backup.checkpoints.not_understood import in_words, kind_of, not_understood
from mlsync.codec.compression import Coding
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.values import Proof

MIB = 1 << 20
PROOF = Proof(2, "torch-zip", "", "", 0, 0.0, 0, 0, {}, [])


def entry(path: str, size_bytes: int = 64 * MIB, packed_to: float = 0.95, **fields: object) -> Entry:
    """A file as a version holds it."""
    chunk = ChunkRef(b"n", b"p", 0, 0, int(size_bytes * packed_to), size_bytes, Coding.RAW)
    values = {"kind": EntryKind.FILE, "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "chunks": (chunk,)} | fields
    return Entry(path=path.encode(), size_bytes=size_bytes, **values)


MODELS = {
    "a/best.PDPARAMS": ("pdparams", 2048),
    "net.tflite": ("tflite", 2048),
    "frozen.pb": ("pb", 5 * MIB),
    "ms/net.ckpt": ("ckpt", 2048),  # MindSpore's, which begins as nothing that torch writes
    "vectors.model": ("model", 2 * MIB),
    "llama2.bin": ("bin", 64 * MIB),
    "export/weights": ("", 64 * MIB),
    "final.v2-ema": ("v2-ema", 64 * MIB),
}


@pytest.mark.parametrize(("path", "expected"), MODELS.items(), ids=MODELS.keys())
def test_a_model_is_known_by_its_ending_or_by_its_bytes(path, expected):
    """Endings of models count from 1 KiB on, others where the bytes are many and hardly pack."""
    kind, size_bytes = expected
    assert kind_of(entry(path, size_bytes)) == kind
    assert kind_of(entry(path, 1000)) is None


NO_MODELS = [
    *("a/cat.jpg", "film.mp4", "set.parquet", "x.arrow", "part-0.tfrecord", "x.npy", "set.zip", "set.tar.gz", "lib.so"),
    *("events.out.tfevents.1764.host.1.0", "run.wandb", "train.log", "stdout.txt", "core.1234", "data.mdb", "x.idx"),
    *("train.bin", "val.bin", "openwebtext_train_000001.bin", "corpus_text_document.bin", "data_batch_1.bin"),
    *("data/a.bin", "x/datasets/y/z", "x/.cache/blob", "wandb/run-1/x", "labels.dat", "replay_buffer.dat"),
    *("step_1/d/0123456789abcdef0123456789abcdef", "z/c/0/1", "z/0.1", "net.onnx.data", "net.onnx_data"),
    "out/tokenizer.model",
    "sm/saved_model.pb",
]


def test_data_pictures_and_logs_are_no_models():
    """However large they are, and however badly they pack."""
    assert not_understood(entry(path) for path in NO_MODELS) == {}


def test_what_is_proved_packs_well_or_is_no_file_is_not_named():
    """A proof says more, texts pack to a half, and other names of a file are the same file."""
    kinds = [
        entry("a.pdparams", proof=PROOF),
        entry("a.bin", packed_to=0.6),
        entry("a.pdparams", kind=EntryKind.HARD_LINK),
        entry("a.bin", 31 * MIB),
    ]
    assert [kind_of(one) for one in kinds] == [None] * 4


def test_patterns_leave_files_unnamed():
    """As in exclude, a name anywhere or a path from the top."""
    entries = [entry("x/a.mdl"), entry("x/b.mnn")]
    assert list(not_understood(entries, ["*.mdl"])) == [b"x/b.mnn"]
    assert list(not_understood(entries, ["x/*"])) == []


def test_the_line_names_three():
    """One line, however many they are."""
    assert in_words([b"b.mnn"]) == "1 file looks like a model and is not understood: stored, not proved (b.mnn)"
    many = in_words(b"%d.mnn" % number for number in range(4))
    assert many == (
        "4 files look like models and are not understood: stored, not proved (0.mnn, 1.mnn, 2.mnn and 1 more)"
    )


def test_each_kind_is_told_once(world):
    """Not with every version, nor by the next process; files of another ending are told of by themselves."""

    def told() -> list[str]:
        texts = [text for _, text in world.monitor.notices if "look" in text]
        world.monitor.notices.clear()
        return texts

    world.write("a.pdparams", noise(3000))
    world.write("last.pt", small_checkpoint())
    result = world.backup()
    assert result.not_understood == (b"a.pdparams",)
    [text] = told()
    assert text.startswith(f"{RUN}: 1 file looks like a model and is not understood: stored, not proved (a.pdparams)")
    world.reopen()
    world.write("a.pdparams", noise(3000, 1))
    world.write("b.pdparams", noise(3000, 2))
    assert world.backup().not_understood == (b"a.pdparams", b"b.pdparams")
    assert told() == []
    world.write("c.mnn", noise(3000, 3))
    world.backup()
    [text] = told()
    assert "(c.mnn)" in text
    world.write("c.mnn", noise(3000, 4))
    world.backup()
    assert told() == []


def test_a_large_file_is_known_by_how_it_packs(world):
    """Of what the codec measured: floats are named, tokens of a text are not."""
    world.write("dump", random.Random(5).randbytes(33 * MIB))
    world.write("words", b"".join(b"%07d" % (n * n) for n in range(5 * MIB)))
    assert world.backup(read_back="none").not_understood == (b"dump",)
