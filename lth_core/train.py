"""Training one network under a mask, from an iteration to an iteration.

The state of a training is one mapping from name to tensor: the network's state dict (weights, biases, buffers) and
the optimiser's moments under names that start with `optimizer.`. A ticket rewound to W_k gets all of it back, so the
unpruned network retrained from W_k repeats the dense run bit for bit.

All parameters live in one flat vector, and so do their gradients: the mask is one multiplication of the gradient and
the update one fused call. A pruned weight stays exactly 0.0: its gradient, its moments and its decay are all zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from lth_core.config import Config
from lth_core.data import Dataset, Split, crop_and_flip
from lth_core.imp import Ticket, Train
from lth_core.masks import Mask
from lth_core.models import build
from lth_core.seeds import epoch_augmentation, epoch_order

State = Mapping[str, Tensor]
EVALUATION_BATCH = 1_000
CHECKPOINT_SECONDS = 30.0
MOMENTS = "optimizer."
"""How the names of the optimiser's moments start in a state."""


class Stopped(Exception):
    """The training was asked to stop; its checkpoint is saved and the next call goes on from there."""


class Saves(Protocol):
    """Where a training keeps its checkpoint and the states that were asked for."""

    def load_checkpoint(self) -> tuple[int, float, State] | None:
        """Iteration, seconds so far and state of the last checkpoint, or None."""

    def save_checkpoint(self, iteration: int, seconds: float, state: State) -> None: ...

    def save_state(self, iteration: int, state: State) -> None: ...


@dataclass(frozen=True)
class Trained:
    """The end of a training. `metrics` is empty when it diverged, and `diverged_at` then names an iteration by which
    it had."""

    state: State
    metrics: Mapping[str, float]
    diverged_at: int | None
    seconds: float


