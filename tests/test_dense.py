"""Changes of the dense network are paired by replicate and processor, and said no stronger than their intervals."""

import pandas as pd
import pytest
from conftest import provenance_of, records_of

from lth_study import Study, preset
from lth_study.records import COLUMNS, results_folder, write
from lth_study.report.dense import dense_changes, dense_changes_in_words, recorded

BASE = preset("resnet20", profile="tenth").only("stability").updated(levels=0, orders=1, rewinds=(0,))
EPYC, XEON = "AMD EPYC (AVX2)", "Intel Xeon (AVX512)"


def rows(
    study: Study, test: dict[int, float], train: dict[int, float] | None = None, device: str = EPYC
) -> pd.DataFrame:
    """Records of dense networks: replicate -> accuracy."""
    metrics = {"test_accuracy": test, "validation_accuracy": dict.fromkeys(test, 1.0), "train_accuracy": train or {}}
    values = [(("dense", 0, r, 0, "0"), metric, v) for metric, sample in metrics.items() for r, v in sample.items()]
    return records_of(study.setting, values).assign(device=device, finished="2026-12-01T00:00Z")


NOTHING = rows(BASE, {})
JPEG = BASE.updated(dataset="cifar10_jpeg")
ROUNDED = BASE.updated(precision="bfloat16")
ONES = BASE.updated(batch_norm_scale="one")


@pytest.fixture
def variants() -> dict[str, pd.DataFrame]:
    """Differences by hand: of JPEG -3, -4 and -2; of bfloat16 0.5, -0.5 and 0."""
    elsewhere = rows(ONES, {2: 90.0, 3: 91.0}, device=XEON)
    return {
        "none": rows(BASE, {1: 80.0, 2: 82.0, 3: 84.0}, {1: 85.0, 2: 86.0, 3: 90.0}),
        "JPEG": rows(JPEG, {3: 82.0, 1: 77.0, 2: 78.0}, {1: 80.0, 2: 81.0, 3: 82.0}),
        "bfloat16": rows(ROUNDED, {1: 80.5, 2: 81.5, 3: 84.0, 4: 99.0}),
        "ones": elsewhere,
        "some ones": pd.concat([rows(ONES, {1: 81.25}), elsewhere]),
        "decay": NOTHING,
    }


def test_every_variant_is_compared_with_the_first_pair_by_pair(variants):
    """Student's t for two degrees of freedom is 4.30265: a half-width of 2.484 deviations over the root of 3."""
    table = dense_changes(variants)
    assert list(table.index) == list(variants)
    shown = table["difference (points)"].to_dict()
    assert shown == {
        "none": "",
        "JPEG": "-3.00 (-5.48 to -0.52)",
        "bfloat16": "+0.00 (-1.24 to +1.24)",
        "ones": "not compared",  # another kind of processor
        "some ones": "+1.25 (no interval)",
        "decay": "",
    }
    assert table["pairs"].tolist() == ["", "3", "3", "0", "1", ""]
    assert table["replicates"].tolist() == ["3", "3", "4", "2", "3", "0"]


def test_every_row_names_its_images_its_processor_and_what_is_not_recorded(variants):
    table = dense_changes(variants)
    assert table["images"].tolist() == ["CIFAR-10", "CIFAR-10 (JPEG)", "CIFAR-10", "CIFAR-10", "CIFAR-10", ""]
    assert table["processor"].tolist() == [EPYC, EPYC, EPYC, XEON, f"{EPYC}, {XEON}", ""]
    assert table["test accuracy (%)"]["none"] == "82.0 (80.0 to 84.0)"
    training = table["training accuracy (%)"]
    assert training.tolist() == ["87.0 (85.0 to 90.0)", "81.0 (80.0 to 82.0)", *["not recorded"] * 4]
    assert table["test accuracy (%)"]["decay"] == "not recorded"


def test_a_network_trained_in_several_data_orders_counts_once_with_their_mean(variants):
    """The mean of 80.5 and 83.5 is 82, two points above the first variant's 80."""
    again = rows(ROUNDED, {1: 83.5}).query("metric == 'test_accuracy'").assign(order="1")
    variants["bfloat16"] = pd.concat([rows(ROUNDED, {1: 80.5, 2: 81.5}), again])
    shown = dense_changes(variants).loc["bfloat16"]
    assert (shown["test accuracy (%)"], shown["replicates"]) == ("81.8 (81.5 to 82.0)", "2")
    assert (shown["difference (points)"].split(" ")[0], shown["pairs"]) == ("+0.75", "2")  # of 2 and -0.5


def test_trainings_that_diverged_are_counted(variants):
    lost = rows(ROUNDED, {3: 7.0}).query("metric == 'test_accuracy'").assign(metric="diverged", value=700.0)
    variants["bfloat16"] = pd.concat([rows(ROUNDED, {1: 80.5, 2: 81.5}), lost])
    assert dense_changes(variants).loc["bfloat16", ["replicates", "pairs"]].tolist() == ["2 (1 diverged)", "2"]


def test_an_interval_that_includes_0_is_said_to_tell_nothing_below_its_half_width(variants):
    assert dense_changes_in_words(variants) == (
        "The interval excludes 0 for JPEG. "
        "The interval includes 0 for bfloat16: 3 pairs cannot tell differences under 1.2 points from none. "
        "There is no interval yet for ones; some ones; decay."
    )


def test_without_the_first_variant_nothing_is_compared(variants):
    variants["none"] = NOTHING
    table = dense_changes(variants)
    assert set(table["difference (points)"]) == {"", "not compared"}
    assert dense_changes_in_words(variants) == ("There is no interval yet for JPEG; bfloat16; ones; some ones; decay.")


def test_what_is_recorded_of_the_replicates_asked_for_comes_with_its_device():
    made = provenance_of([("dense", 0, r, 0, "0") for r in (1, 2, 5)], device=EPYC)
    own = rows(BASE, {1: 80.0, 2: 82.0, 5: 84.0})[COLUMNS]
    write(results_folder(), BASE.setting, own, made)
    found = recorded(BASE.updated(replicates=(2, 3, 5)), missing="error").query("metric == 'test_accuracy'")
    assert found[["replicate", "value", "device"]].to_numpy().tolist() == [[2, 82.0, EPYC], [5, 84.0, EPYC]]
    for missing in ("error", "train"):  # there are no images to train on
        assert len(recorded(JPEG, missing=missing)) == 0
