"""The claims of the paper's section 5: its numbers, and verdicts on records made to agree or to disagree."""

import shutil
from collections.abc import Iterable

import pandas as pd
import pytest

from lth_core import preset
from lth_core.config import METHODS, Config
from lth_core.report.claims import claims, claims_of_networks, largest_recorded
from lth_core.study import plan, records

UNTESTED = "not yet tested at this scale"
NETWORKS = {"resnet50": 30, "inception_v3": 30, "squeezenet1_0": 50}
"""Network -> percentage of weights remaining that the paper's Figure 7 shows."""
NUMBERS = {
    "resnet50": ["+2.8 (iterative)", "-0.1", "+2.5", "no number", "no number"],
    "inception_v3": ["no number", "+0.1", "+1.6", "no number", "no number"],
    "squeezenet1_0": ["no number", "+0.1", "+55.0", "no number", "no number"],
}
"""Rewound ticket less initial (iterative at 32.8%), dense and reinitialised, read off Figure 8; no distances."""
every_network = pytest.mark.parametrize("network", NETWORKS)

Row = tuple[str, int, int, int, str, str, float]  # method, rewind, replicate, level, order, metric, value


@pytest.fixture(autouse=True)
def the_papers_values() -> None:
    records.results_folder().mkdir()
    shutil.copy(records.project_folder() / "results" / "paper_values.csv", records.results_folder())


def table(config: Config, rows: Iterable[Row]) -> pd.DataFrame:
    about = (config.digest(), config.network, config.recipe, config.profile, config.dataset)
    density = dict(enumerate((1.0, *(config.densities or ()))))
    full = [(*about, method, k, r, level, density[level], *what) for method, k, r, level, *what in rows]
    return pd.DataFrame(full, columns=records.COLUMNS)


def made_up(
    config: Config, *, initial: float, rewound: float, fresh: float, farther: float, replicates: int = 3
) -> pd.DataFrame:
    """The dense network at 70%; tickets and reinitialised ones above it by so many points; those at initialisation
    `farther` times as far apart as those rewound. Other levels and other orders say the opposite."""
    level, k = config.compared[0], config.rewinds[-1]
    rows: list[Row] = []
    for r in range(1, replicates + 1):
        rows.append(("dense", 0, r, 0, "0", "test_accuracy", 70.0 + r))
        for method, rewind, above in (("imp", 0, initial), ("imp", k, rewound), ("random_reinit", k, fresh)):
            rows.append(
                (method, rewind, r, level, "0", "test_accuracy", 70.0 + r + above + 0.01 * r * (method == "imp"))
            )
            rows.append((method, rewind, r, level - 1, "0", "test_accuracy", 70.0 + r - 9 * above))
        for rewind, distance in ((0, farther * (1 + r / 100)), (k, 1.0)):
            for metric in ("l2_data_order", "angle_data_order"):
                rows.append(("imp", rewind, r, level, "0-1", metric, r * distance))
                rows.append(("imp", rewind, r, level - 1, "0-1", metric, r / distance))
    return table(config, rows)


def words(config: Config, made: pd.DataFrame) -> list[str]:
    return [verdict.verdict for verdict in claims(config, made)]


@every_network
@pytest.mark.parametrize("profile", ["paper", "imagenette", "laptop"])
def test_every_network_gets_the_papers_claims_at_the_size_of_its_figure_7(network: str, profile: str):
    config = preset(network, profile=profile)
    size = NETWORKS[network]
    assert config.densities is not None
    assert [config.densities[level - 1] for level in config.compared] == [size / 100]
    verdicts = claims(config, pd.DataFrame(columns=records.COLUMNS))
    name = f"One-shot tickets of {size}% of the weights, rewound to {config.rewinds[-1]:,}, are "
    assert [verdict.claim.removeprefix(name) for verdict in verdicts] == [
        "more accurate than at initialisation (points)",
        "as accurate as the dense network (points)",
        "more accurate than the same structure reinitialised (points)",
        *(
            f"more stable to data order, {d}, than at initialisation (0 / {config.rewinds[-1]:,})"
            for d in ("L2", "angle")
        ),
    ]
    assert [verdict.paper for verdict in verdicts] == NUMBERS[network]
    assert {verdict.verdict for verdict in verdicts} == {UNTESTED}


