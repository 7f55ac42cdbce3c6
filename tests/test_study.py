"""`run`: nothing trained twice, the same bits whatever happens on the way, and distances that can be recomputed."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from lth_core.imp import Ticket
from lth_core.masks import Mask
from lth_study import data, plan, records, seeds, worker
from lth_study import runner as study
from lth_study.data.parts import Dataset, Split
from lth_study.files import StoreError, read_json, write_json
from lth_study.networks import initial_weights
from lth_study.plan import MissingRecords
from lth_study.presets import preset
from lth_study.records import COLUMNS
from lth_study.runner import run
from lth_study.settings import Setting
from lth_study.store import Busy, StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.training import train as training
from lth_study.training.train import OutOfMemory, Trained, train
from lth_study.training.updates import FlatNetwork
from lth_study.worker import Worker

PROJECT = Path(__file__).resolve().parents[1]
SMOKE = preset("lenet_300_100", profile="smoke")
TINY = SMOKE.updated(iterations=70, rewinds=(0,), levels=1, compared_levels=(1,), methods=("imp",), orders=2)
"""Four trainings: dense, level 1 in two data orders, and the first of them again."""

LAYERS = ("fc1.weight", "fc2.weight", "output.weight")


class Done(NamedTuple):
    """A finished study: its store, its records, and the tickets that it trained."""

    study: Setting
    store: Path
    records: pd.DataFrame
    trained: list[Ticket]

    @property
    def folder(self) -> Path:
        return self.store / self.study.name


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[Ticket]:
    """The tickets that the study hands to `train` from now on."""
    trained: list[Ticket] = []

    def counted(study: Setting, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        trained.append(ticket)
        return train(study, dataset, ticket, **options)

    monkeypatch.setattr(worker, "train", counted)
    return trained


def read_once(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    """Hand out the embedded images without reading them again."""
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda name, **shape: dataset if name == "mnist_embedded" else load(name, **shape)
    )


def finished(study: Setting, folder: Path, dataset: Dataset) -> Done:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTH_RESULTS", str(folder / "results"))
        read_once(monkeypatch, dataset)
        trained = count_trainings(monkeypatch)
        return Done(study, folder / "store", run(study, store=folder / "store"), trained)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """The whole smoke profile, done once; not to be changed."""
    return finished(SMOKE, tmp_path_factory.mktemp("smoke"), embedded_mnist)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> Done:
    """The smallest study, done once; not to be changed."""
    return finished(TINY, tmp_path_factory.mktemp("tiny"), embedded_mnist)


@pytest.fixture
def copy(tiny: Done, tmp_path: Path) -> Done:
    """A finished smallest study to change."""
    shutil.copytree(tiny.store, tmp_path / "store")
    return tiny._replace(store=tmp_path / "store")


@pytest.fixture(autouse=True)
def quick_data(monkeypatch: pytest.MonkeyPatch, embedded_mnist: Dataset) -> None:
    read_once(monkeypatch, embedded_mnist)


def files(folder: Path, *patterns: str) -> dict[str, Path]:
    found = [file for pattern in patterns for file in folder.rglob(pattern)]
    return {str(file.relative_to(folder)): file for file in found}


def bits(folder: Path) -> dict[str, bytes]:
    """Every state and mask in a store, and what was measured between them."""
    states = files(folder, "end.safetensors", "mask.safetensors", "iteration_*.safetensors", "distances.json")
    barriers = files(folder, "barriers.json")  # written one barrier after the other, in any order
    measured = {name: json.dumps(json.loads(file.read_text()), sort_keys=True) for name, file in barriers.items()}
    return {name: file.read_bytes() for name, file in states.items()} | {n: m.encode() for n, m in measured.items()}


def times(folder: Path, *patterns: str) -> dict[str, int]:
    return {name: file.stat().st_mtime_ns for name, file in files(folder, *patterns).items()}


def assert_same_records(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same records, whenever they were made."""
    pd.testing.assert_frame_equal(one.drop(columns="finished"), other.drop(columns="finished"))


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# Records


def test_records_have_the_columns_of_the_contract_and_plausible_values(smoke: Done):
    assert list(smoke.records.columns) == [*COLUMNS, "device", "finished"]
    accuracies = smoke.records[smoke.records["metric"] == "test_accuracy"]
    assert len(accuracies) == 13  # the repetition for the noise floor is no further measurement
    assert accuracies["value"].between(70, 100).all()
    assert not smoke.records.duplicated([name for name in COLUMNS if name != "value"]).any()
    assert set(smoke.records["digest"]) == {SMOKE.digest()}
    assert set(smoke.records["order"]) == {"0", "1", "0-1", "0-0"}
    made = [json.loads(file.read_text())["provenance"] for file in files(smoke.folder, "result.json").values()]
    assert {*smoke.records["device"]} == {each["device"] for each in made}
    assert {*smoke.records["finished"]} <= {each["finished"] for each in made}


