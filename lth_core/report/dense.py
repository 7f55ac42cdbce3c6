"""What a change of one setting does to the accuracy of the dense network, replicate by replicate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lth_core.config import Config
from lth_core.data import TITLES
from lth_core.report import mean_and_range, one_dataset
from lth_core.report.verdicts import interval_of_mean
from lth_core.study import plan
from lth_core.study.records import PROVENANCE_KEY, known, store_folder
from lth_core.study.run import run
from lth_core.study.store import StudyStore

Variants = Mapping[str, pd.DataFrame]
"""What was changed -> records as `recorded` gives them. The first variant is the one that the others change."""


def recorded(config: Config, **options: Any) -> pd.DataFrame:
    """The records that a configuration asks for, and in the column `device` what trained each.

    `options` are those of `run`. With missing="error" whatever is recorded is returned, and nothing raised.
    """
    if options["missing"] == "train":
        config = config.updated(dataset=one_dataset(run(config, **options)))
    rows, made = known(StudyStore(store_folder(), config))
    return plan.select(rows, config).merge(made[[*PROVENANCE_KEY, "device"]], on=PROVENANCE_KEY)


def dense_changes(variants: Variants) -> pd.DataFrame:
    """A row for each variant: the mean accuracies of its dense networks, and how far they are from the first variant's.

    Accuracies are in percent, with the smallest and the largest. Differences of test accuracy are in points, with the
    95% interval of their mean (Student's t). A pair is one replicate, trained in both variants by one kind of
    processor.
    """
    differences, rows = _differences(variants), []
    for change, records in variants.items():
        test, diverged = _accuracies(records, "test_accuracy"), int((records["metric"] == "diverged").sum())
        sample = differences.get(change) if len(test) else None
        rows.append(
            {
                "change": change,
                "images": ", ".join(TITLES[name] for name in records["dataset"].unique()),
                "test accuracy (%)": mean_and_range(test),
                "training accuracy (%)": mean_and_range(_accuracies(records, "train_accuracy")),
                "difference (points)": "" if sample is None else _shown(sample),
                "pairs": "" if sample is None else str(len(sample)),
                "replicates": f"{len(test)} ({diverged} diverged)" if diverged else str(len(test)),
                "processor": ", ".join(sorted(records["device"].unique())),
            }
        )
    return pd.DataFrame(rows).set_index("change")


def dense_changes_in_words(variants: Variants) -> str:
    """Which differences of `dense_changes` are told from none, and how large those may be that are not."""
    apart, alike, open_ = [], [], []
    for change, sample in _differences(variants).items():
        if len(sample) < 2:
            open_.append(change)
            continue
        low, high = interval_of_mean(sample)
        if low <= 0 <= high:
            alike.append(
                f"The interval includes 0 for {change}: {len(sample)} pairs cannot tell differences under "
                f"{(high - low) / 2:.1f} points from none."
            )
        else:
            apart.append(change)
    said = [f"The interval excludes 0 for {'; '.join(apart)}."] if apart else []
    return " ".join([*said, *alike, *([f"There is no interval yet for {'; '.join(open_)}."] if open_ else [])])


def _differences(variants: Variants) -> dict[str, pd.Series]:
    """For each variant but the first, its test accuracy less the first one's, pair by pair; none where a stand-in for
    the images makes both one study."""
    first, *others = variants
    base = variants[first]
    return {
        change: (_accuracies(variants[change], "test_accuracy") - _accuracies(base, "test_accuracy")).dropna()
        if set(variants[change]["digest"]).isdisjoint(base["digest"])
        else pd.Series(dtype=float)
        for change in others
    }


def _accuracies(records: pd.DataFrame, metric: str) -> pd.Series:
    """Those of the dense networks in the first data order, by replicate and device."""
    rows = records[(records["method"] == "dense") & (records["metric"] == metric) & (records["order"] == "0")]
    return rows.set_index(["replicate", "device"])["value"].astype(float)


def _shown(sample: pd.Series) -> str:
    if len(sample) < 2:
        return f"{sample.mean():+.2f} (no interval)" if len(sample) else "not compared"
    low, high = interval_of_mean(sample)
    return f"{sample.mean():+.2f} ({low:+.2f} to {high:+.2f})"
