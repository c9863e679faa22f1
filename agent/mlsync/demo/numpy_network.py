"""The numpy trainer's network with its gradients, its optimizer, and its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlsync.demo.sizes import BLOCK_COUNT, CLASS_COUNT, FEATURE_COUNT, TRAIN_COUNT, VALIDATION_COUNT, WIDTH

Floats = NDArray[np.float32]
Classes = NDArray[np.int64]

_EPSILON = np.float32(1e-5)
_HALF = np.float32(0.5)
_BETAS = (0.9, 0.999)
_STEP_EPSILON = 1e-8
_WEIGHT_DECAY = 0.01


class Parameters:
    """Named arrays that are views of one flat array, so that an optimizer steps all of them at once."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.flat: Floats = np.zeros(sum(sizes), np.float32)
        parts = np.split(self.flat, np.cumsum(sizes)[:-1])
        self.named = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def alike(self) -> Parameters:
        """Return zeros under the same names."""
        return Parameters({name: part.shape for name, part in self.named.items()})


class Activations(NamedTuple):
    """What a block keeps of its forward pass for its backward pass."""

    value: Floats
    scale: Floats
    normed: Floats
    inner: Floats
    gate: Floats


class NumpyNetwork:
    """A residual classifier: each block adds to its input the output of two layers on the normed input."""

    def __init__(self, random: np.random.Generator) -> None:
        self.parameters = Parameters(dict(_shapes()))
        for name, part in self.parameters.named.items():
            if name.endswith("norm.weight"):
                part[:] = 1.0
            elif name.endswith("weight"):
                part[:] = random.standard_normal(part.shape, np.float32) / np.sqrt(np.float32(part.shape[0]))

    def scores(self, features: Floats) -> Floats:
        """Return a score for each class."""
        return self._forward(features)[0]

    def loss_and_gradients(self, features: Floats, classes: Classes, gradients: Parameters) -> float:
        """Return the mean cross entropy, and store its gradients in *gradients*."""
        scores, value, activations = self._forward(features)
        loss, back = cross_entropy(scores, classes)
        back = self._layer_back("outlet", value, back, gradients)
        for number in reversed(range(BLOCK_COUNT)):
            back += self._block_back(f"blocks.{number}", activations[number], back, gradients)
        self._layer_back("inlet", features, back, gradients)
        return loss

    def _forward(self, features: Floats) -> tuple[Floats, Floats, list[Activations]]:
        value = self._layer("inlet", features)
        activations = []
        for number in range(BLOCK_COUNT):
            more, kept = self._block(f"blocks.{number}", value)
            activations.append(kept)
            value = value + more
        return self._layer("outlet", value), value, activations

    def _layer(self, name: str, value: Floats) -> Floats:
        named = self.parameters.named
        return value @ named[f"{name}.weight"] + named[f"{name}.bias"]

    def _layer_back(self, name: str, value: Floats, back: Floats, gradients: Parameters) -> Floats:
        np.matmul(value.T, back, out=gradients.named[f"{name}.weight"])
        np.sum(back, axis=0, out=gradients.named[f"{name}.bias"])
        return back @ self.parameters.named[f"{name}.weight"].T

    def _block(self, name: str, value: Floats) -> tuple[Floats, Activations]:
        scale = 1 / np.sqrt(np.mean(value * value, axis=1, keepdims=True) + _EPSILON)
        normed = value * scale
        inner = self._layer(f"{name}.first", normed * self.parameters.named[f"{name}.norm.weight"])
        gate: Floats = np.tanh(inner * _HALF) * _HALF + _HALF
        return self._layer(f"{name}.second", inner * gate), Activations(value, scale, normed, inner, gate)

    def _block_back(self, name: str, kept: Activations, back: Floats, gradients: Parameters) -> Floats:
        """Return the gradient of the block's input, without that of the residual connection."""
        weight = self.parameters.named[f"{name}.norm.weight"]
        back = self._layer_back(f"{name}.second", kept.inner * kept.gate, back, gradients)
        back = back * (kept.gate * (1 + kept.inner * (1 - kept.gate)))
        back = self._layer_back(f"{name}.first", kept.normed * weight, back, gradients)
        np.sum(back * kept.normed, axis=0, out=gradients.named[f"{name}.norm.weight"])
        back = back * weight
        result: Floats = kept.scale * (back - kept.normed * np.mean(back * kept.normed, axis=1, keepdims=True))
        return result


class AdamW:
    """Adam with decoupled weight decay; its state is two moments for each parameter, and the number of steps."""

    def __init__(self, parameters: Parameters, rate: float) -> None:
        self._parameters = parameters
        self._rate = rate
        self.exp_avg, self.exp_avg_sq = parameters.alike(), parameters.alike()
        self.step_count = 0

    def step(self, gradients: Parameters) -> None:
        """Move each parameter against its gradient."""
        self.step_count += 1
        gradient, first, second = gradients.flat, self.exp_avg.flat, self.exp_avg_sq.flat
        first += (1 - _BETAS[0]) * (gradient - first)
        second += (1 - _BETAS[1]) * (gradient * gradient - second)
        weights = self._parameters.flat
        weights *= 1 - self._rate * _WEIGHT_DECAY
        root = np.sqrt(second / (1 - _BETAS[1] ** self.step_count)) + _STEP_EPSILON
        weights -= self._rate / (1 - _BETAS[0] ** self.step_count) * first / root


def cross_entropy(scores: Floats, classes: Classes) -> tuple[float, Floats]:
    """Return the mean cross entropy and its gradient for each score."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    sums = exponents.sum(axis=1, keepdims=True)
    rows = np.arange(len(classes))
    loss = float(np.mean(np.log(sums[:, 0]) - shifted[rows, classes]))
    back = exponents / sums
    back[rows, classes] -= 1
    return loss, back / np.float32(len(classes))


def dataset(random: np.random.Generator) -> tuple[tuple[Floats, Classes], tuple[Floats, Classes]]:
    """Return features and classes for training and for validation: noise, classified by a fixed random network."""
    features = random.standard_normal((TRAIN_COUNT + VALIDATION_COUNT, FEATURE_COUNT), np.float32)
    hidden = np.tanh(features @ random.standard_normal((FEATURE_COUNT, 8), np.float32) / 4)
    classes = (hidden @ random.standard_normal((8, CLASS_COUNT), np.float32)).argmax(axis=1)
    return (features[:TRAIN_COUNT], classes[:TRAIN_COUNT]), (features[TRAIN_COUNT:], classes[TRAIN_COUNT:])


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes; each layer's weights go from inputs to outputs."""
    yield from _layer_shapes("inlet", FEATURE_COUNT, WIDTH)
    for number in range(BLOCK_COUNT):
        yield f"blocks.{number}.norm.weight", (WIDTH,)
        yield from _layer_shapes(f"blocks.{number}.first", WIDTH, WIDTH)
        yield from _layer_shapes(f"blocks.{number}.second", WIDTH, WIDTH)
    yield from _layer_shapes("outlet", WIDTH, CLASS_COUNT)


def _layer_shapes(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (inputs, outputs)
    yield f"{name}.bias", (outputs,)
