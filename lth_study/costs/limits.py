"""The least arithmetic and memory traffic of a training; `hours`, `imagenet`, `updates` and benchmarks/ use them.

Both are counted from a network's layers on the meta device, without data. They are floors for the training as it is
written: every layer on a whole batch, pruned weights multiplied as zeros, nothing computed twice.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lth_core.masks import Mask
from lth_study.data import image_shape
from lth_study.networks import build
from lth_study.settings import Setting
from lth_study.training.updates import FlatNetwork

CACHE_BYTES = 32 * 2**20
"""The largest cache, in bytes, among the processors in results/benchmark.csv."""
FLOAT_BYTES = 4


class Layer(NamedTuple):
    """A convolution or a fully connected layer, for one batch. `flops` are the floating-point operations of its forward
    pass; a multiplication and an addition are two. `outputs` counts the numbers that it outputs."""

    flops: int
    outputs: int


@cache
def layers(setting: Setting) -> tuple[Layer, ...]:
    """The convolutions and fully connected layers of a network, in the order in which they run in training."""
    found: list[Layer] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        found.append(Layer(2 * outputs.numel() * layer.weight[0].numel(), outputs.numel()))

    with torch.device("meta"), torch.no_grad():
        model = build(setting)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(note)
        model(torch.empty(_batch_shape(setting), dtype=torch.uint8))
    return tuple(found)


def iteration_flops(setting: Setting) -> int:
    """The floating-point operations of one training iteration on a whole batch.

    Only products of convolutions and fully connected layers count: outputs, gradients of weights and, except in the
    first layer, gradients of inputs. All three take the same operations; a multiplication and its addition are two.
    Algorithms with fewer multiplications, such as Winograd's for convolutions, could need fewer. Elementwise work
    (normalisation, ReLU, optimiser) comes on top.
    """
    forward = [layer.flops for layer in layers(setting)]
    return 3 * sum(forward) - forward[0]


def iteration_bytes(setting: Setting, cache_bytes: int = CACHE_BYTES) -> int:
    """The least bytes that memory moves in one training iteration, to and from a processor with a cache of that size.

    After the forward pass, the backward pass needs the output of every convolution and fully connected layer. The
    update needs the weights, the optimiser's moments and the average of the weights. All are float32, except outputs
    if products are in bfloat16. Bytes beyond the cache count twice: memory is written once and read once. Images, a
    byte for each pixel and channel, are read once. Each piece of a batch has the whole cache.

    Gradients and the mask are omitted. So is other real traffic: normalised outputs, padded images, and outputs that
    leave the cache before the next layer reads them.
    """
    with torch.device("meta"):
        network = FlatNetwork(build(setting), Mask({}), setting)
    vectors = 1 + len(network.moments) + (network.average is not None)
    activation_bytes = 2 if setting.precision == "bfloat16" else FLOAT_BYTES
    activations = activation_bytes * sum(layer.outputs for layer in layers(setting))
    waiting: int = activations + FLOAT_BYTES * vectors * network.weights.numel()
    return math.prod(_batch_shape(setting)) + 2 * max(0, waiting - setting.pieces * cache_bytes)


def training_bytes(setting: Setting) -> int:
    """The least bytes of memory that one training holds, at the end of the forward pass of a piece of a batch.

    They are the tensors saved for the backward pass, and the weights with their gradient, mask, moments and average.
    All are float32. The device needs more for gradients on their way back, the libraries' work space, and the data set.
    Raises `ValueError` for LeNet: its backward pass is written by hand.
    """
    if setting.network == "lenet_300_100":
        raise ValueError("LeNet's backward pass is written by hand, so autograd cannot count its memory; omit it")
    waiting: dict[int, int] = {}
    with torch.device("meta"):
        network = FlatNetwork(build(setting), Mask({}), setting)
        vectors = 3 + len(network.moments) + (network.average is not None)

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            waiting[storage._cdata] = storage.nbytes()
            return tensor

        images = torch.empty(_batch_shape(setting), dtype=torch.uint8).chunk(setting.pieces)[0]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = network.model.train()(images)
        del outputs
    del waiting[network.weights.untyped_storage()._cdata]
    held: int = sum(waiting.values()) + vectors * FLOAT_BYTES * network.weights.numel()
    return held


def floor_seconds(
    setting: Setting, flops_per_second: float, bytes_per_second: float, cache_bytes: int = CACHE_BYTES
) -> float:
    """The least seconds of a training from initialisation to the end (a roofline), without the final evaluation.

    Arithmetic and memory work at the given rates at the same time, so the slower one sets the time of an iteration."""
    arithmetic = iteration_flops(setting) / flops_per_second
    memory = iteration_bytes(setting, cache_bytes) / bytes_per_second
    return setting.iterations * max(arithmetic, memory)


def _batch_shape(setting: Setting) -> tuple[int, ...]:
    color = setting.network != "lenet_300_100"
    return (setting.batch_size, *image_shape(setting.dataset, color=color, size=setting.image_size))
