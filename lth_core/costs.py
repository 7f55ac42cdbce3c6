"""What the experiments cost: in trainings and iterations, done one by one and with nothing trained twice, and how they
grow; in time, beside the least that it could be and what is aimed at; and in energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple

import pandas as pd

from lth_core.config import Config
from lth_core.limits import floor_seconds, iteration_bytes, iteration_flops
from lth_core.presets import figures, preset, profiles
from lth_core.provenance import gpu_records, measured_rates, medians
from lth_core.records import read, results_folder, studies, trainings
from lth_core.report import NETWORK_NAMES
from lth_core.store import Training

WATTS_PER_CORE = 10
"""What a busy core draws, with its share of memory, power supply and cooling: assumed for a server, not measured."""


class Aim(NamedTuple):
    """A bound on something that is measured."""

    what: str
    bound: Literal["at least", "at most"]
    value: float

    def beside(self, device: str, measured: float) -> dict[str, Any]:
        """The aim and what was measured on a device, as a row of a table."""
        met = measured >= self.value if self.bound == "at least" else measured <= self.value
        about = {"device": device, "of": self.what, "aim": f"{self.bound} {self.value:,}"}
        return about | {"measured": measured, "met": "met" if met else "not met"}


AIMS = {
    "ResNet-20, ours / loader loop": Aim("ResNet-20, images/s / a loader loop's", "at least", 1.3),
    "ResNet-20, convolutions / ours": Aim("ResNet-20, time / its convolutions' alone", "at most", 1.5),
    "ours / products": Aim("LeNet, time / its matrix products' alone", "at most", 1.3),
}
"""Measure of `make bench` -> what is aimed at on one core of a processor."""
GPU_AIMS = {
    "": Aim("ResNet-20, images/s", "at least", 300_000),
    "loop": Aim("ResNet-20, images/s / an eager loop's", "at least", 4),
    "loader": Aim("ResNet-20, images/s / a loader loop's", "at least", 15),
}
"""Way of `benchmarks/gpu.py` that the fastest is compared with, if any -> what is aimed at on one GPU."""


def costs(config: Config) -> pd.DataFrame:
    """Trainings and iterations of every part of a network's study, one replicate, and of all parts together.

    *One by one* is what the paper's description amounts to when every rewinding iteration of every part is an
    experiment of its own: it has its own dense run, its own IMP chain for the masks, and W_k is reached by repeating
    the first k iterations. *Here*: one dense run for everything, W_k and the first mask taken from it, every training
    from iteration k on, and what two parts have in common trained once.
    """
    config = config.updated(replicates=config.replicates[:1])
    alone = {name: _one_by_one(part) for name, part in figures(config).items()}
    alone["all of it"] = [training for part in alone.values() for training in part]
    rows = {name: _row(alone[name], here, config) for name, here in _here(config).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def costs_of_networks(profile: str) -> pd.DataFrame:
    """The costs of every network's study with the standard recipe, as a table."""
    return pd.concat({name: costs(config) for name, config in _presets(profile).items()}, names=["network"])


def growth(config: Config) -> pd.DataFrame:
    """Trainings and iterations of a study's stability and accuracy, all replicates: as it is, and with twice as many
    replicates, rewinding iterations or levels, all else equal.

    Beside every rewinding iteration k there is then k + 1; iterative pruning goes on to twice the levels, and one-shot
    pruning also leaves half of every density. What is compared at the last level is compared at the new last one.
    """
    halves = config.densities and (*config.densities, *(density / 2 for density in config.densities))
    curve = config.curve_levels and 2 * config.curve_levels
    doubled = {
        "as it is": config,
        "twice the replicates": config.updated(replicates=2 * len(config.replicates)),
        "twice the rewinding iterations": config.updated(
            rewinds=_with_the_next(config.rewinds),
            curve_rewinds=_with_the_next(config.curve_rewinds or config.rewinds[:1]),
        ),
        "twice the levels": config.updated(levels=2 * config.levels, curve_levels=curve, densities=halves),
    }
    columns = {}
    for name, study in doubled.items():
        parts = {part: _here(study)[part] for part in ("stability", "accuracy")}
        counted = {
            part: {"trainings": len(needed), "iterations": sum(_iterations(training, study) for training in needed)}
            for part, needed in parts.items()
        }
        columns[name] = pd.DataFrame.from_dict(counted, orient="index")
    return pd.concat(columns, axis=1).rename_axis("part")


def growth_of_networks(profile: str) -> pd.DataFrame:
    """How the cost of every network's study with the standard recipe grows, as a table."""
    return pd.concat({name: growth(config) for name, config in _presets(profile).items()}, names=["network"])


def floors() -> pd.DataFrame:
    """The least that a training costs, for every network at every profile but smoke: operations and bytes of an
    iteration, and seconds from initialisation to the end on one core of every processor that `make bench` measured.

    Beside it, what such a training takes by the records of the standard recipe: the median, over all of a device's
    trainings, of the seconds for an iteration, times the iterations.
    """
    rates, rows = measured_rates(), []
    for network, name in NETWORK_NAMES.items():
        for profile in (known for known in profiles(network) if known != "smoke"):
            config = preset(network, profile=profile)
            recorded = _seconds_per_iteration(config) * config.iterations
            for device in dict.fromkeys([*rates, *recorded.index]):
                floor = floor_seconds(config, *rates[device][:2]) if device in rates else math.nan
                seconds = recorded.get(device, math.nan)
                rows.append(
                    {
                        "network": name,
                        "profile": profile,
                        "device": device,
                        "GFLOP per iteration": round(iteration_flops(config) / 1e9, 3),
                        "MB per iteration": round(iteration_bytes(config) / 1e6, 2),
                        "floor (s)": _shown(floor, 1),
                        "recorded (s)": _shown(seconds, 1),
                        "floor / recorded": _shown(floor / seconds, 2),
                    }
                )
    return pd.DataFrame(rows).set_index(["network", "profile", "device"])


