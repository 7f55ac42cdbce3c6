"""One training: the same bits whatever interrupts it, what it saves, how it is evaluated, and how it fails."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import Kept, StopAt
from studies import same_bits
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core import Mask, Ticket, one_shot_pruning, subnetwork
from lth_study import preset, run
from lth_study.data.parts import Dataset, Split
from lth_study.networks import build
from lth_study.settings import Setting
from lth_study.store import TrainingFolder
from lth_study.training import Stopped
from lth_study.training import train as training
from lth_study.training.evaluation import EVALUATION_BATCH, accuracies, on_training_images
from lth_study.training.train import (
    Diverged,
    OutOfMemory,
    Trained,
    memory_explained,
    steady_arithmetic,
    train,
    trainer,
)
from lth_study.training.updates import MOMENTS, FlatNetwork
from lth_study.worker import initial

UPDATES, EPOCH = 8, 3
"""Updates of a training, and of an epoch."""
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet_300_100": {"batch_size": 16, "weight_average": 0.9},
    "resnet20": {"batch_size": 16, "weight_decay": 0.05, "warmup": 5, "drops": (5, 7)},
    "vgg19": {"batch_size": 16, "drops": (3,), "optimizer": "rmsprop", "learning_rate": 0.005},
    "squeezenet1_0": {"weight_average": 0.9},
}
"""Networks, between them with every optimiser, with crops and mirrors, with dropout and with an average of weights."""
OPTIMISER_STATE = {
    "adam": {"exp_avg", "exp_avg_sq", "updates"},
    "momentum": {"momentum_buffer"},
    "nesterov": {"momentum_buffer"},
    "rmsprop": {"square_avg", "momentum_buffer"},
}
small_network = pytest.mark.parametrize("network", ["lenet_300_100", "resnet20"])


def settings(network: str, **changes: Any) -> Setting:
    short = {"iterations": UPDATES}
    return preset(network, profile="smoke").setting.updated(**short | NETWORKS[network] | changes)


LENET = settings("lenet_300_100")


def noise(setting: Setting) -> Dataset:
    side, chance = setting.image_size, torch.Generator().manual_seed(1)
    shape = (EPOCH * setting.batch_size + 3, *((3, side, side) if side else (28, 28)))
    parts = [torch.randint(0, 256, shape, generator=chance, dtype=torch.uint8) for _ in range(3)]
    return Dataset("noise", *(Split(images, torch.arange(len(images)) % 10) for images in parts))


def ones(setting: Setting) -> Mask:
    return Mask.ones(build(setting))


def half_of(setting: Setting) -> Mask:
    chance = torch.Generator().manual_seed(5)
    return Mask({name: torch.rand(full.shape, generator=chance) < 0.5 for name, full in ones(setting).items()})


def trained(setting: Setting, ticket: Ticket | None = None, data: Dataset | None = None, **options: Any) -> Trained:
    ticket = ticket or subnetwork(initial(setting, 1), half_of(setting), 0, 0)
    return train(setting, data or noise(setting), ticket, **{"replicate": 1, "order": 0} | options)


def same(a: Trained, b: Trained) -> bool:
    return same_bits(a.state, b.state) and a.metrics == b.metrics


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The same bits


@small_network
def test_bits_depend_on_replicate_and_order_and_on_nothing_else(network: str):
    setting = settings(network)
    data, first = noise(setting), trained(setting)
    images = data.fingerprint()
    for count in (1, 2):
        with threads(count):
            assert same(trained(setting, data=data), first)
    assert data.fingerprint() == images
    blank = Split(torch.zeros_like(data.test.images), torch.full_like(data.test.labels, 10))  # of no class
    unseen = trained(setting, data=Dataset("other", data.train, blank, blank))
    assert same_bits(unseen.state, first.state)
    assert unseen.metrics["test_accuracy"] == unseen.metrics["validation_accuracy"] == 0
    others = trained(setting, replicate=2).state, trained(setting, order=1).state
    assert not same_bits(*others)
    assert not any(same_bits(other, first.state) for other in others)


@pytest.mark.parametrize(
    ("network", "stop"),
    [
        *product(["lenet_300_100"], range(UPDATES)),
        *product(["resnet20"], (0, EPOCH, 5)),
        ("vgg19", 4),
        ("squeezenet1_0", 4),
    ],
)
def test_stopped_at_any_iteration_and_resumed_from_the_file_gives_the_same_bits(network: str, stop: int, tmp_path):
    setting, folder, asked = settings(network), TrainingFolder(tmp_path), StopAt()
    whole = trained(setting)
    with pytest.raises(Stopped):
        trained(setting, saves=folder, stop_requested=StopAt(stop))
    iteration, _, state = folder.load_checkpoint() or pytest.fail("no checkpoint")
    assert iteration == stop
    kept = OPTIMISER_STATE[setting.optimizer] | ({"average", "updates"} if setting.weight_average else set())
    assert {name.removeprefix(MOMENTS) for name in state if name.startswith(MOMENTS)} == kept
    assert same(trained(setting, saves=folder, stop_requested=asked), whole)
    assert asked.calls == UPDATES - stop


def test_a_crash_goes_on_from_the_last_checkpoint_with_the_same_bits(tmp_path, monkeypatch: pytest.MonkeyPatch):
    folder, asked, again = TrainingFolder(tmp_path), StopAt(), StopAt()

    def crash() -> bool:
        asked()
        if asked.calls == 6:
            raise ZeroDivisionError
        return False

    with monkeypatch.context() as patched:
        patched.setattr(training, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint before every update
        with pytest.raises(ZeroDivisionError):
            trained(LENET, saves=folder, stop_requested=crash)
    assert same(trained(LENET, saves=folder, stop_requested=again), trained(LENET))
    assert again.calls == UPDATES - 4  # updates 0 to 3 were in the checkpoint before the fifth


def test_a_training_that_goes_on_saves_no_checkpoint_before_one_is_due_and_counts_its_time_so_far(monkeypatch):
    saves, saved = Kept(), []
    monkeypatch.setattr(saves, "load_checkpoint", lambda: (4, 3600.0, trained(LENET, stop=4).state))
    monkeypatch.setattr(saves, "save_checkpoint", lambda *checkpoint: saved.append(checkpoint))
    assert trained(LENET, saves=saves).seconds > 3600
    assert saved == []


@pytest.mark.parametrize(
    ("network", "k"),
    [*((network, 5) for network in NETWORKS), ("resnet20", EPOCH), ("lenet_300_100", 1)],
)
def test_w_k_under_a_mask_of_ones_repeats_the_dense_run_in_t_minus_k_iterations(network: str, k: int):
    setting, kept, asked = settings(network), Kept(), StopAt()
    dense = trained(setting, subnetwork(initial(setting, 1), ones(setting), 0, 0), keep=[k], saves=kept)
    rewound = subnetwork(kept.states[k], ones(setting), k, 1)
    assert same(trained(setting, rewound, stop_requested=asked), dense)
    assert asked.calls == UPDATES - k


# What is saved


@small_network
def test_states_are_kept_at_exactly_their_iterations_and_pruned_weights_are_zero_in_all(network: str):
    setting, kept = settings(network), Kept()
    end, mask, start = trained(setting, keep=range(UPDATES), saves=kept), half_of(setting), initial(setting, 1)
    before = {name: weight.clone() for name, weight in start.items()}
    assert list(kept.states) == list(range(UPDATES))
    assert same_bits(kept.states[5], trained(setting, stop=5).state)
    for state in (*kept.states.values(), end.state):
        assert not any(state[name][~mask[name]].any() for name in mask)
    unmasked = Ticket(mask, start, 0, 0)  # it wrongly holds pruned weights
    assert same(trained(setting, unmasked), end)
    assert same_bits(start, before)


def test_an_average_that_is_rewound_forgets_the_pruned_weights():
    kept, mask = Kept(), half_of(LENET)
    trained(LENET, subnetwork(initial(LENET, 1), ones(LENET), 0, 0), keep=[5], saves=kept)
    averages = []
    for state in (kept.states[5], trained(LENET, subnetwork(kept.states[5], mask, 5, 1)).state):
        named = dict(build(LENET).named_parameters())
        pieces = state[f"{MOMENTS}average"].split([parameter.numel() for parameter in named.values()])
        averages.append(dict(zip(named, pieces, strict=True)))
    for name in mask:
        before, after = (average[name][~mask[name].flatten()] for average in averages)
        assert before.any(), name
        assert not after.any(), name


@small_network
def test_a_state_is_that_of_a_plain_network(network: str):
    setting = settings(network, weight_average=0.0)
    state, images = trained(setting).state, noise(setting).test.images
    plain, flat = build(setting), FlatNetwork(build(setting), half_of(setting), setting)
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(MOMENTS)})
    flat.load(state)
    torch.testing.assert_close(plain.eval()(images), flat.model.eval()(images), rtol=1e-4, atol=1e-4)
    assert same_bits(flat.state(), state)


def test_a_network_that_is_done_with_is_forgotten_at_once():
    """Not when Python next looks for cycles: a GPU's memory would fill up before."""
    network = FlatNetwork(build(LENET), ones(LENET), LENET)
    values = weakref.ref(network.values)
    gc.disable()
    try:
        del network
        assert values() is None
    finally:
        gc.enable()


