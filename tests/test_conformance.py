"""Every network under every optimiser and setting, against torch's modules and `torch.optim` in double precision.

The reference has no flat vector, fused kernel or gradient by hand, and takes nothing from `lth_study.training`. It
shares only what is tested elsewhere: initial weights, data orders, draws of augmentation and of dropout.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from lth_core import Ticket, subnetwork
from lth_core.masks import Mask
from lth_study import preset, seeds
from lth_study.data.augmentation import ResizedCrops
from lth_study.data.parts import Dataset, Split
from lth_study.networks import build, initial_weights
from lth_study.settings import Setting
from lth_study.training import steps
from lth_study.training.train import train

UPDATES, EPOCH = 4, 3
"""Updates of a training, and of an epoch: each training crosses the end of an epoch."""
Weights = dict[str, Tensor]
Forward = Callable[[Weights, Tensor, bool], Tensor | tuple[Tensor, Tensor]]
"""Logits in double precision, by weights, images, and whether the network is being trained."""


def settings(network: str, **changes: Any) -> Setting:
    """A short training with nothing but what `changes` asks for; its last learning rate is a share of the highest."""
    nothing = {"iterations": UPDATES, "drops": (), "warmup": 0, "momentum": 0.9,
               "weight_decay": 0.0, "final_learning_rate": None, "label_smoothing": 0.0, "weight_average": 0.0,
               "augment": False, "batch_size": 16, "learning_rate": RATES[changes["optimizer"]]}  # fmt: skip
    chosen = nothing | changes
    if chosen["final_learning_rate"]:
        chosen["final_learning_rate"] *= chosen["learning_rate"]
    return preset(network, profile="smoke").setting.updated(**chosen)


def noise(setting: Setting, seed: int) -> Split:
    """Random images; a few more than whole batches."""
    chance = torch.Generator().manual_seed(seed)
    side = setting.image_size
    shape = (EPOCH * setting.batch_size + 3, *((3, side, side) if side else (28, 28)))
    images = torch.randint(0, 256, shape, generator=chance, dtype=torch.uint8)
    return Split(images, torch.randint(0, 10, shape[:1], generator=chance))


def ticket_of(setting: Setting, begin: int = 0) -> Ticket:
    """Half of a network, at random, with its batch norm shifted so that most units are on.

    In a deep fresh network with batch norm, each unit that rounding turns on or off changes all gradients below it.
    After one update ResNet-50 in float32 then shares no digit with itself in double precision. Shifted it shares most.
    """
    weights = initial_weights(setting, seeds.stream(1, "init"))
    for norm in [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]:
        weights[f"{norm}weight"] *= 0.5
        weights[f"{norm}bias"] += NETWORKS[setting.network].shift
    chance = torch.Generator().manual_seed(5)
    ones = Mask.ones(build(setting))
    mask = Mask({name: torch.rand(full.shape, generator=chance) < 0.5 for name, full in ones.items()})
    return subnetwork(weights, mask, begin, 0)


# Networks by torch's modules


def lenet(w: Weights, images: Tensor, _: bool) -> Tensor:
    x = images.flatten(1).double() / 255
    for layer in ("fc1", "fc2"):
        x = F.relu(F.linear(x, w[f"{layer}.weight"], w[f"{layer}.bias"]))
    return F.linear(x, w["output.weight"], w["output.bias"])


def standardised(images: Tensor, mean: list[float], deviation: list[float]) -> Tensor:
    return TF.normalize(images.double() / 255, mean, deviation)


def cifar_pixels(images: Tensor) -> Tensor:
    return standardised(images, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])


def conv_norm(w: Weights, name: str, x: Tensor, training: bool, stride: int = 1) -> Tensor:
    kernel, norm = w[f"{name}.0.weight"], f"{name}.1"
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, variance = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
    return F.batch_norm(x, mean, variance, w[f"{norm}.weight"], w[f"{norm}.bias"], training)


def resnet20(w: Weights, images: Tensor, training: bool) -> Tensor:
    x = F.relu(conv_norm(w, "stem", cifar_pixels(images), training))
    for block in range(9):
        stride = 2 if block in (3, 6) else 1
        y = F.relu(conv_norm(w, f"blocks.{block}.first", x, training, stride))
        y = conv_norm(w, f"blocks.{block}.second", y, training)
        x = F.relu(y + (x if stride == 1 else conv_norm(w, f"blocks.{block}.shortcut", x, training, stride)))
    return F.linear(x.mean((2, 3)), w["output.weight"], w["output.bias"])


def vgg19(w: Weights, images: Tensor, training: bool) -> Tensor:
    x = cifar_pixels(images)
    for stage, repeats in enumerate((2, 2, 4, 4, 4)):
        if stage and x.shape[2] > 1:
            x = F.max_pool2d(x, 2)
        for position in range(repeats):
            x = F.relu(conv_norm(w, f"stages.{stage}.{2 * position}", x, training))
    return F.linear(x.mean((2, 3)), w["output.weight"], w["output.bias"])


def torchvisions(network: torch.nn.Module) -> Forward:
    def forward(w: Weights, images: Tensor, training: bool) -> Tensor | tuple[Tensor, Tensor]:
        pixels = standardised(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        own = {name.removeprefix("body."): tensor for name, tensor in w.items()}
        return functional_call(network.train(training), own, (pixels,))

    return forward


def reference_network(setting: Setting) -> Forward:
    if setting.network == "resnet50":
        return torchvisions(torchvision.models.resnet50(num_classes=10, width_per_group=round(64 * setting.width)))
    if setting.network == "squeezenet1_0":
        return torchvisions(torchvision.models.squeezenet1_0(num_classes=10))
    if setting.network == "inception_v3":  # narrow, as torchvision builds it for us alone
        return torchvisions(build(setting).body.double())
    return {"lenet_300_100": lenet, "resnet20": resnet20, "vgg19": vgg19}[setting.network]


# Training by torch.optim


class TensorFlowsRMSProp(torch.optim.Optimizer):
    """With epsilon, 1.0, under the root, the square begun at 1, and the learning rate inside the velocity."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p] = {"square_avg": torch.ones_like(p), "momentum_buffer": torch.zeros_like(p)}
                gradient, state = p.grad + group["weight_decay"] * p, self.state[p]
                state["square_avg"] = 0.9 * state["square_avg"] + 0.1 * gradient**2
                step = group["lr"] * gradient / (state["square_avg"] + 1.0).sqrt()
                state["momentum_buffer"] = group["momentum"] * state["momentum_buffer"] + step
                p -= state["momentum_buffer"]


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda groups, momentum: torch.optim.Adam(groups),
    "momentum": lambda groups, momentum: torch.optim.SGD(groups, momentum=momentum),
    "nesterov": lambda groups, momentum: torch.optim.SGD(groups, momentum=momentum, nesterov=True),
    "rmsprop": lambda groups, momentum: TensorFlowsRMSProp(groups, {"momentum": momentum}),
}
RATES = {"adam": 0.002, "momentum": 0.05, "nesterov": 0.05, "rmsprop": 0.05}


