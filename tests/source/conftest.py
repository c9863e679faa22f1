import os
import shutil
import tempfile
from contextlib import contextmanager

import pytest
from source_parts import close_all, watched

from mlsync.buffers import BufferPool
from mlsync.source.reading import SourceFile
from mlsync.source.scan import scan
from mlsync.source.spans import PIECE_BYTES_MAX


@pytest.fixture
def pool():
    """A pool as small as pieces allow; at the end every buffer of it must be free again."""
    with BufferPool(2, PIECE_BYTES_MAX) as pool:
        yield pool
        assert len(pool._free) == pool._made_count, "a hold on a buffer was forgotten"


@pytest.fixture(autouse=True)
def _closed():
    """No directory stays open."""
    yield
    close_all()


@pytest.fixture
def root(tmp_path):
    """An empty directory to watch."""
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def opened(root):
    """Open a file of the root the way a backup does."""

    def open_file(name):
        entries = {entry.path: entry for entry in scan(watched(root)).found}
        return SourceFile.open(watched(root), entries[os.fsencode(name)])

    return open_file


@pytest.fixture
def open_to_all():
    """A directory that any user may pass through, unlike pytest's own."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def without_privileges():
    """Be a user whom file modes bind; root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def unprivileged():
    """Give the context in which file modes bind."""
    return without_privileges
