"""The agenda: what is missing, what it is worth, and doing it replicate by replicate."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lth_study import SettingError, data, plan, records
from lth_study.__main__ import entry
from lth_study.agenda import run as doing
from lth_study.agenda.parts import Part, parts
from lth_study.agenda.run import Imprecise, check_precisions, run_parts, what_is_left
from lth_study.agenda.table import agenda, needs
from lth_study.costs.updates import seconds_per_update
from lth_study.data.parts import Dataset
from lth_study.devices import device_name
from lth_study.presets import preset
from lth_study.report import claims
from lth_study.report.claims import Claim
from lth_study.settings import METHODS, Setting
from lth_study.store import StudyStore, Training, dense
from lth_study.training import Stopped

SMOKE = preset("lenet_300_100", profile="smoke").only("stability")
ONE = SMOKE.updated(rewinds=(0,), levels=1, methods=("imp",), orders=1, replicates=2, barriers=False)
"""Two trainings for each of two replicates: dense, and the ticket at level 1."""
HERE = "a processor (AVX512)"
ELSEWHERE = "another processor (AVX2)"


@pytest.fixture(autouse=True)
def quick_data(monkeypatch: pytest.MonkeyPatch, embedded_mnist: Dataset) -> None:
    load = data.load

    def load_once(name: str, *, color: bool = False, size: int | None = None) -> Dataset:
        grey = name == "mnist_embedded" and not color
        return embedded_mnist if grey else load(name, color=color, size=size)

    monkeypatch.setattr(data, "load", load_once)


def recorded(setting: Setting, trainings: Sequence[Training], device: str = HERE, seconds: float = 36.0) -> None:
    """Records of these trainings in the results folder: an accuracy each, and where it is from."""
    about = [setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset]
    images = data.load("mnist_embedded").fingerprint()
    values, made = [], []
    for t in trainings:
        where = [t.method, t.rewind, t.replicate, t.level]
        values.append([*about, *where, 1.0, str(t.order), "test_accuracy", 90.0])
        made.append([*where, str(t.order), 100, seconds, device, "0", "2", "3", images, "2026-01-01T00:00Z", 1])
    provenance = pd.DataFrame(made, columns=records.PROVENANCE).astype({"workers": "Int64"})
    records.add(records.results_folder(), setting, pd.DataFrame(values, columns=records.COLUMNS), provenance)


def claim(name: str, effect: str, replicates: int = 2, measure: str = "test_accuracy", level: int = 1) -> Claim:
    about = dict.fromkeys(("source", "settings", "text", "control", "paper", "read", "fixed", "change"), "")
    study = {"network": "lenet_300_100", "recipe": "standard", "profile": "smoke", "dataset": "mnist_embedded"}
    test = {"test": "superior", "low": 0.0, "high": None, "levels": str(level), "replicates": str(replicates)}
    return Claim(claim=name, about="study", measure=measure, effect=effect, **about, **study, **test)


def row(table: pd.DataFrame, part: str) -> pd.Series:
    return table.set_index("part").loc[part]


# The table of parts


def test_the_first_part_is_what_its_recordings_make():
    first = parts("laptop")[0]
    for replicate in (1, 8):
        changes = {"dataset": "cifar10", "levels": 13, "compared_levels": (8, 13), "orders": 2, "dense_orders": 4}
        changes |= {"methods": METHODS, "replicates": (replicate,)}
        made = preset("resnet20", profile="laptop").updated(**changes)
        assert first.replicate(replicate).studies == (made,)
    assert first.replicates() == list(range(1, 9))


def test_the_first_part_of_a_gpu_is_66_trainings_at_the_scale_of_the_paper():
    (study,) = parts("paper")[0].studies
    asked = plan.trainings(study)
    assert len(asked) == 66
    by_method = {method: sum(t.method == method for t in asked) for method in ("dense", "imp", "random_pruning")}
    assert by_method == {"dense": 4 * 3, "imp": 2 * 8 * 3, "random_pruning": 2 * 3}
    assert study.setting.precision == "bfloat16"


def test_every_claim_can_be_decided_by_some_part():
    asked = [
        {(study.setting.name, training) for study in part.studies for training in plan.trainings(study)}
        for profile in ("laptop", "paper")
        for part in parts(profile)
    ]
    wanted: dict[str, set[tuple[str, Training]]] = {}
    for each in claims.read():
        here = wanted.setdefault(each.claim, set())
        here |= {(setting.name, training) for setting, found in needs(each) for training in found}
    assert [name for name, found in wanted.items() if not any(found <= there for there in asked)] == []


def test_an_unknown_profile_is_refused():
    with pytest.raises(SettingError, match="unknown profile 'smoke' of the agenda; known: laptop, paper"):
        parts("smoke")


# What is missing, and what it is worth


def test_missing_trainings_hours_and_claims_are_those_counted_by_hand(tmp_path: Path):
    imp = Training(1, "imp", 0, 1, 0)
    recorded(ONE.setting, [dense(1), imp])
    listed = [Part("both", (ONE,)), Part("controls", (ONE.updated(methods=("random_pruning",)),))]
    asked = [
        claim("ticket", "imp@0 - dense"),
        claim("control", "imp@0 - random_pruning@0"),
        claim("level 2", "imp@0", level=2),
    ]
    table = agenda(listed, asked, tmp_path / "store", HERE)
    both, controls = row(table, "both"), row(table, "controls")
    assert (both["missing"], both["claims"]) == (2, 1)  # dense and imp of replicate 2
    assert both["hours"] == pytest.approx((120 + 120) * 0.36 / 3600)  # 36 seconds were recorded for 100 updates
    assert (controls["missing"], controls["claims"]) == (4, 2)
    # of replicate 1 too, whose ticket is not in the store: dense, imp and the control of each
    assert controls["hours"] == pytest.approx(6 * 120 * 0.36 / 3600)
    assert controls["claims per hour"] == pytest.approx(2 / controls["hours"])


def test_a_claim_is_decided_where_all_of_its_measures_are(tmp_path: Path):
    asked = [claim("one", "imp@0 - dense"), claim("one", "random_pruning@0 - imp@0", measure="l2_data_order")]
    study = ONE.updated(methods=("imp", "random_pruning"))
    listed = [Part("one order", (study,)), Part("two orders", (study.updated(orders=2),))]
    table = agenda(listed, asked, tmp_path / "store", HERE)
    assert (row(table, "one order")["claims"], row(table, "two orders")["claims"]) == (0, 1)


def test_a_claim_that_lacks_nothing_is_not_counted(tmp_path: Path):
    recorded(ONE.setting, plan.trainings(ONE))
    more = Part("more", (ONE.updated(replicates=3),))
    table = agenda([more], [claim("done", "imp@0 - dense"), claim("open", "imp@0", 3)], tmp_path / "store", HERE)
    assert (row(table, "more")["missing"], row(table, "more")["claims"]) == (2, 1)


def test_replicates_of_another_processor_are_not_missing_here_and_leave_its_claims_undecided(tmp_path: Path):
    recorded(ONE.setting, [dense(1)], ELSEWHERE)
    part, ticket, network = Part("part", (ONE,)), claim("ticket", "imp@0 - dense"), claim("network", "dense")
    asked = [ticket, network]
    here = row(agenda([part], asked, tmp_path / "store", HERE), "part")
    assert (here["missing"], here["claims"]) == (2, 1)  # replicate 2; the first may differ from it in the processor
    there = row(agenda([part], asked, tmp_path / "store", ELSEWHERE), "part")
    assert (there["missing"], there["claims"]) == (3, 2)


def test_the_order_is_by_claims_per_hour_and_else_that_of_the_table(tmp_path: Path):
    recorded(ONE.setting, [dense(9)])
    other = preset("squeezenet1_0", profile="smoke")  # never timed
    listed = [
        Part("nothing to decide", (ONE.updated(replicates=(7,)),)),
        Part("never timed", (other,)),
        Part("long", (ONE.updated(rewinds=(0, 20), levels=2),)),
        Part("short", (ONE,)),
    ]
    table = agenda(listed, [claim("ticket", "imp@0 - dense")], tmp_path / "store", "a GPU")
    assert table["hours"].isna().tolist() == [True] * 4  # a processor says nothing about a GPU
    assert table["part"].tolist() == [part.name for part in listed]
    table = agenda(listed, [claim("ticket", "imp@0 - dense")], tmp_path / "store", HERE)
    assert table["part"].tolist() == ["short", "long", "nothing to decide", "never timed"]
    assert table.index.tolist() == [3, 2, 0, 1]


def timings(setting: Setting, device: str, *seconds: float, workers: int | None = None) -> tuple[Setting, pd.DataFrame]:
    rows = [{"device": device, "seconds": s, "iterations": 10, "workers": workers} for s in seconds]
    return setting, pd.DataFrame(rows).astype({"workers": "Int64"})


def test_an_update_takes_the_median_of_what_is_most_alike():
    other = timings(ONE.setting, "third (AVX512)", 70)
    timed = [timings(SMOKE.setting, HERE, 10, 20, 90), timings(SMOKE.setting, ELSEWHERE, 50), other]
    assert seconds_per_update(SMOKE.setting, HERE, timed) == 2
    assert seconds_per_update(SMOKE.setting, HERE, timed[1:]) == 7  # the same instructions
    assert seconds_per_update(SMOKE.setting, HERE, timed[1:2]) == 5
    assert math.isnan(seconds_per_update(SMOKE.setting, HERE, [timings(preset("resnet20").setting, HERE, 1)]))
    alike = [timings(SMOKE.setting, HERE, 100), timings(preset("lenet_300_100").setting, HERE, 10)]
    assert seconds_per_update(preset("lenet_300_100").setting, HERE, alike) == 1


def test_another_profile_counts_by_its_operations():
    """Of LeNet, whose operations grow with the batch alone: the paper's is 60, and half of it takes half as long."""
    paper = preset("resnet20").setting
    seconds = seconds_per_update(preset("resnet20", profile="tenth").setting, HERE, [timings(paper, HERE, 30)])
    assert seconds == 3  # the same network and batch
    laptop = seconds_per_update(preset("resnet20", profile="laptop").setting, HERE, [timings(paper, HERE, 30)])
    assert 3 / 64 < laptop < 3 / 16  # half the batch, a quarter of the pixels, half the filters on either side


