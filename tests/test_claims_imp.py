"""The claims about IMP alone, at every larger scale at which nothing else is recorded."""

import shutil

import pandas as pd
import pytest

from lth_core import preset
from lth_core.config import Config
from lth_core.report.claims import claims_of_networks
from lth_core.report.claims_imp import Paper, imp_alone, imp_claims, larger_scales, rewound_to
from lth_core.study import plan, records

CHANGE = {0: -1.0, 500: 0.5, 100: 2.0, 25: 3.0}
"""Rewinding iteration -> points by which a ticket is better than the dense network, at every level."""


@pytest.fixture(autouse=True)
def the_papers_values() -> None:
    records.results_folder().mkdir()
    shutil.copy(records.project_folder() / "results" / "paper_values.csv", records.results_folder())


def chains(config: Config, levels: int, lost: tuple[int, int] | None = None) -> pd.DataFrame:
    """Records of IMP to a level; `lost` names a replicate and a level that are not among them."""
    about = [config.digest(), config.network, config.recipe, config.profile, config.dataset]
    rows = []
    for t in plan.trainings(imp_alone(config, levels)):
        if (t.replicate, t.level) != lost:
            accuracy = 80.0 + t.replicate + (CHANGE[t.rewind] + 0.01 * t.replicate if t.level else 0.0)
            where = [t.method, t.rewind, t.replicate, t.level, 0.8**t.level]
            rows.append([*about, *where, "0", "test_accuracy", accuracy])
            if t.level:
                rows.append([*about, *where, "0", "l2_pruning", t.replicate * (4.0 if t.rewind else 10.0)])
    return pd.DataFrame(rows, columns=records.COLUMNS)


def record(config: Config, rows: pd.DataFrame) -> None:
    records.write(records.results_folder(), config, rows, pd.DataFrame(columns=records.PROVENANCE))


def paper() -> Config:
    return preset("resnet20").updated(rewinds=(0, 500), precision="bfloat16")


def test_the_claims_at_the_last_level_beside_the_papers_curves_at_that_size():
    part = imp_alone(paper(), 6)
    found = imp_claims(part, chains(paper(), 6), Paper(part, 26.2))
    assert [verdict.ours for verdict in found] == ["-0.98", "+1.50", "+0.52", "2.50x"]
    # Figure 5 nearest to 26.2% is at 27.1%: 88.9 of 90.5 at initialisation, 91.19 of 91.04 rewound
    assert [verdict.paper for verdict in found] == ["-1.6", "+1.7", "+0.1", "no number"]
    assert [verdict.verdict for verdict in found] == 4 * ["supported"]


def test_larger_scales_come_longest_first_each_as_deep_as_all_replicates_are_recorded():
    laptop, tenth = preset("resnet20", profile="laptop"), preset("resnet20", profile="tenth")
    record(paper(), chains(paper(), 7, lost=(2, 6)))
    record(tenth, chains(tenth, 8))
    record(laptop, chains(laptop.updated(rewinds=(0, 25)), 8))
    record(preset("vgg19"), chains(preset("vgg19").updated(rewinds=(0, 100)), 3))
    found = [(scale, part.levels, rows["level"].max()) for scale, part, rows in larger_scales(laptop)]
    assert found == [
        ("paper, CIFAR-10, bfloat16, 33% of the weights", 5, 5),
        ("tenth, CIFAR-10, 17% of the weights", 8, 8),
    ]
    assert [scale.split(",")[0] for scale, _, _ in larger_scales(tenth)] == ["paper"]
    assert not list(larger_scales(paper()))


def test_a_replicate_that_has_only_begun_is_left_out_and_without_a_level_there_is_no_scale():
    laptop = preset("resnet20", profile="laptop")
    record(paper(), chains(paper(), 3, lost=(3, 1)))
    ((_, part, rows),) = larger_scales(laptop)
    assert (part.replicates, part.levels, set(rows["replicate"])) == ((1, 2), 3, {1, 2})
    record(paper(), chains(paper(), 0))
    assert not list(larger_scales(laptop))


def test_a_scale_is_what_is_recorded_and_not_what_was_asked_for_first():
    for first in ((500,), (0,)):
        record(paper().updated(replicates=1, rewinds=first, curve_rewinds=first, levels=2), chains(paper(), 5))
        ((_, part, rows),) = larger_scales(preset("resnet20", profile="laptop"))
        assert (part.replicates, part.levels, part.rewinds) == ((1, 2, 3), 5, (0, 500))
        assert set(rows["rewind"]) == {0, 500}


def test_a_larger_scale_that_is_no_presets_is_judged_as_it_was_asked_for():
    own = paper().updated(profile="mine", iterations=2_000, drops=(), rewinds=(0, 25), curve_rewinds=(0, 25), levels=3)
    record(own, chains(own, 3))
    ((_, part, _),) = larger_scales(preset("resnet20", profile="laptop"))
    assert (part.levels, part.rewinds) == (3, (0, 25))


def test_rewinding_is_judged_at_the_iteration_whose_curve_is_drawn_if_that_is_asked_for():
    laptop = preset("resnet20", profile="laptop")
    assert rewound_to(laptop) == 25
    assert rewound_to(laptop.updated(rewinds=(0, 200))) == 200


def test_the_table_of_claims_has_larger_scales_before_the_one_at_which_stability_is_recorded():
    laptop = preset("resnet20", profile="laptop").updated(rewinds=(0, 25), compared_levels=())
    record(paper(), chains(paper(), 6))
    everything = chains(laptop, 8)
    controls = everything[everything["level"] == 8].assign(method="random_pruning")
    orders = pd.concat([everything[everything["level"] == 8], controls])
    orders = pd.concat([orders.assign(order=str(order)) for order in (1, 2, 3)])
    again = everything[(everything["level"] == 8) & (everything["metric"] == "test_accuracy")]
    again = again.assign(order="0-0", metric="l2_noise_floor", value=0.0)
    preset_laptop = preset("resnet20", profile="laptop").updated(replicates=3)
    record(preset_laptop, pd.concat([everything[everything["replicate"] <= 3], controls, orders, again]))
    table = claims_of_networks(["resnet20"]).reset_index()
    scales = list(dict.fromkeys(table.loc[table["recipe"] == "standard", "scale"]))
    assert scales == ["paper, CIFAR-10, bfloat16, 26% of the weights", "laptop, CIFAR-10"]
    assert (table["scale"] == scales[0]).sum() == 4
