"""Training one network under a mask, from an iteration to an iteration.

The state of a training is one mapping from name to tensor: the network's state dict (weights, biases, buffers) and
the optimiser's moments under names that start with `optimizer.`. A ticket rewound to W_k gets all of it back, so the
unpruned network retrained from W_k repeats the dense run bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lth_core.config import Config
from lth_core.data import Dataset, Split, crop_and_flip
from lth_core.imp import Ticket, Train
from lth_core.models import build
from lth_core.seeds import dropout_stream, epoch_augmentation, epoch_order
from lth_core.store import Stopped
from lth_core.updates import FlatNetwork, State, learning_rate

EVALUATION_BATCH = 1_000
"""Images of 32x32 pixels that are evaluated at once; of larger ones as many as take the same memory."""
CHECKPOINT_SECONDS = 30.0


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
        drops_out = any(isinstance(module, nn.Dropout) for module in model.modules())
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
            labels = data.train.labels.index_select(0, chosen)
            with dropout_stream(replicate, order, iteration) if drops_out else nullcontext():
                network.update(images, labels, learning_rate(config, iteration))
            iteration += 1
        diverged_at = None if network.is_finite() else iteration
        end, metrics = network.state(), {}
        if diverged_at is None:
            network.use_average()
            metrics = {
                "test_accuracy": accuracy(model, data.test),
                "validation_accuracy": accuracy(model, data.validation),
            }
        return Trained(end, metrics, diverged_at, time.monotonic() - started)


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
    size = max(1, EVALUATION_BATCH * 1_024 // max(1_024, split.images.shape[-1] ** 2))
    batches = zip(split.images.split(size), split.labels.split(size), strict=True)
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * correct / len(split)


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
