"""Iterative magnitude pruning with rewinding (the paper's Algorithm 1), one-shot pruning, and the two controls.

Nothing here knows a network, a data set or an optimiser. Training is a function that you pass:

    train(ticket, stop) -> (weights, result)

It trains the network that `ticket` describes from iteration `ticket.iteration` up to iteration `stop`, or to the end
of training when `stop` is None, and never lets a pruned weight move from 0.0: one that has moved is a `ValueError`.
It returns the weights it ended with, a
mapping from name to tensor (a state dict: biases and batch-norm buffers belong in it, optimiser state may), and
anything else worth keeping, such as the accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_global, shuffle_within_layers

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Ticket:
    """A subnetwork to train: a mask, the weights it starts from (pruned ones at 0.0), and where it starts.

    The weights are the ticket's own copies: training may change them freely.
    """

    mask: Mask
    weights: Weights
    iteration: int
    level: int


class Level(NamedTuple):
    """One level: the mask, W_k (unmasked), the trained weights, and what `train` returned beside them."""

    mask: Mask
    rewound: Weights
    trained: Weights
    result: Any


Train = Callable[[Ticket, int | None], tuple[Weights, Any]]
Prune = Callable[[Weights, Mask], Mask]


def prune_lowest(weights: Weights, mask: Mask, rate: float = 0.2) -> Mask:
    """Prune the smallest surviving weights by magnitude, all layers together: 20% of them unless told otherwise."""
    return prune_global(magnitude({name: weights[name] for name in mask}), mask, rate)


def iterative_magnitude_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    levels: int,
    rewind: int = 0,
    prune: Prune = prune_lowest,
    start: tuple[int, Mask] | None = None,
) -> Iterator[Level]:
    """Find tickets by iterative magnitude pruning with rewinding to iteration `rewind` (Algorithm 1).

    Yields `levels + 1` levels: level 0 is the dense network, level n the ticket after n prunings. `weights` is W_0;
    `rewind=0` is the original lottery ticket procedure. `prune(trained, mask)` returns the next mask. A level is
    trained when it is asked for, so a loop that stops early trains nothing further. Hand over a copy of W_0: the state
    dict of a model that is trained in between changes with it.

    `start` goes on with an earlier search: the number of one of its levels, and that level's mask. Levels before it are
    neither trained nor yielded. `train` is asked for that level as for any other, and may return the weights it kept.
    """
    if levels < 0:
        raise ValueError(f"cannot prune {levels} times; choose 0 (the dense network alone) or more levels")
    first = start[0] if start else 0
    if not 0 <= first <= levels:
        raise ValueError(f"cannot start at level {first}; choose from 0 (the dense network) to levels={levels}")
    rewound = _train_to(rewind, train, weights, mask)
    mask = start[1] if start else mask
    for level in range(first, levels + 1):
        trained, result = _trained(train, subnetwork(rewound, mask, rewind, level))
        yield Level(mask, _copied(rewound), _copied(trained), result)
        if level < levels:
            mask = prune(trained, mask)


def one_shot_pruning(
    train: Train, weights: Weights, mask: Mask, *, densities: Sequence[float], rewind: int = 0
) -> Iterator[Level]:
    """Train once, prune once to each density by global magnitude, rewind to iteration `rewind` and retrain.

    Yields the dense network, then one level for each density (a fraction of the weights that `mask` keeps), numbered
    from 1 in the order of `densities`.
    """
    for density in densities:
        if not 0 <= density <= 1:
            raise ValueError(f"cannot keep {density} of the weights; choose densities between 0 and 1")
    rewound = _train_to(rewind, train, weights, mask)
    dense, result = _trained(train, subnetwork(rewound, mask, rewind, 0))
    yield Level(mask, _copied(rewound), _copied(dense), result)
    for level, density in enumerate(densities, start=1):
        pruned = prune_lowest(dense, mask, 1 - density)
        trained, result = _trained(train, subnetwork(rewound, pruned, rewind, level))
        yield Level(pruned, _copied(rewound), trained, result)


def random_pruning(mask: Mask, rewound: Weights, seed: int | torch.Generator, iteration: int, level: int) -> Ticket:
    """Control: from the same W_k, as many weights in every layer as `mask` keeps, but random ones."""
    return subnetwork(rewound, shuffle_within_layers(mask, seed), iteration, level)


def random_reinitialisation(mask: Mask, fresh: Weights, iteration: int, level: int) -> Ticket:
    """Control: the same mask on another initialisation, trained from `iteration` on; 0 is a training in full."""
    return subnetwork(fresh, mask, iteration, level)


def subnetwork(weights: Weights, mask: Mask, iteration: int, level: int) -> Ticket:
    """The ticket (mask . weights) that starts at `iteration`."""
    copies = _copied(weights)
    mask.apply_(copies)
    return Ticket(mask, copies, iteration, level)


def _train_to(rewind: int, train: Train, weights: Weights, mask: Mask) -> Weights:
    """W_k, copied: a training loop may go on using the tensors that it returned."""
    if rewind < 0:
        raise ValueError(f"cannot rewind to iteration {rewind}; choose 0 (initialisation) or a later one")
    return _copied(train(subnetwork(weights, mask, 0, 0), rewind)[0] if rewind else weights)


def _trained(train: Train, ticket: Ticket) -> tuple[Weights, Any]:
    """The end of a ticket's training, copied, and what `train` returned beside it."""
    mask = ticket.mask  # before training: what is checked is what was asked for
    trained, result = train(ticket, None)
    for name in mask:
        pruned = trained[name][~mask[name].to(trained[name].device)]
        if bool((pruned.isfinite() & (pruned != 0)).any()):  # NaN is that of a training that diverged
            raise ValueError(
                f"{name}: pruned weights are not 0 after training; call ticket.mask.apply_(model) after every update"
            )
    return _copied(trained), result


def _copied(weights: Weights) -> dict[str, Tensor]:
    """Copies that share memory where the originals do: a weight of two layers stays one weight."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    memory = {name: (tensor.data_ptr(), tensor.shape, tensor.stride()) for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if memory[name] not in copies:
            copies[memory[name]] = tensor.detach().clone()
    return {name: copies[memory[name]] for name in weights}
