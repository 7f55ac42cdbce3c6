"""Hours and energy of the experiments for `notebooks/costs.ipynb`, from `records`, `limits` and `benchmarks`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lth_study.costs.benchmarks import measured_rates
from lth_study.costs.limits import floor_seconds, iteration_bytes, iteration_flops
from lth_study.costs.trainings import shared_trainings, standard_presets
from lth_study.costs.updates import is_processor, seconds_under_way
from lth_study.extents import Study
from lth_study.plan import length, trainings
from lth_study.presets import preset, profiles
from lth_study.records import results_folder, studies
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Setting
from lth_study.tables import read

WATTS_PER_CORE = 10
"""Power of a busy core with its share of memory, power supply and cooling: assumed for a server, not measured."""


def hours_to_train(*studies: Study) -> dict[str, float]:
    """The hours of all trainings of these studies, one after the other, by device: for each study the one that most of
    it is recorded on. A study without records is left out."""
    hours: dict[str, float] = {}
    for study in studies:
        recorded = _seconds_per_iteration(study.setting)
        if len(recorded):
            iterations = sum(length(training, study.setting) for training in trainings(study))
            hours[recorded.index[0]] = hours.get(recorded.index[0], 0) + iterations * recorded.iloc[0] / 3600
    return hours


def floors() -> pd.DataFrame:
    """The least cost of a whole training, for every network at every profile but smoke.

    Columns are operations and bytes of an iteration, then seconds on one core of every processor in `make bench`. The
    recorded seconds stand beside them: a device's median seconds an iteration in the standard recipe, times the
    iterations.
    """
    rates, rows = measured_rates(), []
    for network, name in NETWORK_NAMES.items():
        for profile in (known for known in profiles(network) if known != "smoke"):
            setting = preset(network, profile=profile).setting
            recorded = _seconds_per_iteration(setting) * setting.iterations
            for device in dict.fromkeys([*rates, *recorded.index]):
                floor = floor_seconds(setting, *rates[device][:2]) if device in rates else math.nan
                seconds = recorded.get(device, math.nan)
                rows.append(
                    {
                        "network": name,
                        "profile": profile,
                        "device": device,
                        "GFLOP per iteration": round(iteration_flops(setting) / 1e9, 3),
                        "MB per iteration": round(iteration_bytes(setting) / 1e6, 2),
                        "floor (s)": _shown(floor, 1),
                        "recorded (s)": _shown(seconds, 1),
                        "floor / recorded": _shown(floor / seconds, 2),
                    }
                )
    return pd.DataFrame(rows).set_index(["network", "profile", "device"])


def costs_of_figures(profile: str) -> pd.DataFrame:
    """The cost of every part of every network's study, with the standard recipe and all replicates.

    It is for one core of every processor that `make bench` measured. Hours are iterations times the recorded seconds of
    one (see `floors`). A processor without records gets the floor instead: computed, and less than the real time.
    Energy is an estimate: hours times `WATTS_PER_CORE`.
    """
    measured = measured_rates()
    about, tables = {}, {device: dict[tuple[str, str], Any]() for device in measured}
    for name, study in standard_presets(profile).items():
        setting = study.setting
        recorded = _seconds_per_iteration(setting)
        for part, needed in shared_trainings(study).items():
            iterations = sum(length(training, setting) for training in needed)
            work = round(iterations * iteration_flops(setting) / 1e15, 3)
            about[name, part] = {"profile": setting.profile, "trainings": len(needed), "PFLOP": work}
            for device, rates in measured.items():
                least = floor_seconds(setting, *rates[:2]) / setting.iterations
                hours = iterations * recorded.get(device, least) / 3600
                tables[device][name, part] = {
                    "hours": round(hours, 1),
                    f"kWh at {WATTS_PER_CORE} W (estimate)": round(hours * WATTS_PER_CORE / 1000, 3),
                    "hours from": "records" if device in recorded.index else "the floor",
                }
    columns = {key: pd.DataFrame.from_dict(rows, orient="index") for key, rows in {"": about, **tables}.items()}
    return pd.concat(columns, axis=1).rename_axis(["network", "part"])


def _shown(value: float, digits: int) -> float | str:
    return "" if math.isnan(value) else round(value, digits)


def _seconds_per_iteration(setting: Setting) -> pd.Series:
    """The median recorded seconds an iteration by device; the device with most trainings comes first.

    Networks side by side share a GPU: no more counts than the time in which any ran, over all their iterations.
    Trainings on a stand-in data set count too: an image costs the same.
    """
    same = setting.updated(dataset="mnist_embedded").digest()
    tables = [
        read(results_folder(), other)[1]
        for other in studies(results_folder())
        if other.updated(dataset="mnist_embedded").digest() == same
    ]
    if not tables:
        return pd.Series(dtype=float)
    made = pd.concat(tables)
    made["each"] = made["seconds"] / made["iterations"]
    by_device = made.groupby("device")["each"].agg(["size", "median"])
    for device, rows in made.groupby("device"):
        if not is_processor(str(device)):
            shared = seconds_under_way(rows) / rows["iterations"].sum()
            by_device.loc[device, "median"] = min(by_device.loc[device, "median"], shared)
    return by_device.sort_values("size", ascending=False)["median"]
