"""What proofs are made with here: the proof's Python, its numpy and torch, and the GPUs that torch reaches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from mlsync.app.proof_user import refuse_untrusted_programs
from mlsync.config.model import Config
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.errors import Untrusted
from mlsync.proof.programs import gpus

SUBJECT: Final = "proof"
# Within the check's own bound.
_ASKING_S: Final = 4.5
_ANSWER_BYTES_MAX: Final = 1 << 16
# Says first what takes no time; torch may take longer to import than anybody waits. Counting GPUs makes no context.
_QUESTION: Final = """
import importlib.util as util, json, sys
print(json.dumps({"python": sys.version.split()[0], "numpy": util.find_spec("numpy") is not None,
                  "has_torch": util.find_spec("torch") is not None}), flush=True)
if util.find_spec("torch") is not None and len(sys.argv) > 1:
    import torch
    print(json.dumps({"torch": str(torch.__version__), "cuda": torch.version.cuda or torch.version.hip,
                      "gpus": torch.cuda.device_count()}), flush=True)
"""
_TRAINERS: Final = "name the trainer's Python, which has torch, as python under [proof]"


def diagnose_device(config: Config) -> Iterator[Diagnosis]:
    """Yield whether checkpoints can be proved, and on which device; runs the proof's Python."""
    if config.proof.device == "none":
        yield Diagnosis(SUBJECT, Grade.FINE, 'no device is asked: device = "none" under [proof]')
        return
    try:
        refuse_untrusted_programs(config)
    except Untrusted as error:
        yield Diagnosis(SUBJECT, Grade.GRAVE, str(error), "no checkpoint is proved", error.advice or "")
        return
    python = sys.executable if config.proof.python is None else str(config.proof.python)
    no_gpu = gpus.why_none() if config.proof.device != "cpu" else ""
    yield from device_found(config.proof.device, python, _answers(python, tries_torch=not no_gpu), no_gpu)


def _answers(python: str, *, tries_torch: bool) -> dict[str, Any] | str:
    """Return what the Python says of itself, or in words why it does not."""
    # Without the environment's settings and the directory that this runs in, as a proof.
    words = [python, "-I", "-B", "-c", _QUESTION, *(["torch"] if tries_torch else [])]
    try:
        done = subprocess.run(  # noqa: S603 - a program that the configuration names, and nobody but its owner can change
            words, capture_output=True, timeout=_ASKING_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        return _parsed(said) or f"it does not answer within {_ASKING_S:g} s"
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    return _parsed(done.stdout) or done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]


def _parsed(said: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in said[:_ANSWER_BYTES_MAX].splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found |= value
    return found


def device_found(device: str, python: str, answers: dict[str, Any] | str, no_gpu: str) -> Iterator[Diagnosis]:
    """Yield what the *answers* of *python* mean for proofs on *device*; *no_gpu* says why there is no GPU here."""
    wants_gpu = device.startswith("cuda")
    worse = Grade.GRAVE if wants_gpu else Grade.WARNING
    means = (
        "proofs are not made, and versions stay pending or wait" if wants_gpu else "checkpoints are proved on the CPU"
    )
    if isinstance(answers, str):
        yield Diagnosis(SUBJECT, Grade.GRAVE, f"{python}: {answers}", "no checkpoint is proved", _TRAINERS)
        return
    shown = f"{python} (Python {answers.get('python')})"
    if not answers.get("numpy"):
        yield Diagnosis(SUBJECT, worse, f"{shown} has no numpy", "the CPU looks at no numbers (L4)", _TRAINERS)
    if device == "cpu":
        yield Diagnosis(SUBJECT, Grade.FINE, f"{shown} proves on the CPU, as configured")
    elif no_gpu:
        grade, advice = (Grade.GRAVE, 'set device = "auto" under [proof]') if wants_gpu else (Grade.FINE, "")
        yield Diagnosis(SUBJECT, grade, f"{no_gpu}; {shown}", means, advice)
    elif not answers.get("has_torch"):
        yield Diagnosis(SUBJECT, worse, f"there is a GPU, and {shown} has no torch", means, _TRAINERS)
    elif "torch" not in answers:
        what = f"torch of {shown} did not come up within {_ASKING_S:g} s, so that no GPU was asked"
        yield Diagnosis(SUBJECT, Grade.UNKNOWN, what, advice="mlsync verify --device cuda tries a proof")
    elif not answers.get("gpus"):
        what = (
            f"torch {answers['torch']} of {shown} reaches no GPU (built for {answers.get('cuda') or 'the CPU alone'})"
        )
        yield Diagnosis(SUBJECT, worse, what, means, "see python -c 'import torch; torch.zeros(1).cuda()'")
    else:
        yield Diagnosis(SUBJECT, Grade.FINE, f"torch {answers['torch']} of {shown} reaches {answers['gpus']} GPU(s)")
