"""Files that ``made/make_pickles.py`` wrote with pickle, joblib and scikit-learn."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_edits import edited, edits
from checkpoint_files import MemorySource
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.pickles import pickle_file as bare_pickle
from mlsync.formats.sniff import identify

MADE = Path(__file__).parents[1] / "made"
FILES = {
    name: (MADE / name).read_bytes()
    for name in ("state.joblib", "state-4.pkl", "state-5.pkl", "several.pkl", "boosting.joblib")
}


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "pickle"))
    assert content is not None
    return content


def blocks_of(data: bytes) -> set[bytes]:
    return {data[storage.offset : storage.offset + storage.length] for storage in content_of(data).storages}


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_known_by_their_content(name):
    """Whatever the file is called."""
    assert identify(MemorySource(FILES[name]), b"model") == "pickle"


@pytest.mark.parametrize("name", ["state.joblib", "state-4.pkl", "state-5.pkl"])
def test_arrays_are_found_with_their_bytes(name):
    """Arrays of numbers lie where they are found, in either order of their elements, with the type that they have."""
    random = np.random.default_rng(7)
    weight, columns = random.standard_normal((24, 16)).astype("f4"), random.standard_normal((12, 20))
    wanted = {weight.tobytes(), columns.tobytes("F"), np.arange(600, dtype="i8").tobytes(), bytes(90 * 12)}
    assert wanted <= blocks_of(FILES[name])
    content = content_of(FILES[name])
    by_bytes = {FILES[name][one.offset : one.offset + one.length]: one for one in content.storages}
    assert [by_bytes[weight.tobytes()].dtype, by_bytes[weight.tobytes()].item_bytes] == ["float32", 4]
    shapes = {tensor.shape: tensor.stride for tensor in content.tensors}
    assert shapes[24, 16] == (16, 1)
    assert shapes[12, 20] == (1, 12)
    assert content.facts["epoch"] == 7
    assert content.aside_count > 0  # big-endian numbers


@pytest.mark.parametrize("name", ["state.joblib", "state-4.pkl", "state-5.pkl"])
def test_arrays_of_objects_are_walked(name):
    """What lies inside of an array of objects is found too: joblib writes a pickle in its place."""
    assert np.arange(400, dtype="i4").tobytes() in blocks_of(FILES[name])


def test_a_model_of_scikit_learn():
    """Its class is told, and its arrays are found: those of the trees are in a pickle inside of the file."""
    content = content_of(FILES["boosting.joblib"])
    assert content.facts["framework"] == "sklearn"
    assert content.facts["class"] == "sklearn.ensemble._gb.GradientBoostingClassifier"
    assert len(content.storages) == 9


def test_pickles_in_a_row():
    """A file of several pickles is read to its end."""
    assert content_of(FILES["several.pkl"]).facts["parameter_count"] == 900


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_is_refused(name):
    """At any place but behind one of its pickles."""
    data = FILES[name]
    whole = {at for at in range(len(data)) if data[at - 1 : at] == b"." and data[at : at + 2] == b"\x80\x04"}
    for length in {*range(0, len(data), 41), len(data) - 1} - whole:
        with pytest.raises(ContainerBroken) as caught:
            read_layout(MemorySource(data[:length]), "pickle")
        assert not isinstance(caught.value, NotChecked)


def test_large_arrays_are_not_read():
    """Of a file of arrays the opcodes are read, and what lies beside them."""
    data = pickle.dumps({n: np.full(1 << 20, n, "f4") for n in range(4)}, 4)
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "pickle"))
    assert sum(storage.length for storage in content.storages) == 16 << 20
    assert source.random_bytes < 1 << 20


def test_long_texts_between_arrays_are_read_on():
    """Opcodes that are longer than what is read at first are read whole."""
    data = pickle.dumps({"text": "x" * 300_000, "array": np.ones(5000), "more": "y" * 300_000}, 4)
    assert blocks_of(data) == {np.ones(5000).tobytes()}


def test_what_lies_behind_a_pickle_is_not_called_broken():
    """A program of its own may have written anything there; no level is said of such a file."""
    with pytest.raises(NotChecked, match="behind the pickle"):
        read_layout(MemorySource(FILES["state-4.pkl"] + b"more"), "pickle")


@pytest.mark.parametrize("name", ["state-4.pkl", "state-5.pkl"])
def test_an_array_that_lacks_bytes_is_refused(name):
    """A shape of other than its bytes is a fault of the meaning."""
    data = FILES[name]
    at = data.index(b"K\x18K\x10")
    with pytest.raises(ContainerBroken, match="needs 1600 bytes, there are 1536"):
        content_of(data[:at] + b"K\x19" + data[at + 2 :])


def test_nothing_is_run():
    """A pickle that calls something when it is loaded is looked at, and calls nothing."""

    class Harm:
        def __reduce__(self):
            return pytest.fail, ("it was run",)

    content_of(pickle.dumps(Harm(), 4))


@pytest.mark.parametrize(("bound", "value"), [("OPCODES_BYTES_MAX", 300), ("ARRAYS_MAX", 2)])
def test_a_pickle_beyond_the_bounds_is_not_called_broken(monkeypatch, bound, value):
    """A pickle of more opcodes or arrays than are looked at was not checked."""
    monkeypatch.setattr(bare_pickle, bound, value)
    with pytest.raises(NotChecked, match="more than is checked"):
        read_layout(MemorySource(FILES["state.joblib"]), "pickle")


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), changes=edits)
def test_a_changed_file_never_surprises(name, changes):
    """A file with bytes changed: extents inside of it and disjoint, or ``ContainerBroken``."""
    data = edited(FILES[name], changes)
    with contextlib.suppress(ContainerBroken):
        layout, reached = read_layout(MemorySource(data), "pickle"), 0
        for extent in layout.extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
        assert reached <= len(data)
        read_content(MemorySource(data), layout)
