"""What is aimed at in speed, and whether it is met."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import pandas as pd

from lth_core.costs.benchmarks import medians, resnet20_on_gpus


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
    for device, speeds in resnet20_on_gpus().items():
        for way, aim in GPU_AIMS.items():
            rows.append(aim.beside(device, speeds.max() / speeds[way] if way else speeds.max()))
    return pd.DataFrame(rows).set_index(["device", "of"])