def test_networks_side_by_side_share_a_gpu_and_not_a_core():
    paper = preset("resnet20").setting
    assert seconds_per_update(paper, "a GPU", [timings(paper, "a GPU", 12, workers=12)]) == pytest.approx(0.1)
    assert seconds_per_update(paper, "a GPU", [timings(paper, "a GPU", 12)]) == pytest.approx(1.2)
    assert seconds_per_update(paper, HERE, [timings(paper, HERE, 12, workers=12)]) == pytest.approx(1.2)


# Doing it


def test_it_is_done_replicate_by_replicate_and_each_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    listed = [Part("first", (ONE, SMOKE.updated(weight_decay=0.5, levels=0, replicates=2))), Part("second", (ONE,))]
    store, results = tmp_path / "store", records.results_folder()
    run_parts(listed, store, results, workers=1)
    out = capsys.readouterr().out
    said = [line.split("]")[-1].split(":")[0].strip() for line in out.splitlines()]
    one_replicate = ["replicate {0}, dense", "replicate {0}, imp, rewound to 0, level 1, data order 0"]
    one_replicate += ["replicate {0}, dense", "first, replicate {0}"]
    assert said == [line.format(replicate) for replicate in (1, 2) for line in one_replicate]
    assert out.count(f"studies exported to {results}") == 2
    for study in listed[0].studies:
        assert plan.missing(records.read(results, study.setting)[0], study) == []
    assert what_is_left(listed, store, device_name()) == []
    run_parts(listed, store, results, workers=1)
    assert capsys.readouterr().out == ""


