import pytest

from mlsync.source.settle import is_temporary


@pytest.mark.parametrize(
    "path",
    [
        b".tmpX1b2c3",
        b"run/.tmp",
        b"model.bin.part",
        b"ckpt/.metadata.tmp",
        b"latest.tmp",
        b"tmp-checkpoint-500/model.safetensors",
        b"1000.orbax-checkpoint-tmp-0/d/manifest.ocdbt",
        b".mlsync-restore-8f3a/last.pt",
        b"x/new\nline.tmp",
        b"\xff.part",
    ],
)
def test_names_of_writers_are_temporary(path):
    """A name that a writer uses before it is done is temporary, and so is all below such a directory."""
    assert is_temporary(path)


@pytest.mark.parametrize(
    "path",
    [b"last.pt", b"tmp/last.pt", b"part", b"checkpoint-500/model.safetensors", b".metadata", b"a.tmpl", b"x.tmp.pt"],
)
def test_names_of_results_are_not(path):
    """A final name is never taken for a temporary one."""
    assert not is_temporary(path)