def train(
    config: Config,
    data: Dataset,
    ticket: Ticket,
    *,
    replicate: int,
    order: int,
    stop: int | None = None,
    keep: Collection[int] = (),
    saves: Saves | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a ticket from `ticket.iteration` to `stop` (default: the end), in the data order `order` of the replicate.

    `keep` names iterations whose state goes to `saves`, which also takes a checkpoint every `CHECKPOINT_SECONDS` and
    hands it back when the training is called again. `stop_requested()` is asked before every update; when it says
    yes, the checkpoint is saved and `Stopped` raised. One thread: the bits must not depend on what else runs. The
    network is trained on the device that holds the data; states are always in the processor's memory.
    """
    device = data.train.images.device
    with steady_arithmetic():
        model = build(config).to(device)
        network = FlatNetwork(model, ticket.mask, config)
        checkpoint = saves.load_checkpoint() if saves else None
        iteration, seconds, state = checkpoint or (ticket.iteration, 0.0, ticket.weights)
        network.load(state, iteration)
        started = saved = time.monotonic() - seconds
        order_of_epoch: Tensor | None = None
        augmentation: tuple[Tensor, Tensor] | None = None
        batches = len(data.train) // config.batch_size
        model.train()
        while iteration < (config.iterations if stop is None else stop):
            epoch, batch = divmod(iteration, batches)
            if order_of_epoch is None or batch == 0:
                if not network.is_finite():
                    return Trained(network.state(), {}, iteration, time.monotonic() - started)
                order_of_epoch = epoch_order(replicate, order, epoch, len(data.train)).to(device)
                if config.augment:
                    shifts, flips = epoch_augmentation(replicate, order, epoch, len(data.train))
                    augmentation = shifts.to(device), flips.to(device)
            if saves and iteration in keep:
                saves.save_state(iteration, network.state())
            stopping = stop_requested()
            if saves and (stopping or time.monotonic() - saved > CHECKPOINT_SECONDS):
                saved = time.monotonic()
                saves.save_checkpoint(iteration, saved - started, network.state())
            if stopping:
                raise Stopped
            chosen = order_of_epoch[batch * config.batch_size : (batch + 1) * config.batch_size]
            images = data.train.images.index_select(0, chosen)
            if augmentation is not None:
                images = crop_and_flip(images, *(draws.index_select(0, chosen) for draws in augmentation))
            network.update(images, data.train.labels.index_select(0, chosen), learning_rate(config, iteration))
            iteration += 1
        diverged_at = None if network.is_finite() else iteration
        metrics = {}
        if diverged_at is None:
            metrics = {
                "test_accuracy": accuracy(model, data.test),
                "validation_accuracy": accuracy(model, data.validation),
            }
        return Trained(network.state(), metrics, diverged_at, time.monotonic() - started)


def learning_rate(config: Config, iteration: int) -> float:
    """The learning rate of an update: a linear warmup from 0, then the constant rate, a tenth of it after each drop."""
    if iteration < config.warmup:
        return config.learning_rate * iteration / config.warmup
    return config.learning_rate * 0.1 ** sum(drop <= iteration for drop in config.drops)


def trainer(config: Config, data: Dataset, *, replicate: int, order: int = 0) -> Train:
    """A training function for `imp`, made of `train`: it returns the state, and the accuracies in percent."""

    def train_ticket(ticket: Ticket, stop: int | None) -> tuple[State, Mapping[str, float]]:
        trained = train(config, data, ticket, replicate=replicate, order=order, stop=stop)
        return trained.state, trained.metrics

    return train_ticket


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """The percentage of examples whose largest logit is their label."""
    model.eval()
    batches = zip(split.images.split(EVALUATION_BATCH), split.labels.split(EVALUATION_BATCH), strict=True)
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * correct / len(split)


class FlatNetwork:
    """A network whose parameters are views of one flat vector, with its mask and its optimiser."""

    def __init__(self, model: nn.Module, mask: Mask, config: Config) -> None:
        self.model = model
        self.config = config
        parameters = dict(model.named_parameters())
        sizes = [parameter.numel() for parameter in parameters.values()]
        device = next(iter(parameters.values())).device
        self.weights, self.gradient = torch.zeros(2, sum(sizes), device=device)
        self.gradients = {}
        pieces = zip(self.weights.split(sizes), self.gradient.split(sizes), strict=True)
        self.mask = torch.ones(sum(sizes), device=device)
        keep = self.mask.split(sizes)
        for (name, parameter), (weight, gradient), kept in zip(parameters.items(), pieces, keep, strict=True):
            parameter.data = _shaped(weight, parameter)
            parameter.grad = self.gradients[name] = _shaped(gradient, parameter)
            if name in mask:
                _shaped(kept, parameter).copy_(mask[name])
        names = ("exp_avg", "exp_avg_sq") if config.optimizer == "adam" else ("momentum_buffer",)
        self.moments = {name: torch.zeros_like(self.weights) for name in names}
        self.updates = torch.zeros((), device=device)

    def load(self, state: State, iteration: int) -> None:
        """Take over a state; moments that it lacks start at zero, as at initialisation."""
        names = self.model.state_dict().keys()
        self.model.load_state_dict({name: state[name] for name in names})
        self.weights.mul_(self.mask)
        for name, moment in self.moments.items():
            key = f"{MOMENTS}{name}"
            moment.copy_(state[key]).mul_(self.mask) if key in state else moment.zero_()
        self.updates.fill_(iteration)

    def state(self) -> dict[str, Tensor]:
        """A copy of the whole state in the processor's memory; later updates do not reach it."""
        moments = {f"{MOMENTS}{name}": moment for name, moment in self.moments.items()}
        state = self.model.state_dict() | moments
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def update(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        """One optimiser update on one batch."""
        by_hand = getattr(self.model, "backward", None)
        if by_hand is not None:
            by_hand(images, labels, self.gradients)
        else:
            self.gradient.zero_()
            F.cross_entropy(self.model(images), labels).backward()
        self.gradient.mul_(self.mask)
        config = self.config
        with torch.no_grad():
            if config.optimizer == "adam":
                adam(
                    [self.weights], [self.gradient], [self.moments["exp_avg"]], [self.moments["exp_avg_sq"]], [],
                    [self.updates], fused=True, amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, maximize=False,
                    lr=learning_rate, weight_decay=config.weight_decay,
                )  # fmt: skip
            else:
                sgd(
                    [self.weights], [self.gradient], [self.moments["momentum_buffer"]], fused=True,
                    weight_decay=config.weight_decay, momentum=config.momentum, lr=learning_rate,
                    dampening=0.0, nesterov=False, maximize=False,
                )  # fmt: skip

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.weights).all())


def _shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A piece of a flat vector as a view in a parameter's shape; filters lie with their channels last, as images do."""
    if parameter.dim() != 4:
        return flat.view_as(parameter)
    filters, channels, height, width = parameter.shape
    return flat.view(filters, height, width, channels).permute(0, 3, 1, 2)


@contextmanager
def steady_arithmetic() -> Iterator[None]:
    """One thread, since how a sum is split over threads changes its rounding, and denormal numbers flushed to zero:
    Adam's moments decay into them wherever a gradient stays zero, and there the processor is ten times slower. On a
    GPU: full precision, and convolutions whose sums are always in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
