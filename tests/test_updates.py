"""One update: every optimiser, the loss and the average of weights against double precision by hand."""

import gc
import itertools
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core.masks import Mask
from lth_study.presets import preset
from lth_study.settings import Setting, SettingError
from lth_study.training.train import steady_arithmetic
from lth_study.training.updates import MOMENTS, FlatNetwork, learning_rate

BASE = preset("resnet20", profile="smoke").setting.updated(weight_decay=0.01, momentum=0.9)
STEPS = 5
RATES = [0.3, 0.1, 0.2, 0.05, 0.4]


class TwoHeaded(nn.Module):
    """A linear network; with an auxiliary head, of which it gives the logits too while it is being trained."""

    def __init__(self, auxiliary: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.own = nn.Linear(6, 4)
        self.other = nn.Linear(6, 4) if auxiliary else None
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.own(x) if self.other is None else (self.own(x), self.other(x))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)) for _ in range(STEPS)
    ]


def sparse(model: nn.Module) -> Mask:
    generator = torch.Generator().manual_seed(5)
    return Mask({n: torch.rand(p.shape, generator=generator) < 0.6 for n, p in model.named_parameters() if p.dim() > 1})


def loaded(setting: Setting, model: nn.Module) -> FlatNetwork:
    network = FlatNetwork(model, sparse(model), setting)
    network.load(model_state(TwoHeaded(model.other is not None)))
    return network


def model_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


Step = Callable[[Tensor, Tensor, float], Tensor]


def by_hand(setting: Setting, step: Step) -> list[Tensor]:
    """The weights after every update of a linear network, in double precision; `step` returns what to subtract."""
    weight, bias = (p.detach().double() for p in TwoHeaded().own.parameters())
    keep = torch.cat([sparse(TwoHeaded())["own.weight"].flatten(), torch.ones(4, dtype=torch.bool)])
    weights = torch.cat([weight.flatten(), bias]) * keep
    trace = []
    for (x, labels), rate in zip(batches(), RATES, strict=True):
        logits = x.double() @ weights[:24].view(4, 6).t() + weights[24:]
        target = F.one_hot(labels, 4).double() * (1 - setting.label_smoothing) + setting.label_smoothing / 4
        error = (torch.softmax(logits, 1) - target) / len(labels)
        gradient = torch.cat([(error.t() @ x.double()).flatten(), error.sum(0)]) * keep
        weights = weights - step(gradient + setting.weight_decay * weights, weights, rate)
        trace.append(weights)
    return trace


def nesterov() -> Step:
    buffer = torch.zeros(28, dtype=torch.float64)

    def step(gradient: Tensor, weights: Tensor, rate: float) -> Tensor:
        buffer.mul_(0.9).add_(gradient)
        return rate * (gradient + 0.9 * buffer)

    return step


def rmsprop() -> Step:
    square, velocity = torch.ones(28, dtype=torch.float64), torch.zeros(28, dtype=torch.float64)

    def step(gradient: Tensor, weights: Tensor, rate: float) -> Tensor:
        square.copy_(0.9 * square + 0.1 * gradient**2)
        velocity.copy_(0.9 * velocity + rate * gradient / (square + 1.0).sqrt())
        return velocity

    return step


def adam() -> Step:
    first, second = torch.zeros(28, dtype=torch.float64), torch.zeros(28, dtype=torch.float64)
    updates = itertools.count(1)

    def step(gradient: Tensor, weights: Tensor, rate: float) -> Tensor:
        first.copy_(0.9 * first + 0.1 * gradient)
        second.copy_(0.999 * second + 0.001 * gradient**2)
        done = next(updates)
        return rate * first / (1 - 0.9**done) / ((second / (1 - 0.999**done)).sqrt() + 1e-8)

    return step


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("optimizer", "step"), [("nesterov", nesterov), ("rmsprop", rmsprop), ("adam", adam)])
def test_updates_are_those_of_double_precision(optimizer: str, step: Callable[[], Step], smoothing: float):
    setting = BASE.updated(optimizer=optimizer, label_smoothing=smoothing)
    network = loaded(setting, TwoHeaded())
    for (x, labels), rate, expected in zip(batches(), RATES, by_hand(setting, step()), strict=True):
        network.update(x, labels, rate)
        assert (network.weights.double() - expected).abs().max() < 2e-6
        assert not network.weights[network.mask == 0].any()


