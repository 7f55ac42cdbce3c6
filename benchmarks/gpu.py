"""Ways to train networks on one GPU, and how fast they are: each is first shown to compute what the plain loop does.

    loader          the loop of a textbook, fed by torch's DataLoader from PIL images; for CIFAR-10's networks
    loop            updates one by one, a network after the other
    graph           an update recorded as a CUDA graph; several networks in threads, each on a stream of its own
    compiled graph  the same, its network compiled, and with the study's kernels where the precision allows them:
                    what `lth run` does with trainings of `WORTH_COMPILING` iterations or more

A network with dropout cannot be recorded, so of SqueezeNet there is the loop alone. ImageNet's networks are fed random
images. Without a GPU, loader and loop are measured on the processor.

Prints a table and, when all is done, puts it into results/benchmark_gpu.json, which keeps what was measured of other
networks, profiles and precisions, and on other devices; until then it is in a file of its own beside that. Exits with
an error when a way computes something else; it is measured all the same, and the file says so. A way that was not
compared within a tolerance is not written.

    python benchmarks/gpu.py --network resnet20 --precision bfloat16 --members 1,2,4,8,16
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
import torch
from common import random_images
from convolutional import ITERATIONS as LOADED
from convolutional import cifar10, loader_variant
from machine import COPIED_BYTES
from members import Member, advance, peak_memory, synchronise
from torch import Tensor

from lth_core.masks import Mask
from lth_study import data, preset
from lth_study.costs.benchmarks import verdict
from lth_study.costs.limits import CACHE_BYTES, floor_seconds
from lth_study.data.parts import Dataset, Split
from lth_study.devices import compute_device, device_name
from lth_study.files import write_atomic, write_json
from lth_study.networks import build
from lth_study.records import results_folder
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS, Setting
from lth_study.training.steps import can_be_recorded
from lth_study.training.train import steady_arithmetic, train
from lth_study.training.updates import FlatNetwork, State

Row = dict[str, Any]
COMPARED = 12
"""Updates after which a way of doing them is compared."""
GENTLER = 100
"""What learning rates are divided by for the comparison: at the full rate of a fresh network, differences of rounding
grow several times with every update, and soon say nothing about what was computed."""
TOLERANCE = {"float32": 0.06, "tf32": 0.15, "bfloat16": 0.3}
"""How far the change of the weights may be from the plain loop's, as a share of it. On a processor, ResNet-20's change
at the paper profile moves by 0.014 when the initial weights are moved by 1e-7 of themselves, by 0.14 when products are
in bfloat16 instead of float32, by 0.1 when the learning rate is a tenth lower, and by more than 0.6 in another order of
the data or without augmentation."""
BATCHES_OF_IMAGENET = 4
"""How many there are random images for."""
ROUNDS_OF_RATES, CALLS = 5, 4
UNFINISHED = "benchmark_gpu_unfinished.json"
"""The file of a measurement that is not done yet: what it has when a way fails."""
DESCRIBES = ("network", "profile", "precision", "device")
"""What tells one measurement from another in the file."""


def ways(setting: Setting, part: Split) -> list[str]:
    """The ways in which a network can be trained on the device of its images."""
    network = FlatNetwork(build(setting).to(part.device), Mask({}), setting)
    return ["loop", "graph", "compiled graph"] if can_be_recorded(network, part) else ["loop"]


@dataclass(frozen=True)
class Check:
    """How far the change of the weights is from the plain loop's, as a share of it, and how far it may be."""

    way: str
    relative_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.relative_difference <= self.tolerance  # which not-a-number is not


