"""Error barriers of the study: which are planned, what they measure, and that each is measured once."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lth_study import barriers, data, plan, records, run, worker
from lth_study.barriers import heights
from lth_study.data.parts import Dataset, Split
from lth_study.files import read_state
from lth_study.measure import measure_barrier
from lth_study.plan import Barrier
from lth_study.presets import preset
from lth_study.settings import METHODS, Setting
from lth_study.store import Busy, StudyStore, Training, TrainingFolder, dense
from lth_study.training import Stopped
from lth_study.worker import Worker

LENET = preset("lenet_300_100", profile="smoke").updated(rewinds=(20,), iterations=70, methods=("imp",))
"""Two levels of one chain, the second in two data orders; barriers between the orders, to the dense network, and to the
level before with its own mask and with the second's."""
RESNET = preset("resnet20", profile="smoke").updated(rewinds=(0,), methods=("imp",))
RANDOM = RESNET.updated(methods=("random_pruning",), levels=1, orders=3)
IMAGES = {"lenet_300_100": (4_000, 500), "resnet20": (384, 384)}
"""How many training and test images errors are measured on: all of LeNet's, and as many as ResNet-20 sees in 12 batches
of 32."""

KINDS = {"imp": {"0-1": ["data_order"], "0": ["pruning", "level", "level_masked"]}}
HEIGHTS = {f"{images}_{height}" for images in ("train", "test") for height in ("mean", "line")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores in which the two studies are done; not to be changed."""
    stores = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for study in (LENET, RESNET):
            stores[study.network] = tmp_path_factory.mktemp(study.network) / "store"
            monkeypatch.setenv("LTH_RESULTS", str(stores[study.network].parent / "results"))
            run(study, store=stores[study.network], workers=1)
    return stores


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster so, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unmeasured(done: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of LeNet's store, as it was before barriers were measured."""
    shutil.copytree(done["lenet_300_100"], tmp_path / "store")
    for file in (tmp_path / "store").rglob("barriers.json"):
        file.unlink()
    return tmp_path / "store"


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
    monkeypatch.setattr(worker, "train", None)


def rows_of(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["metric"].str.startswith("barrier_")].reset_index(drop=True)


def assert_same_values(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same records, whenever they were made."""
    pd.testing.assert_frame_equal(one.drop(columns="finished"), other.drop(columns="finished"))


# The plan


def test_barriers_are_planned_at_compared_levels_between_orders_to_the_dense_network_and_between_levels():
    study = LENET.updated(levels=4, compared_levels=(1, 4), methods=METHODS, orders=3)
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


# Records


@pytest.mark.parametrize("study", [LENET, RESNET], ids=lambda study: study.network)
def test_every_planned_barrier_is_a_record_and_networks_with_batch_norm_have_twice_as_many(
    study: Setting, done: dict[str, Path]
):
    rows = rows_of(run(study, store=done[study.network], missing="error"))
    ways = ["", "_recomputed"] if study.network == "resnet20" else [""]
    assert sorted(zip(rows["order"], rows["metric"], strict=True)) == sorted(
        (order, f"barrier_{kind}_{height}{way}")
        for order, kinds in KINDS["imp"].items()
        for kind in kinds
        for height in HEIGHTS
        for way in ways
    )
    assert {*zip(rows["method"], rows["rewind"], rows["level"], strict=True)} == {("imp", study.rewinds[0], 2)}
    assert (rows["value"] >= 0).all()
    assert rows["value"].nunique() > 10


def test_random_pruning_has_barriers_too(tmp_path: Path):
    rows = rows_of(run(RANDOM, store=tmp_path / "store"))
    assert set(rows["method"]) == {"random_pruning"}
    assert set(rows["order"]) == {"0", "0-1", "0-2", "1-2"}
    assert len(rows) == (3 + 1) * 8


# An independent measurement: networks written out anew, in float64


Norm = Callable[[Tensor, str], Tensor]


def lenet(weights: Mapping[str, Tensor], images: Tensor, _: Norm) -> Tensor:
    x = images.flatten(1).double() / 255
    for layer in ("fc1", "fc2"):
        x = (x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp(min=0)
    return x @ weights["output.weight"].T + weights["output.bias"]


def resnet20(weights: Mapping[str, Tensor], images: Tensor, norm: Norm) -> Tensor:
    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.0.weight"]
        return norm(F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2), f"{name}.1")

    mean, deviation = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    )
    x = convolved((images.double() / 255 - mean) / deviation, "stem").clamp(min=0)
    for block in range(9):
        name, stride = f"blocks.{block}", 2 if block in (3, 6) else 1
        inside = convolved(convolved(x, f"{name}.first", stride).clamp(min=0), f"{name}.second")
        x = (inside + (convolved(x, f"{name}.shortcut", stride) if stride == 2 else x)).clamp(min=0)
    return x.mean((2, 3)) @ weights["output.weight"].T + weights["output.bias"]


def scaled(x: Tensor, mean: Tensor, variance: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    shape = (1, -1, 1, 1)
    unit = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return unit * weights[f"{name}.weight"].view(shape) + weights[f"{name}.bias"].view(shape)


def errors_by_hand(study: Setting, weights: dict[str, Tensor], images: Dataset, recomputed: bool) -> dict[str, Any]:
    """The error in percent on both sets of images, with how much of it is in doubt: the share of images whose two
    largest logits are so close that rounding to float32 may swap them."""
    network = {"lenet_300_100": lenet, "resnet20": resnet20}[study.network]
    count, tested = IMAGES[study.network]
    parts = {
        "train": images.train.of(torch.arange(count)),
        "test": images.test.of(torch.arange(tested) * 500 // tested),
    }
    if recomputed:
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

        def by_batch(x: Tensor, name: str) -> Tensor:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            seen.setdefault(name, []).append((mean, x.var((0, 2, 3))))
            return scaled(x, mean, variance, weights, name)

        for batch in parts["train"].images.split(study.batch_size):
            network(weights, batch, by_batch)
        for name, moments in seen.items():
            means, variances = zip(*moments, strict=True)
            weights[f"{name}.running_mean"] = torch.stack(means).mean(0)
            weights[f"{name}.running_var"] = torch.stack(variances).mean(0)

    def by_statistics(x: Tensor, name: str) -> Tensor:
        return scaled(x, weights[f"{name}.running_mean"], weights[f"{name}.running_var"], weights, name)

    found = {}
    for name, part in parts.items():
        logits = network(weights, part.images, by_statistics)
        largest = logits.topk(2, 1).values
        close = (largest[:, 0] - largest[:, 1]) < 1e-5 * logits.abs().amax(1)
        found[name] = (
            100 * float((logits.argmax(1) != part.labels).double().mean()),
            100 * float(close.double().mean()),
        )
    return found


@pytest.mark.parametrize("kind", ["data_order", "pruning", "level", "level_masked"])
@pytest.mark.parametrize("study", [LENET, RESNET], ids=lambda study: study.network)
def test_recorded_heights_are_those_of_networks_interpolated_by_hand(
    study: Setting, kind: str, done: dict[str, Path], embedded_mnist: Dataset
):
    color = study.network == "resnet20"
    images = data.load("mnist_embedded", color=True, size=8) if color else embedded_mnist
    folder, chain = done[study.network] / study.name / "replicate_1", f"imp/rewind_{study.rewinds[0]}"
    before, ticket, other = f"{chain}/level_01/order_0", f"{chain}/level_02/order_0", f"{chain}/level_02/order_1"
    pair = {"data_order": (ticket, other), "pruning": ("dense", ticket)}.get(kind, (before, ticket))
    a, b = (
        {name: tensor.double() for name, tensor in read_state(folder / end / "end.safetensors")[0].items()}
        for end in pair
    )
    if kind == "level_masked":
        for name, kept in read_state(folder / ticket / "mask.safetensors")[0].items():
            a[name] = a[name] * kept
    rows = rows_of(run(study, store=done[study.network], missing="error"))
    rows = rows[rows["order"] == ("0-1" if kind == "data_order" else "0")].set_index("metric")["value"]
    for way in ["", "_recomputed"] if color else [""]:
        along = []
        for point in range(11):
            between = {name: a[name] + point / 10 * (b[name] - a[name]) for name in a}
            along.append(errors_by_hand(study, between, images, recomputed=bool(way)))
        for name in ("train", "test"):
            errors = torch.tensor([point[name][0] for point in along])
            # each of the three errors that a height is made of may be off by the images in doubt
            doubt = 2 * max(point[name][1] for point in along) + 1e-5
            assert doubt < 1.1  # two of ResNet-20's images
            mean, line = (errors[0] + errors[-1]) / 2, torch.linspace(float(errors[0]), float(errors[-1]), 11)
            assert rows[f"barrier_{kind}_{name}_mean{way}"] == pytest.approx(float(errors.max() - mean), abs=doubt)
            assert rows[f"barrier_{kind}_{name}_line{way}"] == pytest.approx(float((errors - line).max()), abs=doubt)


def test_test_images_are_spread_over_the_whole_part(embedded_mnist: Dataset, done: dict[str, Path]):
    """They may come sorted by class."""
    order = embedded_mnist.test.labels.argsort()
    by_class = Dataset("", embedded_mnist.train, embedded_mnist.validation, embedded_mnist.test.of(order))
    study = LENET.updated(iterations=1, batch_size=100, rewinds=(0,))
    folder = done["lenet_300_100"] / LENET.name / "replicate_1"
    a, b = (
        read_state(folder / end / "end.safetensors")[0]
        for end in ("imp/rewind_20/level_02/order_0", "imp/rewind_20/level_02/order_1")
    )
    few = Split(by_class.test.images[::5], by_class.test.labels[::5])
    expected = heights(study, Dataset("", embedded_mnist.train, embedded_mnist.validation, few), a, b)
    assert heights(study, by_class, a, b) == expected
    first = Split(by_class.test.images[:100], by_class.test.labels[:100])
    assert heights(study, Dataset("", embedded_mnist.train, embedded_mnist.validation, first), a, b) != expected


def test_statistics_are_recomputed_from_nothing_at_every_point(done: dict[str, Path]):
    """Both ends being the same network, every point is that network and there is no barrier."""
    images = data.load("mnist_embedded", color=True, size=8)
    end = read_state(done["resnet20"] / RESNET.name / "replicate_1" / "dense" / "end.safetensors")[0]
    assert set(heights(RESNET, images, end, end).values()) == {0.0}


# Measured once, whatever happens


def test_barriers_of_a_finished_store_are_measured_by_run_without_training(
    unmeasured: Path, done: dict[str, Path], measured: list[Any], trains_nothing: None
):
    before = run(LENET, store=unmeasured, missing="error")
    assert len(rows_of(before)) == 0  # reading measures none
    assert plan.missing(before, LENET) == []  # and lacks none
    table = run(LENET, store=unmeasured, workers=1)
    assert len(measured) == 4
    assert_same_values(table, run(LENET, store=done["lenet_300_100"], missing="error"))
    pd.testing.assert_frame_equal(table, run(LENET, store=unmeasured, workers=1))
    assert len(measured) == 4


def test_what_a_killed_run_did_not_measure_is_measured_by_the_next(
    unmeasured: Path, done: dict[str, Path], measured: list[Any], trains_nothing: None, monkeypatch: pytest.MonkeyPatch
):
    counted = barriers.heights

    def killed(*arguments: Any) -> dict[str, float]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(barriers, "heights", killed)
        with pytest.raises(KeyboardInterrupt):
            run(LENET, store=unmeasured, workers=1)
    assert len(measured) == 2
    table = run(LENET, store=unmeasured, workers=1)
    assert len(measured) == 4
    assert_same_values(table, run(LENET, store=done["lenet_300_100"], missing="error"))


def test_a_run_stops_between_two_barriers(unmeasured: Path, measured: list[Any], trains_nothing: None):
    with pytest.raises(Stopped, match="stopped with 0 of 4 barriers"):
        run(LENET, store=unmeasured, workers=1, seconds=0)
    stopping = Worker(StudyStore(unmeasured, LENET), lambda: len(measured) == 1)
    with pytest.raises(Stopped):
        stopping.complete([], plan.barriers(LENET))
    assert len(measured) == 1


def test_a_barrier_that_another_process_is_measuring_is_left_to_it(unmeasured: Path, measured: list[Any]):
    study = StudyStore(unmeasured, LENET)
    level = study.folder / "replicate_1/imp/rewind_20/level_02"
    barrier = plan.barriers(LENET)[0]
    with TrainingFolder(level).locked():
        with pytest.raises(Busy):
            measure_barrier(study, barrier, lambda a, b: {})
        asked = iter(range(10))
        with pytest.raises(Stopped):  # after it has waited for the other
            Worker(study, lambda: next(asked) > 5).complete([], [barrier])
    assert measured == []
    Worker(study).complete([], [barrier])
    Worker(study).complete([], [barrier])
    assert len(measured) == 1


def test_recorded_barriers_are_not_measured_again(unmeasured: Path, done: dict[str, Path], measured: list[Any]):
    records.export_store(done["lenet_300_100"], records.results_folder())
    run(LENET, store=unmeasured, workers=1)
    assert measured == []
    assert not list(unmeasured.rglob("barriers.json"))


def test_barriers_go_round_through_export_and_import(
    done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = run(RESNET, store=done["resnet20"], missing="error")
    records.export_store(done["resnet20"], tmp_path / "exported")
    records.export_store(done["resnet20"], tmp_path / "exported")  # nothing disagrees
    records.import_folder(tmp_path / "exported", tmp_path / "imported")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "imported"))
    back = run(RESNET, store=tmp_path / "none", missing="error")
    pd.testing.assert_frame_equal(back, table, rtol=1e-6)
    assert len(rows_of(back)) == 4 * 8


def test_barriers_whose_ends_are_elsewhere_are_not_missing(unmeasured: Path, tmp_path: Path, trains_nothing: None):
    """Records made before barriers were."""
    records.add(records.results_folder(), LENET, *records.of_store(StudyStore(unmeasured, LENET)))
    table = run(LENET, store=tmp_path / "empty")
    assert len(rows_of(table)) == 0
    assert not (tmp_path / "empty").exists()


def test_barriers_are_not_measured_on_a_stand_in_for_the_images_of_the_trainings(
    unmeasured: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Any], recwarn: pytest.WarningsRecorder
):
    monkeypatch.setattr(data, "resolve", lambda name: "cifar10")
    assert len(run(LENET, store=unmeasured)) > 0
    assert measured == []
    assert len(recwarn) == 0


def test_a_damaged_end_is_trained_again_before_it_is_compared(
    unmeasured: Path, done: dict[str, Path], measured: list[Any]
):
    end = unmeasured / LENET.name / "replicate_1/imp/rewind_20/level_02/order_1/end.safetensors"
    content = bytearray(end.read_bytes())
    content[len(content) // 2] ^= 1
    end.write_bytes(content)
    table = run(LENET, store=unmeasured, workers=1)
    assert len(measured) == 4
    assert_same_values(table, run(LENET, store=done["lenet_300_100"], missing="error"))


def test_rows_are_selected_where_the_barrier_is_asked_for(done: dict[str, Path]):
    table = run(LENET, store=done["lenet_300_100"], missing="error")
    assert plan.unmeasured(table, LENET) == []
    assert len(rows_of(plan.select(table, LENET))) == 4 * 4
    one = rows_of(plan.select(table, LENET.updated(orders=1)))
    assert set(one["order"]) == {"0"}
    assert len(one) == 3 * 4
    assert len(rows_of(plan.select(table, LENET.updated(compared_levels=(1,))))) == 0
    assert len(rows_of(plan.select(table, LENET.updated(levels=1)))) == 0
    assert len(rows_of(plan.select(table, LENET.updated(methods=("random_pruning",))))) == 0
    wider = LENET.updated(orders=3)
    assert [b.order for b in plan.unmeasured(table, wider)] == ["0-2", "1-2"]
