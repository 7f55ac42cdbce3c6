"""What the benchmarks measured last, on every device, and the rates that floors are computed with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from lth_core.report import NETWORK_NAMES
from lth_core.study.records import results_file

WAYS = ("loader", "loop", "graph", "compiled graph")
"""Of those that `benchmarks/gpu.py` measures: what a textbook does, and what the study has."""


def benchmark() -> pd.DataFrame:
    """What `make bench` measured last on every device, a column each: the median of its rounds, and in brackets the
    smallest and the largest. Shares of the time are left to `time_shares`."""
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
    """Where the time of a training's updates goes, as `make bench` measured it last: for every network on every device
    the shares of every kind of work (benchmarks/shares.py). Empty where it was not measured."""
    measured = _benchmark()
    measured = measured[measured["unit"] == "share"].copy()
    measured[["network", "of"]] = measured["measure"].str.split(", share of ", expand=True).reindex(columns=[0, 1])
    table = measured.pivot_table("median", ["network", "device"], "of", sort=False).rename_axis(columns=None)
    return table.map("{:.1%}".format, na_action="ignore").fillna("")


def medians() -> pd.DataFrame:
    """The medians that `make bench` measured last: a row for each device, a column for each measure."""
    return _benchmark().pivot_table("median", "device", "measure", sort=False)


def _benchmark() -> pd.DataFrame:
    return pd.read_csv(results_file("benchmark.csv"))


def gpu_records() -> list[dict[str, Any]]:
    """What `benchmarks/gpu.py` measured last, for every network, profile, precision and device."""
    records: list[dict[str, Any]] = json.loads(results_file("benchmark_gpu.json").read_text())
    return records


def failed_checks(record: Mapping[str, Any]) -> list[str]:
    """The ways that computed something else than the loop of single updates did."""
    checks = [check for check in record.get("checks", []) if "tolerance" in check]  # which the oldest measurement lacks
    return [check["way"] for check in checks if not check["relative_difference"] <= check["tolerance"]]


def resnet20_on_gpus() -> dict[str, pd.Series]:
    """Images a second of ResNet-20 at the paper's profile, by way, of as many networks at once as are fastest: for
    every GPU and precision that `benchmarks/gpu.py` measured. Of ways that the study has, and that compute what they
    should."""
    speeds = {}
    for record in gpu_records():
        measured = pd.DataFrame(record["measured"])
        measured = measured[measured["way"].isin(WAYS) & ~measured["way"].isin(failed_checks(record))]
        by_way = measured.groupby("way")["images/s"].max()
        if (record["network"], record["profile"]) == ("resnet20", "paper") and "graph" in by_way:  # a GPU's
            speeds[f"{record['device']}, {record['precision']}"] = by_way
    return speeds


def gpu_benchmark() -> tuple[pd.DataFrame, str]:
    """What `benchmarks/gpu.py` measured last: images a second by way and number of networks, their share of what the
    device's rates admit, and the peak of its memory; and a line on each measurement."""
    kind, tables, lines = ["network", "profile", "precision", "device"], [], []
    for record in gpu_records():
        about = {name: record[name] for name in kind} | {"network": NETWORK_NAMES[record["network"]]}
        table = pd.DataFrame(record["measured"]).assign(**about)
        table["floor / measured"] = table["images/s"] / record.get("images/s at the floor", math.nan)
        tables.append(table.set_index([*kind, "way", "members"]))
        failed = [f"; {way} computed something else than the loop" for way in failed_checks(record)]
        about_it = f"batches of {record['batch']}, torch {record['torch']}"
        lines.append(f"- {', '.join(about.values())}: {about_it}{''.join(failed)}")
    columns = ["images/s", "to one loop", "floor / measured", "peak memory (MiB)"]
    rounded = {"images/s": 0, "to one loop": 2, "floor / measured": 3, "peak memory (MiB)": 0}
    return pd.concat(tables).reindex(columns=columns).round(rounded).astype({"images/s": int}), "\n".join(lines)


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
    measured = medians()
    memory = measured.get("memory bandwidth (GB/s)", pd.Series(dtype=float)).reindex(measured.index).fillna(math.inf)
    pairs = zip(measured.index, measured["matrix product (GFLOP/s)"], memory, strict=True)
    return {device: Rates(1e9 * product, 1e9 * moved, device) for device, product, moved in pairs}
