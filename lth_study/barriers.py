"""Error barriers between trained networks of the study: how the error changes on the line between their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lth_core.stability import error_barrier
from lth_study.data.image_files import dead_readers_explained
from lth_study.data.parts import Dataset, Part, Split
from lth_study.networks import build
from lth_study.settings import Setting
from lth_study.training import Stopped
from lth_study.training.evaluation import EVALUATION_BATCH, SEEN, evaluated_at_once
from lth_study.training.train import memory_explained, on, prepare, steady_arithmetic
from lth_study.training.updates import State, products

DECIMALS = 6
"""Of a height, in percentage points. One image in 5,000 is 0.02; beyond are errors of rounding."""


@torch.no_grad()
def heights(
    setting: Setting, data: Dataset, a: State, b: State, stop_requested: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """The heights of the error barrier between two ends of trainings, in percentage points.

    Names are `train_mean`, `train_line`, `test_mean` and `test_line`: the images, and the height over the mean of the
    ends' errors or over the line between them (`error_barrier`, at 11 points). Batch norm's statistics are interpolated
    like weights. Where a network has batch norm, the same four are measured again with statistics recomputed at every
    point, both ends among them: `train_mean_recomputed` and so on.

    Images are not augmented: the first `SEEN` training images, and as many of the test images, evenly spaced, since
    they may come sorted by class. A training that sees fewer images than that is measured on as many as it sees.

    If `stop_requested()` is true before a point, `Stopped` is raised.

    Weights are the ends as they are stored. Accuracies of Inception-v3 are those of an average of its weights. Its ends
    hold the weights themselves, and the barrier is between these.
    """
    device, count = data.train.device, min(SEEN, setting.iterations * setting.batch_size)
    with on(device), steady_arithmetic(setting.precision), memory_explained(setting), dead_readers_explained():
        parts = {"train": _held(data.train, torch.arange(len(data.train))[:count])}
        count = min(count, len(data.test))
        parts["test"] = _held(data.test, torch.arange(count) * len(data.test) // count)
        model = build(setting).to(device).to(memory_format=torch.channels_last)
        prepare(model, setting, device)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

        def errors(weights: State) -> dict[str, float]:
            if stop_requested():
                raise Stopped
            model.load_state_dict(weights)
            found = {name: _error(model, part) for name, part in parts.items()}
            if norms:
                _recompute(model, norms, parts["train"].images, setting.batch_size)
                found |= {f"{name}_recomputed": _error(model, part) for name, part in parts.items()}
            return found

        with products(setting, device):
            barriers = error_barrier(errors, a, b)
    measured = {}
    for name, barrier in barriers.items():
        images, *recomputed = name.split("_")
        for height, value in (("mean", barrier.over_mean), ("line", barrier.over_line)):
            measured["_".join([images, height, *recomputed])] = round(value, DECIMALS)
    return measured


def _held(part: Part, examples: Tensor) -> Split:
    """Some examples of a part, in memory: they are looked at many times."""
    batches = list(part.batches(examples.to(part.chosen_on).split(EVALUATION_BATCH), None))
    return Split(torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]))


def _error(model: nn.Module, part: Split) -> float:
    """The percentage of examples whose label has not the largest logit. Of several processes that train together, one
    measures alone."""
    model.eval()
    size = evaluated_at_once(part)
    wrong = torch.zeros((), dtype=torch.int64, device=part.device)
    for images, labels in zip(part.images.split(size), part.labels.split(size), strict=True):
        wrong += (model(images).argmax(1) != labels).sum()
    return 100 * int(wrong) / len(part)


def _recompute(model: nn.Module, norms: list[nn.BatchNorm2d], images: Tensor, batch_size: int) -> None:
    """Make batch norm's statistics the means over batches of these images, in order. What is left after the last whole
    batch is not used. Everything else, such as dropout, stays as in evaluation."""
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, each counting alike
        norm.train()
    size = min(batch_size, len(images))
    for batch in images.split(size)[: len(images) // size]:
        model(batch)
