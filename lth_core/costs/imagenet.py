"""What the study of ImageNet's networks needs at the paper's scale: images, memory, and hours on what was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lth_core.config import IMAGENET_NETWORKS, Config
from lth_core.costs.benchmarks import medians, resnet20_on_gpus
from lth_core.costs.limits import iteration_flops, training_bytes
from lth_core.costs.trainings import costs
from lth_core.presets import preset
from lth_core.report import NETWORK_NAMES


def costs_of_imagenet() -> pd.DataFrame:
    """One replicate of every network's study at the paper profile, with nothing trained twice.

    Memory is what one training holds at least (`training_bytes`), with the batch in as many pieces as the profile says.
    Hours are images divided by images a second: on one core of a processor those that `make bench` measured of the same
    network; on a GPU those that it would train if it reached the rate of arithmetic at which `benchmarks/gpu.py` found
    it to train ResNet-20, which is an estimate. The evaluations that end every training are left out.
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
    """Images a second on GPUs, at the rate of arithmetic of ResNet-20 at the paper's size."""
    here, there = (iteration_flops(each) / each.batch_size for each in (config, preset("resnet20")))
    return {f"{device} (estimate)": speeds.max() * there / here for device, speeds in resnet20_on_gpus().items()}
