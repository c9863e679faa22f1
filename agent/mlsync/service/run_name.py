"""Which names a run may have, so that they can stand in paths, arguments and messages."""

from __future__ import annotations

import unicodedata

from mlsync.errors import RunNameInvalid

LENGTH_MAX = 128


def check_run_name(name: str) -> str:
    """Give *name* back as it is; raise ``RunNameInvalid`` if it could be taken for a path, an option or nothing."""
    reason = _fault(name)
    if reason is not None:
        shown = name if len(name) <= LENGTH_MAX else name[:LENGTH_MAX] + "…"
        raise RunNameInvalid(
            f"not a run name: {shown!r}", where=reason, advice=f'1 to {LENGTH_MAX} printable characters like "yolo-1"'
        )
    return name


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
