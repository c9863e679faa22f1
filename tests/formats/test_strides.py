"""Where the elements of a tensor lie in its storage, against what torch says of views."""

from __future__ import annotations

import pytest
import torch

from mlsync.formats.layout import Tensor
from mlsync.formats.strides import element_count, is_dense, lie_alike, span_count

BASE = torch.arange(3 * 4 * 5 * 6)


def view(tensor):
    """A tensor of torch as the parsers would tell of it."""
    return Tensor("t", "s", "int64", tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


VIEWS = {
    "row major": BASE.view(3, 4, 5, 6),
    "column major": BASE.view(12, 30).t(),
    "channels last": BASE.view(3, 4, 5, 6).permute(0, 3, 1, 2),
    "rows": BASE.view(12, 30)[3:7],
    "columns": BASE.view(12, 30)[:, 2:9],
    "every third": BASE[::3],
    "expanded": BASE[:4].view(4, 1).expand(4, 7),
    "overlapping": BASE.unfold(0, 5, 2),
    "scalar": BASE[7],
    "one of each": BASE.view(3, 4, 5, 6)[:1, :, :1],
    "nothing": BASE[:0].view(2, 0, 3),
}
DENSE = {"row major", "column major", "channels last", "rows", "scalar", "nothing"}


@pytest.mark.parametrize("name", VIEWS)
def test_the_span_of_a_view(name):
    """A view has as many elements as torch says, between the first place and the last that any of them has."""
    tensor = VIEWS[name]
    assert element_count(view(tensor)) == tensor.numel()
    places = tensor.flatten() - tensor.storage_offset()  # the numbers of BASE are their places
    assert span_count(view(tensor)) == (int(places.max()) + 1 if len(places) else 0)


@pytest.mark.parametrize("name", VIEWS)
def test_dense_views(name):
    """A view is dense if each place of its span is one of its elements' and no two share one."""
    tensor = VIEWS[name]
    places = sorted((tensor.flatten() - tensor.storage_offset()).tolist())
    assert (places == list(range(span_count(view(tensor))))) is (name in DENSE)
    assert is_dense(view(tensor)) is (name in DENSE)


def test_views_that_lie_alike():
    """The strides of dimensions that have no second element say nothing of where the first one is."""
    one, other = torch.arange(12).view(1, 3, 4), torch.arange(12).as_strided((1, 3, 4), (99, 4, 1))
    assert lie_alike(view(one), view(other))
    assert not lie_alike(view(one), view(other.mT))
    assert not lie_alike(view(one[0].t()), view(one[0].reshape(4, 3)))
