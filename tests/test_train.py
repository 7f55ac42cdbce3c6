"""Training under a mask: against torch's own optimisers, bit for bit where it must be, and stopped at any iteration."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from doubles import Kept, StopAt
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.imp import Ticket, subnetwork
from lth_core.masks import Mask
from lth_study import seeds
from lth_study.data.parts import Dataset, Split
from lth_study.networks import build, initial_weights
from lth_study.networks.lenet import LeNet300100
from lth_study.presets import preset
from lth_study.settings import Setting
from lth_study.store import TrainingFolder
from lth_study.training import Stopped
from lth_study.training import train as training
from lth_study.training.batches import EVALUATION_BATCH
from lth_study.training.train import (
    Diverged,
    OutOfMemory,
    Trained,
    _on_training_images,
    accuracies,
    memory_explained,
    steady_arithmetic,
    train,
    trainer,
)
from lth_study.training.updates import FlatNetwork

SMOKE = preset("lenet_300_100", profile="smoke").setting
BATCHES = 66  # batches of 60 in an epoch of the 4,000 embedded images
ADAM = SMOKE.updated(iterations=12)
MOMENTUM = ADAM.updated(optimizer="momentum", learning_rate=0.1, momentum=0.9)
DECAY = MOMENTUM.updated(weight_decay=1e-3)
OPTIMISERS = pytest.mark.parametrize(
    "setting",
    [ADAM, ADAM.updated(weight_decay=1e-3), MOMENTUM, DECAY],
    ids=["adam", "adam-decay", "momentum", "momentum-decay"],
)


def ones() -> Mask:
    return Mask.ones(build(preset("lenet_300_100").setting))


def sparse(density: float = 0.3) -> Mask:
    """A random mask."""
    chance = torch.Generator().manual_seed(5)
    return Mask({name: torch.rand(full.shape, generator=chance) < density for name, full in ones().items()})


def ticket(mask: Mask) -> Ticket:
    return subnetwork(initial_weights(preset("lenet_300_100").setting, seeds.stream(1, "init")), mask, 0, 0)


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def by_torch_optim(setting: Setting, data: Dataset, start: Ticket, steps: range) -> dict[str, Tensor]:
    """The same training with torch.optim on the surviving weights alone, in double precision."""
    weights = {name: weight.double() for name, weight in start.weights.items()}
    kept = {n: start.mask[n] if n in start.mask else torch.ones(w.shape, dtype=torch.bool) for n, w in weights.items()}
    survivors = {name: weight[kept[name]].requires_grad_() for name, weight in weights.items()}
    optimiser: torch.optim.Optimizer
    if setting.optimizer == "adam":
        optimiser = torch.optim.Adam(survivors.values(), setting.learning_rate, weight_decay=setting.weight_decay)
    else:
        optimiser = torch.optim.SGD(
            survivors.values(), setting.learning_rate, momentum=setting.momentum, weight_decay=setting.weight_decay
        )

    def full() -> dict[str, Tensor]:
        return {n: torch.zeros_like(w).masked_scatter(kept[n], survivors[n]) for n, w in weights.items()}

    order = seeds.epoch_order(1, 0, 0, len(data.train))
    for step in steps:
        chosen = order[step * setting.batch_size : (step + 1) * setting.batch_size]
        w = full()
        hidden = data.train.images[chosen].reshape(len(chosen), 784).double() / 255
        for layer in ("fc1", "fc2"):
            hidden = (hidden @ w[f"{layer}.weight"].t() + w[f"{layer}.bias"]).clamp(min=0)
        logits = hidden @ w["output.weight"].t() + w["output.bias"]
        optimiser.zero_grad()
        F.cross_entropy(logits, data.train.labels[chosen]).backward()
        optimiser.step()
    return {name: weight.detach() for name, weight in full().items()}


@OPTIMISERS
def test_masked_updates_are_those_of_torch_optim_on_the_survivors_alone(setting: Setting, embedded_mnist: Dataset):
    start = ticket(sparse())
    expected = by_torch_optim(setting, embedded_mnist, start, steps=range(8))
    got = train(setting, embedded_mnist, start, replicate=1, order=0, stop=8).state
    assert_moved_alike(got, expected, start)


def test_an_optimiser_that_is_fresh_at_the_rewind_starts_as_torchs_does(embedded_mnist: Dataset):
    """Late in training Adam no longer corrects its moments for their start at zero; a fresh one has to."""
    setting = ADAM.updated(iterations=50)
    start = replace(ticket(sparse()), iteration=40)
    expected = by_torch_optim(setting, embedded_mnist, start, steps=range(40, 44))
    got = train(setting, embedded_mnist, start, replicate=1, order=0, stop=44).state
    assert_moved_alike(got, expected, start)


def assert_moved_alike(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], start: Ticket) -> None:
    for name, weight in expected.items():
        difference = (got[name].double() - weight).abs()
        moved = (weight - start.weights[name].double()).abs().max()
        assert moved > 1e-3, name
        # Adam divides by the size of the gradient, so where that is near zero its rounding shows: there, a wider bound
        assert difference.median() <= 1e-7, name
        assert difference.max() <= 1e-2 * moved, name
        assert (difference > 1e-5).double().mean() <= 1e-3, name


@OPTIMISERS
def test_pruned_weights_are_zero_after_every_update(setting: Setting, embedded_mnist: Dataset):
    mask, kept = sparse(), Kept()
    end = train(setting, embedded_mnist, ticket(mask), replicate=1, order=0, keep=range(12), saves=kept)
    assert sorted(kept.states) == list(range(12))
    shapes = {name: weight.shape for name, weight in build(preset("lenet_300_100").setting).named_parameters()}
    pruned = {n: ~mask[n] if n in mask else torch.zeros(shape, dtype=torch.bool) for n, shape in shapes.items()}
    for state in (*kept.states.values(), end.state):
        assert not any(state[name][where].any() for name, where in pruned.items())


def test_a_pruned_weight_that_the_ticket_wrongly_holds_is_zeroed(embedded_mnist: Dataset):
    mask = sparse()
    full = initial_weights(preset("lenet_300_100").setting, seeds.stream(1, "init"))
    unmasked = train(ADAM, embedded_mnist, Ticket(mask, full, 0, 0), replicate=1, order=0, stop=3)
    masked = train(ADAM, embedded_mnist, ticket(mask), replicate=1, order=0, stop=3)
    assert same_bits(unmasked.state, masked.state)


def test_surviving_weights_of_either_sign_move(embedded_mnist: Dataset):
    mask = sparse()
    start = ticket(mask)
    end = train(DECAY, embedded_mnist, start, replicate=1, order=0).state
    for name in mask:
        before, after = start.weights[name][mask[name]], end[name][mask[name]]
        for sign in (before > 0, before < 0):
            assert (after != before)[sign].double().mean() > 0.999  # by decay, even where the gradient is zero


def test_training_leaves_the_weights_of_the_ticket_alone(embedded_mnist: Dataset):
    start = ticket(sparse())
    before = {name: weight.clone() for name, weight in start.weights.items()}
    train(ADAM, embedded_mnist, start, replicate=1, order=0)
    assert same_bits(start.weights, before)


@OPTIMISERS
def test_the_same_seed_gives_the_same_bits(setting: Setting, embedded_mnist: Dataset):
    first, second = (train(setting, embedded_mnist, ticket(sparse()), replicate=1, order=0) for _ in range(2))
    assert same_bits(first.state, second.state)
    assert first.metrics == second.metrics


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_do_not_depend_on_the_number_of_threads(threads: int, embedded_mnist: Dataset):
    expected = train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same_bits(expected.state, got.state)


def test_another_order_another_replicate_and_another_seed_of_the_initialisation_differ(embedded_mnist: Dataset):
    first = train(ADAM, embedded_mnist, ticket(ones()), replicate=1, order=0).state
    order = train(ADAM, embedded_mnist, ticket(ones()), replicate=1, order=1).state
    replicate = train(ADAM, embedded_mnist, ticket(ones()), replicate=2, order=0).state
    assert not same_bits(first, order)
    assert not same_bits(first, replicate)
    assert not same_bits(order, replicate)


def test_the_test_and_validation_images_do_not_touch_the_weights(embedded_mnist: Dataset):
    blank = Split(torch.zeros_like(embedded_mnist.test.images), embedded_mnist.test.labels)
    other = Dataset("other", embedded_mnist.train, blank, blank)
    a = train(ADAM, embedded_mnist, ticket(ones()), replicate=1, order=0)
    b = train(ADAM, other, ticket(ones()), replicate=1, order=0)
    assert same_bits(a.state, b.state)
    assert a.metrics != b.metrics


LONG = SMOKE.updated(iterations=2 * BATCHES + 2)
HEAVY = LONG.updated(optimizer="momentum", learning_rate=0.05)


@pytest.fixture(scope="module")
def uninterrupted(embedded_mnist: Dataset) -> dict[str, Trained]:
    """A training over two epoch boundaries by each optimiser."""
    return {
        setting.optimizer: train(setting, embedded_mnist, ticket(sparse()), replicate=1, order=0)
        for setting in (LONG, HEAVY)
    }


@pytest.mark.parametrize("stop", [0, 1, BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES + 1])
def test_stopped_at_any_iteration_and_resumed_gives_the_same_bits(
    stop: int, uninterrupted: dict[str, Trained], embedded_mnist: Dataset, tmp_path
):
    folder, again = TrainingFolder(tmp_path), StopAt()
    with pytest.raises(Stopped):
        train(LONG, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=folder, stop_requested=StopAt(stop))
    resumed = train(LONG, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=folder, stop_requested=again)
    assert again.calls == LONG.iterations - stop
    assert same_bits(resumed.state, uninterrupted["adam"].state)
    assert resumed.metrics == uninterrupted["adam"].metrics


def test_stopped_many_times_under_momentum_gives_the_same_bits(
    uninterrupted: dict[str, Trained], embedded_mnist: Dataset, tmp_path
):
    setting, folder = HEAVY, TrainingFolder(tmp_path)
    stops = 0
    while True:
        try:
            resumed = train(
                setting, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=folder, stop_requested=StopAt(30)
            )
            break
        except Stopped:
            stops += 1
    assert stops == LONG.iterations // 30
    assert same_bits(resumed.state, uninterrupted["momentum"].state)


def test_a_crash_goes_on_from_the_last_checkpoint_with_the_same_bits(
    uninterrupted: dict[str, Trained], embedded_mnist: Dataset, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint before every update
    folder, asked = TrainingFolder(tmp_path), StopAt()

    def crash() -> bool:
        asked()
        if asked.calls == 10:
            raise ZeroDivisionError
        return False

    with pytest.raises(ZeroDivisionError):
        train(LONG, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=folder, stop_requested=crash)
    monkeypatch.undo()
    again = StopAt()
    resumed = train(LONG, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=folder, stop_requested=again)
    assert again.calls == LONG.iterations - 8  # updates 0 to 7 were in the checkpoint before the ninth
    assert same_bits(resumed.state, uninterrupted["adam"].state)


@pytest.mark.parametrize(("optimizer", "k"), [("adam", 1), ("adam", BATCHES), ("adam", 76), ("momentum", 76)])
def test_w_k_under_a_mask_of_ones_repeats_the_dense_run(optimizer: str, k: int, embedded_mnist: Dataset):
    setting = (LONG if optimizer == "adam" else HEAVY).updated(iterations=90)
    kept, updates = Kept(), StopAt()
    dense = train(setting, embedded_mnist, ticket(ones()), replicate=1, order=0, keep=[k], saves=kept)
    rewound = subnetwork(kept.states[k], ones(), k, 1)
    again = train(setting, embedded_mnist, rewound, replicate=1, order=0, stop_requested=updates)
    assert same_bits(again.state, dense.state)
    assert again.metrics == dense.metrics
    assert updates.calls == setting.iterations - k


def test_keep_saves_the_state_at_exactly_that_iteration(embedded_mnist: Dataset):
    kept = Kept()
    train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0, keep=[0, 7], saves=kept)
    up_to = train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0, stop=7)
    assert list(kept.states) == [0, 7]
    assert same_bits(kept.states[7], up_to.state)
    assert all(torch.equal(kept.states[0][name], weight) for name, weight in ticket(sparse()).weights.items())


@pytest.mark.parametrize("setting", [SMOKE, SMOKE.updated(optimizer="momentum")])
def test_a_diverged_training_says_so_and_has_no_metrics(setting: Setting, embedded_mnist: Dataset):
    setting = setting.updated(learning_rate=1e30, iterations=BATCHES + 4)
    trained = train(setting, embedded_mnist, ticket(ones()), replicate=1, order=0)
    assert trained.diverged_at is not None
    assert 0 < trained.diverged_at <= setting.iterations
    assert trained.metrics == {}


def test_a_training_function_for_imp_raises_what_diverged(embedded_mnist: Dataset):
    setting = SMOKE.updated(learning_rate=1e30, iterations=BATCHES + 4)
    with pytest.raises(Diverged, match=r"level 0 diverged by iteration \d+, with learning_rate=1e\+30; choose"):
        trainer(setting, embedded_mnist, replicate=1)(ticket(ones()), None)


def test_a_training_that_goes_on_saves_its_next_checkpoint_when_that_is_due(embedded_mnist: Dataset, monkeypatch):
    """Not at once, though it had been going on for an hour before it was interrupted."""
    saves, seconds = Kept(), itertools.count()
    state = train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0, stop=4).state
    saved: list[int] = []
    monkeypatch.setattr(saves, "load_checkpoint", lambda: (4, 3600.0, state))
    monkeypatch.setattr(saves, "save_checkpoint", lambda iteration, *_: saved.append(iteration))
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 5.5)
    trained = train(ADAM, embedded_mnist, ticket(sparse()), replicate=1, order=0, saves=saves)
    assert saved
    assert saved[0] > 4 + 3
    assert trained.seconds > 3600


def test_where_a_divergence_is_noticed_does_not_depend_on_interruptions(embedded_mnist: Dataset, tmp_path):
    setting = SMOKE.updated(learning_rate=1e30, iterations=BATCHES + 4)
    folder, stop = TrainingFolder(tmp_path), StopAt(20)
    with pytest.raises(Stopped):
        train(setting, embedded_mnist, ticket(ones()), replicate=1, order=0, saves=folder, stop_requested=stop)
    resumed = train(setting, embedded_mnist, ticket(ones()), replicate=1, order=0, saves=folder)
    assert not torch.isfinite(folder.load_checkpoint()[2]["fc1.weight"]).all()
    assert resumed.diverged_at == BATCHES


def test_a_training_that_is_told_to_end_early_is_not_evaluated(embedded_mnist: Dataset):
    assert train(SMOKE, embedded_mnist, ticket(ones()), replicate=1, order=0, stop=2).metrics == {}


def test_a_training_that_ends_well_has_not_diverged_and_is_evaluated(embedded_mnist: Dataset):
    trained = train(SMOKE, embedded_mnist, ticket(ones()), replicate=1, order=0)
    assert trained.diverged_at is None
    assert trained.metrics.keys() == {"test_accuracy", "validation_accuracy", "train_accuracy", "train_loss"}
    assert all(80 < value <= 100 for name, value in trained.metrics.items() if name != "train_loss")


def test_accuracy_and_loss_on_training_images_are_those_of_the_first_5000(
    embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lth_study.training.train.SEEN", 1_003)
    trained = train(SMOKE, embedded_mnist, ticket(ones()), replicate=1, order=0)
    weights = {name: tensor.double() for name, tensor in trained.state.items()}
    x = embedded_mnist.train.images[:1_003].flatten(1).double() / 255
    for layer in ("fc1", "fc2", "output"):
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        x = x.clamp(min=0) if layer != "output" else x
    labels = embedded_mnist.train.labels[:1_003]
    chances = x.exp() / x.exp().sum(1, keepdim=True)
    assert trained.metrics["train_loss"] == pytest.approx(float(-chances[range(1_003), labels].log().mean()), rel=1e-5)
    assert trained.metrics["train_accuracy"] == pytest.approx(100 * float((x.argmax(1) == labels).double().mean()))


def test_a_loss_beyond_the_range_of_numbers_is_left_out():
    logits = torch.tensor([[3e38, -3e38], [3e38, -3e38]])  # the second one's loss is 6e38
    found = _on_training_images(nn.Identity(), Split(logits, torch.tensor([0, 1])))
    assert found == {"train_accuracy": 50.0}


def test_accuracy_is_the_percentage_of_largest_logits_at_the_label():
    logits = torch.tensor([[3, 1, 0], [0, 1, 0], [0, 0, 9], [2, 1, 0]], dtype=torch.uint8)
    assert accuracies(nn.Identity(), Split(logits, torch.tensor([0, 1, 2, 1])))[0] == 75.0


def test_accuracy_counts_the_last_incomplete_batch():
    logits = F.one_hot(torch.zeros(EVALUATION_BATCH + 2, dtype=torch.int64), 3)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    labels[-1] = 2
    assert accuracies(nn.Identity(), Split(logits, labels))[0] == 100 * (len(labels) - 1) / len(labels)


def test_top_5_counts_a_label_among_the_five_largest_logits():
    logits = torch.arange(12).view(2, 6)  # the smallest logit is that of class 0, the largest that of class 5
    parts = [Split(logits, torch.tensor(labels)) for labels in ([5, 0], [1, 4], [0, 0])]
    assert [accuracies(nn.Identity(), part, (1, 5)) for part in parts] == [[50, 50], [0, 100], [0, 0]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_is_too_small_is_said_with_what_to_do(
    error: Exception, embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(FlatNetwork, "update", fails)
    with pytest.raises(OutOfMemory) as said:
        train(SMOKE, embedded_mnist, ticket(ones()), replicate=1, order=0)
    assert str(said.value).startswith("memory is too small for lenet_300_100 with batches of 60 images; train fewer")
    assert "pieces" not in str(said.value)  # which it does not have
    with (
        pytest.raises(OutOfMemory, match=r"resnet20 with .* With pieces=2 less .* study of its own"),
        memory_explained(preset("resnet20", profile="smoke").setting),
    ):
        raise error


def test_other_errors_stay_what_they_are(embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(FlatNetwork, "update", fails)
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        train(SMOKE, embedded_mnist, ticket(ones()), replicate=1, order=0)


def keeps_denormals() -> bool:
    return bool((torch.tensor([1e-40]) * torch.tensor([1.0])).item() != 0)


@pytest.mark.parametrize("stop", [None, 2])
def test_threads_and_denormals_are_as_before_after_training(stop: int | None, embedded_mnist: Dataset):
    before = torch.get_num_threads()
    inside = []
    asked = StopAt(stop)

    def look() -> bool:
        inside.append((torch.get_num_threads(), keeps_denormals()))
        return asked()

    torch.set_num_threads(2)
    try:
        assert keeps_denormals()
        if stop is None:
            train(ADAM, embedded_mnist, ticket(ones()), replicate=1, order=0, stop_requested=look)
        else:
            with pytest.raises(Stopped):
                train(ADAM, embedded_mnist, ticket(ones()), replicate=1, order=0, stop_requested=look)
        assert torch.get_num_threads() == 2
        assert keeps_denormals()
    finally:
        torch.set_num_threads(before)
    assert set(inside) == {(1, False)}


def test_steady_arithmetic_within_itself_stays_until_the_outer_one_ends():
    with steady_arithmetic():
        with steady_arithmetic():
            pass
        assert not keeps_denormals()
    assert keeps_denormals()


@OPTIMISERS
def test_a_network_without_a_gradient_by_hand_trains_by_autograd(
    setting: Setting, embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch
):
    by_hand = train(setting, embedded_mnist, ticket(sparse()), replicate=1, order=0, stop=6).state
    monkeypatch.delattr(LeNet300100, "backward")
    by_autograd = train(setting, embedded_mnist, ticket(sparse()), replicate=1, order=0, stop=6).state
    for name, start in ticket(sparse()).weights.items():
        difference = (by_hand[name] - by_autograd[name]).abs()
        assert difference.max() <= 1e-2 * (by_hand[name] - start).abs().max(), name
        assert (difference > 1e-5).double().mean() <= 1e-3, name
