"""What a trained network is evaluated on: test, validation and some training images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from lth_study.data.parts import Batch, Dataset, Part
from lth_study.ranks import rank_and_count, total
from lth_study.settings import IMAGENET_NETWORKS, Setting

EVALUATION_BATCH = 1_000
"""Images of 32x32 pixels in an evaluation batch. Larger images come in smaller batches of the same memory."""
SEEN = 5_000
"""A trained network is also evaluated on the first so many training images, not augmented."""


def evaluated(setting: Setting, model: nn.Module, data: Dataset) -> dict[str, float]:
    """Accuracies in percent and the training loss; for ImageNet's networks with over 5 classes also top-5 accuracy."""
    top_5 = setting.network in IMAGENET_NETWORKS and setting.classes > 5
    test = accuracies(model, data.test, (1, 5) if top_5 else (1,))
    metrics = {"test_accuracy": test[0], "validation_accuracy": accuracies(model, data.validation)[0]}
    metrics |= on_training_images(model, data.train)
    return metrics | ({"test_top5_accuracy": test[1]} if top_5 else {})


@torch.no_grad()
def accuracies(model: nn.Module, part: Part, among: Sequence[int] = (1,)) -> list[float]:
    """Top-n accuracies in percent: for each n in `among`, how often the label is among the n largest logits."""
    model.eval()
    correct = torch.zeros(len(among), dtype=torch.int64, device=part.device)
    for images, labels in evaluation_batches(part):
        logits = model(images)
        for position, count in enumerate(among):
            largest = logits.argmax(1, keepdim=True) if count == 1 else logits.topk(count, dim=1).indices
            correct[position] += (largest == labels[:, None]).sum()
    return [100 * count / len(part) for count in total(correct).tolist()]


@torch.no_grad()
def on_training_images(model: nn.Module, part: Part) -> dict[str, float]:
    """Accuracy in percent and mean cross-entropy, without label smoothing, on the first `SEEN` training images.

    A loss that is not finite, as huge weights give, is omitted.
    """
    model.eval()
    correct, loss = torch.zeros(2, dtype=torch.float64, device=part.device)
    for images, labels in evaluation_batches(part, SEEN):
        logits = model(images).float()
        correct += (logits.argmax(1) == labels).sum()
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
    count = min(SEEN, len(part))
    found = {"train_accuracy": 100 * float(total(correct)) / count, "train_loss": float(total(loss)) / count}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def evaluation_batches(part: Part, first: int | None = None) -> Iterator[Batch]:
    """All images of a part in order, or the `first` ones. If several processes evaluate, each gets its share."""
    rank, count = rank_and_count()
    examples = torch.arange(len(part), device=part.chosen_on)[:first]
    return part.batches(examples[rank::count].split(evaluated_at_once(part)), None)


def evaluated_at_once(part: Part) -> int:
    """The size of an evaluation batch, in images."""
    return max(1, EVALUATION_BATCH * 1_024 // max(1_024, part.size**2))
