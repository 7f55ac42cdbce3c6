"""How one changed setting changes the dense network's accuracy, replicate by replicate, for `cifar10_data.ipynb`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lth_study import plan
from lth_study.data import title
from lth_study.extents import Study
from lth_study.records import traced
from lth_study.report import accuracies, mean_and_range
from lth_study.report.effects import Place, Sample, Term, estimate, placed, sample
from lth_study.runner import run
from lth_study.settings import RECORDS_ONLY

Variants = Mapping[str, pd.DataFrame]
"""Description of a change -> records from `recorded`. The others change one setting of the first variant."""


def recorded(study: Study, **options: Any) -> pd.DataFrame:
    """The records of a study that exist. With missing="train", trains the others where there are images to train on.

    `run` has the `options`.
    """
    if options["missing"] == "train" and study.setting.dataset != RECORDS_ONLY:
        return run(study, **options)
    return plan.select(traced(study.setting), study)


def dense_changes(variants: Variants) -> pd.DataFrame:
    """A row for each variant: accuracies of its dense networks, and their difference from the first variant's.

    Accuracies are means in percent, with the smallest and the largest. Differences are of test accuracy, in points,
    with the 95% interval of their mean (Student's t). One kind of processor trained both networks of a pair.
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
                "images": ", ".join(map(title, records["dataset"].unique())),
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
    """A sentence for each result of `dense_changes`: the interval excludes 0, includes 0, or does not exist yet."""
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
    """Each other variant's test accuracy less the first one's, pair by pair."""
    first, *others = variants

    def study(changes: Mapping[str, Any]) -> Mapping[Place, pd.DataFrame]:
        return placed(variants[changes["variant"]])

    found = {}
    for change in others:
        terms = [Term(1, "dense", 0, (("variant", change),)), Term(-1, "dense", 0, (("variant", first),))]
        found[change] = sample(study, terms, "test_accuracy", (0,))
    return found


def _shown(found: Sample) -> str:
    mean = estimate(found.values)
    if mean is not None:
        return str(mean)
    return f"{found.values.mean():+.2f} (no interval)" if len(found.values) else "not compared"