class End(NamedTuple):
    """What a training in double precision ends with."""

    weights: Weights
    moments: dict[str, Weights]
    average: Weights
    loss: float
    """Mean cross-entropy of the averaged weights on the training images as they are."""


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    target = F.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    return -(target * logits.log_softmax(1)).sum(1).mean()


def augmented(setting: Setting, images: Tensor, chosen: Tensor, epoch: int, examples: int) -> Tensor:
    if not setting.augment:
        return images
    if setting.smallest_crop is not None:
        return ResizedCrops(seeds.epoch_crops(1, 0, epoch, examples), setting.smallest_crop)(images, chosen)
    shifts, flips = (drawn[chosen].tolist() for drawn in seeds.epoch_augmentation(1, 0, epoch, examples))
    done = []
    for image, (top, left), flip in zip(images, shifts, flips, strict=True):
        cropped = TF.crop(TF.pad(image, [4, 4, 4, 4]), top, left, *image.shape[1:])
        done.append(TF.hflip(cropped) if flip else cropped)
    return torch.stack(done)


@lru_cache(maxsize=1)  # every way of updating is compared with the same end
def by_torch_optim(setting: Setting, begin: int, rates: tuple[float, ...]) -> End:
    """The training of `ticket_of`, one learning rate for each update."""
    part, ticket, forward = noise(setting, 1), ticket_of(setting, begin), reference_network(setting)
    w = {n: t.double() if t.is_floating_point() else t.clone() for n, t in ticket.weights.items()}
    names = [name for name, _ in build(setting).named_parameters()]
    keep = {name: ticket.mask.get(name, torch.ones(())).double() for name in names}
    for name in names:
        w[name] = (w[name] * keep[name]).requires_grad_()
    decays = {n: setting.weight_decay_on == "all" or w[n].dim() == 4 for n in names}
    groups = [{"params": [w[n]], "weight_decay": setting.weight_decay * decays[n], "lr": 0.0} for n in names]
    optimiser = OPTIMISERS[setting.optimizer](groups, setting.momentum)
    averaged = {n: t.detach().clone() for n, t in w.items() if t.is_floating_point()}
    for done, rate in enumerate(rates):
        iteration = ticket.iteration + done
        epoch, batch = divmod(iteration, EPOCH)
        chosen = seeds.epoch_order(1, 0, epoch, len(part))[batch * setting.batch_size :][: setting.batch_size]
        images = augmented(setting, part.images[chosen], chosen, epoch, len(part))
        optimiser.zero_grad()
        with seeds.dropout_stream(1, 0, iteration):
            for piece in zip(images.chunk(setting.pieces), part.labels[chosen].chunk(setting.pieces), strict=True):
                outputs = forward(w, piece[0], True)
                heads = (outputs,) if isinstance(outputs, Tensor) else outputs
                for logits, share in zip(heads, (1.0, setting.auxiliary_loss), strict=False):
                    loss = share * cross_entropy(logits, piece[1], setting.label_smoothing)
                    (loss * len(piece[1]) / len(chosen)).backward(retain_graph=True)
        for group, name in zip(optimiser.param_groups, names, strict=True):
            group["lr"] = rate
            w[name].grad *= keep[name]
        optimiser.step()
        decay = min(setting.weight_average, (2 + done) / (11 + done))  # (1 + n) / (10 + n) after n updates
        averaged = {n: decay * before + (1 - decay) * w[n].detach() for n, before in averaged.items()}
    with torch.no_grad():
        loss = cross_entropy(forward(w | averaged, part.images, False), part.labels, 0.0)
    kinds = [kind for kind, moment in optimiser.state[w[names[0]]].items() if kind != "step" and moment is not None]
    moments = {kind: {n: optimiser.state[w[n]][kind] * keep[n] for n in names} for kind in kinds}
    return End({n: w[n].detach() for n in averaged}, moments, averaged, float(loss))


