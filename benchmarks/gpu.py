"""Which way of training many networks on one GPU is the fastest: each is first shown to compute what the others do.

    loop        the study's own update, a network after the other
    graph       the same update captured as a CUDA graph, which the GPU replays without the processor's help
    streams     graphs of several networks, replayed side by side
    processes   several processes with a loop each, which is what `lth run --workers` starts
    loader      the loop of a textbook, fed by torch's DataLoader from PIL images

Prints a table and writes results/benchmark_gpu.json. Without a GPU, loop and processes are measured on the processor.

    python benchmarks/gpu.py --network resnet20 --members 1,2,4,8,16
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from common import half_ticket
from convolutional import cifar10, loader_variant
from torch import Tensor

from lth_core import data, preset
from lth_core.augmentation import PaddedCrops
from lth_core.config import Config
from lth_core.devices import compute_device, device_name
from lth_core.files import write_atomic
from lth_core.models import build
from lth_core.records import results_folder
from lth_core.seeds import epoch_augmentation, epoch_order
from lth_core.train import steady_arithmetic, train
from lth_core.updates import FlatNetwork, learning_rate

WARM_UP = 3
"""Updates before a capture, in which libraries choose their algorithms and set aside their memory."""
COMPARED = 12
"""Updates after which a way of doing them is compared with the study's own."""


class Member:
    """One of the networks that are trained at once: all that its updates need lies on the device.

    An update reads its place in the data order, and its learning rate, from tensors, so that it can be captured.
    """

    def __init__(self, config: Config, images: data.Dataset, replicate: int) -> None:
        self.config, self.part, self.replicate = config, images.train, replicate
        device, examples = self.part.device, len(self.part)
        torch.manual_seed(replicate)  # of the mask
        self.ticket = half_ticket(config)
        self.network = FlatNetwork(build(config).to(device), self.ticket.mask, config)
        self.network.load(self.ticket.weights, 0)
        self.network.model.train()
        self.order = epoch_order(replicate, 0, 0, examples).to(device)
        self.crops = None
        if config.augment:
            self.crops = PaddedCrops(*(drawn.to(device) for drawn in epoch_augmentation(replicate, 0, 0, examples)))
        self.places = torch.arange(config.batch_size, device=device)
        self.rates = torch.tensor([learning_rate(config, i) for i in range(config.iterations)], device=device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)

    def update(self) -> None:
        """The next update, without a value that the processor would have to wait for."""
        start = self.done * self.config.batch_size % (len(self.order) - self.config.batch_size)
        chosen = self.order.index_select(0, start + self.places)
        images = self.part.images.index_select(0, chosen)
        if self.crops is not None:
            images = self.crops(images, chosen)
        rate = self.rates.index_select(0, self.done % len(self.rates)).squeeze(0)
        self.network.update(images, self.part.labels.index_select(0, chosen), rate)
        self.done += 1

    def tensors(self) -> list[Tensor]:
        """Everything that an update changes."""
        buffers = self.network.model.state_dict().values()
        return [self.network.weights, self.network.updates, self.done, *self.network.moments.values(), *buffers]


