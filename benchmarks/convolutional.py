"""ResNet-20 and VGG-19 on CIFAR-10's images, at the paper profile.

    ours             lth_core's training under a mask (the repository's own `train`), with augmentation
    loader loop      what a textbook does: torch's DataLoader over PIL images, torchvision's transforms, SGD, and the
                     same network in torch's default memory format
    convolutions     the convolutions of an iteration, forward and backward, and nothing else
    two threads      ours for ResNet-20 on two threads, which `train` never uses: the bits depend on their number

"floor / ours" is the share of our time that it could not do without, at the rates that `machine.py` measures.

The images are CIFAR-10's where they are there, and random ones of the same number and shape elsewhere: an image costs
the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from unittest import mock

import machine
import torch
from common import Row, Variant, half_ticket, interleaved, row, textbook_loop, timed
from torch import Tensor, nn
from torch.nn import functional as F

from lth_study import data, preset
from lth_study.costs.limits import iteration_flops
from lth_study.data.parts import DataError, Dataset, Split
from lth_study.networks import build
from lth_study.networks.network import Network
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Setting
from lth_study.training import Stopped
from lth_study.training.evaluation import EVALUATION_BATCH
from lth_study.training.train import steady_arithmetic, train

NETWORKS = ("resnet20", "vgg19")
ROUNDS = 4
"""At most, since a round takes half a minute."""
ITERATIONS = 3
CPU = torch.device("cpu")


def rows(rounds: int) -> list[Row]:
    """Images per second and their ratios, and the rate of arithmetic that they come to."""
    images = cifar10()
    variants = machine.variants()
    for network in NETWORKS:
        setting = preset(network).setting
        variants[f"{network}, ours"] = ours_variant(setting, images)
        variants[f"{network}, loader loop"] = loader_variant(setting, images)
        variants[f"{network}, convolutions"] = convolutions_variant(setting)
    variants["resnet20, two threads"] = on_two_threads(variants["resnet20, ours"])
    seconds = interleaved(variants, rounds)
    table = []
    for network in NETWORKS:
        setting, name = preset(network).setting, NETWORK_NAMES[network]
        trained = ITERATIONS * setting.batch_size
        ours, loader_loop, alone = (
            trained / seconds[f"{network}, {variant}"] for variant in ("ours", "loader loop", "convolutions")
        )
        achieved = ours * iteration_flops(setting) / setting.batch_size / 1e9
        floor = machine.floor_of_iteration(setting, seconds)
        table += [
            row(f"{name}, ours (images/s)", "images/s", ours),
            row(f"{name}, loader loop (images/s)", "images/s", loader_loop),
            row(f"{name}, convolutions (images/s)", "images/s", alone),
            row(f"{name}, ours / loader loop", "ratio", ours / loader_loop),
            row(f"{name}, convolutions / ours", "ratio", alone / ours),
            row(f"{name}, ours (GFLOP/s)", "GFLOP/s", achieved),
            row(f"{name}, floor / ours", "ratio", floor / (setting.batch_size / ours)),
        ]
    gained = seconds["resnet20, ours"] / seconds["resnet20, two threads"]
    return [*table, row("ResNet-20, speed of two threads / one", "ratio", gained), *machine.rows(seconds)]


def cifar10() -> Dataset:
    """CIFAR-10 where it is there, random images elsewhere."""
    with suppress(DataError):
        return data.load("cifar10", color=True)
    images, labels = torch.randint(256, (60_000, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (60_000,))
    parts = (slice(45_000), slice(45_000, 50_000), slice(50_000, 60_000))
    return Dataset("random", *(Split(images[part], labels[part]) for part in parts))


def ours_variant(setting: Setting, images: Dataset) -> Variant:
    """Our training of a ticket with half of its weights.

    So few updates are timed that building the network and evaluating it would count for much, so the clock runs from
    the first update to the last: `train` asks before every update whether to stop.
    """
    ticket = half_ticket(setting)

    def seconds() -> float:
        asked: list[float] = []

        def enough() -> bool:
            asked.append(time.perf_counter())
            return len(asked) > ITERATIONS

        with suppress(Stopped):
            train(setting, images, ticket, replicate=1, order=0, stop_requested=enough)
        return asked[-1] - asked[0]

    return seconds


def on_two_threads(variant: Variant) -> Variant:
    """A training, on two threads."""

    def seconds() -> float:
        torch.set_num_threads(2)
        try:
            with mock.patch.object(torch, "set_num_threads"):
                return variant()
        finally:
            torch.set_num_threads(1)

    return seconds


def loader_variant(setting: Setting, images: Dataset, device: torch.device = CPU) -> Variant:
    """The textbook loop over the same images, each made a PIL image when it is read, as torchvision's CIFAR10 does."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    model = build(setting).to(device)
    mean, deviation = model.mean.flatten().tolist(), model.deviation.flatten().tolist()
    model.scaled = lambda normalised: normalised  # by the transforms
    usual = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, deviation),
        ]
    )
    loader = DataLoader(Pictures(images.train, usual), setting.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(
        model.parameters(), setting.learning_rate, momentum=setting.momentum, weight_decay=setting.weight_decay
    )
    return textbook_loop(loader, model, optimizer, ITERATIONS)


class Pictures(torch.utils.data.Dataset):
    """Images held as one array, in the way of torchvision's CIFAR10."""

    def __init__(self, split: Split, transform: Callable) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


def convolutions_variant(setting: Setting) -> Variant:
    """Every convolution of an iteration: forward, then the gradients of its weights and, but for the first, its input.

    Images and filters lie with their channels last, as in our training.
    """
    layers = []
    for module, inputs, outputs in convolutions(build(setting)):
        shapes = (setting.batch_size, *inputs), module.weight.shape, (setting.batch_size, *outputs)
        tensors = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes]
        layers.append((*tensors, module.stride, module.padding))

    def work() -> None:
        with steady_arithmetic(), torch.no_grad():
            for _ in range(ITERATIONS):
                for x, weight, _, stride, padding in layers:
                    F.conv2d(x, weight, None, stride, padding)
                for position, (x, weight, delta, stride, padding) in reversed(list(enumerate(layers))):
                    torch.ops.aten.convolution_backward(
                        delta, x, weight, None, stride, padding, dilation=(1, 1), transposed=False,
                        output_padding=(0, 0), groups=1, output_mask=(position > 0, True, False),
                    )  # fmt: skip

    return timed(work)


def convolutions(model: Network) -> list[tuple[nn.Conv2d, torch.Size, torch.Size]]:
    """The convolutions of a network in the order in which they run, with an image's shape before and after each."""
    found = []

    def note(module: nn.Conv2d, inputs: tuple[Tensor], outputs: Tensor) -> None:
        found.append((module, inputs[0].shape[1:], outputs.shape[1:]))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return found


def training_variant() -> Variant:
    """A training of ResNet-20 cut short, for its memory: all images are held, and every batch has its full size."""
    images = cifar10()
    batch = Split(images.test.images[:EVALUATION_BATCH], images.test.labels[:EVALUATION_BATCH])
    shortened = Dataset(images.name, images.train, batch, batch)
    setting = preset("resnet20").setting.updated(iterations=1, drops=())
    ticket = half_ticket(setting)
    return timed(lambda: train(setting, shortened, ticket, replicate=1, order=0))
