"""The units of a study: together its trainings, each once; what they need; and that `lth run` does just a unit."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from conftest import Lth, provenance_of, records_of

from lth_study import SettingError, preset, records
from lth_study.agenda.parts import parts
from lth_study.plan import trainings
from lth_study.store import StudyStore, Training, dense
from lth_study.units import in_part, units

SMOKE = preset("lenet_300_100", profile="smoke")
RESNET50 = preset("resnet50", profile="smoke")
OPTIONS = ("lenet_300_100", "--profile", "smoke", "--figure", "stability", "--replicates", "2", "--levels", "1")


def test_a_replicate_is_a_unit_with_a_store_of_its_own():
    found = units([SMOKE.updated(replicates=(4, 7))])
    assert [unit.name for unit in found] == [f"{SMOKE.setting.name}-replicate_{r}" for r in (4, 7)]
    assert [unit.store for unit in found] == [unit.name for unit in found]
    assert [unit.needs for unit in found] == [(), ()]
    for unit, replicate in zip(found, (4, 7), strict=True):
        assert list(unit.trainings) == trainings(SMOKE.updated(replicates=(replicate,)))
        assert shlex.join(unit.arguments).endswith(f"--profile smoke --set 'replicates=[{replicate}]'")


def test_a_rewinding_iteration_is_a_unit_after_the_dense_runs():
    found = units([SMOKE.updated(dense_orders=2)], "rewind")
    first, *others = found
    assert first.trainings == (dense(1), dense(1, 1))
    assert [unit.name.removeprefix(f"{SMOKE.setting.name}-replicate_1-") for unit in found] == [
        "dense", "rewind_0", "rewind_20"
    ]  # fmt: skip
    for unit, k in zip(others, (0, 20), strict=True):
        assert {t.rewind for t in unit.trainings} == {k}
        assert unit.needs == (first.name,)
        assert unit.arguments[-2:] == ("--part", f"rewind={k}")
    assert {unit.store for unit in found} == {f"{SMOKE.setting.name}-replicate_1"}


def test_a_level_of_one_shot_pruning_is_a_unit():
    study = RESNET50.updated(densities=(0.5, 0.2), rewinds=(0, 2))
    first, *others = units([study], "level")
    assert first.trainings == (dense(1),)
    assert [{t.level for t in unit.trainings} for unit in others] == [{1}, {2}]
    assert [unit.needs for unit in others] == [(first.name,)] * 2
    with pytest.raises(SettingError, match="the levels of lenet_300_100 build on each other"):
        units([SMOKE], "level")


@pytest.mark.parametrize("pack", ["replicate", "rewind"])
def test_every_training_of_the_agenda_is_in_one_unit_that_comes_after_what_it_needs(pack: str):
    studies = [study for part in parts("paper") for study in part.studies]
    found = units(studies, pack)
    counted = Counter((unit.study.setting.name, training) for unit in found for training in unit.trainings)
    assert set(counted.values()) == {1}
    assert set(counted) == {(study.setting.name, t) for study in studies for t in trainings(study)}
    before = set[str]()
    for unit in found:
        assert before.issuperset(unit.needs)
        before.add(unit.name)
        assert unit.arguments[0] == unit.study.setting.network
    assert len(before) == len(found)


def test_a_later_study_of_the_same_setting_has_what_the_earlier_one_lacks():
    few, more = (SMOKE.only("stability").updated(levels=n) for n in (1, 2))
    first, second = units([few, more])
    assert (second.name, second.store, second.needs) == (f"{first.name}-2", first.store, (first.name,))
    assert set(second.trainings) == set(trainings(more)) - set(trainings(few))


def test_what_is_not_absent_is_in_no_unit():
    dense_is_there = units([SMOKE], "rewind", lambda study: [t for t in trainings(study) if t.level])
    first, second = dense_is_there
    assert (first.part, first.needs, second.needs) == ("rewind=0", (), (first.name,))  # the first one trains it again
    assert units([SMOKE], absent=lambda study: []) == []


@pytest.mark.parametrize(
    ("part", "inside", "outside"),
    [
        (None, [dense(1), Training(1, "imp", 0, 1, 0)], []),
        ("dense", [dense(1, 2)], [Training(1, "imp", 0, 1, 0)]),
        ("rewind=0", [Training(1, "imp", 0, 3, 1)], [dense(1), Training(1, "imp", 10, 3, 0)]),
        ("level=3", [Training(1, "imp", 10, 3, 0)], [dense(1), Training(1, "imp", 10, 30, 0)]),
    ],
)
def test_a_part_has_trainings(part: str | None, inside: list[Training], outside: list[Training]):
    assert list(filter(in_part(part), [*inside, *outside])) == inside


@pytest.mark.parametrize("part", ["", "all", "level=", "rewind=-1", "level=1 "])
def test_other_parts_are_refused(part: str):
    with pytest.raises(SettingError, match=f"--part: {part!r} is not valid; expected dense, rewind=K or level=N"):
        in_part(part)


@pytest.mark.parametrize("part", ["rewind=999", "level=0"])
def test_a_part_without_trainings_is_refused_and_not_taken_for_done(part: str, lth: Lth):
    done = lth("run", *OPTIONS, "--part", part)
    assert done.status != 0
    assert f"--part: {part} has no training of lenet_300_100-standard-smoke-" in done.err


def test_units_done_one_after_the_other_give_the_records_of_the_study(lth: Lth, tmp_path: Path):
    study = SMOKE.only("stability").updated(levels=1, replicates=2)
    listed = json.loads(lth("plan", *OPTIONS, "--pack", "rewind", "--json", "--device", "none such").out)
    assert [len(unit["needs"]) for unit in listed] == [0, 1, 1] * 2
    assert {unit["seconds"] for unit in listed} == {None}
    for unit in listed:
        ran = lth("run", *unit["arguments"], "--store", str(tmp_path / "units" / unit["store"]), "--workers", "1")
        assert (ran.status, ran.err) == (0, "")
    for unit in listed:
        store = str(tmp_path / "units" / unit["store"])
        assert lth("export", str(tmp_path / unit["unit"]), "--store", store).status == 0
        assert lth("import", str(tmp_path / unit["unit"]), str(tmp_path / "gathered")).status == 0
    assert lth("run", *OPTIONS, "--store", str(tmp_path / "whole"), "--workers", "1").status == 0
    assert lth("export", str(tmp_path / "plain"), "--store", str(tmp_path / "whole")).status == 0
    one, other = ((tmp_path / name / study.setting.name / "records.csv") for name in ("gathered", "plain"))
    assert one.read_bytes() == other.read_bytes()


def test_a_part_trains_no_other_but_what_it_builds_on(lth: Lth, tmp_path: Path):
    assert lth("run", *OPTIONS[:6], "1", *OPTIONS[7:], "--part", "rewind=20").status == 0
    done = set(StudyStore(tmp_path / "store", SMOKE.setting).results())
    asked = trainings(SMOKE.only("stability").updated(levels=1, replicates=1))
    assert done == {t for t in asked if t.rewind == 20} | {dense(1)}


def test_the_plan_is_a_table_of_what_is_not_recorded_with_hours_from_records(lth: Lth):
    only = SMOKE.only("stability").updated(levels=1, replicates=2)
    table = lth("plan", *OPTIONS, "--device", "Graphics").out.splitlines()
    assert [line.split()[:3] for line in table[1:]] == [[str(len(trainings(only)) // 2), "unknown", "1.0"]] * 2
    first = [t for t in trainings(only) if t.replicate == 1]
    places = [(t.method, t.rewind, t.replicate, t.level, f"{t.order}{'-again' * t.again}") for t in first]
    made = provenance_of(places, iterations=1, seconds=36.0, device="Graphics", workers=1)
    values = [(place, "test_accuracy", 1.0) for place in places if place[4].isdigit()]
    again = [(("imp", 0, 1, 1, "0-0"), "l2_noise_floor", 0.0)]
    records.add(records.results_folder(), only.setting, records_of(only.setting, values + again), made)
    (line,) = lth("plan", *OPTIONS, "--device", "Graphics").out.splitlines()[1:]
    # a reinitialised network has no W_k to start from: it trains for all 120 updates
    updates = sum(120 - (0 if t.method == "random_reinit" else t.rewind) for t in trainings(only) if t.replicate == 2)
    assert line.split() == [str(len(first)), f"{updates / 100:.2f}", "1.0", f"{only.setting.name}-replicate_2"]
    assert lth("plan", *OPTIONS[:6], "1", *OPTIONS[7:], "--device", "Graphics").out == "Every training is recorded.\n"


def test_a_mistaken_pack_is_refused(lth: Lth):
    refused = lth("plan", *OPTIONS, "--pack", "bag").err
    assert refused == "lth: --pack: 'bag' is not valid; expected replicate, rewind, level\n"
