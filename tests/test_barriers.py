"""Error barriers of the study: which are planned, what they measure, and that each is measured once."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
import torch
from studies import SMOKE, TINY, Done, assert_same_records, files, finished
from torch import Tensor
from torch.optim.swa_utils import update_bn

from lth_study import DataError, barriers, data, plan, preset, records, run
from lth_study.barriers import heights
from lth_study.data.parts import Dataset, Split
from lth_study.files import read_state
from lth_study.measure import measure
from lth_study.networks import build
from lth_study.plan import Barrier
from lth_study.settings import METHODS, Setting
from lth_study.store import Busy, StudyStore, Training, TrainingFolder, dense
from lth_study.training import Stopped
from lth_study.trainings import Trainings
from lth_study.worker import Worker

RESNET = preset("resnet20", profile="smoke").only("stability").updated(rewinds=(0,), methods=("imp",))
NETWORKS = {"lenet_300_100": 20, "resnet20": 0}
"""The networks measured by themselves, and a rewinding iteration of each."""
IMAGES = {"lenet_300_100": (4_000, 500), "resnet20": (384, 384)}
"""How many training and test images errors are measured on: all of LeNet's, and as many as ResNet-20 sees in 12 batches
of 32."""
SUBNETWORK = {"0-1": ["data_order"], "0": ["pruning"]}
KINDS = {"imp": {**SUBNETWORK, "0": ["pruning", "level", "level_masked"]}, "random_pruning": SUBNETWORK}
HEIGHTS = {f"{images}_{height}" for images in ("train", "test") for height in ("mean", "line")}

pytestmark = pytest.mark.usefixtures("images_read_once")


@pytest.fixture(scope="module")
def done(smoke: Done, tmp_path_factory: pytest.TempPathFactory, embedded_mnist: Dataset) -> dict[str, Done]:
    """Finished studies of two networks; not to be changed."""
    return {"lenet_300_100": smoke, "resnet20": finished(RESNET, tmp_path_factory.mktemp("resnet20"), embedded_mnist)}


@pytest.fixture
def unmeasured(copy: Done) -> Done:
    """A finished study, as its store was before its three barriers were measured."""
    for file in files(copy.store, "barriers.json").values():
        file.unlink()
    return copy


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The barriers that are measured from now on."""
    found: list[dict[str, float]] = []

    def counted(*arguments: Any) -> dict[str, float]:
        found.append(heights(*arguments))
        return found[-1]

    monkeypatch.setattr(barriers, "heights", counted)
    return found


@pytest.fixture
def trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lth_study.trainings.train", None)


def rows_of(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["metric"].str.startswith("barrier_")].reset_index(drop=True)


# The plan


def test_barriers_are_planned_at_compared_levels_between_orders_to_the_dense_network_and_between_levels():
    study = SMOKE.updated(rewinds=(20,), levels=4, compared_levels=(1, 4), methods=METHODS, orders=3)
    first, second, third = (Training(1, "imp", 20, 4, order) for order in range(3))
    of_imp = [b for b in plan.barriers(study) if b.b.method == "imp" and b.b.level == 4]
    assert set(of_imp) == {
        Barrier("data_order", first, second),
        Barrier("data_order", first, third),
        Barrier("data_order", second, third),
        Barrier("pruning", dense(1), first),
        Barrier("level", Training(1, "imp", 20, 3, 0), first),
        Barrier("level_masked", Training(1, "imp", 20, 3, 0), first),
    }
    assert [b.order for b in of_imp if b.kind == "data_order"] == ["0-1", "0-2", "1-2"]
    assert {b.order for b in of_imp if b.kind != "data_order"} == {"0"}
    # the ticket before level 1 is the dense network: the two as they are were compared above
    first = Training(1, "imp", 20, 1, 0)
    between = [b for b in plan.barriers(study) if b.b == first and b.b.level == 1 and b.kind != "data_order"]
    assert between == [Barrier("pruning", dense(1), first), Barrier("level_masked", dense(1), first)]
    control = [b for b in plan.barriers(study) if b.b.method == "random_pruning"]
    assert [b.kind for b in control] == 2 * ["data_order", "data_order", "data_order", "pruning"]
    assert len(plan.barriers(study)) == 5 + 6 + len(control)  # none of random reinitialisation
    assert {t for b in plan.barriers(study) for t in (b.a, b.b)} <= set(plan.trainings(study))


def test_one_shot_levels_are_not_compared_with_each_other():
    study = preset("squeezenet1_0", profile="smoke").updated(densities=(0.5, 0.2), compared_levels=(2,))
    assert {b.kind for b in plan.barriers(study)} == {"data_order", "pruning"}


