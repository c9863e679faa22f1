"""What a run is called that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsync.config.run_name import default_run_name
from mlsync.errors import RunNameInvalid


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/home/anna/yolo-x", "yolo-x"),
        ("/home/anna/yolo/runs/train", "yolo-runs-train"),
        ("/home/anna/yolo/runs/detect/train12", "yolo-runs-detect-train12"),
        ("/home/anna/train", "anna-train"),
        ("/home/berta/train", "berta-train"),
        ("/srv/bert/Checkpoints", "bert-Checkpoints"),
        ("/srv/bert/exp-3", "bert-exp-3"),
        ("/srv/bert/lightning_logs/version_0", "bert-lightning_logs-version_0"),
        ("/srv/bert/2026", "bert-2026"),
        ("/workspace/output", "workspace-output"),
        ("/train", "train"),
    ],
)
def test_a_common_name_gets_its_parents(directory, name):
    """A name that everybody has is no name of a run: what stands above it comes before it, up to one that is."""
    assert default_run_name(Path(directory)) == name


def test_a_parent_that_no_run_can_be_named_after_is_left_out():
    """What would hide, or would not print, ends the name; the directory's own must be a name of itself."""
    assert default_run_name(Path("/home/anna/.cache/train")) == "train"
    assert default_run_name(Path("/home/anna/two\nlines/runs/train")) == "runs-train"
    assert default_run_name(Path("/" + "x" * 128 + "/train")) == "train"
    for directory in ("/", "/home/.hidden"):
        with pytest.raises(RunNameInvalid):
            default_run_name(Path(directory))
