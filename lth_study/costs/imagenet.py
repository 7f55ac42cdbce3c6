"""What the study of ImageNet's networks needs at the paper's scale: images, memory, and hours on what was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lth_study.costs.benchmarks import medians, resnet20_on_gpus
from lth_study.costs.limits import iteration_flops, training_bytes
from lth_study.costs.trainings import costs
from lth_study.presets import preset
from lth_study.records import read, results_folder, studies
from lth_study.report import NETWORK_NAMES
from lth_study.settings import IMAGENET_NETWORKS, Config

MINUTE = pd.Timedelta(minutes=1)
"""To what the end of a training is recorded."""


def costs_of_imagenet() -> pd.DataFrame:
    """One replicate of every network's study at the paper profile, with nothing trained twice.

    Memory is what one training holds at least (`training_bytes`), with the batch in as many pieces as the profile says.
    Hours are images divided by images a second: on one core of a processor those that `make bench` measured of the same
    network. On a GPU they are an estimate: it is taken to reach the rate of arithmetic of ResNet-20 at the paper's
    profile. That rate is what `benchmarks/gpu.py` measured, where a way passed its check; else that of the recorded
    trainings. The evaluations that end every training are left out.
    """
    rows = {}
    for network in IMAGENET_NETWORKS:
        config, name = preset(network), NETWORK_NAMES[network]
        cost = costs(config).loc["all of it"]
        images = cost["iterations, here"] * config.batch_size
        about: dict[str, Any] = {
            "trainings": int(cost["trainings, here"]),
            "images (billion)": images / 1e9,
            f"GiB, batch of {config.batch_size:,} in {config.pieces} pieces": training_bytes(config) / 2**30,
        }
        speeds = _measured_speeds(name) | _estimated_speeds(config)
        rows[name] = about | {f"hours, {device}": images / speed / 3600 for device, speed in speeds.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def _measured_speeds(name: str) -> dict[str, float]:
    """Images a second on one core, by processor."""
    measure = f"{name}, ours (images/s)"
    measured = medians()
    speeds = measured[measure].dropna() if measure in measured else pd.Series(dtype=float)
    return {f"one core of {device}": speed for device, speed in speeds.items()}


def _estimated_speeds(config: Config) -> dict[str, float]:
    """Images a second on GPUs, at the rate of arithmetic of ResNet-20 at the paper's profile."""
    here, there = (iteration_flops(each) / each.batch_size for each in (config, preset("resnet20")))
    checked = {device: speed * there for device, speed in resnet20_on_gpus().items()}
    return {f"{device} (estimate)": rate / here for device, rate in (_recorded_rates() | checked).items()}


def _recorded_rates() -> dict[str, float]:
    """Floating-point operations a second in the recorded trainings of ResNet-20 at the paper's profile, by device and
    precision: those of all trainings, over the time in which any was under way.

    The minute in which a training ended is recorded. It is counted whole, so that a rate is too low rather than too
    high.
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
        f"{device}, {precision}": made["flops"].sum() / _seconds_under_way(made)
        for (device, precision), made in pd.concat(tables).groupby(["device", "precision"])
    }


def _seconds_under_way(made: pd.DataFrame) -> float:
    """The seconds in which any of these trainings was under way."""
    finished = pd.to_datetime(made["finished"])
    spans = pd.DataFrame({"start": finished - pd.to_timedelta(made["seconds"], "s"), "end": finished + MINUTE})
    spans = spans.sort_values("start")
    reached = spans["end"].cummax()
    before = reached.shift(fill_value=spans["start"].iloc[0])
    return float((reached - spans["start"].clip(lower=before)).dt.total_seconds().sum())
