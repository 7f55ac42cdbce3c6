"""How far apart two copies of a network end up: the paper's two stabilities are these distances (section 2).
The error on the straight line between the two says whether they ended in one basin (arXiv 1912.05671).

Stability to pruning compares the trained dense network with the trained subnetwork, both from W_k with the same data
order. Stability to data order compares two trainings of one subnetwork with different data orders. Both are measured
at the end of training, over the weights that survive in the subnetwork. Smaller is more stable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import overload

import torch
from torch import Tensor

from lth_core.masks import Mask
from lth_core.weights import under_names

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stability:
    """How far apart the ends of trainings are, on average over pairs of ends. Smaller is more stable."""

    l2: float
    """The mean of `l2_distance`, in the units of the weights."""
    angle: float
    """The mean of `angle`, in degrees from 0 to 180. NaN where an end of any pair has no direction."""


@dataclass(frozen=True)
class ErrorBarrier:
    """How far the error rises between two sets of weights, in the units of the error; never below 0."""

    over_mean: float
    """The largest error on the line less the mean of the two ends' errors (arXiv 1912.05671, section 2)."""
    over_line: float
    """The largest excess over the straight line between the ends' errors (arXiv 2110.06296, section 2). It is
    `over_mean` where both ends have the same error."""


def l2_distance(a: Weights, b: Weights, mask: Mask) -> float:
    """The Euclidean distance `||a - b||` between two sets of weights over the entries that `mask` keeps.

    It is not normalised (the paper's section 2), and is computed in float64.
    """
    return float(torch.linalg.vector_norm(_surviving(a, mask) - _surviving(b, mask)))


def angle(a: Weights, b: Weights, mask: Mask) -> float:
    """The angle in degrees, from 0 to 180, between two sets of weights over the entries that `mask` keeps.

    The paper's appendix B. Equal vectors are at exactly 0. The half-angle form `2 atan2(|u - v|, |u + v|)` of the unit
    vectors keeps the digits that the arc cosine loses near 0 and 180. It is Kahan's ("How Futile are Mindless
    Assessments of Roundoff", 2006, section 12). Raises `ValueError` when either vector is zero or not finite: it has no
    direction.
    """
    u, v = _surviving(a, mask), _surviving(b, mask)
    lengths = torch.linalg.vector_norm(u), torch.linalg.vector_norm(v)
    for length in lengths:
        if not (torch.isfinite(length) and length > 0):
            raise ValueError(f"no angle with a vector of length {float(length)} over the surviving weights")
    u, v = u / lengths[0], v / lengths[1]
    return math.degrees(2 * math.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v)))


def stability_to_pruning(pairs: Iterable[tuple[Weights, Weights]], mask: Mask) -> Stability:
    """Stability to pruning (the paper's section 2): from the trained dense network to the trained subnetwork.

    Each of `pairs` holds the end of the dense network and the end of the subnetwork. Both were trained from W_k in one
    data order; give a pair for each order or replicate. An end is a mapping from name to tensor, a state dict say. It
    may be on any device and hold more than `mask` names. `mask` is the subnetwork's, and every pair is measured over
    the entries that it keeps. Call this once for each mask where replicates have masks of their own.

    Raises `ValueError` without a pair, and where the shape of a tensor is not its mask's.
    """
    return _mean_over(pairs, mask, "give at least one pair of a dense network's end and a subnetwork's")


def stability_to_data_order(ends: Iterable[Weights], mask: Mask) -> Stability:
    """Stability to data order (the paper's section 2): between trainings of one subnetwork in different data orders.

    Each of `ends` is what one data order led to, as in `stability_to_pruning`. The mean runs over all pairs of them.

    Raises `ValueError` for fewer than two ends, and where the shape of a tensor is not its mask's.
    """
    return _mean_over(combinations(ends, 2), mask, "give the ends of at least two data orders")


