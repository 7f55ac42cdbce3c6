"""The agenda: what is missing, what it is worth, and doing it replicate by replicate."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import Lth, provenance_of, records_of

from lth_study import SettingError, Study, data, plan, preset, records
from lth_study.agenda import run as doing
from lth_study.agenda.parts import Part, parts
from lth_study.agenda.run import Imprecise, check_precisions, run_parts, what_is_left
from lth_study.agenda.table import agenda, needs
from lth_study.costs.updates import seconds_per_update
from lth_study.data.parts import Dataset
from lth_study.devices import device_name
from lth_study.report import claims
from lth_study.report.claims import Claim
from lth_study.settings import METHODS, RECORDS_ONLY, Setting
from lth_study.store import StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.units import units

SMOKE = preset("lenet_300_100", profile="smoke").only("stability")
ONE = SMOKE.updated(rewinds=(0,), levels=1, methods=("imp",), orders=1, replicates=2, barriers=False)
"""Two trainings for each of two replicates: dense, and the ticket at level 1."""
FIRST = ONE.updated(replicates=1)
HERE = "a processor (AVX512)"
ELSEWHERE = "another processor (AVX2)"

pytestmark = pytest.mark.usefixtures("images_read_once")


def recorded(study: Study, trainings: Sequence[Training], device: str = HERE, metric: str = "test_accuracy") -> None:
    """Records of these trainings in the results folder: a value each, and 36 seconds for 100 updates."""
    places = [(t.method, t.rewind, t.replicate, t.level, str(t.order)) for t in trainings]
    images = data.load("mnist_embedded").fingerprint()
    made = provenance_of(places, iterations=100, seconds=36.0, device=device, data_fingerprint=images, workers=1)
    found = records_of(study.setting, [(place, metric, 90.0) for place in places])
    records.add(records.results_folder(), study.setting, found, made)


def claim(name: str, effect: str, replicates: int = 2, measure: str = "test_accuracy", level: int = 1) -> Claim:
    about = dict.fromkeys(("source", "settings", "text", "control", "paper", "read", "fixed", "change"), "")
    study = {"network": "lenet_300_100", "recipe": "standard", "profile": "smoke", "dataset": "mnist_embedded"}
    test = {"test": "superior", "low": 0.0, "high": None, "levels": str(level), "replicates": str(replicates)}
    return Claim(claim=name, about="study", measure=measure, effect=effect, **about, **study, **test)


def rows(parts: Sequence[Part], asked: Sequence[Claim] = (), device: str = HERE) -> dict[str, dict[str, float]]:
    return agenda(parts, asked, records.store_folder(), device).set_index("part").to_dict("index")


def do(*parts: Part, destination: Path | None = None, **options: object) -> None:
    run_parts(parts, records.store_folder(), destination or records.results_folder(), workers=1, **options)


# The table of parts


def test_the_first_part_is_what_its_recordings_make():
    first = parts("laptop")[0]
    assert first.replicates() == list(range(1, 9))
    changes = {"dataset": "cifar10", "levels": 13, "compared_levels": (8, 13), "orders": 2, "dense_orders": 4}
    for replicate in (1, 8):
        made = preset("resnet20", profile="laptop").updated(**changes, methods=METHODS, replicates=(replicate,))
        assert first.replicate(replicate).studies == (made,)


def test_the_first_part_of_a_gpu_is_66_trainings_at_the_scale_of_the_paper():
    (study,) = parts("paper")[0].studies
    asked = Counter(training.method for training in plan.trainings(study))
    assert asked == {"dense": 4 * 3, "imp": 2 * 8 * 3, "random_pruning": 2 * 3}
    assert study.setting.precision == "bfloat16"


def test_every_claim_can_be_decided_by_some_part_or_compares_with_images_that_nothing_reads_any_more():
    asked = [
        {(study.setting.name, training) for study in part.studies for training in plan.trainings(study)}
        for profile in ("laptop", "paper")
        for part in parts(profile)
    ]
    wanted: dict[str, set[tuple[str, Training]]] = {}
    for each in claims.read():
        here = wanted.setdefault(each.claim, set())
        here |= {(setting.name, training) for setting, found in needs(each) for training in found}
    left = [name for name, found in wanted.items() if not any(found <= there for there in asked)]
    assert left == [each.claim for each in claims.read() if RECORDS_ONLY in each.effect]  # its records stand


def test_an_unknown_profile_is_refused():
    with pytest.raises(SettingError, match="unknown profile 'smoke' of the agenda; known: laptop, paper"):
        parts("smoke")


# What is missing, and what it is worth


def test_missing_trainings_hours_and_claims_are_those_counted_by_hand():
    recorded(ONE, [dense(1), Training(1, "imp", 0, 1, 0)])
    listed = [Part("both", (ONE,)), Part("controls", (ONE.updated(methods=("random_pruning",)),))]
    asked = [
        claim("ticket", "imp@0 - dense"),
        claim("control", "imp@0 - random_pruning@0"),
        claim("level 2", "imp@0", level=2),
    ]
    both, controls = rows(listed, asked).values()
    assert (both["missing"], both["claims"]) == (2, 1)  # dense and imp of replicate 2
    assert both["hours"] == pytest.approx((120 + 120) * 0.36 / 3600)  # 36 seconds were recorded for 100 updates
    assert (controls["missing"], controls["claims"]) == (4, 2)
    # of replicate 1 too, whose ticket is not in the store: dense, imp and the control of each
    assert controls["hours"] == pytest.approx(6 * 120 * 0.36 / 3600)
    assert controls["claims per hour"] == pytest.approx(2 / controls["hours"])


def test_hours_are_of_recorded_trainings_only_where_they_are_compared_with_missing_ones():
    """A second data order of replicate 2 needs the dense run and the first order; replicate 1 lacks distances only."""
    both = ONE.updated(orders=2)
    recorded(both, [t for t in plan.trainings(both) if not t.again and (t.replicate, t.order) != (2, 1)])
    floors = [(("imp", 0, replicate, 1, "0-0"), "l2_noise_floor", 0.0) for replicate in (1, 2)]
    records.add(records.results_folder(), both.setting, records_of(both.setting, floors), provenance_of([]))
    # The control's first order diverged. Its second needs the dense run and the ticket, whose mask it shuffles.
    lost = FIRST.updated(methods=("random_pruning",), orders=2, weight_decay=0.5)
    recorded(lost, [dense(1), Training(1, "imp", 0, 1, 0)])
    recorded(lost, [Training(1, "random_pruning", 0, 1, 0)], metric="diverged")
    for row in rows([Part("compared", (both,)), Part("lost", (lost,))]).values():
        assert (row["missing"], row["hours"]) == (1, pytest.approx(3 * 120 * 0.36 / 3600))


def test_a_claim_counts_where_all_of_its_measures_are_and_something_was_missing():
    recorded(ONE, plan.trainings(ONE))
    asked = [
        claim("done", "imp@0 - dense"),
        claim("open", "imp@0", 3),
        claim("two measures", "imp@0 - dense"),
        claim("two measures", "random_pruning@0 - imp@0", measure="l2_data_order"),
    ]
    controls = ONE.updated(methods=("imp", "random_pruning"))
    studies = {"replicates": ONE.updated(replicates=3), "one order": controls, "two": controls.updated(orders=2)}
    found = rows([Part(name, (study,)) for name, study in studies.items()], asked)
    assert {name: (row["missing"], row["claims"]) for name, row in found.items()} == {
        "replicates": (2, 1),
        "one order": (2, 0),
        "two": (8, 1),  # for each replicate a ticket, two controls and a repetition
    }


def test_replicates_of_another_processor_are_not_missing_here_and_leave_its_claims_undecided():
    recorded(ONE, [dense(1)], ELSEWHERE)
    asked = [claim("ticket", "imp@0 - dense"), claim("network", "dense")]
    here, there = (rows([Part("part", (ONE,))], asked, device)["part"] for device in (HERE, ELSEWHERE))
    assert (here["missing"], here["claims"]) == (2, 1)  # replicate 2; the first may differ from it in the processor
    assert (there["missing"], there["claims"]) == (3, 2)


def test_the_order_is_by_claims_per_hour_and_else_that_of_the_table(tmp_path: Path):
    recorded(ONE, [dense(9)])
    listed = [
        Part("nothing to decide", (ONE.updated(replicates=(7,)),)),
        Part("never timed", (preset("squeezenet1_0", profile="smoke"),)),
        Part("long", (ONE.updated(rewinds=(0, 20), levels=2),)),
        Part("short", (ONE,)),
    ]
    elsewhere, here = (
        agenda(listed, [claim("ticket", "imp@0 - dense")], tmp_path / "store", device) for device in ("a GPU", HERE)
    )
    assert elsewhere["hours"].isna().tolist() == [True] * 4  # a processor says nothing about a GPU
    assert elsewhere["part"].tolist() == [part.name for part in listed]
    assert here["part"].tolist() == ["short", "long", "nothing to decide", "never timed"]
    assert here.index.tolist() == [3, 2, 0, 1]


def timings(setting: Setting, device: str, *seconds: float, workers: int | None = None) -> tuple[Setting, pd.DataFrame]:
    made = [{"device": device, "seconds": s, "iterations": 10, "workers": workers} for s in seconds]
    return setting, pd.DataFrame(made).astype({"workers": "Int64"})


LENET, RESNET20 = preset("lenet_300_100").setting, preset("resnet20").setting
TENTH = preset("resnet20", profile="tenth").setting
OTHERS = [timings(SMOKE.setting, ELSEWHERE, 50), timings(SMOKE.setting, "third (AVX512)", 70)]


@pytest.mark.parametrize(
    ("setting", "device", "timed", "seconds"),
    [
        pytest.param(SMOKE.setting, HERE, [timings(SMOKE.setting, HERE, 10, 20, 90), *OTHERS], 2, id="this device"),
        pytest.param(SMOKE.setting, HERE, OTHERS, 7, id="the same instructions"),
        pytest.param(SMOKE.setting, HERE, OTHERS[:1], 5, id="another processor"),
        pytest.param(SMOKE.setting, HERE, [timings(RESNET20, HERE, 1)], math.nan, id="another network"),
        pytest.param(LENET, HERE, [timings(SMOKE.setting, HERE, 100), timings(LENET, HERE, 10)], 1, id="this profile"),
        pytest.param(TENTH, HERE, [timings(RESNET20, HERE, 30)], 3, id="the same operations"),
        pytest.param(RESNET20, HERE, [timings(RESNET20, HERE, 12, workers=12)], 1.2, id="not sharing a core"),
        pytest.param(RESNET20, "a GPU", [timings(RESNET20, "a GPU", 12, workers=12)], 0.1, id="sharing a GPU"),
        pytest.param(RESNET20, "a GPU", [timings(RESNET20, "a GPU", 12)], 1.2, id="alone on a GPU"),
    ],
)
def test_an_update_takes_the_median_of_what_is_most_alike(
    setting: Setting, device: str, timed: list[tuple[Setting, pd.DataFrame]], seconds: float
):
    assert seconds_per_update(setting, device, timed) == pytest.approx(seconds, nan_ok=True)


def test_another_profile_counts_by_its_operations():
    laptop = preset("resnet20", profile="laptop").setting
    seconds = seconds_per_update(laptop, HERE, [timings(RESNET20, HERE, 30)])
    assert 3 / 64 < seconds < 3 / 16  # half the batch, a quarter of the pixels, half the filters on either side


# Doing it


def test_it_is_done_replicate_by_replicate_and_each_is_exported(capsys: pytest.CaptureFixture[str]):
    listed = [Part("first", (ONE, SMOKE.updated(weight_decay=0.5, levels=0, replicates=2))), Part("second", (ONE,))]
    do(*listed)
    out = capsys.readouterr().out
    said = [line.split("]")[-1].split(":")[0].strip() for line in out.splitlines()]
    one_replicate = ["replicate {0}, dense", "replicate {0}, imp, rewound to 0, level 1, data order 0"]
    one_replicate += ["replicate {0}, dense", "first, replicate {0}"]
    assert said == [line.format(replicate) for replicate in (1, 2) for line in one_replicate]
    assert out.count(f"studies exported to {records.results_folder()}") == 2
    for study in listed[0].studies:
        assert plan.missing(records.read(records.results_folder(), study.setting)[0], study) == []
    assert what_is_left(listed, records.store_folder(), device_name()) == []
    do(*listed)
    assert capsys.readouterr().out == ""


def test_what_another_processor_began_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recorded(ONE, [dense(1)], ELSEWHERE)
    do(Part("part", (ONE,)), destination=tmp_path / "mine", progress=None)
    said = f"part, replicate 1: skipped: {ONE.setting.name}: made by {ELSEWHERE}; here is {device_name()}"
    assert said in capsys.readouterr().out
    assert {training.replicate for training in StudyStore(tmp_path / "store", ONE.setting).results()} == {2}


def test_a_study_without_its_images_is_skipped_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    absent = ONE.updated(dataset="mnist")
    do(Part("no images", (absent,)), Part("part", (FIRST,)), progress=None)
    skipped, exported = capsys.readouterr().out.splitlines()
    assert skipped.startswith(f"no images: skipped: {absent.setting.name}: MNIST is not in")
    assert exported.startswith("part, replicate 1: 1 studies exported")
    assert [setting.dataset for setting in records.studies(tmp_path / "store")] == ["mnist_embedded"]


def test_a_study_recorded_with_other_images_is_skipped_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    other = FIRST.updated(weight_decay=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "fingerprint", lambda self: "others")
        recorded(other, [dense(1)], device_name())
    do(Part("part", (other, FIRST)), progress=None)
    name = other.setting.name
    assert f"part, replicate 1: skipped: {name}: {name} is trained or recorded" in capsys.readouterr().out
    assert plan.missing(records.read(records.results_folder(), ONE.setting)[0], FIRST) == []


def test_a_conflict_does_not_end_the_run_but_is_its_last_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    do(Part("first", (FIRST,)), progress=None)
    file = records.results_folder() / ONE.setting.name / "records.csv"
    table = pd.read_csv(file, dtype={"order": str})
    table.assign(value=table["value"].where(table.index > 0, 1.5)).to_csv(file, index=False)
    file.with_name("sums.sha256").unlink()
    with pytest.raises(records.StoreError, match="recorded already with another value"):
        do(Part("second", (ONE,)), progress=None)
    assert "second, replicate 2: not all exported" in capsys.readouterr().out
    assert StudyStore(tmp_path / "store", ONE.setting).saves(Training(2, "imp", 0, 1, 0)).complete


# A GPU's precisions


@pytest.mark.parametrize(
    ("accuracies", "alike"),
    [((70, 71.9, 68.1), True), ((70, 72.1, 70), False), ((70, 70, 67.9), False),
     ((70, 70, math.nan), False), ((math.nan, 70, 70), False)],
)  # fmt: skip
def test_a_gpu_trains_only_where_its_reduced_precisions_agree_with_float32(
    accuracies: tuple[float, ...], alike: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = dict(zip(("float32", "tf32", "bfloat16"), accuracies, strict=True))
    monkeypatch.setattr(doing, "compute_device", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(doing, "_accuracy", lambda precision, folder, deadline: found[precision])
    monkeypatch.setattr(doing, "_not_there", lambda dataset: "")
    if alike:
        do()
        assert "test accuracy: float32 70.00%, tf32 71.90%, bfloat16 68.10%" in capsys.readouterr().out
        return
    with pytest.raises(Imprecise, match="more than 2 points from float32"):
        do(Part("part", (ONE,)))
    assert not records.store_folder().exists()


def test_the_precisions_are_compared_in_trainings_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Of a small network here, in the precisions that a processor has."""
    load, store = data.load, tmp_path / "store"
    monkeypatch.setattr(doing, "preset", lambda network, profile: preset(network, profile="smoke"))
    monkeypatch.setattr(data, "load", lambda name, **shape: load("mnist_embedded", **shape))
    monkeypatch.setattr(doing, "_PRECISIONS", ("float32", "bfloat16"))
    monkeypatch.setattr(doing, "LARGEST_DIFFERENCE", 100.0)
    with pytest.raises(Stopped):
        check_precisions(store, deadline=0.0)
    check_precisions(store)
    assert records.studies(store) == []
    trained = {file: file.stat().st_mtime_ns for file in store.rglob("result.json")}
    assert len(trained) == 2
    check_precisions(store)
    assert {file: file.stat().st_mtime_ns for file in store.rglob("result.json")} == trained


