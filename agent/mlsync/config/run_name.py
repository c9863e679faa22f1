"""The names that a run may have, which are safe in paths, arguments and messages."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Final

from mlsync.errors import RunNameInvalid

LENGTH_MAX = 128
# Names, in lower case and without a trailing number, that do not tell runs apart: the defaults of trainers and of their
# documents, and the usual directories of machines and images. docs/commands.md lists them.
COMMON_NAMES: Final = frozenset(
    """
    artifacts checkpoint checkpoints ckpt ckpts classify current default detect exp experiment experiments exps
    finetune finetuned fit last latest lightning_logs log logs model models obb out output outputs pose predict
    pretrain pretrained result results run runs save saved saves segment sft tb tensorboard test track train
    trained training trainings val version weights
    app code content data disk home mnt opt project projects root scratch src storage tmp var volume work workdir
    workspace workspaces
    """.split()  # noqa: SIM905 - a list of words is read, and grows, more easily than seventy literals
)
_NUMBER: Final = re.compile(r"[-_. ]*\d*$")


def check_run_name(name: str) -> str:
    """Return *name* unchanged; raise ``RunNameInvalid`` if it could be taken for a path, an option or nothing."""
    reason = _fault(name)
    if reason is not None:
        shown = name if len(name) <= LENGTH_MAX else name[:LENGTH_MAX] + "…"
        raise RunNameInvalid(
            f"not a run name: {shown!r}", where=reason, advice=f'1 to {LENGTH_MAX} printable characters like "yolo-1"'
        )
    return name


def default_run_name(directory: Path) -> str:
    """Return the default name of a run: its directory's, with parents' names before it while the first is a common one.

    ``~/yolo/runs/train`` gives ``yolo-runs-train``, so that two directories called ``train`` are two runs. Raises
    ``RunNameInvalid`` if that is no run name.
    """
    name = check_run_name(directory.name)
    for parent in directory.parents:
        if not _is_common(directory.name):
            break
        try:
            name = check_run_name(f"{parent.name}-{name}")
        except RunNameInvalid:
            # The root, or a parent that no run can be named after: the name so far has to do.
            break
        directory = parent
    return name


def _is_common(name: str) -> bool:
    plain = name.lower()
    return plain in COMMON_NAMES or _NUMBER.sub("", plain) in COMMON_NAMES | {""}


def _fault(name: str) -> str | None:
    faults = {
        "it is empty": not name,
        f"it has {len(name)} characters": len(name) > LENGTH_MAX,
        'it has a "/"': "/" in name,
        # "-x" reads as an option, ".x" hides, and "." and ".." are directories.
        f'it begins with "{name[:1]}"': name.startswith(("-", ".")),
        "it has characters that do not print": not name.isprintable(),
        "it has blanks at an end": name.strip() != name,
        # Two spellings that look alike would be two runs.
        "it is not in Unicode's composed form (NFC)": not unicodedata.is_normalized("NFC", name),
    }
    return next((fault for fault, found in faults.items() if found), None)