class Decayed(nn.Module):
    """A convolution, batch norm and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.output = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.convolution(x)).relu().flatten(1))


OPTIMISERS = {
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1.0),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_where_convolutions_alone_decay_torchs_optimisers_have_a_group_for_the_others(optimizer: str):
    torch.manual_seed(6)
    own, exact = Decayed(), Decayed().double()
    keep = torch.rand(4, 3, 3, 3) < 0.6
    with torch.no_grad():
        own.convolution.weight.mul_(keep)
    exact.load_state_dict(own.state_dict())
    setting = BASE.updated(optimizer=optimizer, weight_decay=0.5, weight_decay_on="convolutions")
    start = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    network = FlatNetwork(own, Mask({"convolution.weight": keep}), setting)
    network.load(start)
    others = [*exact.norm.parameters(), *exact.output.parameters()]
    groups = [{"params": [exact.convolution.weight], "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    reference = OPTIMISERS[optimizer](groups)
    for rate in (0.03, 0.01, 0.02):
        x, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
        network.update(x, labels, rate)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.zero_grad()
        F.cross_entropy(exact(x.double()), labels).backward()
        exact.convolution.weight.grad.mul_(keep)
        reference.step()
    for name, tensor in exact.named_parameters():
        got = dict(own.named_parameters())[name]
        assert (got - start[name]).abs().max() > 1e-3, name
        assert (got.double() - tensor).abs().max() < 1e-5, name
    assert not own.convolution.weight[~keep].any()


def test_a_network_that_is_done_with_is_forgotten_at_once():
    """Not when Python next looks for cycles: a GPU's memory would fill up before."""
    network = loaded(BASE, TwoHeaded())
    network.update(*batches()[0], 0.1)
    values = weakref.ref(network.values)
    gc.disable()
    try:
        del network
        assert values() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop"])
def test_pruned_weights_gather_no_moments(optimizer: str):
    network = loaded(BASE.updated(optimizer=optimizer, weight_decay=0.1), TwoHeaded())
    start = {name: moment.clone() for name, moment in network.moments.items()}
    for (x, labels), rate in zip(batches(), RATES, strict=True):
        network.update(x, labels, rate)
    pruned = network.mask == 0
    assert pruned.any()
    if optimizer == "adam":  # whose pruned weights have gradients, and no steps
        assert start["exp_avg_sq"][pruned].isinf().all()
        assert network.moments["exp_avg_sq"][pruned].isinf().all()
    else:
        assert all(not moment[pruned].any() for moment in network.moments.values() if moment is not None)
    assert not network.weights[pruned].any()


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop"])
def test_a_state_has_moments_of_surviving_weights_alone_and_goes_on_with_the_same_bits(optimizer: str):
    setting, model = BASE.updated(optimizer=optimizer), TwoHeaded()
    network = loaded(setting, model)
    for (x, labels), rate in zip(batches()[:3], RATES, strict=False):
        network.update(x, labels, rate)
    state, pruned = network.state(), network.mask == 0
    for name in network.moments:
        moment = state[f"{MOMENTS}{name}"]
        assert not moment[pruned].any()
        assert moment[~pruned].all()
    resumed = FlatNetwork(TwoHeaded(), sparse(model), setting)
    resumed.load(state)
    for both in (network, resumed):
        for (x, labels), rate in zip(batches()[3:], RATES[3:], strict=True):
            both.update(x, labels, rate)
    assert torch.equal(network.weights, resumed.weights)


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_a_batch_worked_through_in_pieces_is_the_whole_batch_to_rounding(pieces: int):
    setting = BASE.updated(label_smoothing=0.1)
    whole, in_pieces = loaded(setting, TwoHeaded()), loaded(setting.updated(pieces=pieces), TwoHeaded())
    for (x, labels), rate in zip(batches(), RATES, strict=True):
        whole.update(x, labels, rate)
        in_pieces.update(x, labels, rate)
        torch.testing.assert_close(in_pieces.weights, whole.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("processes", "sizes"), [(1, [2, 2, 2, 2]), (2, [4, 4]), (4, [8]), (8, [8])])
def test_processes_that_share_a_batch_share_its_pieces(processes: int, sizes: list[int], monkeypatch):
    """Whoever trains, batch norm sees pieces of one size, as long as there are pieces to share."""
    seen = []

    class Counted(TwoHeaded):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.own(x)

    monkeypatch.setattr("lth_study.training.updates.rank_and_count", lambda: (0, processes))
    loaded(BASE.updated(pieces=4), Counted()).update(*batches()[0], 0.1)
    assert seen == sizes


def test_batch_norm_normalises_each_piece_by_itself():
    x, labels = batches()[0]
    seen = []

    class Normed(TwoHeaded):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.own(F.batch_norm(x, None, None, training=True))

    moved = []
    for pieces in (1, 2):
        network = loaded(BASE.updated(pieces=pieces), Normed())
        network.update(x, labels, 0.1)
        moved.append(network.weights.clone())
    assert seen == [8, 4, 4]
    assert (moved[0] - moved[1]).abs().max() > 1e-3


def test_more_pieces_than_images_are_refused():
    with pytest.raises(SettingError, match="pieces: 33 is more than the 32 images of a batch"):
        BASE.updated(pieces=33)