def test_at_a_size_that_the_papers_figure_does_not_have_there_is_no_number_of_it():
    config = preset("squeezenet1_0", profile="smoke").updated(densities=(0.4,))
    assert [verdict.paper for verdict in claims(config, pd.DataFrame(columns=records.COLUMNS))] == 5 * ["no number"]


@every_network
def test_records_in_which_the_paper_is_right_support_every_claim(network: str):
    config = preset(network, profile="laptop")
    made = made_up(config, initial=-2.0, rewound=0.3, fresh=-3.0, farther=2.0)
    assert set(words(config, made)) == {"supported"}
    assert set(words(config, made[made["replicate"] == 1])) == {UNTESTED}


@every_network
def test_records_in_which_the_paper_is_wrong_support_no_claim(network: str):
    config = preset(network, profile="laptop")
    made = made_up(config, initial=-1.0, rewound=-2.0, fresh=0.5, farther=0.5)
    assert set(words(config, made)) == {"not supported"}


@pytest.mark.parametrize(
    ("claim", "changes", "word"),
    [
        (0, {"initial": 0.25}, "supported"),
        (0, {"initial": 0.35}, "not supported"),
        (1, {"rewound": -0.15}, "supported"),
        (1, {"rewound": -0.3}, "not supported"),
        (2, {"fresh": 0.25}, "supported"),
        (2, {"fresh": 0.4}, "not supported"),
        (3, {"farther": 1.1}, "supported"),
        (4, {"farther": 0.9}, "not supported"),
    ],
)
def test_the_bounds_are_those_that_are_stated(claim: int, changes: dict[str, float], word: str):
    config = preset("resnet50", profile="laptop")
    made = made_up(config, **{"initial": -1.0, "rewound": 0.3, "fresh": -1.0, "farther": 2.0} | changes)
    assert words(config, made)[claim] == word


def test_what_is_not_recorded_is_not_judged_and_the_rest_is():
    config = preset("squeezenet1_0", profile="laptop")
    made = made_up(config, initial=-2.0, rewound=0.3, fresh=-3.0, farther=2.0)
    without = made[made["method"] != "random_reinit"]
    assert words(config, without) == ["supported", "supported", UNTESTED, "supported", "supported"]


def complete(config: Config) -> pd.DataFrame:
    """Records of everything that a configuration asks for."""
    rows: list[Row] = []
    for t in plan.trainings(config):
        order, metric = ("0-0", "l2_noise_floor") if t.again else (str(t.order), "test_accuracy")
        rows.append((t.method, t.rewind, t.replicate, t.level, order, metric, 90.0 + t.replicate))
    return table(config, rows)


def record(config: Config, rows: pd.DataFrame) -> None:
    records.write(records.results_folder(), config, rows, pd.DataFrame(columns=records.PROVENANCE))


@every_network
def test_the_largest_scale_is_the_papers_before_imagenettes_before_the_laptops(network: str):
    config, rows = largest_recorded(network, "standard")
    assert config == preset(network)
    assert rows.empty
    for profile in ("laptop", "imagenette", "paper"):
        expected = preset(network, profile=profile)
        record(expected, complete(expected))
        assert largest_recorded(network, "standard")[0] == expected


def test_controls_that_are_recorded_at_the_compared_level_come_too():
    config = preset("squeezenet1_0", profile="laptop")
    record(config, complete(config.updated(methods=METHODS, compared_levels=(1, 2))))
    given, rows = largest_recorded("squeezenet1_0", "standard")
    assert given == config
    assert set(rows.loc[rows["method"] == "random_reinit", "level"]) == {2}


def test_the_table_of_claims_names_the_network_and_the_scale():
    config = preset("squeezenet1_0", profile="laptop")
    record(config, complete(config.updated(methods=METHODS)))
    found = claims_of_networks(["resnet50", "squeezenet1_0"]).reset_index().set_index("network")
    assert set(found.loc["ResNet-50", "scale"]) == {""}
    assert set(found.loc["SqueezeNet 1.0", "scale"]) == {"laptop, Imagenette"}
    assert found.loc["SqueezeNet 1.0", "replicates"].tolist() == [3, 3, 3, 0, 0]
