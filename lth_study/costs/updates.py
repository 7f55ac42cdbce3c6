"""How long an update takes on a device, from what was recorded or measured of the same network or one like it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import pandas as pd

from lth_study.presets import preset
from lth_study.report import NETWORK_NAMES
from lth_study.settings import Config


def seconds_per_update(config: Config, device: str, timed: Iterable[tuple[Config, pd.DataFrame]]) -> float:
    """About how long an update takes on one core or one GPU, in seconds; NaN where nothing like it was timed.

    `timed` are studies with their provenance. The median is taken of what is most alike, of the same network: first by
    device, then by profile, precision and the processor's instructions. A processor may stand for another one. Another
    profile's seconds are multiplied by the ratio of operations. Without such a record, the rate of a benchmark counts.
    Networks side by side share a GPU; early records do not say how many there were, and count as alone.
    """
    found: dict[tuple[bool, ...], list[tuple[Config, pd.Series]]] = {}
    for other, provenance in timed:
        if other.network != config.network:
            continue
        for kind, rows in provenance.groupby("device"):
            name = str(kind)
            if name != device and not (_is_processor(name) and _is_processor(device)):
                continue
            like = (name == device, other.profile == config.profile, other.precision == config.precision)
            each = rows["seconds"] / rows["iterations"]
            if not _is_processor(name):
                each = each / rows["workers"].fillna(1).astype(float)
            found.setdefault((*like, name.split("(")[-1] == device.split("(")[-1]), []).append((other, each))
    if not found:
        return _benchmarked(config, device)
    alike = found[max(found)]
    seconds, profile = float(pd.concat([each for _, each in alike]).median()), alike[0][0].profile
    if profile == config.profile:
        return seconds
    return seconds * _operations(config.network, config.profile) / _operations(config.network, profile)


def _is_processor(device: str) -> bool:
    """Whether a device is a processor: its name ends with its vector instructions."""
    return device.endswith(")")


@cache
def _operations(network: str, profile: str) -> int:
    """Floating-point operations of an update."""
    from lth_study.costs.limits import iteration_flops

    return iteration_flops(preset(network, profile=profile))


def _benchmarked(config: Config, device: str) -> float:
    """Seconds of an update at the arithmetic rate of a benchmark: of this network on the processor, or on a GPU of
    ResNet-20. Both measure the paper's scale."""
    from lth_study.costs.benchmarks import medians, resnet20_on_gpus

    if _is_processor(device):
        standard = preset(config.network)
        table = medians().reindex(columns=[f"{NETWORK_NAMES[config.network]}, ours (images/s)"])
        images = float(table.iloc[:, 0].get(device, math.nan))
    else:
        standard = preset("resnet20")
        images = resnet20_on_gpus().get(f"{device}, {config.precision}", math.nan)
    work = _operations(config.network, config.profile) / _operations(standard.network, standard.profile)
    return standard.batch_size / images * work
