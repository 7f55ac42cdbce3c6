"""The latest benchmark results, read from results/, for the other modules of `costs` and `notebooks/costs.ipynb`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from lth_study.records import results_file
from lth_study.report import NETWORK_NAMES

MATRIX_PRODUCT = "matrix product (GFLOP/s)"
"""The measure that tells machines apart whose processors have one name and several speeds."""


def benchmark() -> pd.DataFrame:
    """The latest results of `make bench` but its shares of time: the median of the rounds (smallest to largest).

    A column is a kind of processor at one speed, with the day.
    """
    measured = _benchmark()
    measured = measured[measured["unit"] != "share"].copy()
    spread = zip(*(measured[name].map(_to_three_digits) for name in ("median", "smallest", "largest")), strict=True)
    measured["value"] = [f"{median} ({smallest} to {largest})" for median, smallest, largest in spread]
    measured["on"] = measured["device"] + ", " + measured["measured"]
    table = measured.pivot_table("value", "measure", "on", aggfunc="first", sort=False, fill_value="")
    return table.rename_axis(columns=None)


def _to_three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):,g}"


def time_shares() -> pd.DataFrame:
    """How a training's updates spend their time: shares by kind of work, for every network and device, as `make bench`
    measured them last (benchmarks/shares.py). Cells without a measurement are empty."""
    measured = _benchmark()
    measured = measured[measured["unit"] == "share"].copy()
    measured[["network", "of"]] = measured["measure"].str.split(", share of ", expand=True).reindex(columns=[0, 1])
    table = measured.pivot_table("median", ["network", "device"], "of", aggfunc="last", sort=False)
    table = table.rename_axis(columns=None)
    return table.map("{:.1%}".format, na_action="ignore").fillna("")


def medians() -> pd.DataFrame:
    """The latest medians of `make bench`: one row a device, one column a measure."""
    return _benchmark().pivot_table("median", "device", "measure", aggfunc="last", sort=False)


def _benchmark() -> pd.DataFrame:
    return pd.read_csv(results_file("benchmark.csv"))


def gpu_records() -> list[dict[str, Any]]:
    """The latest results of `benchmarks/gpu.py`, one for every network, profile, precision and device."""
    records: list[dict[str, Any]] = json.loads(results_file("benchmark_gpu.json").read_text())
    return records


def verdict(record: Mapping[str, Any], way: str) -> str:
    """Whether a way of training computed the same as the loop of single updates: "passed" or "failed".

    "unchecked" means that no comparison within a tolerance was made. The loader's loop draws other crops, so it cannot
    be compared; it gets the verdict of the loop.
    """
    checks = {check["way"]: check for check in record.get("checks", [])}
    check = checks.get("loop" if way == "loader" else way, {})
    if "tolerance" not in check:
        return "unchecked"
    return "passed" if check["relative_difference"] <= check["tolerance"] else "failed"


def resnet20_on_gpus() -> dict[str, float]:
    """Images a second of ResNet-20 at the paper's profile, for every GPU and precision in `gpu_records`. The fastest
    way and number of networks counts, among those that passed their check."""
    speeds = {}
    for record in gpu_records():
        of_a_gpu = any(row["way"] == "graph" for row in record["measured"])
        passed = [row["images/s"] for row in record["measured"] if verdict(record, row["way"]) == "passed"]
        if (record["network"], record["profile"]) == ("resnet20", "paper") and of_a_gpu and passed:
            speeds[f"{record['device']}, {record['precision']}"] = max(passed)
    return speeds


def gpu_benchmark() -> tuple[pd.DataFrame, str]:
    """The latest results of `benchmarks/gpu.py` as a table, and one line of text on each measurement. The table has
    images a second by way and number of networks, the share of the device's limit that they reach, and peak memory. A
    way that did not pass its check shows the verdict instead of its rate."""
    kind, tables, lines = ["network", "profile", "precision", "device"], [], []
    for record in gpu_records():
        about = {name: record[name] for name in kind} | {"network": NETWORK_NAMES[record["network"]]}
        table = pd.DataFrame(record["measured"]).assign(**about)
        table["floor / measured"] = table["images/s"] / record.get("images/s at the floor", math.nan)
        verdicts = table["way"].map(lambda way, record=record: verdict(record, way))
        table.loc[verdicts != "passed", ["to one loop", "floor / measured"]] = math.nan
        table["images/s"] = table["images/s"].round().astype(int).where(verdicts == "passed", verdicts)
        tables.append(table.set_index([*kind, "way", "members"]))
        about_it = f"batches of {record['batch']}, torch {record['torch']}"
        for found in ("failed", "unchecked"):
            if ways := list(dict.fromkeys(table["way"][verdicts == found])):
                about_it += f"; {found}: {', '.join(ways)}"
        lines.append(f"- {', '.join(about.values())}: {about_it}")
    columns = ["images/s", "to one loop", "floor / measured", "peak memory (MiB)"]
    rounded = {"to one loop": 2, "floor / measured": 3, "peak memory (MiB)": 0}
    return pd.concat(tables).reindex(columns=columns).round(rounded), "\n".join(lines)


class Rates(NamedTuple):
    """The rates of one processor core: floating-point operations a second in large matrix products, and bytes a second
    read from memory and written to it."""

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
    """The rates of `make bench` by device, at the fastest of the speeds that the device was measured at: floors are the
    least that a training can cost. An unmeasured memory rate is infinite: memory takes no time."""
    table = _benchmark().pivot_table("median", ["device", "measured"], "measure", sort=False)
    table = table.sort_values(MATRIX_PRODUCT, kind="stable").groupby(level="device", sort=False).tail(1).droplevel(1)
    table = table.reindex(medians().index)
    memory = table.get("memory bandwidth (GB/s)", pd.Series(dtype=float)).reindex(table.index).fillna(math.inf)
    pairs = zip(table.index, table[MATRIX_PRODUCT], memory, strict=True)
    return {device: Rates(1e9 * product, 1e9 * moved, device) for device, product, moved in pairs}