def test_the_dense_network_is_trained_in_as_many_data_orders_as_asked_for(tmp_path: Path):
    study = SMOKE.updated(dense_orders=3, levels=0, rewinds=(0,))
    records = run(study, store=tmp_path)
    values = records[records["metric"] == "test_accuracy"].set_index("order")["value"]
    assert list(values.index) == ["0", "1", "2"]
    assert values.nunique() > 1
    assert study.digest() == SMOKE.digest()
    first = run(study.updated(dense_orders=1), store=tmp_path, missing="error")
    assert set(first["order"]) == {"0"}
    ends = files(tmp_path, "end.safetensors")
    assert len({file.read_bytes() for file in ends.values()}) == 3


def test_densities_follow_from_the_rates(smoke: Done):
    # 20% of 235,200 and of 30,000 weights, and 10% of 1,000, each level rounded
    sizes = {0: 266_200, 1: 188_160 + 24_000 + 900, 2: 150_528 + 19_200 + 810}
    for level, kept in sizes.items():
        found = smoke.records[smoke.records["level"] == level]["density"]
        assert (found == float(f"{kept / 266_200:.7g}")).all()  # as it is in files


def test_each_training_is_done_once_and_the_dense_one_once_for_all_rewinds(smoke: Done):
    assert len(smoke.trained) == 14
    assert sum(ticket.mask.density == 1 for ticket in smoke.trained) == 1
    assert len(files(smoke.folder, "result.json")) == 14
    assert set(files(smoke.folder / "replicate_1" / "dense", "iteration_*")) == {"iteration_20.safetensors"}


def test_every_training_runs_from_its_rewind_to_the_end(smoke: Done):
    for name, file in files(smoke.folder, "result.json").items():
        late = "rewind_20" in name and "random_reinit" not in name
        assert json.loads(file.read_text())["provenance"]["iterations"] == (100 if late else 120), name


def test_the_noise_floor_is_exactly_zero(smoke: Done):
    floor = smoke.records[smoke.records["metric"].str.endswith("noise_floor")]
    assert sorted(floor["metric"]) == ["angle_noise_floor", "l2_noise_floor"]
    assert (floor["value"] == 0.0).all()


def level_folder(row: Any) -> str:
    return f"replicate_{row.replicate}/{row.method}/rewind_{row.rewind}/level_{row.level:02d}"


def test_distances_are_those_recomputed_from_the_stored_weights(smoke: Done):
    rows = [row for row in smoke.records.itertuples() if row.metric.startswith(("l2_", "angle_"))]
    assert len(rows) == 2 * (4 + 2 + 2 + 2 + 1)
    for row in rows:
        level = smoke.folder / level_folder(row)
        mask = load_file(level / "order_0" / "mask.safetensors")
        if row.metric.endswith("_pruning"):
            folders = [smoke.folder / "replicate_1" / "dense", level / f"order_{row.order}"]
        elif row.metric.endswith("_noise_floor"):
            folders = [level / "order_0", level / "order_0_again"]
        else:
            folders = [level / f"order_{order}" for order in row.order.split("-")]
        ends = [load_file(folder / "end.safetensors") for folder in folders]
        a, b = (np.concatenate([end[name].astype(np.float64)[mask[name]] for name in LAYERS]) for end in ends)
        if row.metric.startswith("l2_"):
            assert row.value == pytest.approx(np.sqrt(((a - b) ** 2).sum()), rel=1e-9)
        else:
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert row.value == pytest.approx(np.degrees(np.arccos(min(cosine, 1.0))), abs=1e-5)


def test_the_first_ticket_keeps_the_largest_weights_of_the_dense_end_in_every_layer(smoke: Done):
    end = load_file(smoke.folder / "replicate_1" / "dense" / "end.safetensors")
    for rewind in (0, 20):
        mask = load_file(smoke.folder / f"replicate_1/imp/rewind_{rewind}/level_01/order_0/mask.safetensors")
        for name, kept in zip(LAYERS, (188_160, 24_000, 900), strict=True):
            size = np.abs(end[name])
            assert mask[name].sum() == kept
            assert size[mask[name]].min() >= size[~mask[name]].max()


def test_masks_are_nested_along_a_chain(smoke: Done):
    for rewind in (0, 20):
        first, second = (
            load_file(smoke.folder / f"replicate_1/imp/rewind_{rewind}/level_{level:02d}/order_0/mask.safetensors")
            for level in (1, 2)
        )
        assert all((first[name] | ~second[name]).all() for name in LAYERS)


