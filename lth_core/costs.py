"""What the experiments cost: in trainings and iterations, done one by one and with nothing trained twice; in time,
beside the least that it could be; and in energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lth_core.config import Config
from lth_core.limits import floor_seconds, iteration_bytes, iteration_flops
from lth_core.presets import figures, preset, profiles
from lth_core.provenance import measured_rates
from lth_core.records import read, results_folder, studies, trainings
from lth_core.report import NETWORK_NAMES
from lth_core.store import Training

WATTS_PER_CORE = 10
"""What a busy core draws, with its share of memory, power supply and cooling: assumed for a server, not measured."""


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
                    f"Wh at {WATTS_PER_CORE} W (estimate)": round(hours * WATTS_PER_CORE),
                    "hours from": "records" if device in recorded.index else "the floor",
                }
    columns = {key: pd.DataFrame.from_dict(rows, orient="index") for key, rows in {"": about, **tables}.items()}
    return pd.concat(columns, axis=1).rename_axis(["network", "part"])


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