# Ways to do an update


def plain(_: pytest.MonkeyPatch) -> str:
    return "cpu"


def recorded(monkeypatch: pytest.MonkeyPatch) -> str:
    """The update that a graph would record stands for the graph; it is done before, as it is for the recording."""

    def stand_in(update: steps.Update) -> SimpleNamespace:
        for _ in range(steps.WARM_UP):
            update()
        return SimpleNamespace(replay=update)

    monkeypatch.setattr(steps, "can_be_recorded", lambda network, part: not steps._drops_out(network))
    monkeypatch.setattr(steps, "recorded", stand_in)
    monkeypatch.setattr(steps, "_wait_for_gpu", lambda: None)
    return "cpu"


def graph(_: pytest.MonkeyPatch) -> str:
    return "cuda"


def compiled_graph(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(steps, "WORTH_COMPILING", 1)
    return "cuda"


Way = Callable[[pytest.MonkeyPatch], str]
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
WAYS = [plain, recorded, *(pytest.param(way, marks=needs_a_gpu) for way in (graph, compiled_graph))]
every_way = pytest.mark.parametrize("way", WAYS)

# Comparison


class Network(NamedTuple):
    """What is compared of a network: settings, the factor on `RATES` at which it moves, and the allowed difference.
    `shift` is that of `ticket_of`."""

    changes: dict[str, Any]
    rate: float
    allowed: float
    shift: float = 0.0


NETWORKS = {
    "lenet_300_100": Network({}, 1, 1e-4),
    "resnet20": Network({}, 1, 1e-3, 0.5),
    "vgg19": Network({}, 0.2, 3e-3, 1.0),
    "resnet50": Network({"width": 0.25}, 0.05, 5e-2, 1.5),
    "inception_v3": Network(
        {"width": 1 / 16, "image_size": 299, "auxiliary_loss": 0.4, "batch_size": 8}, 0.05, 5e-2, 1.5
    ),
    "squeezenet1_0": Network({}, 5, 1e-4),
}
"""Allowed differences are shares of how far the weights move. Without batch norm rounding in float32 makes 1e-6 of it.
Batch norm multiplies that layer by layer, so deeper networks differ more; a mistake differs by far more than any."""
STEADY = [1.0] * UPDATES
FEATURES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "nothing": ({}, STEADY),
    "no momentum": ({"momentum": 0.0}, STEADY),
    "decay": ({"weight_decay": 0.05}, STEADY),
    "decay of convolutions": ({"weight_decay": 0.05, "weight_decay_on": "convolutions"}, STEADY),
    "drops": ({"drops": (1, 3)}, [1, 0.1, 0.1, 0.01]),
    "warmup and drops": ({"warmup": 2, "drops": (1, 3), "drop_factor": 0.5}, [0, 0.5, 0.5, 0.25]),
    "straight line": ({"final_learning_rate": 0.2}, [1, 0.8, 0.6, 0.4]),
    "label smoothing": ({"label_smoothing": 0.1}, STEADY),
    "pieces": ({"pieces": 3}, STEADY),
    "average": ({"weight_average": 0.25}, STEADY),
    "padded crops": ({"augment": True}, STEADY),
    "resized crops": ({"augment": True, "smallest_crop": 0.3}, STEADY),
}
"""Settings; and by hand every update's share of the highest learning rate."""
OF_THE_OPTIMISER = ("nothing", "no momentum", "decay", "decay of convolutions", "warmup and drops", "average")
"""Features that every optimiser has to get right; the others come before it."""
WITH_MOMENTUM = [("no momentum", "adam"), ("no momentum", "nesterov")]
"""These have momentum always."""
TOGETHER = {"weight_decay": 0.05, "label_smoothing": 0.1, "weight_average": 0.25, "pieces": 2, "augment": True}
OF_LENET = ("weight_decay", "weight_average")


