"""Ways to train many networks on one GPU, and how fast they are: each is first shown to compute what training does.

    loader          the loop of a textbook, fed by torch's DataLoader from PIL images
    loop            updates one by one, a network after the other
    graph           an update recorded as a CUDA graph; several networks in threads, each on a stream of its own
    compiled graph  the same, its network compiled, and with the study's kernels where the precision allows them:
                    what `lth run` does

Prints a table and writes results/benchmark_gpu.json. Without a GPU, loader and loop are measured on the processor.

    python benchmarks/gpu.py --network resnet20 --precision bfloat16 --members 1,2,4,8,16
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from common import half_ticket
from convolutional import cifar10, loader_variant

from lth_core import data, preset
from lth_core.config import Config
from lth_core.devices import compute_device, device_name
from lth_core.files import write_atomic
from lth_core.models import build
from lth_core.records import results_folder
from lth_core.steps import PlainSteps, RecordedSteps
from lth_core.train import prepare, steady_arithmetic, train
from lth_core.updates import FlatNetwork

COMPARED = 12
"""Updates after which a way of doing them is compared with training."""
WAYS = ("loop", "graph", "compiled graph")


class Member:
    """One of the networks that are trained at once."""

    def __init__(self, config: Config, images: data.Dataset, replicate: int, way: str) -> None:
        self.replicate = replicate
        torch.manual_seed(replicate)  # of the mask
        self.ticket = half_ticket(config)
        model = build(config).to(images.train.device)
        if way == "compiled graph":
            prepare(model, config, images.train.device)
        self.network = FlatNetwork(model, self.ticket.mask, config)
        self.network.model.train()
        which = (config, self.network, images.train, replicate, 0)
        if way == "loop":
            self.steps: Any = PlainSteps(*which)
        else:
            self.steps = RecordedSteps(*which, compiled=way == "compiled graph")
        self.network.load(self.ticket.weights)
        self.stream = torch.cuda.Stream() if images.train.device.type == "cuda" else None

    def advance(self, iterations: int) -> None:
        """The first updates of an epoch."""
        updates = self.steps.epoch(0, 0)
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            for _ in range(iterations):
                next(updates)()


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def advance(members: Sequence[Member], way: str, iterations: int) -> float:
    """Do updates of all members, and return the seconds that it took."""
    synchronise()
    start = time.perf_counter()
    with ThreadPoolExecutor(1 if way == "loop" else len(members)) as pool:
        list(pool.map(lambda member: member.advance(iterations), members))
    synchronise()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Same:
    """How far one of the ways ends from the study's own training."""

    way: str
    identical: bool
    largest_difference: float


def compared(config: Config, images: data.Dataset, way: str, iterations: int = COMPARED) -> Same:
    """Two members, updated in one of the ways and by the study's own `train`, from the same start."""
    some = data.Split(images.train.images[:10], images.train.labels[:10])
    members = [Member(config, images, replicate, way) for replicate in (1, 2)]
    advance(members, way, iterations)
    apart = 0.0
    for member in members:
        shortened = data.Dataset(images.name, images.train, some, some)
        state = train(config, shortened, member.ticket, replicate=member.replicate, order=0, stop=COMPARED).state
        for name, weight in member.network.model.named_parameters():
            apart = max(apart, float((state[name] - weight.detach().cpu()).abs().max()))
    return Same(way, apart == 0.0, apart)


def measured(options: argparse.Namespace, config: Config, images: data.Dataset) -> pd.DataFrame:
    """Images per second of all members together, for every way and number of members: the median over rounds."""
    rows = []
    for way in WAYS if images.train.device.type == "cuda" else WAYS[:1]:
        members: list[Member] = []
        for count in options.members if way != "loop" else [1]:
            members += [Member(config, images, replicate, way) for replicate in range(len(members) + 1, count + 1)]
            advance(members, way, options.iterations)
            took = sorted(advance(members, way, options.iterations) for _ in range(options.rounds))
            rate = count * options.iterations * config.batch_size / took[len(took) // 2]
            rows.append({"way": way, "members": count, "images/s": rate})
            print(f"{way}, {count}: {rate:,.0f} images/s", flush=True)
    table = pd.DataFrame(rows)
    return table.assign(**{"to one loop": table["images/s"] / table["images/s"].iloc[0]})


def main() -> None:
    """Compare, measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--network", default="resnet20", choices=["lenet_300_100", "resnet20", "vgg19"])
    arguments.add_argument("--profile", default="paper", help="of the network's settings")
    arguments.add_argument("--precision", default="float32", choices=["float32", "tf32", "bfloat16"])
    arguments.add_argument("--members", default="1,2,4,8,16", type=lambda text: [int(n) for n in text.split(",")])
    arguments.add_argument("--iterations", default=150, type=int, help="updates that are timed")
    arguments.add_argument("--rounds", default=3, type=int)
    options = arguments.parse_args()
    config, device = preset(options.network, profile=options.profile), compute_device()
    config = config.updated(precision=options.precision)
    held = cifar10() if options.network != "lenet_300_100" else data.load("mnist_embedded")
    images = held.to(device)
    with steady_arithmetic(config.precision):
        checks = [compared(config, images, way) for way in (WAYS if device.type == "cuda" else WAYS[:1])]
        for check in checks:
            print(check, flush=True)
        table = measured(options, config, images)
    if options.network != "lenet_300_100":
        textbook = loader_variant(config, held, device)
        rate = 3 * config.batch_size / min(textbook() for _ in range(3))
        table.loc[len(table)] = ["loader", 1, rate, rate / table["images/s"].iloc[0]]
    print(table.to_string(index=False, float_format=lambda value: f"{value:,.2f}"))
    about = {"network": options.network, "profile": options.profile, "precision": options.precision}
    about |= {
        "batch": config.batch_size,
        "device": device_name(),
        "torch": torch.__version__,
        "checks": [vars(check) for check in checks],
    }
    written = json.dumps(about | {"measured": table.to_dict("records")}, indent=1) + "\n"
    write_atomic(results_folder() / "benchmark_gpu.json", written.encode())


if __name__ == "__main__":
    main()
