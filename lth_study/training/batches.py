"""Batches of training for `steps`, and of evaluation for `train`; orders from `seeds`, crops from `augmentation`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lth_study.data.augmentation import augmentation
from lth_study.data.parts import Batch, Part
from lth_study.ranks import rank_and_count
from lth_study.seeds import epoch_order
from lth_study.settings import Setting

EVALUATION_BATCH = 1_000
"""Images of 32x32 pixels in an evaluation batch. Larger images come in smaller batches of the same memory."""


def training_batches(
    setting: Setting, part: Part, *, replicate: int, order: int, epoch: int, first: int = 0
) -> Iterator[Batch]:
    """The augmented batches of an epoch, from batch `first` on, in one data order of a replicate.

    They depend on these arguments alone, not on earlier draws. If several processes train one network, each gets its
    share of every batch. Examples after the last whole batch are not used in this epoch.
    """
    visited = epoch_order(replicate, order, epoch, len(part)).to(part.chosen_on)
    drawn = {"replicate": replicate, "order": order, "epoch": epoch, "examples": len(part)}
    augment = augmentation(setting, **drawn, device=part.chosen_on)
    rank, count = rank_and_count()
    whole = len(part) // setting.batch_size
    return part.batches((batch[rank::count] for batch in visited.split(setting.batch_size)[first:whole]), augment)


def evaluation_batches(part: Part, first: int | None = None) -> Iterator[Batch]:
    """All images of a part in order, or the `first` ones. If several processes evaluate, each gets its share."""
    rank, count = rank_and_count()
    examples = torch.arange(len(part), device=part.chosen_on)[:first]
    return part.batches(examples[rank::count].split(evaluated_at_once(part)), None)


def evaluated_at_once(part: Part) -> int:
    """The size of an evaluation batch, in images."""
    return max(1, EVALUATION_BATCH * 1_024 // max(1_024, part.size**2))