# Evaluation


def test_a_training_is_evaluated_at_its_end_alone(embedded_mnist: Dataset):
    setting = preset("lenet_300_100", profile="smoke").setting
    start = subnetwork(initial(setting, 1), ones(setting), 0, 0)
    end = train(setting, embedded_mnist, start, replicate=1, order=0)
    assert end.diverged_at is None
    assert end.metrics.keys() == {"test_accuracy", "validation_accuracy", "train_accuracy", "train_loss"}
    assert all(80 < value <= 100 for name, value in end.metrics.items() if name != "train_loss")
    assert train(setting, embedded_mnist, start, replicate=1, order=0, stop=2).metrics == {}


def test_accuracy_and_loss_on_training_images_are_those_of_the_first_5000():
    logits = torch.tensor([[0.0, 2.0]]).repeat(5_001, 1)
    labels = torch.ones(5_001, dtype=torch.int64)
    labels[:1_000] = 0
    labels[5_000] = 0  # which is not seen
    found = on_training_images(nn.Identity(), Split(logits, labels))
    right = float(torch.log1p(torch.exp(torch.tensor(-2.0))))  # the loss of logits 0 and 2 at label 1
    assert found == pytest.approx({"train_accuracy": 80.0, "train_loss": right + 0.2 * 2.0})
    logits = torch.tensor([[3e38, -3e38], [3e38, -3e38]])  # the second one's loss is beyond the range of numbers
    assert on_training_images(nn.Identity(), Split(logits, torch.tensor([0, 1]))) == {"train_accuracy": 50.0}