def compared(setting: Setting, images: Dataset, way: str) -> Check:
    """Two members, updated in one of the ways and by the plain loop from the same start.

    The plain loop itself is compared with `train`, which on a processor does the same, and on a GPU, where the training
    is long enough, replays a compiled graph.
    """
    setting = setting.updated(learning_rate=setting.learning_rate / GENTLER)
    members = [Member(setting, images, replicate, way) for replicate in (1, 2)]
    advance(members, COMPARED)
    reference = trained if way == "loop" else looped
    differences = [relative_difference(member, reference(setting, images, member)) for member in members]
    return Check(way, max(differences, key=lambda share: (math.isnan(share), share)), TOLERANCE[setting.precision])


def looped(setting: Setting, images: Dataset, member: Member) -> State:
    """Where the plain loop ends from the same start."""
    loop = Member(setting, images, member.replicate, "loop")
    advance([loop], COMPARED)
    return loop.network.state()


def trained(setting: Setting, images: Dataset, member: Member) -> State:
    """Where the study's own training ends from the same start."""
    return train(setting, images, member.ticket, replicate=member.replicate, order=0, stop=COMPARED).state


def relative_difference(member: Member, expected: State) -> float:
    """How far a network's weights are from the expected ones, as a share of how far these are from the start."""
    weights = member.weights()

    def distance(state: State, other: State) -> Tensor:
        return torch.cat([(state[name] - other[name]).flatten() for name in weights]).norm()

    return float(distance(weights, expected) / distance(expected, member.ticket.weights))


def rates(precision: str, device: torch.device) -> dict[str, float]:
    """What the device reaches in large products of matrices in the precision, and in copying an array much larger than
    its caches, whose bytes are read and written; and the size of its largest cache."""
    on_gpu = device.type == "cuda"
    side, copied_bytes = (8192, 2**30) if on_gpu else (1024, COPIED_BYTES)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    source = torch.ones(copied_bytes, dtype=torch.uint8, device=device)
    product, copied = torch.empty_like(left), torch.empty_like(source)
    return {
        "flops_per_second": 2 * side**3 / seconds_of(lambda: torch.mm(left, right, out=product)),
        "bytes_per_second": 2 * copied_bytes / seconds_of(lambda: copied.copy_(source)),
        "cache_bytes": torch.cuda.get_device_properties(device).L2_cache_size if on_gpu else CACHE_BYTES,
    }


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds of a call, the median over rounds of several."""
    took = []
    for _ in range(1 + ROUNDS_OF_RATES):  # the first warms up
        synchronise()
        start = time.perf_counter()
        for _ in range(CALLS):
            work()
        synchronise()
        took.append((time.perf_counter() - start) / CALLS)
    return median(took[1:])


def measured(options: argparse.Namespace, setting: Setting, images: Dataset, way: str) -> list[Row]:
    """A row for every number of networks that are trained in a way."""
    numbers = [1] if way == "loop" else options.members
    return [timed(options, setting, images, way, number) for number in numbers]


def timed(options: argparse.Namespace, setting: Setting, images: Dataset, way: str, number: int) -> Row:
    """Images per second of all networks together: the median over rounds."""
    forget_memory()
    members = [Member(setting, images, replicate, way) for replicate in range(1, number + 1)]
    advance(members, options.iterations)
    took = median(advance(members, options.iterations) for _ in range(options.rounds))
    return measurement(way, number, number * options.iterations * setting.batch_size / took, peak_memory())


def measured_loader(setting: Setting, held: Dataset, device: torch.device) -> Row:
    """Images per second of the loop of a textbook: the best of three."""
    textbook = loader_variant(setting, held, device)
    forget_memory()
    rate = LOADED * setting.batch_size / min(textbook() for _ in range(3))
    return measurement("loader", 1, rate, peak_memory())


def forget_memory() -> None:
    """Hand back what is no longer used of a GPU's memory, and measure its peak from here on."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measurement(way: str, members: int, rate: float, memory: int) -> Row:
    """A row of the table."""
    print(f"{way}, {members}: {rate:,.0f} images/s", flush=True)
    row: Row = {"way": way, "members": members, "images/s": rate}
    return row | ({"peak memory (MiB)": memory / 2**20} if memory else {})


