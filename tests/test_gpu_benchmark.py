"""The benchmark of ways to train networks on a GPU: each way has to end where the plain loop does."""

import json
import math
from types import SimpleNamespace

import gpu
import pytest
import torch

from lth_study import data, preset, records
from lth_study.costs.limits import floor_seconds
from lth_study.data.parts import Dataset
from lth_study.devices import compute_device, device_name
from lth_study.settings import Setting
from lth_study.training.steps import PlainSteps
from lth_study.training.train import steady_arithmetic

SMOKE = [preset(network, profile="smoke").setting for network in ("lenet_300_100", "resnet20")]
BRIEFLY = ["--profile", "smoke", "--iterations", "2", "--rounds", "1"]
every_network = pytest.mark.parametrize("setting", SMOKE, ids=lambda setting: setting.network)
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


class Slower(PlainSteps):
    """A plain loop that does something else: its learning rates are a tenth lower."""

    def __init__(self, setting: Setting, *which: object) -> None:
        super().__init__(setting.updated(learning_rate=0.9 * setting.learning_rate), *which)


@pytest.fixture(autouse=True)
def briefly_on_a_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few repetitions, and fewer images in place of CIFAR-10's; but for the tests that need a GPU."""
    if "way" not in request.fixturenames:
        monkeypatch.setenv("LTH_DEVICE", "cpu")
    for place, few in (
        ("gpu.LOADED", 2),
        ("convolutional.ITERATIONS", 2),
        ("gpu.ROUNDS_OF_RATES", 1),
        ("gpu.CALLS", 1),
    ):
        monkeypatch.setattr(place, few)
    monkeypatch.setattr(gpu, "cifar10", lambda: data.load("mnist_embedded", color=True))


def images(setting: Setting) -> Dataset:
    colored = setting.network != "lenet_300_100"
    return data.load("mnist_embedded", color=colored, size=setting.image_size).to(compute_device())


def written() -> list[dict]:
    return json.loads((records.results_folder() / "benchmark_gpu.json").read_text())


@every_network
def test_the_plain_loop_ends_where_training_does(setting: Setting):
    with steady_arithmetic():
        check = gpu.compared(setting, images(setting), "loop")
    assert check.relative_difference == 0
    assert check.passed


def test_a_way_that_does_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("members.PlainSteps", Slower)
    with steady_arithmetic():
        check = gpu.compared(SMOKE[1], images(SMOKE[1]), "loop")
    assert check.relative_difference == pytest.approx(0.1, abs=0.05)
    assert not check.passed
    assert not gpu.Check("graph", math.nan, 1.0).passed


def test_rounding_is_told_from_another_computation():
    """In bfloat16 products are rounded to 8 bits; in another order of the data the weights change otherwise."""
    setting = SMOKE[1].updated(learning_rate=SMOKE[1].learning_rate / gpu.GENTLER)
    some, rounded = images(setting), setting.updated(precision="bfloat16")
    with steady_arithmetic():
        member = gpu.Member(rounded, some, 1, "loop")
        gpu.advance([member], gpu.COMPARED)
        rounding = gpu.relative_difference(member, gpu.looped(setting, some, member))
        another = gpu.Member(setting, some, 1, "loop")
        another.steps.order = 1
        gpu.advance([another], gpu.COMPARED)
        computation = gpu.relative_difference(another, gpu.looped(setting, some, another))
    assert gpu.TOLERANCE["float32"] < rounding < gpu.TOLERANCE["bfloat16"] < computation


def test_a_failed_check_is_an_error_after_everything_is_measured_and_kept(monkeypatch, capsys):
    monkeypatch.setattr("members.PlainSteps", Slower)
    with pytest.raises(SystemExit, match="loop: computes something else than the plain loop"):
        gpu.main([*BRIEFLY, "--network", "lenet_300_100"])
    assert "loop, 1: " in capsys.readouterr().out
    (record,) = written()
    (check,) = record["checks"]
    assert check["relative_difference"] > check["tolerance"] == gpu.TOLERANCE["float32"]


