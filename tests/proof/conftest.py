"""Where the children of these tests run, if not in the Python that runs the tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from proof_python import PROOF_PYTHON


@pytest.fixture(scope="session", autouse=True)
def _children_run_in_the_proofs_python() -> Iterator[None]:
    """A prover that is told of no Python takes the one of MLSYNC_TEST_PROOF_PYTHON, as if it ran in that itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlsync.proof.engine.sys", SimpleNamespace(executable=PROOF_PYTHON))
        yield