def images_of(setting: Setting) -> Dataset:
    """What a network is fed: an image costs the same, whatever it shows."""
    if setting.network == "lenet_300_100":
        return data.load("mnist_embedded")
    if setting.network not in IMAGENET_NETWORKS:
        return cifar10()
    return random_images(setting, BATCHES_OF_IMAGENET * setting.batch_size)


def recorded(
    options: argparse.Namespace,
    setting: Setting,
    reached: dict[str, float],
    checks: Sequence[Check],
    rows: Sequence[Row],
) -> dict[str, Any]:
    """What the file holds of a measurement; the loop of one network is the first row.

    Raises `ValueError` for rows of a way that was not compared within a tolerance.
    """
    record = {name: getattr(options, name) for name in ("network", "profile", "precision")} | {
        "batch": setting.batch_size,
        "device": device_name(),
        "torch": torch.__version__,
        "checks": [vars(check) for check in checks],
        "rates": reached,
        "images/s at the floor": setting.batch_size * setting.iterations / floor_seconds(setting, *reached.values()),
        "measured": [row | {"to one loop": row["images/s"] / rows[0]["images/s"]} for row in rows],
    }
    if unchecked := {row["way"] for row in rows if verdict(record, row["way"]) == "unchecked"}:
        raise ValueError(
            f"measured without a check: {', '.join(sorted(unchecked))}; expected a comparison within a tolerance: "
            "add what `compared` returns to the checks"
        )
    return record


def keep(record: dict[str, Any]) -> None:
    """Put a measurement into the file, in the place of an earlier one of the same kind."""
    file = results_folder() / "benchmark_gpu.json"
    before = json.loads(file.read_text()) if file.exists() else []
    others = [other for other in before if any(other[name] != record[name] for name in DESCRIBES)]
    write_atomic(file, (json.dumps([*others, record], indent=1) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20", choices=NETWORK_NAMES)
    parser.add_argument("--profile", default="paper", help="of the network's settings")
    parser.add_argument("--precision", default="float32", choices=TOLERANCE)
    parser.add_argument(
        "--members",
        type=lambda text: sorted({int(number) for number in text.split(",")}),
        help="networks at once; default: 1,2,4,8,16, and 1 of ImageNet's",
    )
    parser.add_argument("--iterations", default=150, type=int, help="updates that are timed")
    parser.add_argument("--rounds", default=3, type=int)
    options = parser.parse_args(arguments)
    of_imagenet = options.network in IMAGENET_NETWORKS
    options.members = options.members or ([1] if of_imagenet else [1, 2, 4, 8, 16])
    setting, device = preset(options.network, profile=options.profile).setting, compute_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    setting = setting.updated(precision=options.precision)
    held = images_of(setting)
    images = held.to(device)
    checks, rows = [], []
    with steady_arithmetic(setting.precision):
        reached = rates(setting.precision, device)
        for way in ways(setting, images.train):
            checks.append(compared(setting, images, way))
            print(checks[-1], flush=True)
            rows += measured(options, setting, images, way)
            if way == "loop" and not of_imagenet and options.network != "lenet_300_100":
                rows.append(measured_loader(setting, held, device))
            record = recorded(options, setting, reached, checks, rows)
            write_json(results_folder() / UNFINISHED, record)
    keep(record)
    (results_folder() / UNFINISHED).unlink()
    print(pd.DataFrame(record["measured"]).to_string(index=False, float_format=lambda value: f"{value:,.2f}"))
    if wrong := [check for check in checks if not check.passed]:
        sys.exit(
            "\n".join(
                f"{check.way}: computes something else than the plain loop: after {COMPARED} updates the change of the "
                f"weights differs by {check.relative_difference:.3g} of it, and {check.tolerance} is what rounding may "
                f"do in {setting.precision}"
                for check in wrong
            )
        )


if __name__ == "__main__":
    main()
