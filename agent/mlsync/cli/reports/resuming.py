"""How to resume the training after a restore: the line of its framework for the checkpoint that came back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.cli.terminal import output
from mlsync.repository.manifest import Entry
from mlsync.source.paths import joined
from mlsync.versions.resumable import ULTRALYTICS, Resumable, resumables

_NAMES: Final = {
    ULTRALYTICS: "Ultralytics",
    "huggingface-trainer": "Hugging Face's Trainer",
    "lightning": "Lightning",
    "accelerate": "accelerate",
    "deepspeed": "DeepSpeed",
    "megatron": "Megatron-LM",
    "dcp": "torch.distributed.checkpoint",
    "torch": "torch",
    "safetensors": "safetensors",
}
_LINES: Final = {
    "huggingface-trainer": "trainer.train(resume_from_checkpoint={path})",
    "lightning": "trainer.fit(model, ckpt_path={path})",
    "accelerate": "accelerator.load_state({path})",
    "deepspeed": "engine.load_checkpoint({parent}, tag={name})",
    "dcp": "dcp.load(state_dict, checkpoint_id={path})",
    "torch": 'checkpoint = torch.load({path}, map_location="cpu", weights_only=True)',
    "safetensors": "tensors = safetensors.torch.load_file({path})",
}
_WEIGHTS: Final = b"weights"
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Resume:
    """A checkpoint that training can resume from; *line* does it, where there is such a line for its *kind*.

    *note* is what else the line may need.
    """

    kind: str
    path: bytes
    line: str | None
    about: str
    note: str = ""


def resumes(entries: Iterable[Entry], directory: bytes, original: bytes) -> list[Resume]:
    """Return how to resume each training in *directory*, which was *original* when the version was made."""
    return [_resume(one, directory, original) for one in resumables(entries)]


def closing_lines(found: Sequence[Resume], entries: Sequence[Entry], version: str) -> Iterator[str]:
    """Yield what a person reads after a restore: how to resume, or why it is not possible; nothing without weights."""
    if not found:
        yield from _why_not(entries, version)
        return
    first = found[0]
    if first.line is None:
        yield f"To resume the training, load {output.path(first.path)} ({first.about})"
    else:
        yield f"To resume the training ({first.about}):"
        yield f"    {first.line}"
        if first.note:
            yield first.note
    if others := found[1:]:
        named = ", ".join(output.path(one.path) for one in others[:_NAMED_MAX])
        more = f" and {len(others) - _NAMED_MAX} more" if len(others) > _NAMED_MAX else ""
        yield f"Other trainings there: {named}{more}; --json has their lines"


def _why_not(entries: Sequence[Entry], version: str) -> Iterator[str]:
    """Yield one line if there are weights."""
    proved = [(entry, entry.proof.facts) for entry in entries if entry.proof is not None]
    stripped = [
        entry for entry, facts in proved if facts.get("framework") == ULTRALYTICS and not facts.get("resumable")
    ]
    weights = [entry for entry, facts in proved if facts.get("parameter_count")]
    advice = "" if version == "resumable" else "; try --version resumable"
    if stripped:
        verb = "is" if len(stripped) == 1 else "are"
        yield f"This training has ended: {_named(stripped)} {verb} stripped of the optimizer{advice}"
    elif weights:
        verb = "has" if len(weights) == 1 else "have"
        yield f"Nothing to resume from here: {_named(weights)} {verb} weights without an optimizer's state{advice}"


def _named(entries: Sequence[Entry]) -> str:
    named = ", ".join(output.path(entry.path) for entry in entries[:_NAMED_MAX])
    more = f" and {len(entries) - _NAMED_MAX} more" if len(entries) > _NAMED_MAX else ""
    return named + more


def _resume(one: Resumable, directory: bytes, original: bytes) -> Resume:
    path = joined(directory, one.path) if one.path else directory
    about = ", ".join([_NAMES.get(one.kind, one.kind.replace("-", " ")), *_progress(one)])
    if one.kind != ULTRALYTICS:
        # As the examples of transformers take it
        option = f"--resume_from_checkpoint={_for_shell(path)}" if one.kind == "huggingface-trainer" else ""
        note = f"If your script has the Trainer's options, add {option} instead." if option else ""
        return Resume(one.kind, path, _line(one, path), about, note)
    is_elsewhere = os.path.realpath(directory) != os.path.normpath(original)
    note = "If the data set lies elsewhere than on the old machine, add data=FILE." if is_elsewhere else ""
    return Resume(one.kind, path, _ultralytics_line(path, is_elsewhere=is_elsewhere), about, note)


def _progress(one: Resumable) -> Iterator[str]:
    """Yield how far the training was, in the numbers that its framework shows."""
    if one.kind == ULTRALYTICS and isinstance(one.epoch, int):
        # Its checkpoints count from 0; results.csv, its log and "Resuming training from epoch" count from 1.
        yield f"after epoch {one.epoch + 1}"
    elif one.epoch is not None:
        yield f"epoch {one.epoch}"
    if one.step is not None:
        yield f"step {one.step}"


def _line(one: Resumable, path: bytes) -> str | None:
    parent, _, name = path.rpartition(b"/")
    if one.kind == "megatron":
        return f"--load {_for_shell(parent)}"
    line = _LINES.get(one.kind)
    return (
        None if line is None else line.format(path=_in_python(path), parent=_in_python(parent), name=_in_python(name))
    )


def _ultralytics_line(path: bytes, *, is_elsewhere: bool) -> str:
    """Return Ultralytics' command; it writes to the directory that the checkpoint names, unless it is told another."""
    words = ["yolo", "train", "resume", _for_shell(b"model=" + path)]
    training, _, folder = path.rpartition(b"/")[0].rpartition(b"/")
    if is_elsewhere and folder == _WEIGHTS:
        words.append(_for_shell(b"save_dir=" + training))
    return " ".join(words)


def _in_python(path: bytes) -> str:
    """Return a path as Python's source has it; bytes that are no UTF-8 become what ``os.fsencode`` turns back."""
    text = ascii(os.fsdecode(path)) if not os.fsdecode(path).isprintable() else repr(os.fsdecode(path))
    # As the documents of the frameworks write it
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text


def _for_shell(word: bytes) -> str:
    """Return a word for a shell: for bash, zsh and ksh if it has characters that do not print."""
    text = os.fsdecode(word)
    if text.isprintable():
        return shlex.quote(text)
    plain = range(0x20, 0x7F)
    escaped = (f"\\x{byte:02x}" if byte not in plain or byte in b"\\'" else chr(byte) for byte in word)
    return f"$'{''.join(escaped)}'"
