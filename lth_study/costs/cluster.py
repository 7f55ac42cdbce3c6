"""The whole paper on many GPUs: hours, money and the longest way, from its units (`units`) and measured rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import pandas as pd

from lth_study.costs.benchmarks import gpu_records
from lth_study.costs.imagenet import gpu_rates
from lth_study.costs.limits import iteration_flops
from lth_study.presets import preset, recipes
from lth_study.report import NETWORK_NAMES
from lth_study.runner import ON_A_GPU
from lth_study.settings import IMAGENET_NETWORKS, SettingError
from lth_study.units import Unit, units

TOGETHER = 8
"""GPUs of one machine, which can train one network together (`torchrun`)."""
DEEP = tuple(network for network in NETWORK_NAMES if network != "lenet_300_100")
"""Networks for GPUs. LeNet's study takes a processor hours, and a GPU's rate of arithmetic says nothing of it."""
CIFAR = tuple(network for network in DEEP if network not in IMAGENET_NETWORKS)


class Task(NamedTuple):
    """Work for some machines at once, and the names of the tasks that come before it."""

    seconds: float
    needs: tuple[str, ...] = ()
    machines: int = 1


def makespan(tasks: Mapping[str, Task], machines: int) -> float:
    """The seconds until all tasks are done by list scheduling: whenever enough machines are free, a task starts.

    Of several, it is the one with the longest way to the end. `tasks` come after what they need. Raises `ValueError`
    for a task that needs more machines than there are.
    """
    if any(task.machines > machines for task in tasks.values()):
        raise ValueError(f"a task needs more than {machines} machines; expected at least as many as any task needs")
    way = ways(tasks)
    waiting = sorted(tasks, key=lambda name: -way[name])
    running: list[tuple[float, str]] = []
    done, free, now = set[str](), machines, 0.0
    while waiting or running:
        for name in [name for name in waiting if done.issuperset(tasks[name].needs)]:
            if tasks[name].machines <= free:
                free -= tasks[name].machines
                heappush(running, (now + tasks[name].seconds, name))
                waiting.remove(name)
        now, name = heappop(running)
        free += tasks[name].machines
        done.add(name)
    return now


def ways(tasks: Mapping[str, Task]) -> dict[str, float]:
    """The seconds from the start of each task to the end of the longest chain of tasks that begins with it."""
    after = dict.fromkeys(tasks, 0.0)
    for name, task in reversed(list(tasks.items())):
        for need in task.needs:
            after[need] = max(after[need], task.seconds + after[name])
    return {name: task.seconds + after[name] for name, task in tasks.items()}


def longest_way(tasks: Mapping[str, Task]) -> list[str]:
    """The names of the tasks that take longest one after the other. No number of machines is faster than these."""
    way = ways(tasks)
    path = [max(way, key=way.__getitem__)]
    while following := [name for name, task in tasks.items() if path[-1] in task.needs]:
        path.append(max(following, key=way.__getitem__))
    return path


def side_by_side(device: str) -> pd.DataFrame:
    """Training images a second of ResNet-20 by the number of networks at once, in the fastest way on a device.

    `gain` is the speed over that with the next smaller number. The device is a GPU and a precision, "GPU, bfloat16".
    """
    speed = pd.DataFrame(_measured(device)).groupby("members")["images/s"].max()
    return pd.DataFrame({"images/s": speed, "gain": (speed / speed.shift()).round(2)}).rename_axis("networks")


def _measured(device: str) -> list[dict[str, Any]]:
    resnet20 = [r for r in gpu_records() if (r["network"], r["profile"]) == ("resnet20", "paper")]
    return [row for r in resnet20 if f"{r['device']}, {r['precision']}" == device for row in r["measured"]]


def tasks_of_paper(device: str, networks: Sequence[str], packed: bool, together: int = 1) -> dict[str, Task]:
    """The units of networks' studies at the paper's scale, with every recipe, as tasks for GPUs.

    Packed, a unit is a replicate; else a rewinding iteration, or a level of one-shot pruning. Its seconds are its
    arithmetic at the rate of `gpu_rates`. A network of CIFAR-10 without others `side_by_side` is slower than that. One
    of ImageNet fills a GPU; `together` GPUs train it together that many times as fast, which is the best they can do.
    Raises `SettingError` for a device that has no rate, or no speeds of networks side by side.
    """
    known = [name for name in gpu_rates() if len(_measured(name))]
    if device not in known:
        raise SettingError(f"device: {device!r} was not measured; known: {', '.join(known) or 'none'}")
    speed, rate = side_by_side(device)["images/s"], gpu_rates()[device]

    def task(unit: Unit) -> Task:
        setting = unit.study.setting
        seconds = float(unit.updates * iteration_flops(setting) / rate)
        if setting.network in IMAGENET_NETWORKS:
            return Task(seconds / together, unit.needs, together)
        chains = len({training.rewind for training in unit.trainings}) if packed else 1
        return Task(seconds * speed.max() / speed.loc[: min(chains, ON_A_GPU)].iloc[-1], unit.needs)

    found: list[Unit] = []
    for network in networks:
        smallest = "level" if network in IMAGENET_NETWORKS else "rewind"
        found += units((preset(network, r) for r in recipes(network)), "replicate" if packed else smallest)
    return {unit.name: task(unit) for unit in found}


def paper_on_gpus(
    device: str, price: float, networks: Sequence[str] = DEEP, gpus: Sequence[int] = (1, 8, 64, 512)
) -> pd.DataFrame:
    """Hours and money of networks' studies at the paper's scale, by the number of GPUs and by what a unit is.

    Money is for the hours in which a GPU is busy, `price` for each. `busy` is their share of all GPUs' hours. Raises
    `SettingError` for a price that is no number above 0.
    """
    if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 < price < math.inf:
        raise SettingError(f"price: {price!r} is not valid; expected dollars for an hour of one GPU, more than 0")
    rows = {}
    ways_to_pack = {"replicates": (True, 1), "smallest units": (False, 1)}
    if set(networks) & set(IMAGENET_NETWORKS):
        ways_to_pack[f"smallest units, ImageNet on {TOGETHER} GPUs"] = (False, TOGETHER)
    for place, (name, (packed, together)) in enumerate(ways_to_pack.items()):
        tasks = tasks_of_paper(device, networks, packed, together)
        work = sum(task.seconds * task.machines for task in tasks.values()) / 3600
        for number in (number for number in gpus if number >= together):
            hours = makespan(tasks, number) / 3600
            rows[number, place] = {
                "GPUs": number,
                "a unit is": name,
                "units": len(tasks),
                "hours": hours,
                "of the longest way": max(ways(tasks).values()) / 3600,
                "busy": f"{work / hours / number:.0%}",
                "GPU hours": work,
                f"US$ at {price:.2f} an hour": price * work,
            }
    return pd.DataFrame([rows[key] for key in sorted(rows)]).set_index(["GPUs", "a unit is"])


def packing_pays_until(device: str, networks: Sequence[str] = CIFAR) -> int:
    """The largest number of GPUs on which whole replicates, many networks side by side, are no later than small units.

    With more GPUs, the replicates are too few: some GPUs have none.
    """
    packed, apart = (tasks_of_paper(device, networks, packed) for packed in (True, False))
    more = range(1, len(apart))
    return next((n for n in more if makespan(packed, n + 1) > makespan(apart, n + 1)), len(apart))
