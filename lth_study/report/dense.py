"""What a change of one setting does to the accuracy of the dense network, replicate by replicate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lth_study import plan
from lth_study.data import TITLES
from lth_study.records import store_folder, traced
from lth_study.report import accuracies, mean_and_range, one_dataset
from lth_study.report.effects import Place, Sample, Term, estimate, placed, sample
from lth_study.runner import run
from lth_study.settings import Config
from lth_study.store import StudyStore

Variants = Mapping[str, pd.DataFrame]
"""What was changed -> records as `recorded` gives them. The first variant is the one that the others change."""


def recorded(config: Config, **options: Any) -> pd.DataFrame:
    """The records that a configuration asks for, as many as there are; with missing="train" all of them.

    `options` are those of `run`.
    """
    if options["missing"] == "train":
        config = config.updated(dataset=one_dataset(run(config, **options)))
    return plan.select(traced(StudyStore(store_folder(), config)), config)


def dense_changes(variants: Variants) -> pd.DataFrame:
    """A row for each variant: the mean accuracies of its dense networks, and how far they are from the first variant's.

    Accuracies are in percent, with the smallest and the largest. Differences of test accuracy are in points, with the
    95% interval of their mean (Student's t). A pair is one replicate, trained in both variants by one kind of
    processor.
    """
    rows = []
    differences = _differences(variants)
    for change, records in variants.items():
        test, found = accuracies(records)["value"], differences.get(change)
        diverged = int((records["metric"] == "diverged").sum())
        seen = records.loc[records["metric"] == "train_accuracy", "value"]
        rows.append(
            {
                "change": change,
                "images": ", ".join(TITLES[name] for name in records["dataset"].unique()),
                "test accuracy (%)": mean_and_range(test),
                "training accuracy (%)": mean_and_range(seen),
                "difference (points)": "" if found is None or not len(test) else _shown(found),
                "pairs": "" if found is None or not len(test) else str(len(found.values)),
                "replicates": f"{len(test)} ({diverged} diverged)" if diverged else str(len(test)),
                "processor": ", ".join(sorted(records["device"].unique())),
            }
        )
    return pd.DataFrame(rows).set_index("change")


def dense_changes_in_words(variants: Variants) -> str:
    """Which differences of `dense_changes` are told from none, and how large those may be that are not."""
    apart, alike, open_ = [], [], []
    for change, found in _differences(variants).items():
        mean = estimate(found.values)
        if mean is None:
            open_.append(change)
        elif mean.low <= 0 <= mean.high:
            alike.append(
                f"The interval includes 0 for {change}: {len(found.values)} pairs cannot tell differences under "
                f"{(mean.high - mean.low) / 2:.1f} points from none."
            )
        else:
            apart.append(change)
    said = [f"The interval excludes 0 for {'; '.join(apart)}."] if apart else []
    return " ".join([*said, *alike, *([f"There is no interval yet for {'; '.join(open_)}."] if open_ else [])])


def _differences(variants: Variants) -> dict[str, Sample]:
    """For each variant but the first, its test accuracy less the first one's, pair by pair; none where a stand-in for
    the images makes both one study."""
    first, *others = variants

    def study(changes: Mapping[str, Any]) -> Mapping[Place, pd.DataFrame]:
        return placed(variants[changes["variant"]])

    found = {}
    for change in others:
        terms = [Term(1, "dense", 0, (("variant", change),)), Term(-1, "dense", 0, (("variant", first),))]
        found[change] = sample(study, terms, "test_accuracy", (0,))
        if not set(variants[change]["digest"]).isdisjoint(variants[first]["digest"]):
            found[change] = found[change].first(0)
    return found


def _shown(found: Sample) -> str:
    mean = estimate(found.values)
    if mean is not None:
        return str(mean)
    return f"{found.values.mean():+.2f} (no interval)" if len(found.values) else "not compared"