def test_rows_are_selected_where_the_barrier_is_asked_for(smoke: Done):
    table = smoke.records
    assert plan.unmeasured(table, SMOKE) == []
    assert len(rows_of(plan.select(table, SMOKE))) == 12 * 4
    one = rows_of(plan.select(table, SMOKE.updated(orders=1, methods=("imp",))))
    assert set(one["order"]) == {"0"}
    assert len(one) == 6 * 4
    for without in ({"compared_levels": (1,)}, {"levels": 1}, {"methods": ("random_reinit",)}, {"barriers": False}):
        assert len(rows_of(plan.select(table, SMOKE.updated(**without)))) == 0
    wider = SMOKE.updated(orders=3, methods=("imp",))
    assert Counter(c.order for c in plan.unmeasured(table, wider)) == {"0-2": 4, "1-2": 4}  # distances and barriers


# Records


@pytest.mark.parametrize("network", NETWORKS)
def test_every_planned_barrier_is_a_record_and_networks_with_batch_norm_have_twice_as_many(
    network: str, done: dict[str, Done]
):
    rows, extent = rows_of(done[network].records), done[network].study.extent
    ways = ["", "_recomputed"] if network == "resnet20" else [""]
    assert sorted(zip(rows["method"], rows["rewind"], rows["order"], rows["metric"], strict=True)) == sorted(
        (method, rewind, order, f"barrier_{kind}_{height}{way}")
        for method in set(KINDS) & set(extent.methods)
        for rewind in extent.rewinds
        for order, kinds in KINDS[method].items()
        for kind in kinds
        for height in HEIGHTS
        for way in ways
    )
    assert set(rows["level"]) == {2}
    assert (rows["value"] >= 0).all()
    assert rows["value"].nunique() > 10


def errors_along(setting: Setting, weights: Mapping[str, Tensor], images: Dataset, recomputed: bool) -> dict[str, Any]:
    """The error in percent on both sets of images, with how much of it is in doubt: the share of images whose two
    largest logits are so close that rounding may swap them. torch itself recomputes batch norm's statistics."""
    count, tested = IMAGES[setting.network]
    parts = {
        "train": images.train.of(torch.arange(count)),
        "test": images.test.of(torch.arange(tested) * 500 // tested),
    }
    model = build(setting)
    model.load_state_dict(weights)
    if recomputed:
        update_bn(parts["train"].images.split(setting.batch_size), model)
    model.eval()
    found = {}
    for name, part in parts.items():
        logits = model(part.images)
        largest = logits.topk(2, 1).values
        close = (largest[:, 0] - largest[:, 1]) < 1e-5 * logits.abs().amax(1)
        found[name] = 100 * float((logits.argmax(1) != part.labels).double().mean()), 100 * float(close.double().mean())
    return found


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        *(("lenet_300_100", kind) for kind in ("data_order", "pruning", "level", "level_masked")),
        ("resnet20", "pruning"),  # batch norm, whatever the pair
    ],
)
def test_recorded_heights_are_those_of_networks_interpolated_one_by_one(
    network: str, kind: str, done: dict[str, Done], embedded_mnist: Dataset
):
    color, setting, rewind = network == "resnet20", done[network].study.setting, NETWORKS[network]
    images = data.load("mnist_embedded", color=True, size=8) if color else embedded_mnist
    folder, chain = done[network].folder / "replicate_1", f"imp/rewind_{rewind}"
    before, ticket, other = f"{chain}/level_01/order_0", f"{chain}/level_02/order_0", f"{chain}/level_02/order_1"
    pair = {"data_order": (ticket, other), "pruning": ("dense", ticket)}.get(kind, (before, ticket))
    a, b = (
        {name: tensor.double() for name, tensor in read_state(folder / end / "end.safetensors")[0].items()}
        for end in pair
    )
    if kind == "level_masked":
        for name, kept in read_state(folder / ticket / "mask.safetensors")[0].items():
            a[name] = a[name] * kept
    rows = rows_of(done[network].records)
    rows = rows[(rows["method"] == "imp") & (rows["rewind"] == rewind)]
    values = rows[rows["order"] == ("0-1" if kind == "data_order" else "0")].set_index("metric")["value"]
    for way in ["", "_recomputed"] if color else [""]:
        along = []
        for point in range(11):
            between = {name: a[name] + point / 10 * (b[name] - a[name]) for name in a}
            along.append(errors_along(setting, between, images, recomputed=bool(way)))
        for name in ("train", "test"):
            errors = torch.tensor([point[name][0] for point in along])
            # each of the three errors that a height is made of may be off by the images in doubt
            doubt = 2 * max(point[name][1] for point in along) + 1e-5
            assert doubt < 1.1  # two of ResNet-20's images
            mean, line = (errors[0] + errors[-1]) / 2, torch.linspace(float(errors[0]), float(errors[-1]), 11)
            assert values[f"barrier_{kind}_{name}_mean{way}"] == pytest.approx(float(errors.max() - mean), abs=doubt)
            assert values[f"barrier_{kind}_{name}_line{way}"] == pytest.approx(float((errors - line).max()), abs=doubt)


