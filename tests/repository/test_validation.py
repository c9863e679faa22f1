"""The edges of what ``check_root`` accepts: those that no reader can reach, since an object's key bounds them first."""

import msgspec
import pytest
from format_examples import Examples, inputs

from mlsync.errors import ManifestDamaged
from mlsync.repository import names
from mlsync.repository.encoding.validation import check_root

ROOT = Examples(inputs()).root()


def test_a_version_has_a_number_above_zero():
    """No version 0 is committed."""
    with pytest.raises(ManifestDamaged, match="number"):
        check_root(msgspec.structs.replace(ROOT, number=0, previous=None, troubles=()), "here")


def test_the_highest_number_is_a_versions():
    """A run may use every number that a key can hold."""
    check_root(msgspec.structs.replace(ROOT, number=names.VERSION_MAX), "here")
