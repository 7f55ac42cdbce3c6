"""What a training iteration costs: `make bench` measures it, prints a table and writes results/benchmark.csv.

The variants take turns, round after round, so that a machine whose speed drifts slows all of them alike; every figure
is the median over rounds, with the smallest and the largest.

    ours           lth_core's training of LeNet-300-100 under a mask (the repository's own `train`)
    loader loop    what a textbook does: torch's DataLoader over torchvision's MNIST, an nn.Module, Adam
    products       the eight matrix products of an iteration and nothing else: the floor

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from lth_core import data, preset, seeds, subnetwork
from lth_core.files import write_atomic
from lth_core.masks import Mask
from lth_core.models import build, initial_weights
from lth_core.records import results_folder
from lth_core.train import steady_arithmetic, train
from lth_core.worker import device_name

ITERATIONS = 500
BATCH = 60


def main() -> None:
    """Measure everything, print it, write it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7, help="rounds, each with every variant once")
    arguments.add_argument("--only", choices=["ours"], help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    ours = ours_variant()
    if chosen.only:
        ours()
        print(json.dumps({"seconds": ours(), "mebibytes": peak_memory()}))
        return
    variants = {"ours": ours, "loader loop": loader_variant(), "products": products_variant()}
    for variant in variants.values():
        variant()
    milliseconds = pd.DataFrame([{name: time_of() for name, time_of in variants.items()} for _ in range(chosen.rounds)])
    milliseconds *= 1000 / ITERATIONS
    rows = [
        {"measure": f"LeNet iteration, {name} (ms)", "unit": "ms"} | spread(milliseconds[name])
        for name in milliseconds.columns
    ]
    rows += [
        {"measure": "loader loop / ours", "unit": "ratio"} | spread(milliseconds["loader loop"] / milliseconds["ours"]),
        {"measure": "ours / products", "unit": "ratio"} | spread(milliseconds["ours"] / milliseconds["products"]),
    ]
    alone, memory = run_processes(1, chosen.rounds)
    together, _ = run_processes(2, chosen.rounds)
    rows.append({"measure": "throughput of two processes / one", "unit": "ratio"} | spread(2 * alone / together))
    rows.append({"measure": "peak memory of a training process", "unit": "MiB"} | spread(memory))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    made = {"device": device_name(), "torch": torch.__version__, "python": platform.python_version()}
    table = table.assign(**made, measured=datetime.now(UTC).strftime("%Y-%m-%d"))
    write_atomic(results_folder() / "benchmark.csv", table.to_csv(index=False, float_format="%.4g").encode())


def spread(sample: pd.Series) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": sample.median(), "smallest": sample.min(), "largest": sample.max()}


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The seconds that one call takes."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def ours_variant() -> Callable[[], float]:
    """Our training of a ticket with half of its weights, without its evaluation at the end."""
    images = mnist()
    nothing = data.Split(images.test.images[:1], images.test.labels[:1])
    images = data.Dataset(images.name, images.train, nothing, nothing)
    config = preset("lenet_300_100").updated(iterations=ITERATIONS, rewinds=(0,))
    mask = Mask({name: torch.rand(ones.shape) < 0.5 for name, ones in Mask.ones(build(config)).items()})
    ticket = subnetwork(initial_weights(config, seeds.stream(1, "init")), mask, 0, 1)
    return timed(lambda: train(config, images, ticket, replicate=1, order=0))


def loader_variant() -> Callable[[], float]:
    """The textbook loop over the same images, read by torchvision from files in MNIST's format."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import MNIST

    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    folder = Path(tempfile.mkdtemp())
    images = mnist().train
    for part in ("train", "t10k"):
        write_idx(folder / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images.images.numpy())
        write_idx(folder / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", images.labels.to(torch.uint8).numpy())
    loader = DataLoader(MNIST(str(folder), transform=usual), BATCH, shuffle=True, drop_last=True)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)

    def work() -> None:
        done = 0
        while done < ITERATIONS:
            for inputs, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                done += 1
                if done == ITERATIONS:
                    return

    return timed(work)


def mnist() -> data.Dataset:
    """MNIST where it is there, the embedded images elsewhere: an image costs the same."""
    try:
        return data.load("mnist")
    except data.DataError:
        return data.load("mnist_embedded")


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes in MNIST's file format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def products_variant() -> Callable[[], float]:
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


def run_processes(count: int, rounds: int) -> tuple[pd.Series, pd.Series]:
    """Seconds and peak memory of `count` training processes that run at once."""
    samples = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--only", "ours"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        outputs = [json.loads(process.communicate()[0]) for process in processes]
        samples.append(pd.DataFrame(outputs).mean())
    table = pd.DataFrame(samples)
    return table["seconds"], table["mebibytes"]


def peak_memory() -> float:
    """The most memory that this process held, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main()
