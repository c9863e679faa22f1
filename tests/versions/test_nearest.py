"""The paths that somebody may have meant."""

from __future__ import annotations

import pytest

from mlsync.versions.nearest import did_you_mean, nearest

PATHS = [b"results.csv", b"checkpoint-40", b"checkpoint-40/model.safetensors", b"checkpoint-50", b"weights/last.pt"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"last.pt", ["weights/last.pt"]),
        (b"runs/train/weights/last.pt", ["weights/last.pt"]),
        (b"checkpoint-45", ["checkpoint-50", "checkpoint-40"]),
        (b"weights/Last.pt", ["weights/last.pt"]),
        (b"nothing like it", []),
    ],
)
def test_the_nearest_paths(path, found):
    """A path's end, its name in other letters, or a name like it: the nearest is named first."""
    assert nearest(path, PATHS) == found


def test_the_question():
    """It names what is near, and is not asked where nothing is."""
    assert did_you_mean(b"result.csv", PATHS) == "did you mean results.csv?"
    assert did_you_mean(b"nothing like it", PATHS) is None