def test_without_the_images_precisions_are_not_compared_and_the_rest_is_done(monkeypatch, capsys):
    monkeypatch.setattr(doing, "compute_device", lambda: SimpleNamespace(type="cuda"))
    run_parts([], records.store_folder(), records.results_folder())
    assert "precisions are not compared: CIFAR-10 is not in" in capsys.readouterr().out


# The command


def test_the_command_prints_the_table_and_writes_nothing(lth: Lth, tmp_path: Path):
    status, out, err = lth("agenda", "--device", HERE, "--profile", "paper")
    lines = out.splitlines()
    assert (status, err, lines[0]) == (0, "", f"paper, on {HERE}")
    assert lines[1].split() == ["part", "profile", "missing", "hours", "claims", "claims", "per", "hour"]
    assert len(lines) == 2 + len(parts("paper"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_command_does_it_and_exits_with_3_when_it_is_stopped(lth: Lth, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lth_study.agenda.parts.parts", lambda profile: [Part("part", (ONE,))])
    stopped = lth("agenda", "--run", "--time-limit", "0")
    assert stopped.status == 3
    assert "the same command goes on from here\nleft: part, 4 trainings\n" in stopped.out
    done = lth("agenda", "--run")
    assert (done.status, "left" in done.out) == (0, False)
    refused = lth("agenda", "--run", "--device", HERE)
    said = f"lth: --device {HERE}: with --run it is this machine's, {device_name()}; leave it out\n"
    assert (refused.status, refused.err) == (2, said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--run --json", "--json: it lists the units and trains nothing; leave out --run"),
        ("--workers 2", "--workers: it has no effect without --run"),
        ("--time-limit 0", "--time-limit: it has no effect without --run"),
        ("--destination x", "--destination: it has no effect without --run"),
    ],
)
def test_options_without_effect_are_refused(options: str, said: str, lth: Lth):
    refused = lth("agenda", *options.split())
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err


def test_its_units_are_in_its_order_without_the_replicates_of_other_devices(lth: Lth):
    studies = [study for part in parts("laptop") for study in part.studies]
    recorded(studies[0], [dense(1)], device=ELSEWHERE)
    listed = json.loads(lth("agenda", "--device", HERE, "--json").out)
    first, *others = [unit.name for unit in units(studies)]
    assert first == f"{studies[0].setting.name}-replicate_1"
    assert [unit["unit"] for unit in listed] == [name for name in others if not name.startswith(first)]
    assert {len(unit["needs"]) for unit in listed} > {0}
