"""Weights, optimizers' state, and what is kept beside them, by the names that trainers give."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_files import MemorySource
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.layout import Tensor
from mlsync.formats.roles import roles_of

MADE = Path(__file__).parent / "made"


def named(name: str, *shape: int) -> Tensor:
    return Tensor(name, "0", "float32", shape, (1,) * len(shape), 0)


@pytest.mark.parametrize(
    ("role", "names"),
    {
        "weight": (
            *("layers.0.weight", "state_dict.n.bias", "model.optimizer.weight", "opt_model.decoder.weight"),
            *(
                "mask_token",
                "mask_embed.0.weight",
                "module.attn.loss.weight",
                "state.0.weight",
                "prompt_encoder.mask.weight",
            ),
        ),
        "optimizer": (
            *("optimizer_states.0.state.0.exp_avg", "optim.state.layer.weight.exp_avg_sq", "optimizerG.state.1.step"),
            *("opt.state.0.exp_avg", "opt_g.state.3.momentum_buffer", "1.state.0.exp_avg", "run.optimizer.state.0.x"),
            *("state.7.square_avg", "state.layer.0.weight.exp_avg", "optim_state_dict.state.w.state1"),
        ),
        "noted": (
            *("callbacks.ModelCheckpoint{'monitor': None}.kth_value", "lr_schedulers.0.best", "rng_state"),
            *("model.attn.mask", "h.0.attn.masked_bias", "encoder.causal_mask", "observer.min_val", "router.threshold"),
        ),
    }.items(),
)
def test_a_name_tells_the_role_of_a_tensor(role, names):
    """Each of these names, which trainers give, means the role that it has with them."""
    assert {name: roles_of([named(name, 2, 2)])[0] for name in names} == dict.fromkeys(names, role)


def test_one_number_beside_a_model_is_bookkeeping():
    """A single number at the top beside a model is noted; as the whole of a state dict it is a weight."""
    assert roles_of([named("model.w", 2, 2), named("accuracy")]) == ["weight", "noted"]
    assert roles_of([named("w", 2, 2), named("logit_scale")]) == ["weight", "weight"]


def test_a_file_of_lightning_has_weights_moments_and_bookkeeping():
    """Lightning's own file, written by its default callback, is told apart into the three."""
    source = MemorySource((MADE / "lightning-default.ckpt").read_bytes())
    content = read_content(source, read_layout(source, "torch-zip"))
    found = {}
    for tensor, role in zip(content.tensors, roles_of(content.tensors), strict=True):
        found.setdefault(role, set()).add(tensor.name.partition(".")[0])
    assert found == {"weight": {"state_dict"}, "optimizer": {"optimizer_states"}, "noted": {"callbacks"}}
    assert content.facts["parameter_count"] == 4 * 2 + 2