@overload
def error_barrier(
    evaluate: Callable[[dict[str, Tensor]], float], a: Weights, b: Weights, *, points: int = 11
) -> ErrorBarrier: ...
@overload
def error_barrier(
    evaluate: Callable[[dict[str, Tensor]], Mapping[str, float]], a: Weights, b: Weights, *, points: int = 11
) -> dict[str, ErrorBarrier]: ...
def error_barrier(
    evaluate: Callable[[dict[str, Tensor]], float | Mapping[str, float]], a: Weights, b: Weights, *, points: int = 11
) -> ErrorBarrier | dict[str, ErrorBarrier]:
    """The barrier between two sets of weights: the error of a network along the straight line between them.

    `a` and `b` map names to tensors of the same shapes and types; state dicts do, with the statistics of batch norm.
    Where wrappers gave one of them prefixes, `a`'s names are used. What is no tensor, an epoch say, is left out.
    `evaluate(weights)` is called once for each of `points` evenly spaced points, the first being `a` and the last `b`.
    It returns the error of these weights, in percent say, or several errors by name, and may change the weights.
    Several errors give a barrier each, by the same names.

    Floating-point tensors are interpolated in float64 and given in their own type; both ends keep their bits. Other
    tensors, such as batch norm's count of batches, are those of `a` at every point. Raises `ValueError` where names,
    shapes or types differ, and for fewer than 2 points.
    """
    if points < 2:
        raise ValueError(f"points={points} is not valid; expected 2 (the two ends alone) or more")
    a, b = ({name: value for name, value in w.items() if isinstance(value, Tensor)} for w in (a, b))
    fitting = under_names(b, a)
    if not len(a) == len(b) == len(fitting):
        raise ValueError(
            f"the two sets of weights differ in their names: only one of them has {sorted(a.keys() ^ b.keys())}; "
            "give state dicts of one architecture"
        )
    b = fitting
    for name in a:
        (shape, dtype), (other, other_dtype) = ((tuple(w[name].shape), w[name].dtype) for w in (a, b))
        if (shape, dtype) != (other, other_dtype):
            raise ValueError(
                f"{name!r}: {dtype} {shape} and {other_dtype} {other} have no line between them; give weights of one "
                "shape and type"
            )
    errors = [evaluate(weights) for weights in _line(a, b, points)]
    named = [error for error in errors if isinstance(error, Mapping)]
    if named:
        return {name: _heights([error[name] for error in named]) for name in named[0]}
    return _heights([error for error in errors if not isinstance(error, Mapping)])


def _mean_over(pairs: Iterable[tuple[Weights, Weights]], mask: Mask, expected: str) -> Stability:
    distances = [(l2_distance(a, b, mask), _angle_or_nan(a, b, mask)) for a, b in pairs]
    if not distances:
        raise ValueError(f"there are no two ends to compare; {expected}")
    return Stability(fmean(length for length, _ in distances), fmean(degrees for _, degrees in distances))


def _angle_or_nan(a: Weights, b: Weights, mask: Mask) -> float:
    try:
        return angle(a, b, mask)
    except ValueError:  # shapes are right, as `l2_distance` has checked: an end has no direction
        return math.nan


def _line(a: Weights, b: Weights, points: int) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights at evenly spaced points from `a` to `b`."""
    for point in range(points):
        share = point / (points - 1)
        weights = {name: tensor.detach().clone() for name, tensor in a.items()}
        for name, tensor in weights.items():
            if tensor.is_floating_point() and point:
                x, y = (w[name].detach().to("cpu", torch.float64) for w in (a, b))
                tensor.copy_(y if point == points - 1 else torch.lerp(x, y, share))
        yield weights


def _heights(errors: Sequence[float]) -> ErrorBarrier:
    along = torch.tensor(errors, dtype=torch.float64)
    share = torch.arange(len(along), dtype=torch.float64) / (len(along) - 1)
    line = torch.lerp(along[0], along[-1], share)  # exact at both ends, and where they are equal
    return ErrorBarrier(float(along.max() - (along[0] + along[-1]) / 2), float((along - line).max()))


def _surviving(weights: Weights, mask: Mask) -> Tensor:
    pieces = [w.detach().to("cpu", torch.float64)[mask[name]] for name, w in mask.fitting(weights).items()]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)
