"""LeNet-300-100 on MNIST.

ours           lth_core's training of LeNet-300-100 under a mask (the repository's own `train`)
loader loop    what a textbook does: torch's DataLoader over torchvision's MNIST, an nn.Module, Adam
held loop      the same with `Mask.hold`, which may take 3% more: `bench.py` fails above that
products       the eight matrix products of an iteration and nothing else

"floor / ours" is the share of our time that it could not do without, at the rates that `machine.py` measures.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from statistics import median

import machine
import numpy as np
import pandas as pd
import torch
from common import Row, Variant, half_ticket, interleaved, row, textbook_loop, timed
from torch import nn
from torch.utils.data import DataLoader

from lth_core import Mask
from lth_study import data, preset
from lth_study.data.parts import DataError, Dataset, Split
from lth_study.training.train import steady_arithmetic, train

ITERATIONS = 1_000
"""Somewhat more than an epoch's 917. What a training does only once takes as long as ten iterations."""
BATCH = 60
BLOCK = 20
HELD = "held loop / loader loop"
HELD_AT_MOST = 1.03


def rows(rounds: int) -> list[Row]:
    """Milliseconds of an iteration, and their ratios."""
    variants = {
        "ours": ours_variant(),
        "loader loop": textbook_loop(*textbook(), ITERATIONS),
        "products": products_variant(),
    }
    seconds = interleaved(variants | machine.variants(), rounds)
    milliseconds = seconds[list(variants)] * 1000 / ITERATIONS
    times = [row(f"LeNet iteration, {name} (ms)", "ms", milliseconds[name]) for name in variants]
    floor = 1000 * machine.floor_of_iteration(preset("lenet_300_100").setting, seconds)
    return [
        *times,
        row("loader loop / ours", "ratio", milliseconds["loader loop"] / milliseconds["ours"]),
        row(HELD, "ratio", held_to_free(rounds)),
        row("ours / products", "ratio", milliseconds["ours"] / milliseconds["products"]),
        row("LeNet iteration, floor / ours", "ratio", floor / milliseconds["ours"]),
    ]


def ours_variant() -> Variant:
    """Our training of a ticket with half of its weights, without its evaluation at the end."""
    images = mnist()
    nothing = Split(images.test.images[:1], images.test.labels[:1])
    images = Dataset(images.name, images.train, nothing, nothing)
    setting = preset("lenet_300_100").setting.updated(iterations=ITERATIONS)
    ticket = half_ticket(setting)
    return timed(lambda: train(setting, images, ticket, replicate=1, order=0))


def textbook() -> tuple[DataLoader, nn.Module, torch.optim.Optimizer]:
    """What the textbook loop trains: the same images, read by torchvision from files in MNIST's format."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = mnist().train
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "t10k"):
            file = str(Path(folder) / "MNIST" / "raw" / part)
            write_idx(Path(f"{file}-images-idx3-ubyte"), images.images.numpy())
            write_idx(Path(f"{file}-labels-idx1-ubyte"), images.labels.to(torch.uint8).numpy())
        pictures = MNIST(folder, transform=usual)  # which reads all of them now
    loader = DataLoader(pictures, BATCH, shuffle=True, drop_last=True)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)
    return loader, model, optimizer


def held_to_free(rounds: int) -> pd.Series:
    """The time of the textbook loop with half of the weights held at 0, over its time without: a ratio for each round.

    Weights are held and let go in turn, for `BLOCK` iterations each. In whole rounds, a machine's speed drifts by more
    than holding costs.
    """
    loader, model, optimizer = textbook()
    mask = Mask({name: torch.rand(kept.shape) < 0.5 for name, kept in Mask.ones(model).items()})
    block = textbook_loop(loader, model, optimizer, BLOCK)
    block()
    ratios = []
    for _ in range(rounds):
        free, held = [], []
        for _ in range(ITERATIONS // BLOCK // 2):
            free.append(block())
            hold = mask.hold(model, optimizer)
            held.append(block())
            hold.remove()
        ratios.append(median(held) / median(free))
    return pd.Series(ratios)


def mnist() -> Dataset:
    """MNIST where it is there, the embedded images elsewhere: an image costs the same."""
    try:
        return data.load("mnist")
    except DataError:
        return data.load("mnist_embedded")


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes in MNIST's file format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def products_variant() -> Variant:
    """The products of an iteration: three forward, three for the weights' gradients, two backward."""
    widths = (784, 300, 100, 10)
    pairs = list(itertools.pairwise(widths))
    inputs = [torch.randn(BATCH, width) for width in widths]
    deltas = [torch.randn(BATCH, width) for width in widths]
    weights = [torch.randn(outputs, width) for width, outputs in pairs]
    gradients = [torch.empty(outputs, width) for width, outputs in pairs]

    def work() -> None:
        with steady_arithmetic():
            for _ in range(ITERATIONS):
                for layer, weight in enumerate(weights):
                    torch.mm(inputs[layer], weight.t())
                for layer, weight in enumerate(weights):
                    torch.mm(deltas[layer + 1].t(), inputs[layer], out=gradients[layer])
                    if layer:
                        torch.mm(deltas[layer + 1], weight)

    return timed(work)