def captured(member: Member) -> Callable[[], None]:
    """A member's update as a CUDA graph; neither the warm-up nor the capture changes the member."""
    before = [tensor.clone() for tensor in member.tensors()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            member.update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        member.update()
    for tensor, value in zip(member.tensors(), before, strict=True):
        tensor.copy_(value)
    return graph.replay


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def loop(members: Sequence[Member], iterations: int) -> None:
    """Update after update, member after member."""
    for _ in range(iterations):
        for member in members:
            member.update()


def streams(replays: Sequence[Callable[[], None]], iterations: int) -> None:
    """Every member's graph on a stream of its own."""
    own = [torch.cuda.Stream() for _ in replays]
    for stream in own:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(iterations):
        for stream, replay in zip(own, replays, strict=True):
            with torch.cuda.stream(stream):
                replay()
    for stream in own:
        torch.cuda.current_stream().wait_stream(stream)


def seconds(work: Callable[[], object]) -> float:
    """The seconds that some work takes, until the GPU has done it."""
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Same:
    """How far one of the ways ends from the study's own training."""

    way: str
    identical: bool
    largest_difference: float


def compared(config: Config, images: data.Dataset, way: str, run: Callable[[list[Member]], None]) -> Same:
    """Two members, updated in one of the ways and by the study's own `train`, from the same start."""
    some = data.Split(images.train.images[:10], images.train.labels[:10])
    members = [Member(config, images, replicate) for replicate in (1, 2)]
    run(members)
    apart = 0.0
    for member in members:
        shortened = data.Dataset(images.name, images.train, some, some)
        state = train(config, shortened, member.ticket, replicate=member.replicate, order=0, stop=COMPARED).state
        for name, weight in member.network.model.named_parameters():
            apart = max(apart, float((state[name] - weight.detach().cpu()).abs().max()))
    return Same(way, apart == 0.0, apart)


def in_processes(options: argparse.Namespace, members: int) -> float:
    """Seconds of as many processes, each with a loop of its own; they start when all of them are ready."""
    command = [sys.executable, __file__, "--network", options.network, "--profile", options.profile,
               "--precision", options.precision, "--iterations", str(options.iterations), "--alone"]  # fmt: skip
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(members)
    ]
    for process in started:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"a process of {members} could not start; is there memory for so many?")
    start = time.perf_counter()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.stdout.readline()
    took = time.perf_counter() - start
    for process in started:
        process.communicate()
    return took


def alone(config: Config, images: data.Dataset, iterations: int) -> None:
    """What each of several processes does."""
    members = [Member(config, images, 1)]
    loop(members, WARM_UP)
    synchronise()
    print("ready", flush=True)
    sys.stdin.readline()
    loop(members, iterations)
    synchronise()
    print("done", flush=True)


def measured(options: argparse.Namespace, config: Config, images: data.Dataset) -> pd.DataFrame:
    """Images per second of all members together, for every way and number of members: the median over rounds."""
    rows = []

    def add(way: str, members: int, work: Callable[[], float]) -> None:
        work()
        took = sorted(work() for _ in range(options.rounds))
        rate = members * options.iterations * config.batch_size / took[len(took) // 2]
        rows.append({"way": way, "members": members, "images/s": rate})
        print(f"{way}, {members}: {rate:,.0f} images/s", flush=True)

    for count in options.members:
        members = [Member(config, images, replicate) for replicate in range(1, count + 1)]
        add("loop", count, lambda members=members: seconds(lambda: loop(members, options.iterations)))
        if images.train.device.type == "cuda":
            replays = [captured(member) for member in members]
            if count == 1:
                add(
                    "graph", 1, lambda replay=replays[0]: seconds(lambda: [replay() for _ in range(options.iterations)])
                )
            else:
                add("streams", count, lambda replays=replays: seconds(lambda: streams(replays, options.iterations)))
        add("processes", count, lambda count=count: in_processes(options, count))
    table = pd.DataFrame(rows)
    return table.assign(**{"to one loop": table["images/s"] / table["images/s"].iloc[0]})


def main() -> None:
    """Compare, measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--network", default="resnet20", choices=["lenet_300_100", "resnet20", "vgg19"])
    arguments.add_argument("--profile", default="paper", help="of the network's settings")
    arguments.add_argument("--precision", default="float32", choices=["float32", "tf32", "bfloat16"])
    arguments.add_argument("--members", default="1,2,4,8,16", type=lambda text: [int(n) for n in text.split(",")])
    arguments.add_argument("--iterations", default=200, type=int, help="updates that are timed")
    arguments.add_argument("--rounds", default=5, type=int)
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    config, device = preset(options.network, profile=options.profile), compute_device()
    config = config.updated(precision=options.precision)
    held = cifar10() if options.network != "lenet_300_100" else data.load("mnist_embedded")
    images = held.to(device)
    with steady_arithmetic(config.precision):
        if options.alone:
            alone(config, images, options.iterations)
            return
        checks = [compared(config, images, "loop", lambda members: loop(members, COMPARED))]
        if device.type == "cuda":
            checks.append(
                compared(config, images, "streams", lambda members: streams([captured(m) for m in members], COMPARED))
            )
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