def test_bfloat16_is_for_products_alone():
    seen = []

    class Looked(TwoHeaded):
        def forward(self, x: Tensor) -> Tensor:
            logits = self.own(x)
            seen.append(logits.dtype)
            return logits

    exact, rough = loaded(BASE, Looked()), loaded(BASE.updated(precision="bfloat16"), Looked())
    x, labels = batches()[0]
    for network in (exact, rough):
        network.update(x, labels, 0.1)
    assert seen == [torch.float32, torch.bfloat16]
    assert {tensor.dtype for tensor in rough.state().values()} == {torch.float32}
    assert not torch.equal(rough.weights, exact.weights)
    torch.testing.assert_close(rough.weights, exact.weights, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tf32_is_allowed_where_it_is_asked_for_alone(precision: str, allowed: bool):
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    with steady_arithmetic(precision):
        assert [setting.allow_tf32 for setting in settings] == [allowed, allowed]
    assert [setting.allow_tf32 for setting in settings] == before


def test_the_loss_of_an_auxiliary_head_counts_as_much_as_is_set():
    inception = preset("inception_v3", profile="smoke").setting.updated(image_size=299)
    setting = inception.updated(
        optimizer="momentum",
        weight_decay=0.0,
        momentum=0.0,
        label_smoothing=0.0,
        weight_average=0.0,
        auxiliary_loss=0.4,
    )
    network = loaded(setting, TwoHeaded(auxiliary=True))
    before = network.weights.clone()
    x, labels = batches()[0]
    network.update(x, labels, 1.0)
    moved = before - network.weights
    expected = []
    for head, share in ((TwoHeaded(auxiliary=True).own, 1.0), (TwoHeaded(auxiliary=True).other, 0.4)):
        mask = sparse(TwoHeaded(auxiliary=True))[f"{'own' if share == 1 else 'other'}.weight"]
        weight = (head.weight.detach() * mask).double()
        error = torch.softmax(x.double() @ weight.t() + head.bias.detach().double(), 1) - F.one_hot(labels, 4)
        expected += [share * (error.t() @ x.double() / 8 * mask).flatten(), share * error.mean(0)]
    assert (moved.double() - torch.cat(expected)).abs().max() < 1e-6
    assert moved[28:].abs().max() > 0.01


def test_the_average_of_weights_forgets_its_beginning_and_survives_a_resumption():
    setting = BASE.updated(weight_average=0.25)
    network = loaded(setting, TwoHeaded())
    average = network.weights.double()
    for step, ((x, labels), rate) in enumerate(zip(batches(), RATES, strict=True)):
        if step == 3:
            resumed = FlatNetwork(TwoHeaded(), sparse(TwoHeaded()), setting)
            resumed.load(network.state())
            network = resumed
        network.update(x, labels, rate)
        decay = [2 / 11, 3 / 12, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25][
            step
        ]  # (1 + n) / (10 + n) of n updates, at most 0.25
        average = decay * average + (1 - decay) * network.weights.double()
    state, trained = network.state(), network.weights.clone()
    assert (state["optimizer.average"].double() - average).abs().max() < 1e-6
    network.use_average()
    assert torch.equal(network.weights, state["optimizer.average"])
    assert not torch.equal(network.weights, trained)
    assert torch.equal(state["own.weight"].flatten(), trained[:24])  # a state holds the weights, not their average


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop"])
def test_batch_norms_statistics_are_averaged_with_the_weights_and_evaluated_with_them(optimizer: str):
    """Three updates: decays 2/11, 3/12 and 4/13, whatever the optimiser."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    network = FlatNetwork(model, Mask({}), BASE.updated(weight_average=0.9, optimizer=optimizer))
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    network.load(fresh.state_dict())
    assert torch.equal(model[1].running_var, torch.ones(4))
    averages = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for decay in (2 / 11, 3 / 12, 4 / 13):
        network.update(torch.randn(8, 3, 8, 8), torch.arange(8) % 2, 0.1)
        for name, tensor in model.state_dict().items():
            averages[name] = decay * averages[name] + (1 - decay) * tensor.double()
    ended = network.state()
    network.use_average()
    for name in ("0.weight", "1.weight", "1.running_mean", "1.running_var", "3.bias"):
        assert (model.state_dict()[name].double() - averages[name]).abs().max() < 1e-6, name
        assert not torch.equal(model.state_dict()[name], ended[name]), name
    assert (ended["1.running_mean"] != 0).all()


def test_without_an_average_the_weights_themselves_are_evaluated():
    network = loaded(BASE, TwoHeaded())
    before = network.weights.clone()
    network.use_average()
    assert torch.equal(network.weights, before)
    assert "optimizer.average" not in network.state()


LINEAR = BASE.updated(iterations=1_000, drops=(), learning_rate=0.03, final_learning_rate=0.005)
STAIRS = BASE.updated(iterations=1_000, drops=(300, 600), drop_factor=0.94, learning_rate=0.66)


@pytest.mark.parametrize(
    ("setting", "iteration", "expected"),
    [
        *((LINEAR, i, rate) for i, rate in ((0, 0.03), (1, 0.029975), (500, 0.0175), (999, 0.005025))),
        *((STAIRS, i, rate) for i, rate in ((299, 0.66), (300, 0.6204), (599, 0.6204), (600, 0.583176))),
    ],
)
def test_learning_rates_are_those_computed_by_hand(setting: Setting, iteration: int, expected: float):
    assert learning_rate(setting, iteration) == pytest.approx(expected, rel=1e-12)


def test_a_learning_rate_falls_in_steps_or_in_a_straight_line_not_both():
    with pytest.raises(SettingError, match=r"final_learning_rate: 0\.005 .*drops=\[300\].*one of them"):
        LINEAR.updated(drops=(300,))
