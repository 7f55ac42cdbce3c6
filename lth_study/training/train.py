"""Training one network under a mask, from one iteration to another; the worker calls `train`.

It builds the network (`networks`), takes its updates from `steps` and evaluates it. The state of a training maps names
to tensors: the network's state dict, and the optimiser's moments under names that start with `optimizer.`. A ticket
rewound to W_k gets all of it back. So the unpruned network retrained from W_k repeats the dense run bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from lth_core.imp import Prune, Train, prune_lowest
from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_layerwise
from lth_core.tickets import Ticket
from lth_study.data.image_files import dead_readers_explained
from lth_study.data.parts import Dataset
from lth_study.networks import build
from lth_study.ranks import agreed, hand_out, rank_and_count, share_buffers
from lth_study.settings import Setting
from lth_study.training import Stopped
from lth_study.training.evaluation import evaluated
from lth_study.training.steps import steps
from lth_study.training.updates import FlatNetwork, State, products

CHECKPOINT_SECONDS = 30.0

_FOR_BUFFERS = 2**26
"""Bytes of memory that must stay free for MKL's buffers."""


class OutOfMemory(RuntimeError):
    """A network does not fit into the memory of the device. The message says how to make it fit."""


class Diverged(ArithmeticError):
    """The weights of a training are no longer finite."""


class Saves(Protocol):
    """Storage for a training's checkpoint and for the states that it is asked to keep."""

    def load_checkpoint(self) -> tuple[int, float, State] | None:
        """Iteration, seconds so far and state of the last checkpoint; None if there is none."""

    def save_checkpoint(self, iteration: int, seconds: float, state: State) -> None: ...

    def save_state(self, iteration: int, state: State) -> None: ...


@dataclass(frozen=True)
class Trained:
    """The end of a training. `metrics` is empty if the training diverged, or if `stop` was before the setting's last
    iteration. `diverged_at` is an iteration by which it had diverged."""

    state: State
    metrics: Mapping[str, float]
    diverged_at: int | None
    seconds: float


@dataclass(frozen=True)
class Job:
    """A training that the first of several processes hands to the others, to do it together."""

    setting: str
    ticket: Ticket
    replicate: int
    order: int
    stop: int | None


