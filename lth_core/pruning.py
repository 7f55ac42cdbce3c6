"""Which weights to prune: scores, and the selection of the lowest-scored survivors.

Selection is exact. Pruning at a rate removes round(rate x survivors) weights, neither one more nor one less; equal
scores fall in order of their position; what was pruned stays pruned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lth_core.masks import Mask


def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score every weight by its absolute value (same names and shapes)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def prune_global(scores: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """Prune the lowest-scored fraction `rate` of the surviving weights, all layers taken together.

    Ties fall to the lower index: layers in the mask's order, then position within the layer. The mask handed in is
    not changed. Raises `ValueError` for a rate outside [0, 1] and for scores that do not fit the mask.
    """
    _check_rate(rate)
    if not mask:
        return mask
    names = list(mask)
    scores = _matching(scores, mask)
    flat = _drop_lowest(
        torch.cat([scores[name].flatten() for name in names]),
        torch.cat([mask[name].flatten() for name in names]),
        rate,
    )
    pieces = flat.split([mask[name].numel() for name in names])
    return Mask(
        {name: piece.view(mask[name].shape) for name, piece in zip(names, pieces, strict=True)}, shared=mask.shared
    )


def prune_layerwise(scores: Mapping[str, Tensor], mask: Mask, rate: float | Mapping[str, float]) -> Mask:
    """Prune the lowest-scored fraction of the survivors of each layer: one rate for all, or a rate for every layer.

    Raises `ValueError` for a rate outside [0, 1], for a layer that is given no rate, and for a rate without a layer.
    """
    rates = dict(rate) if isinstance(rate, Mapping) else dict.fromkeys(mask, rate)
    if rates.keys() != mask.keys():
        raise ValueError(f"rates are given for {sorted(rates)}, but the mask has the layers {sorted(mask)}")
    for value in rates.values():
        _check_rate(value)
    scores = _matching(scores, mask)
    return Mask(
        {
            name: _drop_lowest(scores[name].flatten(), mask[name].flatten(), rates[name]).view(mask[name].shape)
            for name in mask
        },
        shared=mask.shared,
    )


def shuffle_within_layers(mask: Mask, seed: int | torch.Generator) -> Mask:
    """A random mask that keeps as many weights as `mask` in every layer: the random pruning control."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    shuffled = {}
    for name in mask:
        flat = mask[name].flatten()
        shuffled[name] = flat[torch.randperm(flat.numel(), generator=generator)].view(mask[name].shape)
    return Mask(shuffled, shared=mask.shared)


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"pruning rate {rate!r} is outside [0, 1]; it is the fraction of surviving weights to remove")


def _matching(scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    matching = mask.fitting(scores)
    for name, score in matching.items():
        if bool(score[mask[name].to(score.device)].isnan().any()):
            raise ValueError(f"{name!r}: scores of survivors hold NaN, which has no order; was the training diverging?")
        matching[name] = score.detach().cpu()
    return matching


def _drop_lowest(scores: Tensor, alive: Tensor, rate: float) -> Tensor:
    survivors = alive.nonzero().flatten()
    count = round(rate * survivors.numel())
    kept = alive.clone()
    if count:
        scores = scores[survivors]
        if scores.dtype in (torch.float16, torch.bfloat16):  # numpy has no bfloat16
            scores = scores.float()
        highest = float(np.partition(scores.numpy(), count - 1)[count - 1])  # of those to drop; quicker than sorting
        below, ties = scores < highest, (scores == highest).nonzero().flatten()
        kept[survivors[below]] = False
        kept[survivors[ties[: count - int(below.sum())]]] = False
    return kept
