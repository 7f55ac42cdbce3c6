"""What the benchmarks of all networks share: taking turns, rows of the table, a ticket to train."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from lth_core import Ticket, subnetwork
from lth_core.masks import Mask
from lth_study import seeds
from lth_study.costs.benchmarks import MATRIX_PRODUCT
from lth_study.data import image_shape
from lth_study.data.parts import Dataset, Split
from lth_study.devices import device_name
from lth_study.files import write_atomic
from lth_study.networks import build, initial_weights
from lth_study.records import results_folder
from lth_study.settings import Setting

Variant = Callable[[], float]
"""Does its work once and returns the seconds that it took."""
Row = dict[str, str | float]


def timed(work: Callable[[], object]) -> Variant:
    """The seconds that one call takes."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def interleaved(variants: Mapping[str, Variant], rounds: int) -> pd.DataFrame:
    """The seconds of every variant (columns) in every round, after each has warmed up once."""
    for variant in variants.values():
        variant()
    return pd.DataFrame([{name: variant() for name, variant in variants.items()} for _ in range(rounds)])


def row(measure: str, unit: str, sample: pd.Series) -> Row:
    """A row of the table: median, smallest and largest of a sample."""
    spread = {"median": sample.median(), "smallest": sample.min(), "largest": sample.max()}
    return {"measure": measure, "unit": unit} | spread


def random_images(setting: Setting, count: int) -> Dataset:
    """As many random images as that in place of a setting's: an image costs the same, whatever it shows."""
    shape = image_shape(setting.dataset, color=True, size=setting.image_size)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8)
    part = Split(images, torch.randint(setting.classes, (count,)))
    return Dataset("random", part, part, part)


def half_ticket(setting: Setting) -> Ticket:
    """A ticket with half of its weights, drawn at random, to be trained from initialisation."""
    mask = Mask({name: torch.rand(ones.shape) < 0.5 for name, ones in Mask.ones(build(setting)).items()})
    return subnetwork(initial_weights(setting, seeds.stream(1, "init")), mask, 0, 1)


def textbook_loop(loader: Iterable, model: nn.Module, optimizer: torch.optim.Optimizer, iterations: int) -> Variant:
    """The training loop that textbooks print."""
    device = next(model.parameters()).device

    def work() -> None:
        done = 0
        while done < iterations:
            for inputs, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs.to(device)), labels.to(device)).backward()
                optimizer.step()
                done += 1
                if done == iterations:
                    return

    return timed(work)


def peak_memory() -> float:
    """The most memory that this process held, in MiB.

    Linux hands the peak in `getrusage` down to a process from the one that started it, so there the figure is read
    from the process's own status.
    """
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def keep(table: pd.DataFrame, name: str) -> None:
    """Print what was measured and write it into the results folder, in place of this device's earlier rows.

    Machines with processors of one kind differ in speed. Rows of another day stay if their rates of matrix products
    have no value in common with these.
    """
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    made = {"device": device_name(), "torch": torch.__version__, "python": platform.python_version()}
    table = table.assign(**made, measured=datetime.now(UTC).strftime("%Y-%m-%d"))
    file = results_folder() / name
    if file.exists():
        before = pd.read_csv(file)
        own = before[before["device"] == device_name()].groupby("measured")
        others = [day for day, rows in own if day != table["measured"][0] and _another_speed(rows, table)]
        table = pd.concat([before[(before["device"] != device_name()) | before["measured"].isin(others)], table])
    write_atomic(file, table.to_csv(index=False, float_format="%.4g").encode())


def _another_speed(rows: pd.DataFrame, others: pd.DataFrame) -> bool:
    both = pd.concat([rows, others])
    products = both[both["measure"] == MATRIX_PRODUCT]
    return len(products) == 2 and bool(products["smallest"].max() > products["largest"].min())
