"""Records: what a configuration asks for, what of it is there, and tables that come back as they were written."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from lth_study import records
from lth_study.files import StoreError, write_json
from lth_study.plan import missing, select, trainings
from lth_study.presets import preset
from lth_study.records import (
    COLUMNS,
    PROVENANCE,
    add,
    import_folder,
    merge,
    read,
    results_folder,
    store_folder,
    traced,
    write,
)
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training

SMOKE = preset("lenet_300_100", profile="smoke").only("stability")
SMALL = SMOKE.updated(rewinds=(0,), levels=2, compared_levels=(2,), methods=("imp",), replicates=1, orders=2)
SETTING = SMALL.setting
OTHER = SETTING.updated(learning_rate=1e-4)
SMALL_TRAININGS = {
    Training(1, "dense", 0, 0, 0),
    Training(1, "imp", 0, 1, 0),
    Training(1, "imp", 0, 2, 0),
    Training(1, "imp", 0, 2, 1),
    Training(1, "imp", 0, 2, 0, again=True),
}
Place = tuple[str, int, int, int, str]  # method, rewind, replicate, level, order


def table(places: Iterable[tuple[Place, str, float]], setting: Setting = SETTING) -> pd.DataFrame:
    about = (setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset)
    rows = [
        (*about, method, rewind, replicate, level, 0.8**level, order, metric, value)
        for (method, rewind, replicate, level, order), metric, value in places
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


COMPLETE = [
    (("dense", 0, 1, 0, "0"), "test_accuracy", 97.25),
    (("imp", 0, 1, 1, "0"), "l2_pruning", 4.321987),
    (("imp", 0, 1, 1, "0"), "test_accuracy", 97.5),
    (("imp", 0, 1, 2, "0"), "test_accuracy", 97.75),
    (("imp", 0, 1, 2, "0-0"), "l2_noise_floor", 0.0),
    (("imp", 0, 1, 2, "0-1"), "l2_data_order", 12.3456789),
    (("imp", 0, 1, 2, "1"), "test_accuracy", 97.0),
]


def provenance(places: Iterable[Place]) -> pd.DataFrame:
    about = (120, 0.3, "a processor", "0.1.0", "2.14.1", "3.11.7", "0123456789abcdef", "2026-01-02T03:04Z", 2)
    return pd.DataFrame([(*place, *about) for place in places], columns=PROVENANCE)


TRACED = [("dense", 0, 1, 0, "0"), ("imp", 0, 1, 1, "0"), ("imp", 0, 1, 2, "0"), ("imp", 0, 1, 2, "0-again")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_trainings_of_a_small_study_are_those_written_down_by_hand():
    plan = trainings(SMALL)
    assert len(plan) == 5
    assert set(plan) == SMALL_TRAININGS
    assert plan[0] == Training(1, "dense", 0, 0, 0)
    assert plan[-1].again


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 1 dense; at each of 2 rewinds 2 imp levels, 1 further order, 2 random prunings, 1 reinitialisation; 1 again
        ({}, 1 + 2 * (2 + 1 + 2 + 1) + 1),
        ({"replicates": 3}, 3 * 14),
        ({"orders": 1}, 1 + 2 * (2 + 1 + 1)),  # none again, where no orders are compared
        ({"orders": 4}, 1 + 2 * (2 + 3 + 4 + 1) + 1),
        ({"compared_levels": (1, 2)}, 1 + 2 * (2 + 2 * (1 + 2 + 1)) + 1),
        ({"compared_levels": ()}, 1 + 2 * 2),
        ({"levels": 0, "compared_levels": ()}, 1),
        ({"methods": ("random_pruning",)}, 1 + 2 * (2 + 2)),
        # 3 dense; 3 replicates x (3 levels + 2 compared x (3 further orders + 4 random prunings)); 3 again
        (
            {"rewinds": (0,), "levels": 3, "compared_levels": (1, 3), "replicates": 3, "orders": 4}
            | {"methods": ("imp", "random_pruning")},
            3 + 3 * (3 + 2 * (3 + 4)) + 3,
        ),
    ],
)
def test_the_number_of_trainings_is_that_counted_by_hand(changes: dict[str, object], expected: int):
    plan = trainings(SMOKE.updated(**changes))
    assert len(plan) == expected
    assert len(set(plan)) == expected


@pytest.mark.parametrize(("changes", "expected"), [({}, [9]), ({"reinit_length": "remaining"}, [3, 9])])
def test_one_shot_reinitialisation_is_trained_once_where_it_is_the_same_for_every_rewinding_iteration(
    changes: dict[str, object], expected: list[int]
):
    once = {"pruning_scope": "global", "output_pruning_rate": None, "densities": (0.5, 0.2), "rewinds": (9, 3)}
    plan = trainings(SMOKE.updated(**once, **changes))
    assert sorted(t.rewind for t in plan if t.method == "random_reinit") == expected
    assert {t.rewind for t in plan if t.method == "random_pruning"} == {3, 9}


def test_what_a_training_needs_stands_before_it():
    plan = trainings(SMOKE.updated(replicates=2, levels=3, compared_levels=(1, 3)))
    for t in plan:
        needed = [u for u in plan if u.replicate == t.replicate and u.method == "dense" and u != t]
        needed += [Training(t.replicate, "imp", t.rewind, level, 0) for level in range(1, t.level)]
        assert all(plan.index(u) < plan.index(t) for u in needed)


def test_select_gives_every_row_of_what_is_asked_for():
    assert select(table(COMPLETE), SMALL).equals(table(COMPLETE))


@pytest.mark.parametrize(
    "row",
    [
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
    ],
    ids=lambda row: "-".join(map(str, (*row[0], row[1]))),
)
def test_select_leaves_out_what_is_not_asked_for(row: tuple[Place, str, float]):
    assert select(table([row, *COMPLETE]), SMALL).equals(table(COMPLETE))


def test_select_of_nothing_is_nothing_with_the_same_columns():
    selected = select(table([]), SMALL)
    assert len(selected) == 0
    assert list(selected.columns) == COLUMNS


def test_nothing_is_missing_from_complete_records():
    assert missing(table(COMPLETE), SMALL) == []


def test_everything_is_missing_from_no_records():
    assert set(missing(table([]), SMALL)) == SMALL_TRAININGS


@pytest.mark.parametrize(
    ("row", "training"),
    [
        (0, Training(1, "dense", 0, 0, 0)),
        (2, Training(1, "imp", 0, 1, 0)),
        (3, Training(1, "imp", 0, 2, 0)),
        (4, Training(1, "imp", 0, 2, 0, again=True)),
        (6, Training(1, "imp", 0, 2, 1)),
    ],
)
def test_the_training_without_its_row_is_missing(row: int, training: Training):
    assert missing(table(COMPLETE).drop(index=row), SMALL) == [training]


def test_what_is_asked_for_beyond_the_records_is_missing():
    wider = SMALL.updated(orders=3, replicates=2)
    second = {Training(2, t.method, t.rewind, t.level, t.order, t.again) for t in SMALL_TRAININGS}
    further = {Training(r, "imp", 0, 2, 2) for r in (1, 2)}
    assert set(missing(table(COMPLETE), wider)) == second | further


def test_nothing_below_a_dense_run_that_diverged_is_missing():
    rows = [(("dense", 0, 1, 0, "0"), "diverged", 66)]
    assert missing(table(rows), SMALL) == []
    assert missing(table(rows), SMOKE) == []
    assert {t.replicate for t in missing(table(rows), SMALL.updated(replicates=2))} == {2}


def test_below_a_level_that_diverged_only_the_other_rewinds_are_missing():
    study = SMALL.updated(rewinds=(0, 20))
    rows = [
        (("dense", 0, 1, 0, "0"), "test_accuracy", 97.25),
        (("imp", 20, 1, 1, "0"), "diverged", 66),
    ]
    assert set(missing(table(rows), study)) == SMALL_TRAININGS - {Training(1, "dense", 0, 0, 0)}


def test_a_control_or_a_further_order_that_diverged_hides_nothing():
    study = SMALL.updated(compared_levels=(1, 2), methods=("imp", "random_pruning"), orders=2)
    rows = [
        (("dense", 0, 1, 0, "0"), "test_accuracy", 97.25),
        (("random_pruning", 0, 1, 1, "0"), "diverged", 66),
        (("imp", 0, 1, 1, "1"), "diverged", 66),
    ]
    recorded = {Training(1, "random_pruning", 0, 1, 0), Training(1, "imp", 0, 1, 1), Training(1, "dense", 0, 0, 0)}
    assert set(missing(table(rows), study)) == set(trainings(study)) - recorded


def test_the_noise_floor_of_a_level_that_diverged_is_not_missing():
    rows = [*COMPLETE[:3], (("imp", 0, 1, 2, "0"), "diverged", 66), COMPLETE[6]]
    assert missing(table(rows), SMALL) == []


def test_records_come_back_as_they_were_written(tmp_path: Path):
    folder = write(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    assert folder == tmp_path / "records" / SETTING.name
    back, traced = read(tmp_path / "records", SETTING)
    pd.testing.assert_frame_equal(back, table(COMPLETE), check_dtype=False, rtol=1e-6)
    pd.testing.assert_frame_equal(traced, provenance(TRACED), check_dtype=False)
    assert list(back["order"]) == ["0", "0", "0", "0", "0-0", "0-1", "1"]
    assert all(isinstance(order, str) for order in (*back["order"], *traced["order"]))


def test_orders_and_digests_that_look_like_numbers_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Setting, "digest", lambda _: "012345678901")
    rows = table(COMPLETE[:2]).assign(digest="012345678901")
    write(tmp_path / "records", SETTING, rows, provenance(TRACED[:2]))
    back, traced = read(tmp_path / "records", SETTING)
    assert list(back["digest"]) == ["012345678901"] * 2
    assert list(back["order"]) == list(traced["order"]) == ["0", "0"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[:-1], "cut off in its last line"),
        (lambda text: text[: text.rindex(",") - 3] + "\n", "an empty cell"),
        (lambda text: text.replace(",imp,", ",magic,", 1), "an unknown method"),
        (lambda text: text + text.splitlines()[-1] + "\n", "what another row says"),
        (lambda text: text.replace("\n", "\n<<<<<<< ours\n", 1), "cannot be read"),
        (lambda text: text.replace(SETTING.digest(), "0123456789ab", 1), "records of other studies: 0123456789ab"),
        (lambda text: text[: text.rindex(",") + 1] + "much\n", "cannot be read: .*much"),
    ],
    ids=["cut", "cut in a row", "method", "twice", "conflict", "digest", "no number"],
)
def test_records_that_were_altered_or_cut_off_are_refused(harm: Callable[[str], str], said: str, tmp_path: Path):
    file = write(tmp_path, SETTING, table(COMPLETE), provenance(TRACED)) / "records.csv"
    file.write_text(harm(file.read_text()))
    with pytest.raises(StoreError, match=said) as raised:
        read(tmp_path, SETTING)
    assert str(file) in str(raised.value)


def test_the_columns_are_those_of_the_contract(tmp_path: Path):
    folder = write(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    header = (folder / "records.csv").read_text().splitlines()[0]
    assert header == "digest,network,recipe,profile,dataset,method,rewind,replicate,level,density,order,metric,value"
    assert {file.name for file in folder.iterdir()} == {"config.json", "records.csv", "provenance.csv"}
    described = (folder / "config.json").read_text()
    write(folder.parent, SETTING, *read(folder.parent, SETTING))
    assert (folder / "config.json").read_text() == described


def test_records_that_are_not_there_are_empty_tables_with_the_same_columns(tmp_path: Path):
    back, traced = read(tmp_path / "records", SETTING)
    assert (len(back), len(traced)) == (0, 0)
    assert list(back.columns) == COLUMNS
    assert list(traced.columns) == PROVENANCE


def test_records_from_before_workers_were_recorded_are_read_and_added_to(tmp_path: Path):
    traced = provenance(TRACED[:2]).drop(columns="workers")
    write(tmp_path, SETTING, table(COMPLETE[:3]), traced)
    assert read(tmp_path, SETTING)[1]["workers"].isna().all()
    add(tmp_path, SETTING, table(COMPLETE[3:]), provenance(TRACED[2:]))
    file = tmp_path / SETTING.name / "provenance.csv"
    assert [line.rsplit(",", 1)[1] for line in file.read_text().splitlines()] == ["workers", "", "", "2", "2"]
    assert read(tmp_path, SETTING)[1]["workers"].tolist() == [pd.NA, pd.NA, 2, 2]


def test_a_table_with_other_columns_is_refused(tmp_path: Path):
    folder = write(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    (folder / "records.csv").write_text("method,value\nimp,97\n")
    with pytest.raises(StoreError, match=r"records\.csv has the columns"):
        read(tmp_path / "records", SETTING)


def test_adding_the_same_records_again_changes_nothing(tmp_path: Path):
    folder = add(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    before = contents(folder)
    add(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    assert contents(folder) == before
    back, _ = read(tmp_path / "records", SETTING)
    add(tmp_path / "records", SETTING, back, provenance(TRACED))
    assert contents(folder) == before


def test_adding_new_records_keeps_the_old_ones(tmp_path: Path):
    add(tmp_path / "records", SETTING, table(COMPLETE[:3]), provenance(TRACED[:2]))
    add(tmp_path / "records", SETTING, table(COMPLETE[3:]), provenance(TRACED[2:]))
    back, traced = read(tmp_path / "records", SETTING)
    assert len(back) == len(COMPLETE)
    assert len(traced) == len(TRACED)
    assert missing(back, SMALL) == []


def test_adding_nothing_to_nothing_is_nothing(tmp_path: Path):
    add(tmp_path / "records", SETTING, table([]), provenance([]))
    back, traced = read(tmp_path / "records", SETTING)
    assert (len(back), len(traced)) == (0, 0)


def test_merging_is_idempotent_and_does_not_depend_on_who_comes_first():
    a, b = table(COMPLETE[:5]), table(COMPLETE[2:])
    merged = merge(a, b)
    assert len(merged) == len(COMPLETE)
    pd.testing.assert_frame_equal(merge(merged, b), merged)
    pd.testing.assert_frame_equal(merge(b, a), merged)
    for one, other in ((a, table([])), (table([]), a)):
        pd.testing.assert_frame_equal(merge(one, other), a, check_dtype=False)


def test_a_conflict_is_refused_names_the_first_value_and_changes_nothing(tmp_path: Path):
    folder = add(tmp_path / "records", SETTING, table(COMPLETE), provenance(TRACED))
    before = contents(folder)
    other = table(COMPLETE)
    other.loc[3, "value"] = 42.0
    other.loc[5, "value"] = 43.0
    with pytest.raises(StoreError) as raised:
        add(tmp_path / "records", SETTING, other, provenance(TRACED))
    message = str(raised.value)
    assert message.startswith(f"{SETTING.name}: 2 of {len(COMPLETE)} values")
    for part in ("test_accuracy", "imp", "replicate 1", "rewind 0", "level 2", "97.75", "42"):
        assert part in message
    assert contents(folder) == before


def test_a_conflict_can_be_settled_by_keeping_what_is_recorded(tmp_path: Path):
    folder = add(tmp_path / "records", SETTING, table(COMPLETE[:4]), provenance(TRACED))
    other = table(COMPLETE)
    other["value"] += 1.0
    add(tmp_path / "records", SETTING, other, provenance(TRACED), keep_old=True)
    expected = table([*COMPLETE[:4], *((*key, value + 1.0) for *key, value in COMPLETE[4:])])
    pd.testing.assert_frame_equal(read(tmp_path / "records", SETTING)[0], expected, check_dtype=False)
    write(tmp_path / "theirs", SETTING, other, provenance(TRACED))
    before = contents(folder)
    assert import_folder(tmp_path / "theirs", tmp_path / "records", keep_old=True) == [folder]
    assert contents(folder) == before


def test_a_noise_floor_that_is_not_zero_conflicts_with_one_that_is():
    other = table([(*COMPLETE[4][:2], 0.5)])
    with pytest.raises(StoreError, match="l2_noise_floor"):
        merge(table(COMPLETE), other)


def test_values_rounded_in_writing_do_not_conflict(tmp_path: Path):
    rows = [(("imp", 0, 1, 2, f"0-{n}"), "l2_data_order", 1 / n) for n in range(1, 400)]
    add(tmp_path / "records", SETTING, table(rows), provenance(TRACED))
    add(tmp_path / "records", SETTING, table(rows), provenance(TRACED))
    assert len(read(tmp_path / "records", SETTING)[0]) == len(rows)


def test_importing_a_folder_gives_the_same_records(tmp_path: Path):
    write(tmp_path / "theirs", SETTING, table(COMPLETE), provenance(TRACED))
    write(tmp_path / "theirs", OTHER, table(COMPLETE, OTHER), provenance(TRACED))
    written = import_folder(tmp_path / "theirs", tmp_path / "ours")
    assert sorted(folder.name for folder in written) == sorted([SETTING.name, OTHER.name])
    for setting in (SETTING, OTHER):
        for mine, theirs in zip(read(tmp_path / "ours", setting), read(tmp_path / "theirs", setting), strict=True):
            assert sorted(mine.itertuples(index=False)) == sorted(theirs.itertuples(index=False))
    before = contents(tmp_path / "ours")
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    assert contents(tmp_path / "ours") == before


def test_a_study_that_cannot_be_read_keeps_no_other_from_being_imported(tmp_path: Path):
    write(tmp_path / "theirs", SETTING, table(COMPLETE), provenance(TRACED))
    broken = write(tmp_path / "theirs", OTHER, table(COMPLETE, OTHER), provenance(TRACED))
    (broken / "config.json").write_text(json.dumps(json.loads(OTHER.to_json()) | {"iterations": 0}))
    fault = rf"{OTHER.name}/config\.json cannot be read: iterations: 0 is not valid.*; the other studies are done"
    with pytest.raises(StoreError, match=fault):
        import_folder(tmp_path / "theirs", tmp_path / "ours")
    assert len(read(tmp_path / "ours", SETTING)[0]) == len(COMPLETE)


def test_what_several_add_to_one_folder_at_once_is_all_there(tmp_path: Path):
    def add_level(level: int) -> None:
        where = ("imp", 0, 1, level, "0")
        add(tmp_path, SETTING, table([(where, "test_accuracy", float(level))]), provenance([where]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_level, range(1, 33)))
    records, traced = read(tmp_path, SETTING)
    assert sorted(records["level"]) == sorted(traced["level"]) == list(range(1, 33))


def test_a_folder_of_records_that_cannot_be_locked_is_named(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StoreError, match=rf"cannot write into the folder {tmp_path}: .*directory"):
        add(tmp_path, SETTING, table(COMPLETE), provenance(TRACED))


def test_importing_an_empty_folder_or_none_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        with pytest.raises(StoreError, match=f"{source} holds no records"):
            import_folder(tmp_path / source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_importing_records_whose_configuration_was_altered_is_refused(tmp_path: Path):
    folder = write(tmp_path / "theirs", SETTING, table(COMPLETE), provenance(TRACED))
    (folder / "config.json").write_text(SETTING.updated(learning_rate=0.5).to_json())
    with pytest.raises(StoreError, match=r"config\.json"):
        import_folder(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"network": "lenet_300_100"}'])
def test_importing_a_folder_with_an_unreadable_configuration_is_refused(text: str, tmp_path: Path):
    folder = write(tmp_path / "theirs", SETTING, table(COMPLETE), provenance(TRACED))
    (folder / "config.json").write_text(text)
    with pytest.raises(StoreError, match=r"config\.json cannot be read"):
        import_folder(tmp_path / "theirs", tmp_path / "ours")


def test_records_of_other_images_are_not_added(tmp_path: Path):
    folder = write(tmp_path, SETTING, table(COMPLETE), provenance(TRACED))
    other = provenance(TRACED).assign(data_fingerprint="fedcba9876543210")
    before = contents(folder)
    with pytest.raises(StoreError, match=r"other images .*0123456789abcdef, fedcba9876543210"):
        add(tmp_path, SETTING, table(COMPLETE), other, keep_old=True)
    assert contents(folder) == before


@pytest.mark.parametrize("fingerprint", ["0123456789012345", "12345678e9012345"])
def test_fingerprints_that_look_like_numbers_stay_what_they_are(fingerprint: str, tmp_path: Path):
    write(tmp_path, SETTING, table(COMPLETE), provenance(TRACED).assign(data_fingerprint=fingerprint))
    assert set(read(tmp_path, SETTING)[1]["data_fingerprint"]) == {fingerprint}


def test_records_are_there_only_when_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is written last, an interruption before it leaves a folder that reads as empty."""
    written: list[Path] = []
    really = records.write_atomic

    def killed_at_the_last(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        really(path, content)

    monkeypatch.setattr(records, "write_atomic", killed_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, SETTING, table(COMPLETE), provenance(TRACED))
    assert [len(part) for part in read(tmp_path, SETTING)] == [0, 0]


# Which device made a value, and when

MADE: dict[Place, tuple[str, str]] = {
    ("dense", 0, 1, 0, "0"): ("A", "2026-01-05T00:00Z"),
    ("imp", 20, 1, 2, "0"): ("A", "2026-01-06T00:00Z"),
    ("imp", 20, 1, 2, "0-again"): ("B", "2026-01-04T00:00Z"),
    ("imp", 20, 1, 2, "1"): ("B", "2026-01-08T00:00Z"),
    ("imp", 20, 1, 2, "2"): ("B", "2026-01-07T00:00Z"),
    ("dense", 0, 2, 0, "0"): ("B", "2026-02-05T00:00Z"),
    ("imp", 20, 2, 2, "0"): ("A", "2026-02-06T00:00Z"),
}
"""Training -> its device, and when it was finished."""


@pytest.mark.parametrize(
    ("place", "metric", "device", "finished"),
    [
        (("dense", 0, 1, 0, "0"), "test_accuracy", "A", "2026-01-05T00:00Z"),
        (("imp", 20, 1, 2, "0"), "test_accuracy", "A", "2026-01-06T00:00Z"),
        (("imp", 20, 1, 2, "1"), "test_accuracy", "B", "2026-01-08T00:00Z"),
        (("imp", 20, 1, 2, "1"), "diverged", "B", "2026-01-08T00:00Z"),
        (("imp", 20, 1, 2, "0-1"), "l2_data_order", "A and B", "2026-01-06T00:00Z"),
        (("imp", 20, 1, 2, "0-1"), "angle_data_order", "A and B", "2026-01-06T00:00Z"),
        (("imp", 20, 1, 2, "1-2"), "l2_data_order", "B", "2026-01-07T00:00Z"),
        (("imp", 20, 1, 2, "0"), "l2_pruning", "A", "2026-01-05T00:00Z"),
        (("imp", 20, 2, 2, "0"), "angle_pruning", "A and B", "2026-02-05T00:00Z"),
        (("imp", 20, 1, 2, "0-0"), "l2_noise_floor", "A and B", "2026-01-04T00:00Z"),
        (("imp", 20, 1, 2, "0-1"), "barrier_data_order_test_mean", "A and B", "2026-01-06T00:00Z"),
        (("imp", 20, 2, 2, "0"), "barrier_pruning_test_line", "A and B", "2026-02-05T00:00Z"),
        (("imp", 20, 1, 2, "0"), "barrier_level_masked_test_mean", "A and unknown", ""),  # its level 1 is not traced
        (
            ("imp", 20, 2, 1, "0"),
            "barrier_level_masked_test_mean",
            "B and unknown",
            "",
        ),  # before level 1: the dense run
        (("imp", 20, 1, 1, "0"), "test_accuracy", "unknown", ""),
        (("imp", 20, 1, 1, "0"), "l2_pruning", "A and unknown", ""),
        (("imp", 20, 1, 2, "1-3"), "l2_data_order", "B and unknown", ""),
        (("imp", 20, 2, 2, "0-0"), "l2_noise_floor", "A and unknown", ""),
        (("imp", 0, 1, 2, "0"), "test_accuracy", "unknown", ""),
        (("random_pruning", 20, 1, 2, "0-1"), "l2_data_order", "unknown", ""),
    ],
    ids=str,
)
def test_a_value_has_the_devices_of_its_networks_and_when_the_first_was_finished(
    place: Place, metric: str, device: str, finished: str
):
    made = provenance(MADE).assign(**dict(zip(("device", "finished"), zip(*MADE.values(), strict=True), strict=True)))
    others = [(("imp", 20, 1, 2, "0"), "validation_accuracy", 1.0), (("imp", 20, 1, 2, "2"), "test_accuracy", 2.0)]
    write(results_folder(), SETTING, table([others[0], (place, metric, 3.0), others[1]]), made)
    found = traced(SETTING)
    assert list(found.columns) == [*COLUMNS, "device", "finished"]
    assert found["value"].tolist() == [1.0, 3.0, 2.0]
    assert found["device"].tolist() == ["A", device, "B"]
    assert found["finished"].tolist() == ["2026-01-06T00:00Z", finished, "2026-01-07T00:00Z"]


def test_values_without_any_provenance_are_of_an_unknown_device():
    write(results_folder(), SETTING, table(COMPLETE), provenance([]))
    found = traced(SETTING)
    assert (set(found["device"]), set(found["finished"])) == ({"unknown"}, {""})
    assert len(found) == len(COMPLETE)


def test_no_records_are_traced_to_a_table_with_the_same_columns():
    found = traced(SETTING)
    assert len(found) == 0
    assert list(found.columns) == [*COLUMNS, "device", "finished"]


def test_committed_values_have_the_committed_device_and_a_runs_own_have_its():
    """A training that both have was committed with the value that is given, and so was its device."""
    places = [("dense", 0, 1, 0, "0"), ("imp", 0, 1, 1, "0")]
    write(results_folder(), SETTING, table([(place, "test_accuracy", 90.0) for place in places]), provenance(places))
    study = StudyStore(store_folder(), SETTING)
    for level in (1, 2):
        training = Training(1, "imp", 0, level, 0)
        made = dict.fromkeys(PROVENANCE[5:], "") | {"device": "another", "finished": "2026-03-01T00:00Z", "workers": 1}
        result = {"metrics": {"test_accuracy": 80.0}, "density": 0.8**level, "diverged_at": None, "provenance": made}
        write_json(study.saves(training).folder / "result.json", result | {"training": vars(training)})
    found = traced(SETTING)[["level", "value", "device", "finished"]].to_numpy().tolist()
    assert found == [
        [0, 90.0, "a processor", "2026-01-02T03:04Z"],
        [1, 90.0, "a processor", "2026-01-02T03:04Z"],
        [2, 80.0, "another", "2026-03-01T00:00Z"],
    ]


def test_folders_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert records.results_folder() == tmp_path / "results"
    assert records.store_folder() == tmp_path / "store"
    monkeypatch.delenv("LTH_RESULTS")
    monkeypatch.delenv("LTH_STORE")
    assert records.results_folder() == records.project_folder() / "results"
    assert records.store_folder() == records.project_folder() / "runs"
