"""What a training iteration costs: `make bench` measures it, prints a table and writes results/benchmark.csv, which
keeps what was measured last on every other kind of processor, and on this kind at another speed.

Every network has a module beside this one, whose docstring says what is compared, and so have the machine's own rates,
the shares of the time and the command line. Variants take turns on one thread, round after round, so that a machine
whose speed drifts slows all of them alike; every figure is the median over rounds, with the smallest and the largest.

Run it on a machine that does nothing else. On two cores it takes some six minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import command
import convolutional
import imagenet
import lenet
import pandas as pd
import shares
import torch
from common import keep, peak_memory, row

TRAININGS = {"lenet_300_100": lenet.ours_variant, "resnet20": convolutional.training_variant}
"""What a process of its own can be started for."""
MEMORY_ROUNDS = 2
"""Peaks of memory that are taken of ResNet-20: reading CIFAR-10 takes longer than the training, and they agree."""


def main() -> None:
    """Measure everything, print it, write it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5, help="rounds, each with every variant once")
    arguments.add_argument("--only", choices=TRAININGS, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    if chosen.only:
        training = TRAININGS[chosen.only]()
        training()
        print(json.dumps({"seconds": training(), "mebibytes": peak_memory()}))
        return
    rows = lenet.rows(chosen.rounds)
    alone, memory = run_processes("lenet_300_100", 1, chosen.rounds)
    together, _ = run_processes("lenet_300_100", 2, chosen.rounds)
    rows.append(row("throughput of two processes / one", "ratio", 2 * alone / together))
    rows.append(row("peak memory of a training process", "MiB", memory))
    rows += convolutional.rows(min(chosen.rounds, convolutional.ROUNDS))
    rows += imagenet.rows(min(chosen.rounds, imagenet.ROUNDS))
    _, memory = run_processes("resnet20", 1, MEMORY_ROUNDS)
    rows.append(row("ResNet-20, peak memory of a training process", "MiB", memory))
    rows += shares.rows(min(chosen.rounds, convolutional.ROUNDS))
    rows += command.rows(chosen.rounds)
    table = pd.DataFrame(rows)
    keep(table, "benchmark.csv")
    held = next(r["median"] for r in rows if r["measure"] == lenet.HELD)
    if held > lenet.HELD_AT_MOST:
        sys.exit(f"{lenet.HELD} is {held:.3f}; Mask.hold may take no more than {lenet.HELD_AT_MOST}")


def run_processes(network: str, count: int, rounds: int) -> tuple[pd.Series, pd.Series]:
    """Seconds and peak memory of `count` training processes that run at once."""
    samples = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--only", network]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        outputs = [json.loads(process.communicate()[0]) for process in processes]
        samples.append(pd.DataFrame(outputs).mean())
    table = pd.DataFrame(samples)
    return table["seconds"], table["mebibytes"]


if __name__ == "__main__":
    main()
