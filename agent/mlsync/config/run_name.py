"""Which names a run may have, so that they can stand in paths, arguments and messages."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Final

from mlsync.errors import RunNameInvalid

LENGTH_MAX = 128
# Names, in lower case and without a number behind them, that tell no run from another: what trainers and their
# documents suggest, and what machines and images are laid out with. docs/commands.md lists them.
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
    """Give *name* back as it is; raise ``RunNameInvalid`` if it could be taken for a path, an option or nothing."""
    reason = _fault(name)
    if reason is not None:
        shown = name if len(name) <= LENGTH_MAX else name[:LENGTH_MAX] + "…"
        raise RunNameInvalid(
            f"not a run name: {shown!r}", where=reason, advice=f'1 to {LENGTH_MAX} printable characters like "yolo-1"'
        )
    return name


def default_run_name(directory: Path) -> str:
    """Return the name of a run that has none: its directory's, with its parents' before it while it is a common one.

    ``~/yolo/runs/train`` gives ``yolo-runs-train``: two people's directories called ``train`` are not one run. Raises
    ``RunNameInvalid`` if that is no run name.
    """
    name = check_run_name(directory.name)
    for parent in directory.parents:
        if not _is_common(directory.name):
            break
        try:
            name = check_run_name(f"{parent.name}-{name}")
        except RunNameInvalid:
            # The root, or a parent that no run can be named after: what there is by now is all that can be had.
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
