"""The plan: which trainings, distances and barriers a study asks for, which are missing, and what they need."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest
from conftest import Place, provenance_of, records_of

from lth_study import Study, preset, records
from lth_study.data.parts import Dataset
from lth_study.plan import Distance, distances, lost, missing, needed, select, trainings, unmeasured
from lth_study.runner import run
from lth_study.store import StudyStore, Training, dense

SMOKE = preset("lenet_300_100", profile="smoke").only("stability")
SMALL = SMOKE.updated(rewinds=(0,), methods=("imp",), barriers=False)
"""One replicate, pruned twice and rewound to 0; two data orders at the second level."""
GLOBAL = {"pruning_scope": "global", "output_pruning_rate": None}

DENSE, FIRST, SECOND, OTHER, AGAIN = ALL = [
    dense(1),
    Training(1, "imp", 0, 1, 0),
    Training(1, "imp", 0, 2, 0),
    Training(1, "imp", 0, 2, 1),
    Training(1, "imp", 0, 2, 0, again=True),
]
CONTROL = Training(1, "random_pruning", 0, 2, 0)
DISTANCES = [
    Distance("pruning", DENSE, FIRST),
    Distance("pruning", DENSE, SECOND),
    Distance("data_order", SECOND, OTHER),
    Distance("noise_floor", SECOND, AGAIN),
]

Row = tuple[Place, str, float]
COMPLETE: list[Row] = [
    (("dense", 0, 1, 0, "0"), "test_accuracy", 97.25),
    (("imp", 0, 1, 1, "0"), "l2_pruning", 4.321987),
    (("imp", 0, 1, 1, "0"), "test_accuracy", 97.5),
    (("imp", 0, 1, 2, "0"), "l2_pruning", 5.5),
    (("imp", 0, 1, 2, "0"), "test_accuracy", 97.75),
    (("imp", 0, 1, 2, "0-0"), "l2_noise_floor", 0.0),
    (("imp", 0, 1, 2, "0-1"), "l2_data_order", 12.3456789),
    (("imp", 0, 1, 2, "1"), "test_accuracy", 97.0),
]


def table(rows: Sequence[Row]) -> pd.DataFrame:
    return records_of(SMALL.setting, rows)


# What is asked for


def test_the_plan_of_a_small_study_is_the_one_written_down_by_hand():
    assert trainings(SMALL) == ALL
    assert [t for t in trainings(SMALL.updated(compared_levels=(1, 2))) if t.again] == [AGAIN]
    assert sorted(distances(SMALL), key=str) == sorted(DISTANCES, key=str)


LONG = {"rewinds": (0,), "levels": 3, "compared_levels": (1, 3), "replicates": 3, "orders": 4}


@pytest.mark.parametrize(
    ("changes", "count", "pruning", "data_order", "noise_floor"),
    [
        # 1 dense; at each of 2 rewinds 2 imp levels, 1 further order, 2 random prunings, 1 reinitialisation; 1 again.
        # The dense network is compared with 2 imp levels and 1 random pruning, and with no reinitialised ticket
        ({}, 1 + 2 * (2 + 1 + 2 + 1) + 1, 2 * 3, 2 * 2, 1),
        ({"replicates": 3}, 3 * 14, 3 * 6, 3 * 4, 3),
        ({"orders": 1}, 1 + 2 * (2 + 1 + 1), 2 * 3, 0, 0),  # none again, where no orders are compared
        ({"orders": 4}, 1 + 2 * (2 + 3 + 4 + 1) + 1, 2 * 3, 2 * 2 * 6, 1),  # 4 orders make 6 pairs
        ({"dense_orders": 3}, 14 + 2, 2 * 3, 2 * 2, 1),  # the dense network's other orders are compared with nothing
        ({"compared_levels": (1, 2)}, 1 + 2 * (2 + 2 * (1 + 2 + 1)) + 1, 2 * 4, 2 * 2 * 2, 1),
        ({"compared_levels": ()}, 1 + 2 * 2, 2 * 2, 0, 0),
        ({"levels": 0, "compared_levels": ()}, 1, 0, 0, 0),
        ({"methods": ("random_pruning",)}, 1 + 2 * (2 + 2), 2 * 3, 2, 0),
        ({"methods": ("random_reinit",)}, 1 + 2 * (2 + 1), 2 * 2, 0, 0),
        # 3 dense; 3 replicates x (3 levels + 2 compared x (3 further orders + 4 random prunings)); 3 again
        (LONG | {"methods": ("imp", "random_pruning")}, 3 + 3 * (3 + 2 * (3 + 4)) + 3, 3 * (3 + 2), 3 * 2 * 2 * 6, 3),
    ],
)
def test_the_numbers_of_trainings_and_distances_are_those_counted_by_hand(
    changes: dict[str, object], count: int, pruning: int, data_order: int, noise_floor: int
):
    plan, compared = trainings(SMOKE.updated(**changes)), distances(SMOKE.updated(**changes))
    assert len(plan) == len(set(plan)) == count
    assert len(compared) == len(set(compared))
    assert Counter(distance.kind for distance in compared) == +Counter(
        pruning=pruning, data_order=data_order, noise_floor=noise_floor
    )


def test_figures_share_what_they_have_in_common_and_compare_what_both_train():
    """Accuracy alone has one data order at each level; stability a second one at the last."""
    accuracy = SMALL.extent.updated(compared_levels="all", orders=1)
    assert trainings(Study(SMALL.setting, {"accuracy": accuracy})) == ALL[:3]
    both = Study(SMALL.setting, {"accuracy": accuracy, "stability": SMALL.extent})
    assert set(trainings(both)) == set(ALL)
    assert set(distances(both)) == set(DISTANCES)


@pytest.mark.parametrize(("changes", "expected"), [({}, [9]), ({"reinit_length": "remaining"}, [3, 9])])
def test_one_shot_reinitialisation_is_trained_once_where_it_is_the_same_for_every_rewinding_iteration(
    changes: dict[str, object], expected: list[int]
):
    plan = trainings(SMOKE.updated(**GLOBAL, densities=(0.5, 0.2), rewinds=(9, 3), **changes))
    assert sorted(t.rewind for t in plan if t.method == "random_reinit") == expected
    assert {t.rewind for t in plan if t.method == "random_pruning"} == {3, 9}


def test_what_a_training_needs_stands_before_it():
    plan = trainings(SMOKE.updated(replicates=2, levels=3, compared_levels=(1, 3)))
    for t in plan:
        before = [u for u in plan if u.replicate == t.replicate and u.method == "dense" and u != t]
        before += [Training(t.replicate, "imp", t.rewind, level, 0) for level in range(1, t.level)]
        assert all(plan.index(u) < plan.index(t) for u in before)


# Which rows are asked for, and what is missing


NOT_ASKED_FOR: list[Row] = [
    (("imp", 0, 1, 3, "0"), "test_accuracy", 1.0),
    (("imp", 0, 2, 2, "0"), "test_accuracy", 1.0),
    (("dense", 0, 2, 0, "0"), "test_accuracy", 1.0),
    (("imp", 20, 1, 2, "0"), "test_accuracy", 1.0),
    (("imp", 0, 1, 2, "2"), "test_accuracy", 1.0),
    (("imp", 0, 1, 1, "1"), "test_accuracy", 1.0),
    (("imp", 0, 1, 2, "0-2"), "l2_data_order", 1.0),
    (("imp", 0, 1, 2, "1-2"), "l2_data_order", 1.0),
    (("imp", 0, 1, 1, "0-1"), "l2_data_order", 1.0),
    (("random_pruning", 0, 1, 2, "0"), "test_accuracy", 1.0),
    (("random_pruning", 0, 1, 2, "0-1"), "l2_data_order", 1.0),
    (("imp", 0, 1, 1, "0-0"), "l2_noise_floor", 0.0),
    (("imp", 0, 1, 2, "0-1"), "barrier_data_order_test_mean", 1.0),
]


def test_select_leaves_out_what_is_not_asked_for_and_nothing_else():
    assert select(table([*NOT_ASKED_FOR, *COMPLETE]), SMALL).equals(table(COMPLETE))
    nothing = select(table([]), SMALL)
    assert (len(nothing), list(nothing.columns)) == (0, records.COLUMNS)


@pytest.mark.parametrize(
    ("row", "training", "distance"),
    [(0, DENSE, None), (1, None, DISTANCES[0]), (2, FIRST, None), (3, None, DISTANCES[1]), (4, SECOND, None),
     (5, AGAIN, DISTANCES[3]), (6, None, DISTANCES[2]), (7, OTHER, None)],
)  # fmt: skip
def test_each_row_is_missing_where_it_is_not_recorded(row: int, training: Training | None, distance: Distance | None):
    """The distance of a repetition stands for its training. No angle is asked for: an empty network has none."""
    assert (missing(table(COMPLETE), SMALL), unmeasured(table(COMPLETE), SMALL)) == ([], [])
    found = table(COMPLETE).drop(index=row)
    assert missing(found, SMALL) == ([training] if training else [])
    assert unmeasured(found, SMALL) == ([distance] if distance else [])


def test_what_is_asked_for_beyond_the_records_is_missing():
    assert missing(table([]), SMALL) == ALL
    assert set(unmeasured(table([]), SMALL)) == set(DISTANCES)
    third = Training(1, "imp", 0, 2, 2)
    assert missing(table(COMPLETE), SMALL.updated(orders=3)) == [third]
    wider = {Distance("data_order", SECOND, third), Distance("data_order", OTHER, third)}
    assert set(unmeasured(table(COMPLETE), SMALL.updated(orders=3))) == wider
    second = [replace(t, replicate=2) for t in ALL]
    assert missing(table(COMPLETE), SMALL.updated(replicates=2)) == second


# What diverged


def diverged(method: str, rewind: int, level: int, order: str = "0") -> Row:
    return (method, rewind, 1, level, order), "diverged", 66.0


@pytest.mark.parametrize(
    ("row", "changes", "gone"),
    [
        (diverged("dense", 0, 0), {}, ALL),
        (diverged("imp", 0, 1), {}, ALL[1:]),
        (diverged("imp", 0, 2), {}, [SECOND, AGAIN]),  # another order has the same mask
        (diverged("imp", 0, 2, "1"), {}, [OTHER]),
        (diverged("random_pruning", 0, 2), {"methods": ("imp", "random_pruning")}, [CONTROL]),
        (diverged("imp", 20, 1), {"rewinds": (0, 20)}, [replace(t, rewind=20) for t in (FIRST, SECOND, OTHER)]),
        (diverged("dense", 0, 0), {"replicates": 2}, ALL),
        (diverged("dense", 0, 0, "1"), {"dense_orders": 2}, [dense(1, 1)]),
        (diverged("imp", 0, 1), {**GLOBAL, "densities": (0.5, 0.2)}, [FIRST]),  # one-shot levels stand alone
    ],
    ids=lambda value: "-".join(map(str, value[0])) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_diverged_and_what_builds_on_it_is_lost_and_asked_for_by_nobody(
    row: Row, changes: dict[str, object], gone: list[Training]
):
    study = SMALL.updated(**changes)
    found = table([row])
    assert set(lost(found, study)) == set(gone)
    assert set(missing(found, study)) == set(trainings(study)) - set(gone)
    assert set(unmeasured(found, study)) == {d for d in distances(study) if not {d.a, d.b} & set(gone)}


# What missing trainings and distances need


@pytest.mark.parametrize(
    ("absent", "open_distances", "complete", "expected"),
    [
        ([], [], [], []),
        (ALL, DISTANCES, [], ALL),
        ([SECOND], [], [], [DENSE, FIRST, SECOND]),
        ([SECOND], [], [DENSE, FIRST], [DENSE, FIRST, SECOND]),  # a chain continues from its deepest complete level
        ([], [DISTANCES[0]], [], [DENSE, FIRST]),
        ([], [DISTANCES[2]], [], [DENSE, FIRST, SECOND, OTHER]),
        ([], [DISTANCES[3]], [], [DENSE, FIRST, SECOND, AGAIN]),
        ([], [DISTANCES[2]], [SECOND], [DENSE, SECOND, OTHER]),
        ([OTHER], [DISTANCES[2]], [DENSE, FIRST, SECOND], [DENSE, SECOND, OTHER]),
        ([FIRST], [DISTANCES[2]], [SECOND], [DENSE, FIRST, SECOND, OTHER]),
    ],
)
def test_what_is_needed_is_both_ends_and_the_levels_they_build_on(
    absent: list[Training], open_distances: list[Distance], complete: list[Training], expected: list[Training]
):
    assert needed(absent, open_distances, SMALL, complete) == expected


def test_the_ends_of_a_one_shot_distance_need_their_own_level_only():
    study = SMALL.updated(**GLOBAL, densities=(0.5, 0.2), methods=("imp", "random_pruning"))
    assert needed([], [Distance("pruning", DENSE, CONTROL)], study) == [DENSE, SECOND, CONTROL]
    assert needed([CONTROL], [], study) == [DENSE, SECOND, CONTROL]


# `run` on such records


def write(study: Study, rows: Sequence[Row], images: str) -> None:
    made = provenance_of(dict.fromkeys(place for place, metric, _ in rows if metric != "l2_noise_floor"))
    found = records_of(study.setting, rows), made.assign(data_fingerprint=images)
    records.write(records.results_folder(), study.setting, *found)


def in_store(study: Study) -> set[Training]:
    return set(StudyStore(records.store_folder(), study.setting).results())


def test_recorded_ends_are_trained_again_only_to_compare_them_with_what_is_missing(embedded_mnist: Dataset):
    """Both replicates are recorded without comparisons. Then a third data order of the second one is asked for."""
    study = SMALL.updated(levels=1, iterations=5, replicates=2, barriers=True)
    rows = [((t.method, 0, t.replicate, t.level, str(t.order)), "test_accuracy", 90.0) for t in trainings(study)]
    rows += [(("imp", 0, replicate, 1, "0-0"), "l2_noise_floor", 0.0) for replicate in (1, 2)]
    write(study, list(dict.fromkeys(rows)), embedded_mnist.fingerprint())
    alone = run(study)
    assert set(alone["metric"]) == {"test_accuracy", "l2_noise_floor"}
    assert Counter(c.kind for c in unmeasured(alone, study)) == Counter(
        pruning=4,
        data_order=4,
        level_masked=2,  # at level 1, the ticket before is the dense network
    )
    assert not records.store_folder().exists()
    third = study.updated(orders=3, replicates=(2,)).extent
    found = run(Study(study.setting, {"stability": study.extent, "third": third}), workers=1)
    assert in_store(study) == {dense(2), *(Training(2, "imp", 0, 1, order) for order in range(3))}
    for metric in ("l2_data_order", "barrier_data_order_test_mean"):
        compared = found[found["metric"] == metric]
        assert compared[["replicate", "order"]].to_numpy().tolist() == [[2, "0-1"], [2, "0-2"], [2, "1-2"]]


@pytest.mark.parametrize(
    ("row", "trained", "measured"),
    [
        (diverged("dense", 0, 0), set(), []),
        (diverged("imp", 0, 2, "1"), {DENSE, FIRST, SECOND, AGAIN}, ["noise_floor", "pruning", "pruning"]),
        (diverged("imp", 0, 1), {DENSE}, []),
    ],
    ids=["dense", "an order", "a level"],
)
def test_run_neither_trains_what_is_lost_nor_waits_for_its_distances(
    row: Row, trained: set[Training], measured: list[str], embedded_mnist: Dataset
):
    study = SMALL.updated(iterations=5)
    write(study, [row], embedded_mnist.fingerprint())
    for _ in range(2):  # the second time nothing is left to do
        found = run(study, workers=1)
        assert in_store(study) == trained
        lengths = found.loc[found["metric"].str.startswith("l2"), "metric"]
        assert sorted(lengths.str.removeprefix("l2_")) == measured