def test_random_pruning_keeps_as_many_weights_in_every_layer_but_others(smoke: Done):
    for rewind in (0, 20):
        masks = {
            method: load_file(smoke.folder / f"replicate_1/{method}/rewind_{rewind}/level_02/order_0/mask.safetensors")
            for method in ("imp", "random_pruning", "random_reinit")
        }
        for name in LAYERS:
            assert masks["random_pruning"][name].sum() == masks["imp"][name].sum()
            assert (masks["random_pruning"][name] != masks["imp"][name]).any()
            assert (masks["random_reinit"][name] == masks["imp"][name]).all()


def test_pruned_weights_are_zero_at_the_end_of_every_training(smoke: Done):
    for file in files(smoke.folder, "end.safetensors").values():
        end, mask = load_file(file), load_file(file.with_name("mask.safetensors"))
        assert all((end[name][~mask[name]] == 0).all() for name in LAYERS)


def by_hand(done: Done, path: str, ticket: Ticket, dataset: Dataset) -> None:
    expected = train(SMOKE, dataset, ticket, replicate=1, order=0).state
    end = load_file(done.folder / path / "end.safetensors")
    assert all(np.array_equal(end[name], expected[name].numpy()) for name in end)


def test_a_ticket_starts_from_the_weights_of_the_dense_run_at_its_rewind(smoke: Done, embedded_mnist: Dataset):
    path = "replicate_1/imp/rewind_20/level_02/order_0"
    kept = load_file(smoke.folder / "replicate_1" / "dense" / "iteration_20.safetensors")
    mask = load_file(smoke.folder / path / "mask.safetensors")
    weights = {name: torch.from_numpy(np.asarray(value * mask.get(name, True))) for name, value in kept.items()}
    ticket = Ticket(Mask({name: torch.from_numpy(mask[name]) for name in LAYERS}), weights, 20, 2)
    by_hand(smoke, path, ticket, embedded_mnist)


def test_the_dense_run_is_one_training_from_the_initial_weights(smoke: Done, embedded_mnist: Dataset):
    weights = initial_weights(preset("lenet_300_100"), seeds.stream(1, "init"))
    ticket = Ticket(Mask.ones({name: weights[name] for name in LAYERS}), weights, 0, 0)
    by_hand(smoke, "replicate_1/dense", ticket, embedded_mnist)


# Nothing twice


def test_a_second_run_trains_nothing_and_writes_nothing(copy: Done, monkeypatch: pytest.MonkeyPatch):
    before, trained = times(copy.store, "*"), count_trainings(monkeypatch)
    pd.testing.assert_frame_equal(run(TINY, store=copy.store), copy.records)
    pd.testing.assert_frame_equal(run(TINY, store=str(copy.store), missing="error"), copy.records)
    assert trained == []
    assert times(copy.store, "*") == before


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"levels": 2, "compared_levels": (2,)}, 3),
        ({"levels": 2, "compared_levels": (1, 2)}, 3),
        ({"replicates": 2}, 4),
        ({"replicates": (3,)}, 4),
        ({"orders": 3}, 1),
        ({"rewinds": (0, 5)}, 2),
        ({"methods": ("imp", "random_pruning", "random_reinit")}, 3),
    ],
    ids=str,
)
def test_asking_for_more_trains_only_what_is_new(
    changes: dict[str, object], new: int, copy: Done, monkeypatch: pytest.MonkeyPatch
):
    wider = TINY.updated(**changes)
    before, trained = times(copy.store, "result.json", "end.safetensors"), count_trainings(monkeypatch)
    table = run(wider, store=copy.store)
    after = times(copy.store, "result.json", "end.safetensors")
    assert {name: after[name] for name in before} == before
    assert len(after) - len(before) == 2 * new
    assert len(trained) in (new, new + ("rewinds" in changes))  # W_5 was not kept: the dense run is repeated up to it
    assert plan.missing(table, wider) == []


