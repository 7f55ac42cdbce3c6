"""`run`: nothing trained twice, the same bits whatever happens on the way, and distances that can be recomputed.

What a study must come through, in any order of events, is in `test_study_machine`.
"""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from doubles import write_imagenette
from safetensors.numpy import load_file
from studies import SMOKE, TINY, Done, assert_same_records, count_trainings, files, flip_a_bit, states

from lth_core import Ticket
from lth_core.masks import Mask
from lth_study import plan, preset, records, run, runner, seeds, worker
from lth_study.data.parts import Dataset
from lth_study.extents import Study
from lth_study.files import StoreError, read_json, write_json
from lth_study.networks import initial_weights
from lth_study.plan import MissingRecords
from lth_study.records import COLUMNS
from lth_study.store import Busy, StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.training.train import Trained, train
from lth_study.training.updates import FlatNetwork
from lth_study.trainings import Trainings
from lth_study.worker import Chain, Worker

PROJECT = Path(__file__).resolve().parents[1]
LAYERS = ("fc1.weight", "fc2.weight", "output.weight")
LEVEL_1 = "imp/rewind_5/level_01"

pytestmark = pytest.mark.usefixtures("images_read_once")


def times(folder: Path, *patterns: str) -> dict[str, int]:
    return {name: file.stat().st_mtime_ns for name, file in files(folder, *patterns).items()}


def store_of(done: Done) -> StudyStore:
    return StudyStore(done.store, done.study.setting)


# Records


def test_records_have_the_columns_of_the_contract_and_plausible_values(smoke: Done):
    assert list(smoke.records.columns) == [*COLUMNS, "device", "finished"]
    accuracies = smoke.records[smoke.records["metric"] == "test_accuracy"]
    assert len(accuracies) == 13  # the repetition for the noise floor is no further measurement
    assert accuracies["value"].between(70, 100).all()
    assert not smoke.records.duplicated([name for name in COLUMNS if name != "value"]).any()
    assert set(smoke.records["digest"]) == {SMOKE.setting.digest()}
    assert set(smoke.records["order"]) == {"0", "1", "0-1", "0-0"}
    made = [json.loads(file.read_text())["provenance"] for file in files(smoke.folder, "result.json").values()]
    assert {*smoke.records["device"]} == {each["device"] for each in made}
    assert {*smoke.records["finished"]} <= {each["finished"] for each in made}


def test_the_dense_network_is_trained_in_as_many_data_orders_as_asked_for(tmp_path: Path):
    study = TINY.updated(dense_orders=3, levels=0)
    table = run(study, store=tmp_path)
    values = table[table["metric"] == "test_accuracy"].set_index("order")["value"]
    assert list(values.index) == ["0", "1", "2"]
    first = run(study.updated(dense_orders=1), store=tmp_path, missing="error")
    assert set(first["order"]) == {"0"}
    ends = files(tmp_path, "end.safetensors")
    assert len({file.read_bytes() for file in ends.values()}) == 3


def test_each_training_is_done_once_from_its_rewinding_iteration_to_the_end(smoke: Done):
    results = files(smoke.folder, "result.json")
    assert len(smoke.trained) == len(results) == 14
    assert sum(ticket.mask.density == 1 for ticket in smoke.trained) == 1
    for name, file in results.items():
        late = "rewind_20" in name and "random_reinit" not in name
        assert json.loads(file.read_text())["provenance"]["iterations"] == (100 if late else 120), name


def test_distances_are_those_recomputed_from_the_stored_weights_and_the_noise_floor_is_zero(smoke: Done):
    rows = [row for row in smoke.records.itertuples() if row.metric.startswith(("l2_", "angle_"))]
    assert len(rows) == 2 * (4 + 2 + 2 + 2 + 1)
    for row in rows:
        level = smoke.folder / f"replicate_1/{row.method}/rewind_{row.rewind}/level_{row.level:02d}"
        mask = load_file(level / "order_0" / "mask.safetensors")
        if row.metric.endswith("_pruning"):
            folders = [smoke.folder / "replicate_1" / "dense", level / f"order_{row.order}"]
        elif row.metric.endswith("_noise_floor"):
            folders = [level / "order_0", level / "order_0_again"]
            assert row.value == 0.0
        else:
            folders = [level / f"order_{order}" for order in row.order.split("-")]
        ends = [load_file(folder / "end.safetensors") for folder in folders]
        a, b = (np.concatenate([end[name].astype(np.float64)[mask[name]] for name in LAYERS]) for end in ends)
        if row.metric.startswith("l2_"):
            assert row.value == pytest.approx(np.sqrt(((a - b) ** 2).sum()), rel=1e-9)
        else:
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert row.value == pytest.approx(np.degrees(np.arccos(min(cosine, 1.0))), abs=1e-5)