def flattened(tensors: Weights, names: list[str]) -> Tensor:
    """Tensors as one vector, every filter with its channels last."""
    return torch.cat([(t.permute(0, 2, 3, 1) if t.dim() == 4 else t).flatten() for t in (tensors[n] for n in names)])


def assert_near(got: Tensor, expected: Tensor, bound: Tensor, name: str) -> None:
    difference, bound = float((got - expected).norm()), float(bound)
    assert difference <= bound, f"{name} differs by {difference:.2g}; allowed: {bound:.2g}"


def compare(setting: Setting, shares: list[float], device: str, begin: int = 0) -> None:
    """Train by `train` and by torch.optim, from iteration `begin` as far as `shares` go, and compare the ends."""
    ticket, allowed = ticket_of(setting, begin), NETWORKS[setting.network].allowed
    if setting.optimizer == "adam":  # it divides by the size of a gradient, and one near zero is rounding alone
        allowed = min(20 * allowed, 0.1)
    data = Dataset("noise", *(noise(setting, seed) for seed in (1, 2, 3))).to(torch.device(device))
    trained = train(setting, data, ticket, replicate=1, order=0, stop=len(shares) if begin == UPDATES else None)
    end = by_torch_optim(setting, begin, tuple(share * setting.learning_rate for share in shares[begin:]))
    names = [name for name, _ in build(setting).named_parameters()]
    state = {name: tensor.double() for name, tensor in trained.state.items()}
    moved = {name: (tensor - ticket.weights[name].double()).norm() for name, tensor in end.weights.items()}
    whole = torch.stack([moved[name] for name in names]).norm()
    for name, tensor in end.weights.items():
        # gradients that cancel, as of biases below batch norm, are rounding alone: hence a part of the whole movement
        assert_near(state[name], tensor, allowed * (moved[name] + 0.01 * whole), name)
    for name, kept in ticket.mask.items():
        assert not state[name][~kept].any(), name
    for kind, moments in end.moments.items():
        expected = flattened(moments, names)
        assert_near(state[f"optimizer.{kind}"], expected, allowed * expected.norm(), kind)
    if setting.weight_average:
        statistics = [name for name in end.average if "running" in name]
        expected = flattened(end.average, names + statistics)
        assert_near(state["optimizer.average"], expected, allowed * whole, "average")
    assert trained.metrics["train_loss"] == pytest.approx(end.loss, rel=allowed)