def costs_of_figures(profile: str) -> pd.DataFrame:
    """What every part of every network's study costs with the standard recipe and all replicates, on one core of every
    processor that `make bench` measured.

    Hours are iterations times the recorded seconds for one (see `floors`) where trainings are recorded on that
    processor, else times the floor of one: computed, not measured, and less than it will take. Energy is an estimate:
    `WATTS_PER_CORE` for as long.
    """
    about, tables = {}, {device: dict[tuple[str, str], Any]() for device in measured_rates()}
    for name, config in _presets(profile).items():
        recorded = _seconds_per_iteration(config)
        for part, needed in _here(config).items():
            iterations = sum(_iterations(training, config) for training in needed)
            work = round(iterations * iteration_flops(config) / 1e15, 3)
            about[name, part] = {"profile": config.profile, "trainings": len(needed), "PFLOP": work}
            for device, rates in measured_rates().items():
                least = floor_seconds(config, *rates[:2]) / config.iterations
                hours = iterations * recorded.get(device, least) / 3600
                tables[device][name, part] = {
                    "hours": round(hours, 1),
                    f"kWh at {WATTS_PER_CORE} W (estimate)": round(hours * WATTS_PER_CORE / 1000, 3),
                    "hours from": "records" if device in recorded.index else "the floor",
                }
    columns = {key: pd.DataFrame.from_dict(rows, orient="index") for key, rows in {"": about, **tables}.items()}
    return pd.concat(columns, axis=1).rename_axis(["network", "part"])


def aims() -> pd.DataFrame:
    """What is aimed at, beside what was measured last, for every processor and every GPU and precision.

    A GPU's images a second are those of its fastest way, of all networks that it trains at once.
    """
    rows = [
        aim.beside(device, measured[measure])
        for device, measured in medians().iterrows()
        for measure, aim in AIMS.items()
        if not math.isnan(measured.get(measure, math.nan))
    ]
    for record in gpu_records():
        speeds = pd.DataFrame(record["measured"]).groupby("way")["images/s"].max()
        if (record["network"], record["profile"]) == ("resnet20", "paper") and "graph" in speeds:  # a GPU's
            for way, aim in GPU_AIMS.items():
                ratio = speeds.max() / speeds[way] if way else speeds.max()
                rows.append(aim.beside(f"{record['device']}, {record['precision']}", ratio))
    return pd.DataFrame(rows).set_index(["device", "of"])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The same table as text: thousands separated, numbers that are no counts to four digits, nothing for NaN."""

    def text(value: object) -> object:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{float(f'{value:.4g}'):,.10g}"
        return f"{value:,}" if isinstance(value, Integral) else value

    return table.map(text)


def _with_the_next(rewinds: Sequence[int]) -> tuple[int, ...]:
    return tuple(k for rewind in rewinds for k in (rewind, rewind + 1))


def _shown(value: float, digits: int) -> float | str:
    return "" if math.isnan(value) else round(value, digits)


def _presets(profile: str) -> dict[str, Config]:
    """Every network's preset at a profile, by the network's name."""
    return {name: preset(network, profile=profile) for network, name in NETWORK_NAMES.items()}


def _here(config: Config) -> dict[str, list[Training]]:
    """The trainings of every part of a study, and of all of it, where what two parts share is trained once."""
    parts = {name: trainings(part) for name, part in figures(config).items()}
    return parts | {"all of it": list(dict.fromkeys(training for part in parts.values() for training in part))}


def _seconds_per_iteration(config: Config) -> pd.Series:
    """The recorded seconds for an iteration by device, the median over trainings, most trainings first.

    The data set may be a stand-in for the configuration's: an image costs the same.
    """
    same = config.updated(dataset="mnist_embedded").digest()
    tables = [
        read(results_folder(), study)[1]
        for study in studies(results_folder())
        if study.updated(dataset="mnist_embedded").digest() == same
    ]
    if not tables:
        return pd.Series(dtype=float)
    made = pd.concat(tables)
    made["each"] = made["seconds"] / made["iterations"]
    by_device = made.groupby("device")["each"].agg(["size", "median"])
    return by_device.sort_values("size", ascending=False)["median"]


def _row(alone: Sequence[Training], here: Sequence[Training], config: Config) -> dict[str, float]:
    before, after = len(alone) * config.iterations, sum(_iterations(training, config) for training in here)
    return {
        "trainings, one by one": len(alone),
        "trainings, here": len(here),
        "iterations, one by one": before,
        "iterations, here": after,
        "share of the iterations": round(after / before, 2),
    }


def _one_by_one(config: Config) -> list[Training]:
    """The trainings of a part whose rewinding iterations share nothing, not even the dense run."""
    alone = [config.updated(rewinds=(rewind,), curve_rewinds=None) for rewind in config.rewinds]
    repetition = alone[:1]  # the noise floor is measured once
    return [t for part in alone for t in trainings(part) if not t.again or part in repetition]


def _iterations(training: Training, config: Config) -> int:
    """How long a training is here."""
    if training.method == "random_reinit" and config.reinit_length == "full":
        return config.iterations
    return config.iterations - training.rewind