def test_tickets_and_controls_have_the_masks_of_their_methods(smoke: Done):
    """A ticket keeps the largest weights of the level before, and its controls keep as many in every layer."""
    end = load_file(smoke.folder / "replicate_1" / "dense" / "end.safetensors")
    levels = ("imp", 1), ("imp", 2), ("random_pruning", 2), ("random_reinit", 2)
    for rewind in (0, 20):
        masks = [
            load_file(smoke.folder / f"replicate_1/{method}/rewind_{rewind}/level_{level:02d}/order_0/mask.safetensors")
            for method, level in levels
        ]
        for name, kept in zip(LAYERS, (188_160, 24_000, 900), strict=True):
            first, second, random, reinitialised = (mask[name] for mask in masks)
            size = np.abs(end[name])
            assert first.sum() == kept
            assert size[first].min() >= size[~first].max()
            assert not (second & ~first).any()
            assert random.sum() == second.sum()
            assert (random != second).any()
            assert (reinitialised == second).all()


@pytest.mark.parametrize(("path", "rewind", "level"), [("dense", 0, 0), ("imp/rewind_20/level_02/order_0", 20, 2)])
def test_a_training_starts_from_the_weights_of_its_replicate_at_its_rewinding_iteration(
    path: str, rewind: int, level: int, smoke: Done, embedded_mnist: Dataset
):
    folder = smoke.folder / "replicate_1"
    weights = initial_weights(SMOKE.setting, seeds.stream(1, "init"))
    if rewind:
        kept = load_file(folder / "dense" / f"iteration_{rewind}.safetensors")
        weights = {name: torch.from_numpy(np.asarray(value)) for name, value in kept.items()}
    mask = Mask({name: torch.from_numpy(kept) for name, kept in load_file(folder / path / "mask.safetensors").items()})
    under_mask = {name: value * mask[name] if name in mask else value for name, value in weights.items()}
    ticket = Ticket(Mask({name: mask[name] for name in LAYERS}), under_mask, rewind, level)
    expected = train(SMOKE.setting, embedded_mnist, ticket, replicate=1, order=0).state
    end = load_file(folder / path / "end.safetensors")
    assert all(np.array_equal(end[name], expected[name].numpy()) for name in end)


def test_a_subnetwork_without_weights_has_distances_but_no_angles(tmp_path: Path):
    table = run(TINY.updated(pruning_rate=1.0, output_pruning_rate=1.0), store=tmp_path / "store", workers=1)
    assert set(table["metric"]) >= {"l2_pruning", "l2_data_order", "l2_noise_floor"}
    assert not table["metric"].str.startswith("angle").any()


# Nothing twice


def test_a_dense_network_alone_keeps_what_later_chains_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = TINY.updated(rewinds=(0, 5, 8))
    run(study.updated(levels=0), store=tmp_path, workers=1)
    assert {Path(name).name for name in files(tmp_path, "iteration_*")} == {
        "iteration_5.safetensors",
        "iteration_8.safetensors",
    }
    before, trained = times(tmp_path, "*.safetensors"), count_trainings(monkeypatch)
    run(study, store=tmp_path, workers=1)
    assert sorted(ticket.iteration for ticket in trained) == [0, 0, 0, 5, 5, 8, 8]
    assert {ticket.level for ticket in trained} == {1}
    assert before.items() <= times(tmp_path, "*.safetensors").items()


def count_helpers(monkeypatch: pytest.MonkeyPatch, alone: float) -> list[tuple[int, int]]:
    """How many trainings there are for other processes and how many are started, on two cores, each time some are."""
    started: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def helpers(_: StudyStore, wanted: Sequence[Training], *__: object) -> Iterator[Callable[[int], None]]:
        yield lambda count: started.append((len(wanted), count))

    monkeypatch.setattr("lth_study.parallel.helpers", helpers)
    monkeypatch.setattr("lth_study.devices.cores", lambda: 2)
    monkeypatch.setattr(runner, "ALONE", alone)
    return started


