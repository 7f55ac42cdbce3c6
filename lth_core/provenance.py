"""Where the committed numbers come from: tables of devices, versions, dates, seconds, and of the settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from lth_core.config import Config
from lth_core.records import read, results_folder, studies
from lth_core.report import NETWORK_NAMES


def recorded_studies(study: str = "") -> list[Config]:
    """The committed studies whose names contain `study`. Raises `ValueError`, listing them all, when none does."""
    configs = studies(results_folder())
    chosen = [config for config in configs if study in config.name]
    if not chosen:
        raise ValueError(f"no recorded study has {study!r} in its name; recorded: {', '.join(c.name for c in configs)}")
    return chosen


def provenance_summary(configs: Sequence[Config]) -> pd.DataFrame:
    """Where each study's numbers come from: a row for each study, device and set of versions."""
    tables = []
    for config in configs:
        by = ["device", "torch", "python", "data_fingerprint"]
        made = read(results_folder(), config)[1].groupby(by)
        table = made.agg(
            trainings=("seconds", "size"),
            hours=("seconds", lambda seconds: round(seconds.sum() / 3600, 2)),
            seconds_each=("seconds", lambda seconds: round(seconds.median(), 1)),
            first=("finished", "min"),
            last=("finished", "max"),
        )
        tables.append(table.reset_index().assign(study=config.name))
    rows = pd.concat(tables)
    return rows[["study", *(name for name in rows.columns if name != "study")]]


def benchmark() -> pd.DataFrame:
    """What `make bench` measured last on every device, a column each: the median of its rounds, and in brackets the
    smallest and the largest."""
    measured = _benchmark()
    spread = zip(*(measured[name].map("{:.3g}".format) for name in ("median", "smallest", "largest")), strict=True)
    measured["value"] = [f"{median} ({smallest} to {largest})" for median, smallest, largest in spread]
    measured["on"] = measured["device"] + ", " + measured["measured"]
    table = measured.pivot_table("value", "measure", "on", aggfunc="first", sort=False, fill_value="")
    return table.rename_axis(columns=None)


def _benchmark() -> pd.DataFrame:
    return pd.read_csv(results_folder() / "benchmark.csv")


def gpu_benchmark() -> tuple[pd.DataFrame, str]:
    """What `benchmarks/gpu.py` measured last: images a second by way and number of networks, and a line on it."""
    about = json.loads((results_folder() / "benchmark_gpu.json").read_text())
    measured = pd.DataFrame(about["measured"]).set_index(["way", "members"]).round({"images/s": 0, "to one loop": 2})
    network = f"{NETWORK_NAMES[about['network']]}, {about['profile']} profile, batch {about['batch']}"
    made = f"{network}, {about['precision']}, on one {about['device']}, torch {about['torch']}."
    return measured.astype({"images/s": int}), made


class Rates(NamedTuple):
    """What one core of a processor reaches: floating-point operations a second in large products of matrices, and
    bytes a second read from memory and written to it."""

    flops_per_second: float
    bytes_per_second: float
    device: str

    def __str__(self) -> str:
        arithmetic = f"One core of {self.device} reaches {self.flops_per_second / 1e9:.1f} GFLOP/s"
        if math.isinf(self.bytes_per_second):
            return (
                f"{arithmetic}. How fast it moves bytes to and from memory is not measured yet (`make bench` measures "
                "it): until then, floors are those of arithmetic alone."
            )
        return f"{arithmetic}, and moves {self.bytes_per_second / 1e9:.1f} GB/s to and from memory."


def measured_rates() -> dict[str, Rates]:
    """The rates that `make bench` measured last, by device; where it did not measure memory, that takes no time."""
    medians = _benchmark().pivot_table("median", "device", "measure", sort=False)
    memory = medians.get("memory bandwidth (GB/s)", pd.Series(dtype=float)).reindex(medians.index).fillna(math.inf)
    pairs = zip(medians.index, medians["matrix product (GFLOP/s)"], memory, strict=True)
    return {device: Rates(1e9 * product, 1e9 * moved, device) for device, product, moved in pairs}


def settings_table(configs: Sequence[Config]) -> pd.DataFrame:
    """The settings that determine each study's trainings: a column for each study, headed by its digest."""
    return pd.DataFrame({config.digest(): config.determining() for config in configs}).fillna("")
