"""Changes are paired by replicate and stay within a recipe."""

import math

import pandas as pd
import pytest

from lth_core import preset
from lth_core.config import Config
from lth_core.report.changes import changes_by_precision, changes_by_rewinding

LEVEL = 2
T_95_ONE_DEGREE = 12.7062  # of Student's t, from a table
LABELS = {"l2_data_order": "L2 between data orders", "l2_pruning": "L2 to the dense network"}


def rows(config: Config, replicate: int, k: int, accuracy: float, **distances: float) -> list[dict[str, object]]:
    about: dict[str, object] = {"recipe": config.recipe, "dataset": config.dataset, "method": "imp"}
    about |= {"rewind": k, "replicate": replicate, "level": LEVEL}
    found = [about | {"order": "0", "metric": "test_accuracy", "value": accuracy}]
    found.append(about | {"order": "1", "metric": "test_accuracy", "value": 0.0})  # of another data order
    return found + [about | {"order": "0-1", "metric": name, "value": value} for name, value in distances.items()]


def test_each_k_is_compared_with_0_within_a_recipe_and_replicate():
    standard, low = (preset("resnet20", r, "smoke").updated(rewinds=(0, 4), levels=LEVEL) for r in ("standard", "low"))
    table = [
        *rows(standard, 1, 0, 90.0, l2_data_order=8.0),
        *rows(standard, 1, 4, 91.0, l2_data_order=1.0),
        *rows(standard, 2, 0, 80.0, l2_data_order=4.0),
        *rows(standard, 2, 4, 82.0, l2_data_order=2.0),
        *rows(low, 1, 0, 50.0),
        *rows(low, 1, 4, 70.0),
    ]
    changes = changes_by_rewinding([standard, low], pd.DataFrame(table))
    assert list(changes.index) == [("standard", 4), ("low", 4)]
    own, half = changes.loc[("standard", 4)], T_95_ONE_DEGREE / 2  # samples 1 and 2: deviation 1 / sqrt(2)
    assert own["accuracy (points)"] == f"+1.50 ({1.5 - half:+.2f} to {1.5 + half:+.2f})"
    factor = 2**T_95_ONE_DEGREE  # logarithms to base 2 are -3 and -1
    assert own["L2 between data orders (quotient)"] == f"0.25x ({0.25 / factor:.2f}x to {0.25 * factor:.2f}x)"
    assert (own["L2 to the dense network (quotient)"], own["replicates"]) == ("", 2)
    one = changes.loc[("low", 4)]
    assert (one["accuracy (points)"], one["replicates"]) == ("", 1)  # one replicate has no interval


def test_precisions_are_compared_with_the_first_for_every_subnetwork():
    config = preset("resnet20", profile="smoke")
    table = pd.concat(
        pd.DataFrame(rows(config, replicate, k, 90.0 + gain + replicate, l2_pruning=3.0 * factor)).assign(
            precision=precision, method=method
        )
        for precision, factor, gain in (("float32", 1.0, 0.0), ("bfloat16", 2.0, -0.5))
        for method in ("imp", "random_pruning")
        for replicate in (1, 2)
        for k in (0, 4)
    )
    changes = changes_by_precision(table, level=LEVEL)
    assert changes.index.names == ["precision", "subnetwork", "k"]
    names = ["IMP", "random pruning"]
    assert sorted(changes.index) == [("bfloat16", name, k) for name in names for k in (0, 4)]
    assert set(changes["accuracy (points)"]) == {"-0.50 (-0.50 to -0.50)"}
    assert set(changes["L2 to the dense network (quotient)"]) == {"2.00x (2.00x to 2.00x)"}
    assert set(changes["angle to the dense network (quotient)"]) == {""}


def test_without_rewinding_nothing_changes_and_the_table_is_empty():
    config = preset("resnet20", profile="smoke").updated(rewinds=(0,), levels=LEVEL)
    changes = changes_by_rewinding([config], pd.DataFrame(rows(config, 1, 0, 1.0)))
    assert len(changes) == 0
    assert changes.index.names == ["recipe", "k"]


@pytest.mark.parametrize("metric", LABELS)
def test_quotients_are_geometric_means(metric: str):
    config = preset("resnet20", profile="smoke").updated(rewinds=(0, 4), levels=LEVEL)
    ratios = {1: 0.5, 2: 3.0}
    table = [
        row
        for r, q in ratios.items()
        for k, d in ((0, 7.0), (4, 7.0 * q))
        for row in rows(config, r, k, 1.0, **{metric: d})
    ]
    changes = changes_by_rewinding([config], pd.DataFrame(table))
    assert changes[f"{LABELS[metric]} (quotient)"].iloc[0].startswith(f"{math.sqrt(0.5 * 3.0):.2f}x (")