def test_accuracy_counts_labels_at_the_largest_logits_of_all_batches():
    logits = F.one_hot(torch.zeros(EVALUATION_BATCH + 2, dtype=torch.int64), 3)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    labels[-1] = 2  # in the last, incomplete batch
    assert accuracies(nn.Identity(), Split(logits, labels))[0] == 100 * (len(labels) - 1) / len(labels)
    logits = torch.arange(12).view(2, 6)  # the smallest logit is that of class 0, the largest that of class 5
    parts = [Split(logits, torch.tensor(labels)) for labels in ([5, 0], [1, 4], [0, 0])]
    assert [accuracies(nn.Identity(), part, (1, 5)) for part in parts] == [[50, 50], [0, 100], [0, 0]]


# Failure


@small_network
def test_a_diverged_training_says_so_wherever_it_was_interrupted_and_has_no_metrics(network: str, tmp_path):
    setting = settings(network, learning_rate=1e30, warmup=0, drops=(), weight_average=0.0)
    folder = TrainingFolder(tmp_path)
    with pytest.raises(Stopped):
        trained(setting, saves=folder, stop_requested=StopAt(2))
    for end in (trained(setting), trained(setting, saves=folder)):
        assert (end.diverged_at, end.metrics) == (EPOCH, {})


def test_a_training_function_fits_one_shot_pruning_and_raises_what_diverged():
    start = initial(LENET, 1)
    levels = list(
        one_shot_pruning(trainer(LENET, noise(LENET), replicate=1), start, ones(LENET), densities=[0.5], rewind=1)
    )
    assert [round(level.mask.density, 3) for level in levels] == [1.0, 0.5]
    diverging = settings("lenet_300_100", learning_rate=1e30)
    with pytest.raises(Diverged, match=r"level 0 diverged by iteration \d+, with learning_rate=1e\+30; choose"):
        trainer(diverging, noise(LENET), replicate=1)(subnetwork(start, ones(LENET), 0, 0), None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        RuntimeError("shapes do not fit"),
    ],
)
def test_memory_that_is_too_small_is_said_with_what_to_do_and_other_errors_stay_what_they_are(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(FlatNetwork, "update", fails)
    with pytest.raises((OutOfMemory, RuntimeError)) as said:
        trained(LENET)
    if "shapes" in str(error):
        assert said.value is error
        return
    assert str(said.value).startswith("memory is too small for lenet_300_100 with batches of 16 images; train fewer")
    assert "pieces" not in str(said.value)  # which it does not have
    with (
        pytest.raises(OutOfMemory, match=r"resnet20 with .* With pieces=2 less .* study of its own"),
        memory_explained(settings("resnet20")),
    ):
        raise error


# Arithmetic


def keeps_denormals() -> bool:
    return bool((torch.tensor([1e-40]) * torch.tensor([1.0])).item() != 0)


@pytest.mark.parametrize("stop", [None, 2])
def test_one_thread_trains_without_denormals_and_both_are_as_before_afterwards(stop: int | None):
    inside, asked = [], StopAt(stop)

    def look() -> bool:
        inside.append((torch.get_num_threads(), keeps_denormals()))
        return asked()

    with threads(2):
        assert keeps_denormals()
        try:
            trained(LENET, stop_requested=look)
        except Stopped:
            assert stop is not None
        assert (torch.get_num_threads(), keeps_denormals()) == (2, True)
    assert set(inside) == {(1, False)}


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tf32_is_allowed_where_it_is_asked_for_alone_until_the_outer_arithmetic_ends(precision: str, allowed: bool):
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    with steady_arithmetic(precision):
        with steady_arithmetic(precision):
            pass
        assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
        assert not keeps_denormals()
    assert [flag.allow_tf32 for flag in flags] == before
    assert keeps_denormals()


class Linear(nn.Module):
    """A linear network that keeps the sizes of its batches and the types of its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 4)
        self.seen: list[tuple[int, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.own(x)
        self.seen.append((len(x), logits.dtype))
        return logits


def updated(setting: Setting) -> tuple[Linear, dict[str, Tensor]]:
    """A linear network after one update, and its state."""
    torch.manual_seed(3)
    model = Linear()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = FlatNetwork(model, Mask({}), setting)
    network.load(start)
    network.update(torch.randn(8, 6), torch.arange(8) % 4, 0.1)
    return model, network.state()


def test_bfloat16_is_for_products_alone():
    (exact, end), (rough, near) = (updated(settings("resnet20", precision=p)) for p in ("float32", "bfloat16"))
    assert (exact.seen, rough.seen) == ([(8, torch.float32)], [(8, torch.bfloat16)])
    assert {tensor.dtype for tensor in near.values()} == {torch.float32}
    assert not torch.equal(near["own.weight"], end["own.weight"])
    torch.testing.assert_close(near["own.weight"], end["own.weight"], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("processes", "sizes"), [(1, [2, 2, 2, 2]), (2, [4, 4]), (4, [8]), (8, [8])])
def test_processes_that_share_a_batch_share_its_pieces(processes: int, sizes: list[int], monkeypatch):
    """Whoever trains, batch norm sees pieces of one size, as long as there are pieces to share."""
    monkeypatch.setattr("lth_study.training.updates.rank_and_count", lambda: (0, processes))
    model, _ = updated(settings("resnet20", pieces=4))
    assert [size for size, _ in model.seen] == sizes


def test_too_little_memory_where_initial_weights_are_drawn_is_explained_too(monkeypatch, tmp_path: Path):
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lth_study.worker.initial_weights", refuse)
    with pytest.raises(OutOfMemory, match="train fewer networks side by side"):
        run(preset("lenet_300_100", profile="smoke").only("stability"), store=tmp_path / "store", workers=1)
