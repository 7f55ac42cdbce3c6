"""Images, memory and hours of the ImageNet study at the paper's scale, from `limits`, `benchmarks` and records."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lth_study.costs.benchmarks import medians, resnet20_on_gpus
from lth_study.costs.limits import iteration_flops, training_bytes
from lth_study.costs.trainings import costs
from lth_study.costs.updates import seconds_under_way
from lth_study.presets import preset
from lth_study.records import results_folder, studies
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS, Setting
from lth_study.tables import read


def costs_of_imagenet() -> pd.DataFrame:
    """The cost of one replicate of every network's study at the paper profile, with nothing trained twice.

    Memory is the least that one training holds (`training_bytes`), with the batch in the profile's pieces. Hours are
    images divided by images a second. On a processor's core, `make bench` measured the network's speed. On a GPU, hours
    are an estimate at the arithmetic rate of ResNet-20 at the paper's profile. `benchmarks/gpu.py` gives that rate if a
    way passed its check; otherwise recorded trainings do. Final evaluations are omitted.
    """
    rows = {}
    for network in IMAGENET_NETWORKS:
        study, name = preset(network), NETWORK_NAMES[network]
        setting, cost = study.setting, costs(study).loc["all of it"]
        images = cost["iterations, here"] * setting.batch_size
        about: dict[str, Any] = {
            "trainings": int(cost["trainings, here"]),
            "images (billion)": images / 1e9,
            f"GiB, batch of {setting.batch_size:,} in {setting.pieces} pieces": training_bytes(setting) / 2**30,
        }
        speeds = _measured_speeds(name) | _estimated_speeds(setting)
        rows[name] = about | {f"hours, {device}": images / speed / 3600 for device, speed in speeds.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def _measured_speeds(name: str) -> dict[str, float]:
    """The measured images a second on one core, by processor."""
    measure = f"{name}, ours (images/s)"
    measured = medians()
    speeds = measured[measure].dropna() if measure in measured else pd.Series(dtype=float)
    return {f"one core of {device}": speed for device, speed in speeds.items()}


def _estimated_speeds(setting: Setting) -> dict[str, float]:
    """Estimated images a second on GPUs, at the arithmetic rate of ResNet-20 at the paper's profile."""
    here = iteration_flops(setting) / setting.batch_size
    return {f"{device} (estimate)": rate / here for device, rate in gpu_rates().items()}


def gpu_rates() -> dict[str, float]:
    """Floating-point operations a second of ResNet-20 at the paper's profile, by "GPU, precision".

    They are those of the benchmark where a way passed its check, else of recorded trainings.
    """
    setting = preset("resnet20").setting
    each = iteration_flops(setting) / setting.batch_size
    return _recorded_rates() | {device: speed * each for device, speed in resnet20_on_gpus().items()}


def _recorded_rates() -> dict[str, float]:
    """Floating-point operations a second in recorded trainings of ResNet-20 at the paper's profile.

    For each device and precision, operations of all trainings are divided by the time in which any ran. Records give
    the minute in which a training ended. The whole minute counts, so a rate is rather too low than too high.
    """
    tables = []
    for study in studies(results_folder()):
        if (study.network, study.profile) == ("resnet20", "paper"):
            made = read(results_folder(), study)[1]
            flops = made["iterations"] * iteration_flops(study)
            tables.append(made.assign(flops=flops, precision=study.precision))
    if not tables:
        return {}
    return {
        f"{device}, {precision}": made["flops"].sum() / seconds_under_way(made)
        for (device, precision), made in pd.concat(tables).groupby(["device", "precision"])
    }
