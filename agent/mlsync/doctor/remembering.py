"""Whether the kernel remembers what stretching a passphrase came to, where the configuration asks for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlsync import kernel_keyring
from mlsync.doctor.findings import Diagnosis, Grade

SUBJECT: Final = "remembered passphrase"


def diagnose_remembering() -> Iterator[Diagnosis]:
    """Yield whether the kernel takes a key of this user's; none stays."""
    try:
        kernel_keyring.probe()
    except OSError as error:
        what = f"the kernel remembers nothing for this user: {error.strerror}"
        means = "each command stretches the passphrase, in a tenth of a second and 64 MiB, as without remember in [key]"
        advice = "the seccomp profile of a container may forbid add_key and keyctl; a key file needs no stretching"
        yield Diagnosis(SUBJECT, Grade.WARNING, what, means, advice)
        return
    yield Diagnosis(SUBJECT, Grade.FINE, "the kernel remembers it for this user; mlsync key forget ends that")