def test_it_goes_on_after_a_time_limit_and_says_what_is_left(tmp_path: Path):
    listed, store = [Part("part", (ONE,))], tmp_path / "store"
    with pytest.raises(Stopped):
        run_parts(listed, store, records.results_folder(), workers=1, seconds=0)
    assert what_is_left(listed, store, device_name()) == ["left: part, 4 trainings"]
    run_parts(listed, store, records.results_folder(), workers=1)
    assert what_is_left(listed, store, device_name()) == []


def test_what_another_processor_began_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recorded(ONE.setting, [dense(1)], ELSEWHERE)
    run_parts([Part("part", (ONE,))], tmp_path / "store", tmp_path / "mine", workers=1, progress=None)
    out = capsys.readouterr().out
    assert f"part, replicate 1: skipped: {ONE.setting.name}: made by {ELSEWHERE}; here is {device_name()}" in out
    made = StudyStore(tmp_path / "store", ONE.setting).results()
    assert {training.replicate for training in made} == {2}


def test_a_study_without_its_images_is_skipped_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    listed = [Part("no images", (ONE.updated(dataset="mnist"),)), Part("part", (ONE.updated(replicates=1),))]
    run_parts(listed, tmp_path / "store", records.results_folder(), workers=1, progress=None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"no images: skipped: {listed[0].studies[0].setting.name}: MNIST is not in")
    assert lines[1].startswith("part, replicate 1: 1 studies exported")
    assert [setting.dataset for setting in records.studies(tmp_path / "store")] == ["mnist_embedded"]


