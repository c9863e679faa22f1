import pytest

from mlsync.source.temporary_names import is_temporary


@pytest.mark.parametrize(
    "name",
    [
        b".tmpX1b2c3",
        b".tmp",
        b"model.bin.part",
        b".metadata.tmp",
        b"latest.tmp",
        b"tmp-checkpoint-500",
        b"1000.orbax-checkpoint-tmp-0",
        b"1000.orbax-checkpoint-tmp",
        b"0.4429701acdd5e0865e149aa9d359fdf0.partial",
        b".mlsync-restore-8f3a",
        b"new\nline.tmp",
        b"\xff.part",
    ],
)
def test_names_of_writers_are_temporary(name):
    """A name that a writer uses before it is done is temporary."""
    assert is_temporary(name)


@pytest.mark.parametrize("name", [b"last.pt", b"tmp", b"part", b"checkpoint-500", b".metadata", b"a.tmpl", b"x.tmp.pt"])
def test_names_of_results_are_not(name):
    """A final name is never taken for a temporary one."""
    assert not is_temporary(name)
