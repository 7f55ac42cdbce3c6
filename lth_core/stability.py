"""How far apart two copies of a network end up: the paper's two stabilities are these distances (section 2).

Stability to pruning compares the trained dense network with the trained subnetwork, both from W_k with the same data
order. Stability to data order compares two trainings of one subnetwork with different data orders. Both are measured
at the end of training, over the weights that survive in the subnetwork. Smaller is more stable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lth_core.masks import Mask

Weights = Mapping[str, Tensor]


def l2_distance(a: Weights, b: Weights, mask: Mask) -> float:
    """The Euclidean distance `||a - b||` between two sets of weights over the entries that `mask` keeps.

    It is not normalised (the paper's section 2), and is computed in float64.
    """
    return float(torch.linalg.vector_norm(_surviving(a, mask) - _surviving(b, mask)))


def angle(a: Weights, b: Weights, mask: Mask) -> float:
    """The angle in degrees, from 0 to 180, between two sets of weights over the entries that `mask` keeps.

    The paper's appendix B. Equal vectors are at exactly 0: the half-angle form `2 atan2(|u - v|, |u + v|)` of the unit
    vectors keeps the digits that the arc cosine loses near 0 and 180 (Kahan, "How Futile are Mindless Assessments of
    Roundoff", 2006, section 12). Raises `ValueError` when either vector is zero or not finite: it has no direction.
    """
    u, v = _surviving(a, mask), _surviving(b, mask)
    lengths = torch.linalg.vector_norm(u), torch.linalg.vector_norm(v)
    for length in lengths:
        if not (torch.isfinite(length) and length > 0):
            raise ValueError(f"no angle with a vector of length {float(length)} over the surviving weights")
    u, v = u / lengths[0], v / lengths[1]
    return math.degrees(2 * math.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v)))


def _surviving(weights: Weights, mask: Mask) -> Tensor:
    for name in mask:
        if weights[name].shape != mask[name].shape:
            raise ValueError(
                f"{name!r}: weights {tuple(weights[name].shape)} do not fit mask {tuple(mask[name].shape)}"
            )
    pieces = [weights[name].detach().to("cpu", torch.float64)[mask[name]] for name in mask]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)