def workers_of(store: Path, study: Study) -> list[int]:
    """How many workers a study had by what is recorded of each training."""
    return records.of_store(StudyStore(store, study.setting))[1]["workers"].tolist()


def test_a_run_gets_help_once_it_has_taken_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = count_helpers(monkeypatch, alone=3600)
    run(TINY, store=tmp_path / "short")
    assert started == []
    run(TINY, store=tmp_path / "told", workers=40)  # for four trainings
    assert started == [(4, 3)]
    really, helped = FlatNetwork.update, list[bool]()

    def update(network: FlatNetwork, *batch: Any) -> None:
        really(network, *batch)
        helped.append(len(started) == 2)

    monkeypatch.setattr(runner, "ALONE", 70.5)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: len(helped)))  # an update takes a second
    monkeypatch.setattr(FlatNetwork, "update", update)
    run(TINY, store=tmp_path / "long")
    assert started == [(4, 3), (4, 1)]
    assert helped.index(True) == 71
    assert workers_of(tmp_path / "short", TINY) == [1, 1, 1, 1]
    assert workers_of(tmp_path / "told", TINY) == [4, 4, 4, 4]
    assert workers_of(tmp_path / "long", TINY) == [1, 2, 2, 2]


def test_a_gpu_trains_as_many_networks_as_are_missing_and_never_none(
    tiny: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counts, recorded = list[int](), list[int]()
    monkeypatch.setattr("lth_study.devices.compute_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("lth_study.devices.device_name", lambda: "a GPU")
    monkeypatch.setattr("lth_study.trainings.Trainings", lambda *_, workers, say: recorded.append(workers))
    monkeypatch.setattr("lth_study.parallel.complete_side_by_side", lambda *arguments: counts.append(arguments[-1]))
    for store in (store_of(tiny), StudyStore(tmp_path / "empty", TINY.setting)):
        runner._train(TINY, store, plan.trainings(TINY), [], workers=None, deadline=math.inf, progress=None)
    assert counts == recorded == [1, 4]


def test_a_later_rewind_is_reached_in_several_goes_with_the_same_bits_by_one_process_alone(
    copy: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, asked = store_of(copy), iter(range(10**9))
    stops = {30, 45}  # of the times that the training from W_5 up to W_50 asks whether to stop
    stopping = Chain(Trainings(store, stop_requested=lambda: next(asked) in stops), 1, "imp", 50)
    toward = store.saves(dense(1)).toward(50)
    with toward.locked(), pytest.raises(Busy):
        stopping.dense_state(50)
    for done in (35, 49):
        with pytest.raises(Stopped):
            stopping.dense_state(50)
        checkpoint = toward.load_checkpoint()
        assert checkpoint is not None
        assert checkpoint[0] == done
    with monkeypatch.context() as late:
        late.setattr("lth_study.training.train.evaluated", None)  # nothing is evaluated on the way
        stopping.dense_state(50)
    assert not files(copy.store, "checkpoint.safetensors")
    run(TINY.updated(rewinds=(50,), levels=0), store=tmp_path / "fresh", workers=1)
    assert states(tmp_path / "fresh").items() <= states(copy.store).items()


def test_trainings_that_leave_no_record_are_an_error_and_not_done_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (runner, worker):  # so the noise floor is never measured
        monkeypatch.setattr(module, "measure", lambda *_: None)
    with pytest.raises(StoreError, match=r"trained, and still not recorded: replicate 1, imp, .* again"):
        run(TINY, store=tmp_path / "store", workers=1)


@pytest.mark.parametrize("wrong", [{"missing": "bogus"}, {"workers": 0}], ids=str)
def test_an_unknown_wish_is_refused(wrong: dict[str, Any], tmp_path: Path):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} is not valid"):
        run(TINY, store=tmp_path / "store", **wrong)


# What is left of a killed run


def test_what_a_killed_run_did_not_compare_the_next_one_does_without_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But not the barriers: these are errors on the images."""
    write_imagenette(tmp_path / "data")
    study = preset("squeezenet1_0", profile="smoke").only("stability")
    study = study.updated(dataset="imagenette", methods=("imp",), rewinds=(2,))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "measure", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(study, store=tmp_path / "killed", workers=1)
    undisturbed = run(study, store=tmp_path / "undisturbed", workers=1)
    shutil.rmtree(tmp_path / "data")
    trained = count_trainings(monkeypatch)
    table = run(study, store=tmp_path / "killed")
    assert trained == []
    assert_same_records(table, undisturbed[~undisturbed["metric"].str.startswith("barrier")].reset_index(drop=True))
    assert plan.unmeasured(table, study) == plan.barriers(study)


def test_half_a_checkpoint_that_a_kill_left_is_removed(tmp_path: Path):
    folder = StudyStore(tmp_path, TINY.setting).saves(dense(1)).folder
    folder.mkdir(parents=True)
    (folder / ".checkpoint.safetensors.0123").write_bytes(b"half")
    run(TINY.updated(levels=0, orders=1), store=tmp_path, workers=1)
    assert list(folder.glob(".checkpoint*")) == []


# Damage


@pytest.mark.parametrize("damaged", ["order_1/end", "order_0/mask"])
def test_what_a_new_distance_finds_damaged_is_made_again_and_nothing_else(
    damaged: str, copy: Done, monkeypatch: pytest.MonkeyPatch
):
    expected, before = states(copy.folder), times(copy.folder, "result.json")
    flip_a_bit(copy.folder / "replicate_1" / LEVEL_1 / f"{damaged}.safetensors")
    trained = count_trainings(monkeypatch)
    run(TINY.updated(orders=3), store=copy.store, workers=1)
    after = times(copy.folder, "result.json")
    again = [name for name in before if after[name] != before[name]]
    assert again == [f"replicate_1/{LEVEL_1}/{Path(damaged).parent}/result.json"]
    assert len(trained) == 2  # the new one and the damaged one
    assert expected.items() <= states(copy.folder).items()


# Several processes

SPY = """
import os
replace = os.replace
def spy(source, destination, **options):
    replace(source, destination, **options)
    if str(destination).endswith(("result.json", "distances.json", "barriers.json")):
        with open(os.environ["LTH_TEST_LOG"], "a") as log:
            log.write(f"{destination}\\n")
os.replace = spy
"""
"""Runs at the start of every Python process and logs what it finishes: trainings, distances and barriers."""


def test_two_workers_do_everything_once_with_the_same_bits(
    smoke: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`test_study_machine` has two commands of one store."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "spy"), str(PROJECT)]))
    monkeypatch.setenv("LTH_TEST_LOG", str(tmp_path / "log"))
    store = tmp_path / "store"
    command = [sys.executable, "-m", "lth_study", "run", "lenet_300_100", "--profile", "smoke", "--figure", "stability"]
    subprocess.run([*command, "--store", str(store), "--workers", "2"], check=True, timeout=300)
    written = Counter(Path(line) for line in (tmp_path / "log").read_text().splitlines())
    trained = [count for file, count in written.items() if file.name == "result.json"]
    assert trained == [1] * len(smoke.trained)
    for name, planned in (("distances.json", plan.distances(SMOKE)), ("barriers.json", plan.barriers(SMOKE))):
        assert sum(count for file, count in written.items() if file.name == name) == len(planned)  # one at a time
    assert states(store) == states(smoke.store)
    assert not files(store, "checkpoint.safetensors")
    table = run(SMOKE, store=store, missing="error")
    assert_same_records(table, smoke.records)
    assert table["value"].equals(smoke.records["value"])  # to the last bit
    assert set(workers_of(store, SMOKE)) == {2}


def test_a_worker_that_waits_for_another_leaves_it_the_processor_and_stops_when_asked(
    copy: Done, monkeypatch: pytest.MonkeyPatch
):
    clock, looked = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    store = store_of(copy)
    waiting, new = Worker(Trainings(store, stop_requested=lambda: clock[0] >= 50)), Training(1, "imp", 5, 2, 0)
    walk = Chain.complete

    def complete(chain: Chain, wanted: Any) -> set[Training]:
        looked.append(clock[0])
        sleep(2)  # so long does looking take
        return walk(chain, wanted)

    monkeypatch.setattr(Chain, "complete", complete)
    with store.saves(new).locked(), pytest.raises(Stopped):
        waiting.complete([new])
    assert looked == [0, 20, 40]  # a tenth of the time
    assert clock == [50]


# Data that is not there, and training that fails


def test_without_mnist_the_embedded_images_stand_in_under_their_own_name(copy: Done):
    study = TINY.updated(dataset="mnist")
    with pytest.warns(UserWarning, match="mnist_embedded"):
        assert_same_records(run(study, store=copy.store), copy.records)
    assert set(copy.records["dataset"]) == {"mnist_embedded"}
    with pytest.raises(MissingRecords):
        run(study, store=copy.store, missing="error")


def test_a_diverged_dense_run_is_a_record_and_nothing_is_missing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, trained = TINY.updated(learning_rate=1e30, rewinds=(0, 69)), count_trainings(monkeypatch)
    table = run(study, store=tmp_path / "store", workers=1, seconds=100)
    assert list(table["metric"]) == ["diverged"]
    assert list(table["method"]) == ["dense"]
    assert 0 < table["value"].item() <= 70
    made = records.of_store(StudyStore(tmp_path / "store", study.setting))[1]
    assert made["iterations"].item() == table["value"].item()
    assert plan.missing(table, study) == []
    pd.testing.assert_frame_equal(run(study, store=tmp_path / "store", missing="error"), table)
    assert len(trained) == 1  # no W_69 is looked for


@pytest.mark.parametrize(
    ("method", "compared"), [("imp", ()), ("imp", (1,)), ("imp", (2,)), ("imp", (1, 2)), ("random_pruning", (1,))]
)
def test_a_subnetwork_that_diverges_is_a_record_and_nothing_is_missing_after_it(
    method: str, compared: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def diverging(setting: Any, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        end = train(setting, dataset, ticket, **options)
        return Trained(end.state, {}, 66, end.seconds) if f"/{method}/" in str(options["saves"].folder) else end

    monkeypatch.setattr("lth_study.trainings.train", diverging)
    study = TINY.updated(levels=2, compared_levels=compared, methods=tuple(dict.fromkeys(["imp", method])))
    table = run(study, store=tmp_path / "store", workers=1, seconds=100)
    gone = table[table["metric"] == "diverged"]
    orders = {"0", "1"} if 1 in compared else {"0"}
    assert {*zip(gone["method"], gone["level"], gone["order"], strict=True)} == {(method, 1, n) for n in orders}
    accurate = set(table[table["metric"] == "test_accuracy"]["method"])
    assert accurate == ({"dense"} if method == "imp" else {"dense", "imp"})
    assert ("l2_data_order" in set(table["metric"])) == ("imp" in accurate)
    assert plan.missing(table, study) == plan.unmeasured(table, study) == []
    pd.testing.assert_frame_equal(run(study, store=tmp_path / "store", missing="error"), table)


def test_nothing_is_trained_below_a_level_of_the_store_that_diverged(copy: Done, monkeypatch: pytest.MonkeyPatch):
    store, levels = store_of(copy), [Training(1, "imp", 5, level, 0) for level in (1, 2)]
    file = store.saves(levels[0]).folder / "result.json"
    write_json(file, {**read_json(file), "diverged_at": 66})  # as another process may find it
    trained = count_trainings(monkeypatch)
    chain = Chain(Trainings(store), 1, "imp", 5)
    assert chain.complete({levels[1]}) == set()
    assert chain.complete(set(levels)) == {levels[0]}
    assert trained == []


@pytest.mark.parametrize("recorded", [False, True])
def test_a_training_begun_on_other_images_is_not_ended(
    recorded: bool, tiny: Done, tmp_path: Path, embedded_mnist: Dataset
):
    if recorded:
        records.export_store(tiny.store, records.results_folder())
    with pytest.raises(Stopped, match=f"0 of {4 if recorded else 5} trainings done"):
        run(TINY.updated(orders=3), store=tmp_path / "begun", seconds=0)
    (begun,) = (tmp_path / "begun").glob("*/images.json")
    begun.write_text('{"fingerprint": "fedcba9876543210"}')
    with pytest.raises(StoreError, match=f"fedcba9876543210.*{embedded_mnist.fingerprint()}"):
        run(TINY.updated(orders=3), store=tmp_path / "begun")