def test_measurements_of_networks_and_precisions_live_side_by_side():
    before = {"network": "resnet20", "profile": "smoke", "precision": "float32", "device": device_name()}
    elsewhere = before | {"device": "another"}
    records.results_folder().mkdir()
    (records.results_folder() / "benchmark_gpu.json").write_text(json.dumps([before, elsewhere]))
    for network, precision in (("squeezenet1_0", "float32"), ("resnet20", "bfloat16"), ("resnet20", "float32")):
        gpu.main([*BRIEFLY, "--network", network, "--precision", precision])
    assert written()[0] == elsewhere
    kinds = [(record["network"], record["precision"]) for record in written()[1:]]
    assert kinds == [("squeezenet1_0", "float32"), ("resnet20", "bfloat16"), ("resnet20", "float32")]
    squeezenet, _, resnet = written()[1:]
    assert [row["way"] for row in squeezenet["measured"]] == ["loop"]
    assert [row["way"] for row in resnet["measured"]] == ["loop", "loader"]
    loop, loader = (row["images/s"] for row in resnet["measured"])
    assert resnet["measured"][1]["to one loop"] == pytest.approx(loader / loop)


@pytest.mark.usefixtures("no_graphs")
def test_every_way_is_measured_beside_the_floor_of_the_device_and_the_loop_for_one_network_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(gpu, "ways", lambda *_: ["loop", "graph"])
    gpu.main([*BRIEFLY, "--network", "resnet20", "--members", "2,1,2"])
    (record,) = written()
    measured = [(row["way"], row["members"]) for row in record["measured"]]
    assert measured == [("loop", 1), ("loader", 1), ("graph", 1), ("graph", 2)]
    assert [check["way"] for check in record["checks"]] == ["loop", "graph"]
    assert {check["tolerance"] for check in record["checks"]} == {gpu.TOLERANCE["float32"]}
    assert min(record["rates"].values()) > 1e6
    seconds = floor_seconds(SMOKE[1], *record["rates"].values()) / SMOKE[1].iterations
    assert record["images/s at the floor"] == pytest.approx(SMOKE[1].batch_size / seconds)


def test_a_row_without_a_tolerance_is_not_written():
    options = SimpleNamespace(network="resnet20", profile="smoke", precision="float32")
    reached = {"flops_per_second": 1e9, "bytes_per_second": 1e9, "cache_bytes": 2**20}
    rows = [{"way": way, "members": 1, "images/s": 1.0} for way in ("loop", "loader", "graph")]
    for checked, missing in (("loop", "graph"), ("graph", "loader, loop")):
        with pytest.raises(ValueError, match=f"without a check: {missing}; expected"):
            gpu.recorded(options, SMOKE[1], reached, [gpu.Check(checked, 0.0, 0.1)], rows)
    checks = [gpu.Check(way, 0.0, 0.1) for way in ("loop", "graph")]
    assert len(gpu.recorded(options, SMOKE[1], reached, checks, rows)["measured"]) == 3


@pytest.mark.usefixtures("no_graphs")
def test_a_way_that_fails_leaves_what_was_measured_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "ways", lambda *_: ["loop", "graph"])
    options = [*BRIEFLY, "--network", "lenet_300_100", "--members", "1"]
    gpu.main(options)
    (complete,) = written()
    with monkeypatch.context() as broken:
        broken.setattr("members.RecordedSteps", None)
        with pytest.raises(TypeError):
            gpu.main(options)
    assert written() == [complete]
    unfinished = records.results_folder() / gpu.UNFINISHED
    assert [row["way"] for row in json.loads(unfinished.read_text())["measured"]] == ["loop"]
    gpu.main(options)
    assert written() != [complete]
    assert not unfinished.exists()


@needs_a_gpu
@every_network
@pytest.mark.parametrize("way", ["loop", "graph", "compiled graph"])
def test_every_way_of_two_networks_side_by_side_ends_where_it_should(setting: Setting, way: str):
    with steady_arithmetic():
        assert gpu.compared(setting, images(setting), way).passed