def test_what_further_orders_are_compared_with_is_trained_again_where_only_its_records_are(
    copy: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Records that came from another machine: their ends are not here, and a distance needs both."""
    records.add(records.results_folder(), TINY, *records.of_store(StudyStore(copy.store, TINY)))
    wider, trained = TINY.updated(orders=3), count_trainings(monkeypatch)
    table = run(wider, store=tmp_path / "elsewhere")
    assert table.loc[table["metric"] == "l2_data_order", "order"].tolist() == ["0-1", "0-2", "1-2"]
    assert len(trained) == 4  # the dense network and three orders of its ticket
    assert plan.missing(table, wider) == []
    assert_same_records(table, run(wider, store=copy.store))


def count_helpers(monkeypatch: pytest.MonkeyPatch, alone: float) -> list[tuple[int, int]]:
    """How many trainings there are for other processes and how many are started, on two cores, each time some are."""
    started: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def helpers(_: StudyStore, wanted: Sequence[Training], *__: object) -> Iterator[Callable[[int], None]]:
        yield lambda count: started.append((len(wanted), count))

    monkeypatch.setattr("lth_study.parallel.helpers", helpers)
    monkeypatch.setattr("lth_study.devices.cores", lambda: 2)
    monkeypatch.setattr(study, "ALONE", alone)
    return started


def test_what_deeper_levels_build_on_is_trained_again_and_counted_where_only_its_records_are(
    copy: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """How many are trained at once, and what progress is told of, depends on all that there is to do."""
    records.add(records.results_folder(), TINY, *records.of_store(StudyStore(copy.store, TINY)))
    deeper = TINY.updated(levels=2, compared_levels=(1,))
    absent = plan.missing(records.known(StudyStore(tmp_path / "elsewhere", deeper))[0], deeper)
    below = [dense(1), Training(1, "imp", 0, 1, 0)]
    assert absent == [Training(1, "imp", 0, 2, 0)]
    assert plan.needed(absent, deeper) == [*below, *absent]
    started = count_helpers(monkeypatch, alone=0)
    run(deeper, store=tmp_path / "elsewhere")
    trained = count_trainings(monkeypatch)
    run(deeper.updated(levels=3), store=tmp_path / "elsewhere")
    assert started == [(3, 1)]
    assert len(trained) == 1


def workers_of(store: Path, study: Setting) -> list[int]:
    """How many workers a study had by what is recorded of each training."""
    return records.of_store(StudyStore(store, study))[1]["workers"].tolist()


def test_a_run_gets_help_once_it_has_taken_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = count_helpers(monkeypatch, alone=3600)
    run(TINY, store=tmp_path / "short")
    assert started == []
    run(TINY, store=tmp_path / "told", workers=40)  # for four trainings
    assert started == [(4, 3)]
    monkeypatch.setattr(study, "ALONE", TINY.iterations + 0.5)  # in the first update after the dense network's
    seconds, really = itertools.count(), FlatNetwork.update
    when: list[int] = []

    def update(network: FlatNetwork, *batch: Any) -> None:
        really(network, *batch)
        when.append(len(started))

    monkeypatch.setattr(study, "time", SimpleNamespace(monotonic=lambda: next(seconds) / 2))  # asked twice an update
    monkeypatch.setattr(FlatNetwork, "update", update)
    run(TINY, store=tmp_path / "long")
    assert started == [(4, 3), (4, 1)]
    assert when.index(2) in range(TINY.iterations - 1, TINY.iterations + 2)
    assert workers_of(tmp_path / "short", TINY) == [1, 1, 1, 1]
    assert workers_of(tmp_path / "told", TINY) == [4, 4, 4, 4]
    assert workers_of(tmp_path / "long", TINY) == [1, 2, 2, 2]


def test_a_gpu_trains_as_many_networks_as_are_missing_and_never_none(
    copy: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counts, recorded = list[int](), list[int]()
    monkeypatch.setattr("lth_study.devices.compute_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(worker, "Worker", lambda *_, workers: recorded.append(workers))
    monkeypatch.setattr("lth_study.parallel.complete_side_by_side", lambda *arguments: counts.append(arguments[-1]))
    for store in (copy.store, tmp_path / "empty"):
        study._train(StudyStore(store, TINY), plan.trainings(TINY), [], workers=None, seconds=None, progress=None)
    assert counts == recorded == [1, 4]


def test_one_shot_levels_build_on_the_dense_run_alone():
    study = preset("squeezenet1_0", profile="smoke").updated(densities=(0.8, 0.5, 0.2), levels=3, compared_levels=(3,))
    control = Training(1, "random_pruning", 2, 3, 0)
    needed = plan.needed([control], study.updated(methods=("imp", "random_pruning"), orders=1))
    assert needed == [dense(1), Training(1, "imp", 2, 3, 0), control]


def test_a_level_has_one_density_whether_its_records_are_committed_or_of_the_store(copy: Done):
    wider = TINY.updated(replicates=2)
    records.add(records.results_folder(), TINY, *records.of_store(StudyStore(copy.store, TINY)))
    table = run(wider, store=copy.store)
    assert len(table[table["level"] > 0].groupby(["level", "density"])) == TINY.levels
    assert set(table["replicate"]) == {1, 2}


def test_a_later_wish_for_a_rewind_gives_the_same_bits_as_an_early_one(copy: Done, tmp_path: Path):
    study = TINY.updated(rewinds=(0, 5), orders=1)
    run(study, store=copy.store)
    run(study, store=tmp_path / "fresh")
    late, early = bits(copy.store), bits(tmp_path / "fresh")
    shared = [name for name in early if name.endswith(".safetensors")]
    assert {name: late[name] for name in shared} == {name: early[name] for name in shared}


def test_a_later_rewind_is_reached_in_several_goes_with_the_same_bits(copy: Done, tmp_path: Path):
    study = TINY.updated(rewinds=(0, 50), orders=1)
    with pytest.MonkeyPatch.context() as late:
        asked = iter(range(10**9))
        stops = {30, 45}  # of the times that the training up to W_50 asks whether to stop
        stopping = Worker(StudyStore(copy.store, study), lambda: next(asked) in stops)
        for done in (30, 44):
            with pytest.raises(Stopped):
                stopping.dense_state(1, 50)
            checkpoint = StudyStore(copy.store, study).saves(dense(1)).toward(50).load_checkpoint()
            assert checkpoint is not None
            assert checkpoint[0] == done
        late.setattr("lth_study.training.train._evaluated", None)  # nothing is evaluated on the way
        stopping.dense_state(1, 50)
    assert not files(copy.store, "checkpoint.safetensors")
    run(study, store=tmp_path / "fresh")
    state = "replicate_1/dense/iteration_50.safetensors"
    assert (copy.folder / state).read_bytes() == (tmp_path / "fresh" / study.name / state).read_bytes()


def test_a_later_rewind_is_reached_by_one_process_alone(copy: Done):
    first = StudyStore(copy.store, TINY)
    with first.saves(dense(1)).toward(50).locked(), pytest.raises(Busy):
        Worker(first).dense_state(1, 50)


def test_a_subnetwork_without_weights_has_distances_but_no_angles(tmp_path: Path):
    table = run(TINY.updated(pruning_rate=1.0, output_pruning_rate=1.0), store=tmp_path / "store")
    assert set(table["metric"]) >= {"l2_pruning", "l2_data_order", "l2_noise_floor"}
    assert not table["metric"].str.startswith("angle").any()


def test_trainings_that_leave_no_record_are_an_error_and_not_done_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(study, "measure", lambda _: None)  # so the noise floor is never measured
    with pytest.raises(StoreError, match=r"trained, and still not recorded: replicate 1, imp, .* again"):
        run(TINY, store=tmp_path / "store")


def test_what_run_returns_does_not_depend_on_what_else_is_in_the_store(copy: Done, tmp_path: Path):
    study = TINY.updated(levels=2, compared_levels=(2,))
    assert_same_records(run(study, store=copy.store), run(study, store=tmp_path / "fresh"))


def test_missing_records_are_an_error_where_training_is_not_wanted(tmp_path: Path):
    with pytest.raises(MissingRecords, match=r"4 of 4 trainings") as raised:
        run(TINY, store=tmp_path / "store", missing="error")
    assert "missing='train'" in str(raised.value)
    assert not (tmp_path / "store").exists()


def test_an_unknown_wish_for_what_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="bogus"):
        run(TINY, store=tmp_path / "store", missing="bogus")  # type: ignore[arg-type]


def test_distances_that_a_killed_run_did_not_measure_are_measured_by_the_next(
    copy: Done, monkeypatch: pytest.MonkeyPatch
):
    wider = TINY.updated(orders=3)
    with monkeypatch.context() as killed:
        killed.setattr(study, "measure", lambda _: None)
        run(wider, store=copy.store)
    table = run(wider, store=copy.store)
    assert set(table[table["metric"] == "l2_data_order"]["order"]) == {"0-1", "0-2", "1-2"}


def test_orders_are_compared_where_the_first_of_them_was_trained_elsewhere(copy: Done):
    wider = TINY.updated(orders=3)
    run(wider, store=copy.store)
    store = StudyStore(copy.store, wider)
    level = store.folder / "replicate_1/imp/rewind_0/level_01"
    shutil.rmtree(level / "order_0")
    (level / "distances.json").unlink()
    study.measure(store)
    rows = records.of_store(store)[0]
    rows = rows[(rows["method"] == "imp") & (rows["rewind"] == 0) & (rows["level"] == 1)]
    assert set(rows.loc[rows["metric"].str.startswith("l2"), "metric"]) == {"l2_data_order"}
    assert set(rows.loc[rows["metric"] == "l2_data_order", "order"]) == {"1-2"}


# Damage


@pytest.mark.parametrize(
    ("damaged", "changes"),
    [
        ("dense/end", {"orders": 3}),
        ("imp/rewind_0/level_01/order_0/end", {"orders": 3}),
        ("imp/rewind_0/level_01/order_0/end", {"levels": 2, "compared_levels": (1,)}),
        ("imp/rewind_0/level_01/order_1/end", {"orders": 3}),
        ("imp/rewind_0/level_01/order_0/mask", {"orders": 3}),
    ],
)
def test_a_damaged_file_is_noticed_when_it_is_needed_and_only_it_is_made_again(
    damaged: str, changes: dict[str, object], copy: Done, monkeypatch: pytest.MonkeyPatch
):
    expected, before = bits(copy.store), times(copy.store, "result.json")
    flip_a_bit(copy.folder / "replicate_1" / f"{damaged}.safetensors")
    trained = count_trainings(monkeypatch)
    run(TINY.updated(**changes), store=copy.store)
    after, now = times(copy.store, "result.json"), bits(copy.store)
    again = {name for name in before if after[name] != before[name]}
    assert again <= {f"{TINY.name}/replicate_1/{Path(damaged).parent}/result.json"}
    assert len(trained) <= 2  # the new one and the damaged one
    states = [name for name in expected if name.endswith(".safetensors")]
    assert {name: now[name] for name in states} == {name: expected[name] for name in states}


def test_a_damaged_state_to_rewind_to_is_made_again_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, store = TINY.updated(rewinds=(5,)), tmp_path / "store"
    run(study, store=store)
    expected, before = bits(store), times(store, "result.json")
    flip_a_bit(store / study.name / "replicate_1" / "dense" / "iteration_5.safetensors")
    trained = count_trainings(monkeypatch)
    run(study.updated(orders=3), store=store)
    states = [name for name in expected if name.endswith(".safetensors")]
    assert {name: bits(store)[name] for name in states} == {name: expected[name] for name in states}
    assert {name: times(store, "result.json")[name] for name in before} == before
    assert len(trained) == 2  # the dense run up to iteration 5, and the new data order


def full_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`os.fsync` or `os.replace` on a disk that is full after some calls."""
    left = iter(range(calls))

    def limited(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments)

    return limited


@pytest.mark.parametrize(
    ("function", "calls"), [("fsync", 0), ("fsync", 1), ("replace", 2), ("fsync", 6), ("replace", 14)]
)
def test_a_full_disk_is_said_and_the_next_run_gives_the_same_bits(
    function: str, calls: int, tiny: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as full:
        full.setattr(os, function, full_after(calls, getattr(os, function)))
        with pytest.raises(StoreError, match="No space left on device"):
            run(TINY, store=tmp_path / "store")
    table = run(TINY, store=tmp_path / "store")
    assert_same_records(table, tiny.records)
    assert bits(tmp_path / "store") == bits(tiny.store)
    assert not files(tmp_path / "store", ".*.safetensors.*", ".*.json.*")


# Stopping


def test_a_run_out_of_time_says_how_far_it_came_and_goes_on_with_the_same_bits(tiny: Done, tmp_path: Path):
    with pytest.raises(Stopped, match="0 of 4"):
        run(TINY, store=tmp_path / "store", seconds=0)
    with pytest.raises(Stopped, match="of 4"):
        run(TINY, store=tmp_path / "store", seconds=0.1)
    assert files(tmp_path / "store", "checkpoint.safetensors")
    run(TINY, store=tmp_path / "store")
    assert bits(tmp_path / "store") == bits(tiny.store)
    assert not files(tmp_path / "store", "checkpoint.safetensors")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def start(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not files(folder, pattern):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


KILLED = """
import sys
from pathlib import Path
import lth_study.training.train
from lth_study import run
from lth_study.settings import Setting
lth_study.training.train.CHECKPOINT_SECONDS = 0.05
run(Setting.from_json(sys.stdin.read()), store=sys.argv[1])
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_a_random_moment_and_started_again_gives_the_same_bits(seed: int, tiny: Done, tmp_path: Path):
    store = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store)], env=environment(), stdin=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(TINY.to_json())
        process.stdin.close()
        wait_for(".lock", store, process)
        time.sleep(random.Random(seed).uniform(0, 1.0))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    run(TINY, store=store)
    assert bits(store) == bits(tiny.store)


def test_sigterm_stops_a_run_with_a_checkpoint_a_message_and_status_3(smoke: Done, tmp_path: Path):
    store = tmp_path / "store"
    options = ("--profile", "smoke", "--figure", "stability", "--store", str(store))
    with start("-m", "lth_study", "run", "lenet_300_100", *options, env=environment()) as process:
        wait_for(".lock", store, process)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert process.returncode == 3, err
    assert "of 14 trainings done; the same command goes on from here" in out
    assert "Traceback" not in err
    assert files(store, "checkpoint.safetensors")
    few = SMOKE.updated(rewinds=(0,), levels=1, compared_levels=(), methods=("imp",))
    run(few, store=store)
    mine, theirs = bits(store), bits(smoke.store)
    ends = [name for name in mine if name.endswith("end.safetensors")]
    assert len(ends) >= 2
    assert {name: mine[name] for name in ends} == {name: theirs[name] for name in ends}


# Several processes

SPY = """
import os
replace = os.replace
def spy(source, destination, **options):
    replace(source, destination, **options)
    if str(destination).endswith(("result.json", "barriers.json")):
        with open(os.environ["LTH_TEST_LOG"], "a") as log:
            log.write(f"{os.getpid()} {destination}\\n")
os.replace = spy
"""
"""Runs at the start of every Python process and logs each training that it finishes and barrier that it measures."""


@pytest.fixture
def finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of what processes started from here finish."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "spy"), str(PROJECT)]))
    monkeypatch.setenv("LTH_TEST_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def check_shared(log: Path, store: Path, alone: Done) -> None:
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    done = Counter(path for _, path in lines)
    trained = {path: count for path, count in done.items() if path.endswith("result.json")}
    assert len(trained) == len(alone.trained)
    assert set(trained.values()) == {1}
    assert sum((done - Counter(trained)).values()) == len(plan.barriers(alone.study))
    assert bits(store) == bits(alone.store)
    assert not files(store, "checkpoint.safetensors")


def test_two_commands_on_one_store_do_each_training_once_with_the_same_bits(
    finishes: Path, smoke: Done, tmp_path: Path
):
    store = tmp_path / "store"
    options = ("--profile", "smoke", "--figure", "stability", "--workers", "1", "--store", str(store))
    both = [start("-m", "lth_study", "run", "lenet_300_100", *options, env=dict(os.environ)) for _ in range(2)]
    for process in both:
        with process:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    check_shared(finishes, store, smoke)
    assert_same_records(run(SMOKE, store=store, missing="error"), smoke.records)


def test_two_workers_do_each_training_once_with_the_same_bits(finishes: Path, smoke: Done, tmp_path: Path):
    store = tmp_path / "store"
    script = (
        "import sys; from lth_study import run; from lth_study.settings import Setting\n"
        "run(Setting.from_json(sys.argv[1]), store=sys.argv[2], workers=2)"
    )
    with start("-c", script, SMOKE.to_json(), str(store), env=dict(os.environ)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    check_shared(finishes, store, smoke)
    assert_same_records(run(SMOKE, store=store, missing="error"), smoke.records)
    assert set(workers_of(store, SMOKE)) == {2}


def test_a_worker_that_waits_for_another_leaves_it_the_processor_and_stops_when_asked(
    copy: Done, monkeypatch: pytest.MonkeyPatch
):
    begun, looked = time.monotonic(), list[int]()
    worker = Worker(StudyStore(copy.store, TINY), lambda: time.monotonic() > begun + 1.5)

    def busy(*_: object) -> set[Training]:
        looked.append(1)
        time.sleep(0.2)
        raise Busy

    monkeypatch.setattr(worker, "chain", busy)
    with pytest.raises(Stopped):
        worker.complete([Training(9, "imp", 0, 1, 0)])
    assert len(looked) == 1
    assert time.monotonic() < begun + 10


# Data that is not there, and training that fails


def test_without_mnist_the_embedded_images_stand_in_under_their_own_name(tmp_path: Path):
    laptop = preset("lenet_300_100", profile="laptop")
    study = laptop.updated(iterations=100, levels=1, compared_levels=(1,), replicates=1, rewinds=(0,), orders=1)
    with pytest.warns(UserWarning, match="mnist_embedded"):
        table = run(study, store=tmp_path / "store")
    assert set(table["dataset"]) == {"mnist_embedded"}
    assert set(table["digest"]) == {study.updated(dataset="mnist_embedded").digest()}
    assert study.digest() not in set(table["digest"])
    with pytest.raises(MissingRecords):
        run(study, store=tmp_path / "store", missing="error")


def test_a_diverged_dense_run_is_a_record_and_nothing_is_missing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, reached = TINY.updated(learning_rate=1e30, rewinds=(0, 69)), count_trainings(monkeypatch)
    table = run(study, store=tmp_path / "store", seconds=20)
    assert len(reached) == 1  # no W_69 is looked for
    assert list(table["metric"]) == ["diverged"]
    assert list(table["method"]) == ["dense"]
    assert 0 < table["value"].item() <= 70
    made = records.of_store(StudyStore(tmp_path / "store", study))[1]
    assert made["iterations"].item() == table["value"].item()
    assert plan.missing(table, study) == []
    trained = count_trainings(monkeypatch)
    pd.testing.assert_frame_equal(run(study, store=tmp_path / "store", missing="error"), table)
    assert trained == []


@pytest.mark.parametrize("compared", [(), (1,), (2,), (1, 2)], ids=str)
def test_a_level_that_diverges_is_a_record_and_nothing_is_missing_after_it(
    compared: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def diverging(study: Setting, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        trained = train(study, dataset, ticket, **options)
        return trained if ticket.level == 0 else Trained(trained.state, {}, 66, trained.seconds)

    monkeypatch.setattr(worker, "train", diverging)
    study = TINY.updated(levels=2, compared_levels=compared)
    table = run(study, store=tmp_path / "store", seconds=8)
    diverged = table[table["metric"] == "diverged"]
    assert set(diverged["level"]) == {1}
    assert set(diverged["order"]) == ({"0", "1"} if 1 in compared else {"0"})
    assert set(table[table["metric"] == "test_accuracy"]["method"]) == {"dense"}
    assert plan.missing(table, study) == []
    pd.testing.assert_frame_equal(run(study, store=tmp_path / "store", missing="error"), table)


def test_nothing_is_trained_below_a_level_of_the_store_that_diverged(copy: Done, monkeypatch: pytest.MonkeyPatch):
    store, levels = StudyStore(copy.store, TINY), [Training(1, "imp", 0, level, 0) for level in (1, 2)]
    file = store.saves(levels[0]).folder / "result.json"
    write_json(file, {**read_json(file), "diverged_at": 66})  # as another process may find it
    trained = count_trainings(monkeypatch)
    assert Worker(store).chain(1, 0, {levels[1]}) == set()
    assert Worker(store).chain(1, 0, set(levels)) == {levels[0]}
    assert trained == []


def test_a_control_that_diverges_does_not_keep_the_rest_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = TINY.updated(methods=("imp", "random_pruning"))
    trained = training.train

    def diverging(study: Setting, dataset: Dataset, ticket: Ticket, **options: Any) -> Trained:
        end = trained(study, dataset, ticket, **options)
        control = "random_pruning" in str(options["saves"].folder)
        return Trained(end.state, {}, 66, end.seconds) if control else end

    monkeypatch.setattr(worker, "train", diverging)
    table = run(study, store=tmp_path / "store", seconds=8)
    assert set(table[table["method"] == "random_pruning"]["metric"]) == {"diverged"}
    assert plan.missing(table, study) == []
    assert "l2_data_order" in set(table[table["method"] == "imp"]["metric"])


def test_a_study_is_not_gone_on_with_on_other_images(copy: Done, monkeypatch: pytest.MonkeyPatch):
    same = data.load("mnist_embedded")
    other = Dataset(same.name, same.train, same.validation, Split(255 - same.test.images, same.test.labels))
    monkeypatch.setattr(data, "load", lambda name, **shape: other)
    with pytest.raises(StoreError, match=f"{same.fingerprint()}.*{other.fingerprint()}"):
        run(TINY.updated(orders=3), store=copy.store)


def test_a_training_that_was_begun_is_not_ended_on_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Stopped):
        run(TINY, store=tmp_path / "store", seconds=0)
    same = data.load("mnist_embedded")
    other = Dataset(same.name, same.train, same.validation, Split(255 - same.test.images, same.test.labels))
    monkeypatch.setattr(data, "load", lambda name, **shape: other)
    with pytest.raises(StoreError, match=f"{same.fingerprint()}.*{other.fingerprint()}"):
        run(TINY, store=tmp_path / "store")


def test_a_training_begun_on_other_images_is_not_ended_on_those_of_the_records(
    copy: Done, tmp_path: Path, embedded_mnist: Dataset
):
    records.export_store(copy.store, records.results_folder())
    with pytest.raises(Stopped):
        run(TINY.updated(orders=3), store=tmp_path / "begun", seconds=0)
    (begun,) = (tmp_path / "begun").glob("*/images.json")
    begun.write_text('{"fingerprint": "fedcba9876543210"}')
    with pytest.raises(StoreError, match=f"fedcba9876543210.*{embedded_mnist.fingerprint()}"):
        run(TINY.updated(orders=3), store=tmp_path / "begun")


def test_memory_that_runs_out_leaves_a_store_that_goes_on(
    tiny: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_mnist: Dataset
):
    updates, really = itertools.count(), FlatNetwork.update

    def runs_out(self: FlatNetwork, *batch: object) -> None:
        if next(updates) == 100:  # in the second training
            raise MemoryError
        really(self, *batch)

    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(FlatNetwork, "update", runs_out)
        with pytest.raises(OutOfMemory, match="Finished trainings are kept"):
            run(TINY, store=store, workers=1)
    assert len(files(store, "result.json")) == 1
    assert_same_records(run(TINY, store=store, workers=1), tiny.records)
    assert bits(store) == bits(tiny.store)