def train(
    setting: Setting,
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
    Fine-tuning goes on after the setting's last iteration, at its learning rate.

    `saves` gets the states of the iterations in `keep`, and a checkpoint every `CHECKPOINT_SECONDS`. A later call
    continues from the checkpoint. If `stop_requested()` is true before an update, the checkpoint is saved and `Stopped`
    raised. The training uses one thread, so its bits do not depend on what else runs. It runs on the device that holds
    the data; states are always in the processor's memory.

    If several processes train together (`ranks`), the first hands the training to the others, and each does its share
    of every batch. Batch norm normalises each share by itself. Evaluation uses the first process's running averages.
    """
    device = data.train.device
    end = setting.iterations if stop is None else stop
    with on(device), steady_arithmetic(setting.precision), memory_explained(setting), dead_readers_explained():
        model = build(setting).to(device)
        prepare(model, setting, device)
        network = FlatNetwork(model, ticket.mask, setting)
        model.train()
        updates = steps(setting, network, data.train, replicate=replicate, order=order)
        checkpoint = saves.load_checkpoint() if saves else None
        iteration, seconds, state = checkpoint or (ticket.iteration, 0.0, ticket.weights)
        rank, _ = rank_and_count()
        if rank == 0:
            hand_out(
                Job(setting.to_json(), replace(ticket, weights=state, iteration=iteration), replicate, order, stop)
            )
        network.load(state)
        saved = time.monotonic()
        started = saved - seconds
        while iteration < end:
            epoch, first = divmod(iteration, len(data.train) // setting.batch_size)
            if first == 0 and not network.is_finite():  # only between epochs: interruptions must not change the result
                return Trained(network.state(), {}, iteration, time.monotonic() - started)
            for update in islice(updates.epoch(epoch, first), end - iteration):
                if saves and iteration in keep:
                    check_memory()
                    saves.save_state(iteration, network.state())
                stopping = agreed(stop_requested(), device)
                if saves and (stopping or time.monotonic() - saved > CHECKPOINT_SECONDS):
                    saved = time.monotonic()
                    check_memory()
                    saves.save_checkpoint(iteration, saved - started, network.state())
                if stopping:
                    raise Stopped
                update()
                iteration += 1
        diverged_at = None if network.is_finite() else iteration
        ended, metrics = network.state(), {}
        if diverged_at is None and end >= setting.iterations:
            network.use_average()
            share_buffers(model)
            with products(setting, device):
                metrics = evaluated(setting, model, data)
        return Trained(ended, metrics, diverged_at, time.monotonic() - started)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """A context in which this GPU, if it is one, is torch's current GPU."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def prepare(model: nn.Module, setting: Setting, device: torch.device) -> None:
    """On a GPU, make a network use the kernels of `lth_study.training.kernels`; they do not compute in float32."""
    if device.type == "cuda" and setting.precision != "float32":
        from lth_study.training.kernels import use_kernels

        use_kernels(model)


def trainer(setting: Setting, data: Dataset, *, replicate: int, order: int = 0) -> Train:
    """A training function for `lth_core.imp`, made from `train`. It returns the state and the metrics (accuracies in
    percent), and raises `Diverged` if the training diverges."""

    def train_ticket(ticket: Ticket, stop: int | None) -> tuple[State, Mapping[str, float]]:
        trained = train(setting, data, ticket, replicate=replicate, order=order, stop=stop)
        if trained.diverged_at is not None:
            raise Diverged(
                f"the training at level {ticket.level} diverged by iteration {trained.diverged_at}, with "
                f"learning_rate={setting.learning_rate}; choose a lower one"
            )
        return trained.state, trained.metrics

    return train_ticket


def pruner(setting: Setting) -> Prune:
    """The pruning function of a setting, for `lth_core.imp`: by magnitude, globally or layer by layer."""

    def prune(weights: State, mask: Mask) -> Mask:
        if setting.pruning_scope == "global":
            return prune_lowest(weights, mask, setting.pruning_rate)
        scores = magnitude({name: weights[name] for name in mask})
        rates = dict.fromkeys(mask, setting.pruning_rate)
        if setting.output_pruning_rate is not None:
            rates["output.weight"] = setting.output_pruning_rate
        return prune_layerwise(scores, mask, rates)

    return prune


@contextmanager
def memory_explained(setting: Setting) -> Iterator[None]:
    """Turn every error that reports too little memory into an `OutOfMemory` that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory")
        ):
            raise
        size = f"batches of {setting.batch_size} images" + (
            f" in {setting.pieces} pieces" if setting.pieces > 1 else ""
        )
        advice = "train fewer networks side by side (workers). Finished trainings are kept"
        if setting.network != "lenet_300_100" and 2 * setting.pieces <= setting.batch_size:
            advice += f". With pieces={2 * setting.pieces} less memory is needed; this setting has a study of its own"
        raise OutOfMemory(f"memory is too small for {setting.network} with {size}; {advice}") from error


def check_memory() -> None:
    """Raise `OutOfMemory` where the process came near its own memory limit (`ulimit -v`), on Linux.

    There, products of matrices may be computed another way, with other bits: where MKL gets no memory for its buffers,
    it does without them and says nothing. In trials they took up to 10 MiB.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    peaks = [int(line.split()[1]) for line in status.read_text().splitlines() if "VmPeak" in line]
    largest = 1024 * max(peaks, default=0)  # a sandbox may not tell
    if limit != resource.RLIM_INFINITY and largest > limit - _FOR_BUFFERS:
        raise OutOfMemory(
            f"memory is too small: this process may use {limit / 2**20:.0f} MiB, and used {largest / 2**20:.0f}. Near "
            "it, products may have other bits; raise the limit (ulimit -v), or train fewer networks side by side "
            "(workers). Finished trainings are kept"
        )


@contextmanager
def steady_arithmetic(precision: str = "float32") -> Iterator[None]:
    """A context in which arithmetic repeats bit for bit. Torch uses one thread: splitting a sum over threads changes
    its rounding. Denormal numbers become zero: Adam's moments decay into them where a gradient stays zero, and they
    slow the processor tenfold. On a GPU, convolutions always sum in the same order; TF32 needs `precision` "tf32".

    It ends with `check_memory`."""
    threads, matmul = torch.get_num_threads(), torch.backends.cuda.matmul
    flushed = float(torch.tensor(1e-40) * 1.0) == 0
    tf32_before, tf32 = matmul.allow_tf32, precision == "tf32"
    matmul.allow_tf32 = tf32
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
        check_memory()
    finally:
        matmul.allow_tf32 = tf32_before
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)