@every_way
@pytest.mark.parametrize(
    ("feature", "optimizer"),
    [
        (feature, optimizer)
        for feature, optimizer in product(FEATURES, OPTIMISERS)
        if optimizer == "momentum" or (feature in OF_THE_OPTIMISER and (feature, optimizer) not in WITH_MOMENTUM)
    ],
)
def test_every_setting_is_that_of_torch_optim(
    feature: str, optimizer: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, shares = FEATURES[feature]
    compare(settings("resnet20", optimizer=optimizer, **changes), shares, way(monkeypatch))


@every_way
@pytest.mark.parametrize(
    ("network", "optimizer"),
    [*product(("lenet_300_100", "resnet20"), OPTIMISERS), ("vgg19", "momentum"), ("resnet50", "momentum"),
     ("inception_v3", "rmsprop"), ("squeezenet1_0", "nesterov")],
)  # fmt: skip
def test_every_network_with_all_settings_together_is_that_of_torch_optim(
    network: str, optimizer: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large networks under the paper's optimisers: the optimiser sees one vector, whatever the network."""
    if way is not plain and network in ("inception_v3", "squeezenet1_0"):
        pytest.skip(f"{network} has dropout: no update of it is recorded, and a GPU drops other units")
    highest = RATES[optimizer] * (1 if optimizer == "adam" else NETWORKS[network].rate)
    together = {n: value for n, value in TOGETHER.items() if network != "lenet_300_100" or n in OF_LENET}
    together |= {"learning_rate": highest, "final_learning_rate": 0.2}
    setting = settings(network, optimizer=optimizer, **NETWORKS[network].changes, **together)
    compare(setting, [1, 0.8, 0.6, 0.4], way(monkeypatch))


@every_way
@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize(("network", "begin"), [("lenet_300_100", 3), ("resnet20", 2)])
def test_a_ticket_that_begins_late_has_the_schedule_of_its_iteration_and_a_fresh_optimiser(
    begin: int, network: str, optimizer: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an epoch, and at the beginning of one."""
    setting = settings(network, optimizer=optimizer, drops=(1, 3), drop_factor=0.5)
    compare(setting, [1, 0.5, 0.5, 0.25], way(monkeypatch), begin)


@every_way
@pytest.mark.parametrize("network", ["lenet_300_100", "resnet20"])
@pytest.mark.parametrize("schedule", ["warmup and drops", "straight line"])
def test_fine_tuning_goes_on_at_the_last_learning_rate_and_with_the_next_epochs(
    schedule: str, network: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, shares = FEATURES[schedule]
    setting = settings(network, optimizer="momentum", **changes)
    compare(setting, [*shares, *[shares[-1]] * 3], way(monkeypatch), UPDATES)


@pytest.mark.parametrize("width", [0.0625, 0.375, 1.0])
def test_convolutions_of_every_width_have_their_gradients(width: float) -> None:
    """oneDNN's kernel for a strided 1x1 convolution writes wrong gradients, and beyond its memory, for few channels."""
    compare(settings("resnet20", optimizer="momentum", width=width, image_size=32), STEADY, "cpu")