def test_a_study_recorded_with_other_images_is_skipped_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    other = ONE.updated(weight_decay=0.5, replicates=1)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "fingerprint", lambda self: "others")
        recorded(other.setting, [dense(1)], device_name())
    listed = [Part("part", (other, ONE.updated(replicates=1)))]
    run_parts(listed, tmp_path / "store", records.results_folder(), workers=1, progress=None)
    assert (
        f"part, replicate 1: skipped: {other.setting.name}: {other.setting.name} is trained or recorded"
        in capsys.readouterr().out
    )
    assert plan.missing(records.read(records.results_folder(), ONE.setting)[0], ONE.updated(replicates=1)) == []


def test_a_conflict_does_not_end_the_run_but_is_its_last_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_parts(
        [Part("first", (ONE.updated(replicates=1),))], tmp_path / "store", records.results_folder(), progress=None
    )
    file = records.results_folder() / ONE.setting.name / "records.csv"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ",1.5"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(records.StoreError, match="recorded already with another value"):
        run_parts([Part("second", (ONE,))], tmp_path / "store", records.results_folder(), progress=None)
    assert "second, replicate 2: not all exported" in capsys.readouterr().out
    assert StudyStore(tmp_path / "store", ONE.setting).saves(Training(2, "imp", 0, 1, 0)).complete


# A GPU's precisions


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, float]) -> None:
    monkeypatch.setattr(doing, "compute_device", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(doing, "_accuracy", lambda precision, folder, deadline: accuracies[precision])


@pytest.mark.parametrize("accuracies", [(70, 72.1, 70), (70, 70, 67.9), (70, 70, math.nan), (math.nan, 70, 70)])
def test_a_gpu_that_differs_in_reduced_precision_trains_nothing(
    accuracies: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    on_a_gpu(monkeypatch, dict(zip(("float32", "tf32", "bfloat16"), accuracies, strict=True)))
    with pytest.raises(Imprecise, match="more than 2 points from float32"):
        run_parts([Part("part", (ONE,))], tmp_path / "store", records.results_folder())
    assert not (tmp_path / "store").exists()


def test_a_gpu_whose_precisions_agree_is_said_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    on_a_gpu(monkeypatch, {"float32": 70.0, "tf32": 71.9, "bfloat16": 68.1})
    run_parts([], tmp_path / "store", records.results_folder())
    assert "test accuracy: float32 70.00%, tf32 71.90%, bfloat16 68.10%" in capsys.readouterr().out


def test_the_precisions_are_compared_in_trainings_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Of a small network here, in the precisions that a processor has."""
    small = preset("resnet20", profile="smoke")
    monkeypatch.setattr(doing, "preset", lambda network, profile: small)
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, **shape: load("mnist_embedded", **shape))
    monkeypatch.setattr(doing, "_PRECISIONS", ("float32", "bfloat16"))
    monkeypatch.setattr(doing, "LARGEST_DIFFERENCE", 100.0)
    with pytest.raises(Stopped):
        check_precisions(tmp_path / "store", deadline=0.0)
    check_precisions(tmp_path / "store")
    assert records.studies(tmp_path / "store") == []
    trained = list((tmp_path / "store").rglob("result.json"))
    assert len(trained) == 2
    check_precisions(tmp_path / "store")
    assert [file.stat().st_mtime_ns for file in trained] == [
        file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("result.json")
    ]


# The command


def lth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lth", "agenda", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        entry()
    return int(left.value.code or 0), *capsys.readouterr()


def test_the_command_prints_the_table_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    status, out, err = lth(monkeypatch, capsys, "--device", HERE, "--profile", "paper")
    lines = out.splitlines()
    assert (status, err, lines[0]) == (0, "", f"paper, on {HERE}")
    assert lines[1].split() == ["part", "profile", "missing", "hours", "claims", "claims", "per", "hour"]
    assert len(lines) == 2 + len(parts("paper"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_command_does_it_and_exits_with_3_when_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("lth_study.agenda.parts.parts", lambda profile: [Part("part", (ONE,))])
    status, out, _ = lth(monkeypatch, capsys, "--run", "--time-limit", "0")
    assert status == 3
    assert "the same command goes on from here\nleft: part, 4 trainings\n" in out
    status, out, _ = lth(monkeypatch, capsys, "--run")
    assert status == 0
    assert "left" not in out
    status, _, err = lth(monkeypatch, capsys, "--run", "--device", HERE)
    assert status == 2
    assert err == f"lth: --device {HERE}: with --run it is this machine's, {device_name()}; leave it out\n"
