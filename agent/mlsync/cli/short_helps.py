"""What each command does, in a line: so that the list of commands imports none of them, nor what they work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# As each command says it in its ``short_help``, which a test compares. A command that is not here is imported.
SHORT_HELPS: Final[Mapping[str, str]] = {
    "demo": "See all of it work, with a real training, in a minute.",
    "init": "Make a repository and a configuration.",
    "status": "Show what is set up and what to do next.",
    "run": "Start a training, restored first, stored to its end.",
    "backup": "Make a version of each run that changed, now.",
    "now": "Have the running agent back up at once.",
    "agent": "Keep watch over all runs (the service).",
    "restore": "Bring a version back.",
    "versions": "List versions and how far they were proved.",
    "show": "Show the files of a version and their proofs.",
    "metrics": "Show what the trainer logged.",
    "diff": "Show what changed from one version to another.",
    "register": "Register a version in MLflow, without an upload.",
    "unregister": "Let go of a version that was registered.",
    "export": "Write plain copies of files, each with its SHA-256.",
    "pin": "Keep a version for good, under a name.",
    "unpin": "Remove the pin of a version.",
    "forget": "Leave versions out, until they are removed.",
    "unforget": "Bring forgotten versions back.",
    "prune": "Delete what no version needs.",
    "bucket": "Set up a bucket, and a second one with a copy.",
    "copy": "Copy versions to a second place, a mirror.",
    "doctor": "Look at disks, store, rights, clock and keys.",
    "notify": "Try the channels that are told of events.",
    "check": "Check every object of the repository.",
    "repair": "Heal lost or damaged objects.",
    "verify": "Read a version back and prove it again.",
    "prove": "Prove versions that lack a full proof.",
    "evaluate": "Measure a checkpoint of a version by a command.",
    "key": "List, add and change what opens the repository.",
    "iam-policy": "Print the least rights of a role, as JSON.",
    "service": "Install or remove the systemd service.",
    "completion": "Print a completion script for bash, zsh or fish.",
}
# A command that stands on the line of another one, and what both do: the list is to fit a screen.
TOGETHER: Final[Mapping[str, str]] = {"evaluate": "prove", "iam-policy": "bucket"}
SHORT_HELPS_TOGETHER: Final[Mapping[str, str]] = {
    "prove": "Prove what lacks a full proof; measure a checkpoint.",
    "bucket": "Set up a bucket, and a copy; print least rights.",
}
