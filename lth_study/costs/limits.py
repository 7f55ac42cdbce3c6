"""The least that a training costs a machine: its arithmetic, and the bytes that its memory has to move.

Both are counted from a network's layers, without running it. They are floors for training it as it is written: every
layer on a whole batch, pruned weights multiplied as the zeros that they are, nothing computed twice.
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
from lth_study.settings import Config
from lth_study.training.updates import FlatNetwork

CACHE_BYTES = 32 * 2**20
"""The largest cache, in bytes, of the processors that results/benchmark.csv was measured on."""
FLOAT_BYTES = 4


class Layer(NamedTuple):
    """A convolution or a fully connected layer, for one batch: the floating-point operations of its forward pass (a
    multiplication and an addition are two), and how many numbers it outputs."""

    flops: int
    outputs: int


@cache
def layers(config: Config) -> tuple[Layer, ...]:
    """The convolutions and fully connected layers of a network in the order in which they run, in training."""
    found: list[Layer] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        found.append(Layer(2 * outputs.numel() * layer.weight[0].numel(), outputs.numel()))

    with torch.device("meta"), torch.no_grad():
        model = build(config)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(note)
        model(torch.empty(_batch_shape(config), dtype=torch.uint8))
    return tuple(found)


def iteration_flops(config: Config) -> int:
    """The floating-point operations of one training iteration on a whole batch.

    Counted are the products of convolutions and fully connected layers: forward; the gradients of their weights; and,
    for every layer but the first, those of their inputs. Each takes as many operations, two for a multiplication and
    its addition. Algorithms that get by with fewer multiplications, such as Winograd's for convolutions, could go
    below. What is done number by number (normalisation, ReLU, the optimiser) is left out: it comes on top.
    """
    forward = [layer.flops for layer in layers(config)]
    return 3 * sum(forward) - forward[0]


def iteration_bytes(config: Config, cache_bytes: int = CACHE_BYTES) -> int:
    """The bytes that memory has to move in one training iteration, to and from a processor with a cache of that size.

    When the forward pass ends, the output of every convolution and fully connected layer waits for the backward pass;
    the weights, the optimiser's moments and the average of the weights wait for the update. All are float32, but for
    outputs in bfloat16 where products are computed in it. What of these does not fit in the cache has been written to
    memory since it last changed, and will be read from it: its bytes count twice. The images, a byte for each pixel and
    channel, are read once. A batch that is worked through in pieces has the cache for each of them.

    Gradients and the mask are left out, and so is whatever else passes through memory in practice: a layer's output
    that leaves the cache before the next layer reads it, normalised outputs, padded images.
    """
    with torch.device("meta"):
        network = FlatNetwork(build(config), Mask({}), config)
    vectors = 1 + len(network.moments) + (network.average is not None)
    activation_bytes = 2 if config.precision == "bfloat16" else FLOAT_BYTES
    activations = activation_bytes * sum(layer.outputs for layer in layers(config))
    waiting: int = activations + FLOAT_BYTES * vectors * network.weights.numel()
    return math.prod(_batch_shape(config)) + 2 * max(0, waiting - config.pieces * cache_bytes)


def training_bytes(config: Config) -> int:
    """The bytes of memory that one training holds at least, when the forward pass of a piece of a batch ends: what
    waits for the backward pass, and the weights, their gradient, mask, moments and average. All in float32.

    What else a device needs comes on top: gradients on their way back, the libraries' own work space, the data set.
    Raises `ValueError` for LeNet, whose backward pass is written by hand.
    """
    if config.network == "lenet_300_100":
        raise ValueError("LeNet's backward pass is its own: what waits for it is not autograd's to tell")
    waiting: dict[int, int] = {}
    with torch.device("meta"):
        network = FlatNetwork(build(config), Mask({}), config)
        vectors = 3 + len(network.moments) + (network.average is not None)

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            waiting[storage._cdata] = storage.nbytes()
            return tensor

        images = torch.empty(_batch_shape(config), dtype=torch.uint8).chunk(config.pieces)[0]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = network.model.train()(images)
        del outputs
    del waiting[network.weights.untyped_storage()._cdata]
    held: int = sum(waiting.values()) + vectors * FLOAT_BYTES * network.weights.numel()
    return held


def floor_seconds(
    config: Config, flops_per_second: float, bytes_per_second: float, cache_bytes: int = CACHE_BYTES
) -> float:
    """The seconds below which no training from initialisation to the end gets: the slower of arithmetic and memory in
    every iteration, each at the rate given, the other going on at the same time (a roofline). The evaluation at the
    end is left out."""
    arithmetic = iteration_flops(config) / flops_per_second
    memory = iteration_bytes(config, cache_bytes) / bytes_per_second
    return config.iterations * max(arithmetic, memory)


def _batch_shape(config: Config) -> tuple[int, ...]:
    color = config.network != "lenet_300_100"
    return (config.batch_size, *image_shape(config.dataset, color=color, size=config.image_size))
