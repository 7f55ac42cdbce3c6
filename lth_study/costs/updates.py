"""Estimated seconds of an update on a device, from records or benchmarks; the table of `agenda` uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import pandas as pd

from lth_study.presets import preset
from lth_study.records import results_folder, studies
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Setting
from lth_study.tables import read

_MINUTE = pd.Timedelta(minutes=1)
"""The resolution of a training's recorded end."""


def seconds_per_update(setting: Setting, device: str, timed: Iterable[tuple[Setting, pd.DataFrame]]) -> float:
    """The estimated seconds of an update on one core or one GPU; NaN if nothing comparable was timed.

    `timed` are studies with their provenance. The result is the median of the most similar trainings of the same
    network. Similarity goes by device, then profile, precision and the processor's instructions. One processor may
    stand for another. Another profile's seconds are scaled by the ratio of operations. Without records, a benchmark's
    rate is used. Networks side by side share a GPU; early records without their number count as one network alone.
    """
    found: dict[tuple[bool, ...], list[tuple[Setting, pd.Series]]] = {}
    for other, provenance in timed:
        if other.network != setting.network:
            continue
        for kind, rows in provenance.groupby("device"):
            name = str(kind)
            if name != device and not (is_processor(name) and is_processor(device)):
                continue
            like = (name == device, other.profile == setting.profile, other.precision == setting.precision)
            each = rows["seconds"] / rows["iterations"]
            if not is_processor(name):
                each = each / rows["workers"].fillna(1).astype(float)
            found.setdefault((*like, name.split("(")[-1] == device.split("(")[-1]), []).append((other, each))
    if not found:
        return _benchmarked(setting, device)
    alike = found[max(found)]
    seconds, profile = float(pd.concat([each for _, each in alike]).median()), alike[0][0].profile
    if profile == setting.profile:
        return seconds
    return seconds * _operations(setting.network, setting.profile) / _operations(setting.network, profile)


def seconds_on(device: str) -> Callable[[Setting], float]:
    """`seconds_per_update` on a device, from the committed records."""
    timed = [(setting, read(results_folder(), setting)[1]) for setting in studies(results_folder())]
    return lambda setting: seconds_per_update(setting, device, timed)


def seconds_under_way(made: pd.DataFrame) -> float:
    """The seconds in which at least one of these trainings ran."""
    finished = pd.to_datetime(made["finished"])
    spans = pd.DataFrame({"start": finished - pd.to_timedelta(made["seconds"], "s"), "end": finished + _MINUTE})
    spans = spans.sort_values("start")
    reached = spans["end"].cummax()
    before = reached.shift(fill_value=spans["start"].iloc[0])
    return float((reached - spans["start"].clip(lower=before)).dt.total_seconds().sum())


def is_processor(device: str) -> bool:
    """Whether a device is a processor: only its name ends with vector instructions in brackets."""
    return device.endswith(")")


@cache
def _operations(network: str, profile: str) -> int:
    """The floating-point operations of an update."""
    from lth_study.costs.limits import iteration_flops

    return iteration_flops(preset(network, profile=profile).setting)


def _benchmarked(setting: Setting, device: str) -> float:
    """The seconds of an update at the arithmetic rate of a benchmark at the paper's scale. On a processor it is the
    benchmark of this network, on a GPU that of ResNet-20."""
    from lth_study.costs.benchmarks import medians, resnet20_on_gpus

    if is_processor(device):
        standard = preset(setting.network).setting
        table = medians().reindex(columns=[f"{NETWORK_NAMES[setting.network]}, ours (images/s)"])
        images = float(table.iloc[:, 0].get(device, math.nan))
    else:
        standard = preset("resnet20").setting
        images = resnet20_on_gpus().get(f"{device}, {setting.precision}", math.nan)
    work = _operations(setting.network, setting.profile) / _operations(standard.network, standard.profile)
    return standard.batch_size / images * work