def test_test_images_are_spread_over_the_whole_part(embedded_mnist: Dataset, smoke: Done):
    """They may come sorted by class."""
    order = embedded_mnist.test.labels.argsort()
    by_class = embedded_mnist.test.of(order)
    setting, level = SMOKE.setting.updated(iterations=1, batch_size=100), "replicate_1/imp/rewind_20/level_02"
    a, b = (read_state(smoke.folder / level / f"order_{n}" / "end.safetensors")[0] for n in (0, 1))

    def measured_on(images: Tensor, labels: Tensor) -> dict[str, float]:
        part = Split(images, labels)
        return heights(setting, Dataset("", embedded_mnist.train, embedded_mnist.validation, part), a, b)

    expected = measured_on(by_class.images[::5], by_class.labels[::5])
    assert measured_on(by_class.images, by_class.labels) == expected
    assert measured_on(by_class.images[:100], by_class.labels[:100]) != expected


def test_statistics_are_recomputed_from_nothing_at_every_point(done: dict[str, Done]):
    """Both ends being the same network, every point is that network and there is no barrier."""
    images = data.load("mnist_embedded", color=True, size=8)
    end = read_state(done["resnet20"].folder / "replicate_1" / "dense" / "end.safetensors")[0]
    assert set(heights(RESNET.setting.updated(batch_size=8), images, end, end).values()) == {0.0}


# Measured once, whatever happens


def test_barriers_that_a_killed_run_did_not_measure_are_measured_by_the_next_without_training(
    unmeasured: Done, measured: list[Any], trains_nothing: None, monkeypatch: pytest.MonkeyPatch
):
    counted = barriers.heights

    def killed(*arguments: Any) -> dict[str, float]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    before = run(TINY, store=unmeasured.store, missing="error")
    assert len(rows_of(before)) == 0  # reading measures none
    assert plan.missing(before, TINY) == []  # and lacks none
    with monkeypatch.context() as patch:
        patch.setattr(barriers, "heights", killed)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, store=unmeasured.store, workers=1)
    assert len(measured) == 2
    for _ in range(2):
        assert_same_records(run(TINY, store=unmeasured.store, workers=1), unmeasured.records)
        assert len(measured) == 3


def test_a_run_stops_between_two_barriers(unmeasured: Done, measured: list[Any], trains_nothing: None):
    with pytest.raises(Stopped, match="stopped with 0 of 3 barriers"):
        run(TINY, store=unmeasured.store, workers=1, seconds=0)
    stopping = Worker(Trainings(StudyStore(unmeasured.store, TINY.setting), stop_requested=lambda: len(measured) == 1))
    with pytest.raises(Stopped):
        stopping.complete([], plan.barriers(TINY))
    assert len(measured) == 1


def test_a_run_stops_within_a_barrier_and_the_next_measures_it_whole(unmeasured: Done, trains_nothing: None):
    store, asked = StudyStore(unmeasured.store, TINY.setting), iter(range(100))
    with pytest.raises(Stopped):  # asked once before a barrier, and before each of its 11 points
        Worker(Trainings(store, stop_requested=lambda: next(asked) == 5)).complete([], plan.barriers(TINY))
    assert next(asked) == 6
    assert not files(unmeasured.store, "barriers.json")
    assert_same_records(run(TINY, store=unmeasured.store, workers=1), unmeasured.records)


def test_a_barrier_that_another_process_is_measuring_is_left_to_it(unmeasured: Done, measured: list[Any]):
    store, barrier = StudyStore(unmeasured.store, TINY.setting), plan.barriers(TINY)[0]
    with TrainingFolder(unmeasured.folder / "replicate_1/imp/rewind_5/level_01").locked():
        with pytest.raises(Busy):
            measure(store, barrier, lambda a, b: {})
        asked = iter(range(10))
        with pytest.raises(Stopped):  # after it has waited for the other
            Worker(Trainings(store, stop_requested=lambda: next(asked) > 2)).complete([], [barrier])
    assert measured == []
    for _ in range(2):
        Worker(Trainings(store)).complete([], [barrier])
        assert len(measured) == 1


@pytest.mark.parametrize("step", ["load", "resolve"])  # damaged images; a data set that has records alone
def test_records_appear_where_only_barriers_are_missing_and_images_cannot_be_read(
    step: str, unmeasured: Done, trains_nothing: None, monkeypatch: pytest.MonkeyPatch
):
    def gone(name: str, **shape: Any) -> Dataset:
        raise DataError("the images are gone")

    monkeypatch.setattr(data, step, gone)
    with pytest.warns(UserWarning, match="error barriers are not measured: the images are gone"):
        table = run(TINY, store=unmeasured.store, workers=1)
    assert len(rows_of(table)) == 0
    assert plan.missing(table, TINY) == []
    with pytest.raises(DataError, match="the images are gone"):
        run(TINY.updated(replicates=2), store=unmeasured.store, workers=1)


def test_recorded_barriers_are_not_measured_again(tiny: Done, unmeasured: Done, measured: list[Any]):
    records.export_store(tiny.store, records.results_folder())
    run(TINY, store=unmeasured.store, workers=1)
    assert measured == []
    assert not files(unmeasured.store, "barriers.json")
