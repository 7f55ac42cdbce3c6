"""Which weights to prune: scores, and the selection of the lowest-scored survivors.

Selection is exact. Pruning at a rate removes round(rate x survivors) weights, neither one more nor one less. Equal
scores fall in order of their position. What was pruned stays pruned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from lth_core.masks import Mask


def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score every weight by its absolute value (same names and shapes)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def prune_global(
    scores: Mapping[str, Tensor], mask: Mask, rate: float, *, floor: float | Mapping[str, float] = 0.0
) -> Mask:
    """Prune the lowest-scored fraction `rate` of the surviving weights, all layers taken together.

    `floor` is the least fraction of its weights that a layer keeps, rounded up to whole weights: one for all layers, or
    one for each layer that has one. Other layers give what a floor holds back, so the count stays exact. A layer that
    is below its floor already is left as it is.

    Ties fall to the lower index: layers in the mask's order, then position within the layer. The mask handed in is
    not changed. Raises `ValueError` for a rate or floor outside [0, 1], and for a floor without a layer. So it does for
    floors that hold back too many weights, and for scores that do not fit the mask.
    """
    _check_rate(rate)
    floors = dict(floor) if isinstance(floor, Mapping) else dict.fromkeys(mask, floor)
    for name, value in floors.items():
        if name not in mask or not 0 <= value <= 1:
            raise ValueError(
                f"floor of {name!r} is {value!r}; give layers of the mask ({', '.join(mask)}) the fraction of their "
                "weights to keep, between 0 and 1"
            )
    if not mask:
        return mask
    scores = _matching(scores, mask)
    flat = {name: (scores[name].flatten(), mask[name].flatten()) for name in mask}
    count = round(rate * mask.survivors)
    held = {name: _highest(*flat[name], floors.get(name, 0.0)) for name in mask}
    free = torch.cat([alive & ~held[name] for name, (_, alive) in flat.items()])
    if count > (most := int(free.sum())):
        raise ValueError(
            f"cannot prune {count:,} of {mask.survivors:,} weights: the floors keep all but {most:,}; choose a lower "
            "rate or floor, or stop at the level before"
        )
    kept = _drop_lowest(torch.cat([score for score, _ in flat.values()]), free, count) | torch.cat([*held.values()])
    pieces = kept.split([mask[name].numel() for name in mask])
    return Mask(
        {name: piece.view(mask[name].shape) for name, piece in zip(mask, pieces, strict=True)}, shared=mask.shared
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
            name: _drop_lowest(
                scores[name].flatten(), mask[name].flatten(), round(rates[name] * int(mask[name].sum()))
            ).view(mask[name].shape)
            for name in mask
        },
        shared=mask.shared,
    )


def densities_to(target: float, rate: float = 0.2) -> list[float]:
    """The densities of pruning at a rate, level by level, until a target; the last is the target itself.

    `densities_to(0.6)` is [0.8, 0.64, 0.6]. Raises `ValueError` for a target or a rate that is not between 0 and 1.
    """
    if not (0 < target < 1 and 0 < rate < 1):
        raise ValueError(f"cannot prune to {target!r} at the rate {rate!r}; choose both above 0 and below 1")
    densities, density = [], 1.0
    while (density := density * (1 - rate)) > target * (1 + 1e-9):  # 0.8 * 0.8 is a little more than 0.64
        densities.append(density)
    return [*densities, target]


def shuffle_within_layers(mask: Mask, seed: int | torch.Generator) -> Mask:
    """A random mask that keeps as many weights as `mask` in every layer: the random pruning control."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    shuffled = {}
    for name in mask:
        flat = mask[name].flatten()
        shuffled[name] = flat[torch.randperm(flat.numel(), generator=generator)].view(mask[name].shape)
    return Mask(shuffled, shared=mask.shared)


def _check_rate(rate: float) -> None:
    if not (isinstance(rate, Real) and 0 <= rate <= 1):
        raise ValueError(f"pruning rate {rate!r} is outside [0, 1]; it is the fraction of surviving weights to remove")


def _matching(scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    matching = mask.fitting(scores)
    for name, score in matching.items():
        score = torch.as_tensor(score).detach().cpu()
        if score.is_complex():
            raise ValueError(f"{name!r}: scores are complex numbers, which have no order; give their absolute values")
        if bool(score[mask[name]].isnan().any()):
            raise ValueError(f"{name!r}: scores of survivors hold NaN, which has no order; was the training diverging?")
        matching[name] = score
    return matching


def _highest(scores: Tensor, alive: Tensor, floor: float) -> Tensor:
    """The highest-scored survivors of a layer, as many as its floor keeps."""
    least = math.ceil(floor * alive.numel() * (1 - 1e-12))  # 0.07 * 100 is a little more than 7
    return _drop_lowest(scores, alive, max(int(alive.sum()) - least, 0)) if least else torch.zeros_like(alive)


def _drop_lowest(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    survivors = alive.nonzero().flatten()
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
