"""Iterative magnitude pruning with rewinding (the paper's Algorithm 1), one-shot pruning, and the two controls.

Nothing here knows a network, a data set or an optimiser. Training is a function that you pass:

    train(ticket, stop) -> (weights, result)

It trains the network that `ticket` describes from iteration `ticket.iteration` up to iteration `stop`, or to the end
of training when `stop` is None, and never lets a pruned weight move from 0.0: one that has moved is a `ValueError`.
`ticket.mask.hold(model, optimizer)` sees to that.
It returns the weights it ended with, a mapping from name to tensor (a state dict: biases and batch-norm buffers belong
in it, optimiser state may), and anything else worth keeping, such as the accuracy. A wrapped network's prefixes
(`module.`, `_orig_mod.`) do no harm: weights keep the names that they had in W_0.

A search that is broken off goes on where it was if it is given a `Saved`, an object that keeps levels and loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as shortened
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_global, shuffle_within_layers
from lth_core.weights import under_names

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Ticket:
    """A subnetwork to train: a mask, the weights it starts from (pruned ones at 0.0), and where it starts.

    The weights are the ticket's own copies: training may change them freely.
    """

    mask: Mask
    weights: Weights = field(repr=False)
    iteration: int
    level: int


class Level(NamedTuple):
    """One level: the mask, W_k (unmasked), the trained weights, and what `train` returned beside them."""

    mask: Mask
    rewound: Weights
    trained: Weights
    result: Any

    def __repr__(self) -> str:
        result = " ".join(shortened(self.result).split())
        return f"Level({self.mask}, rewound and trained: {len(self.trained)} tensors each, result={result})"


class Saved(Protocol):
    """Levels that outlive a search: any object with these two methods, over a dictionary or a folder of files.

    One object serves one search: the same weights, masks, `rewind`, and densities or pruning. The search changes no
    tensor that it keeps or loads, and yields copies.
    """

    def load(self, level: int) -> Level | None:
        """The level of this number as it was kept, or None where there is none. A level that is loaded is not trained.

        The names in its mask must be in the order of the mask that the search was given: it decides ties in pruning,
        and random controls are drawn in it. A file may not keep it.
        """

    def keep(self, level: int, found: Level) -> None:
        """Keep a level that was just trained. It is yielded afterwards."""


Train = Callable[[Ticket, int | None], tuple[Weights, Any]]
Prune = Callable[[Weights, Mask], Mask]


def prune_lowest(weights: Weights, mask: Mask, rate: float = 0.2) -> Mask:
    """Prune the smallest surviving weights by magnitude, all layers together: 20% of them unless told otherwise."""
    return prune_global(magnitude(mask.fitting(weights)), mask, rate)


def iterative_magnitude_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    levels: int,
    rewind: int = 0,
    prune: Prune = prune_lowest,
    saved: Saved | None = None,
    first: int = 0,
) -> Iterator[Level]:
    """Find tickets by iterative magnitude pruning with rewinding to iteration `rewind` (Algorithm 1).

    Yields `levels + 1` levels: level 0 is the dense network, level n the ticket after n prunings. `weights` is W_0;
    `rewind=0` is the original lottery ticket procedure. `prune(trained, mask)` returns the next mask. A level is
    trained when it is asked for, so a loop that stops early trains nothing further. Hand over a copy of W_0: the state
    dict of a model that is trained in between changes with it.

    A level that `saved` has is yielded and not trained; one that is trained is kept in it before it is yielded. Levels
    before `first` are not yielded. The search goes on from the deepest level up to `first` that `saved` has, with that
    level's W_k; earlier levels need not be there. Without such a level it starts at W_0.

    Raises `ValueError` for negative `levels` or `rewind`, for `first` outside 0 to `levels`, and for a pruned weight
    that training moved.
    """
    if levels < 0:
        raise ValueError(f"cannot prune {levels} times; choose 0 (the dense network alone) or more levels")
    if not 0 <= first <= levels:
        raise ValueError(f"cannot start at level {first}; choose from 0 (the dense network) to levels={levels}")
    _check_rewind(rewind)
    start = first
    while (found := _load(saved, start)) is None and start:
        start -= 1
    if found is None:
        found = _dense(train, weights, mask, rewind, saved)
    for level in range(start, levels + 1):
        if level > start:
            found = _load(saved, level) or _trained(
                train, found.rewound, _pruned(prune, found.trained, found.mask), rewind, level, saved
            )
        if level >= first:
            yield _own(found)


def one_shot_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    densities: Sequence[float],
    rewind: int = 0,
    saved: Saved | None = None,
) -> Iterator[Level]:
    """Train once, prune once to each density by global magnitude, rewind to iteration `rewind` and retrain.

    Yields the dense network, then one level for each density (a fraction of the weights that `mask` keeps), numbered
    from 1 in the order of `densities`. A level that `saved` has is yielded and not trained; one that is trained is kept
    in it before it is yielded. W_k is that of the saved dense network, if there is one.

    Raises `ValueError` for densities outside 0 to 1, a negative `rewind`, and for a pruned weight that training moved.
    """
    for density in densities:
        if not 0 <= density <= 1:
            raise ValueError(f"cannot keep {density} of the weights; choose densities between 0 and 1")
    _check_rewind(rewind)
    dense = _load(saved, 0) or _dense(train, weights, mask, rewind, saved)
    yield _own(dense)
    for level, density in enumerate(densities, start=1):
        found = _load(saved, level) or _trained(
            train, dense.rewound, prune_lowest(dense.trained, dense.mask, 1 - density), rewind, level, saved
        )
        yield _own(found)


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


def _check_rewind(rewind: int) -> None:
    if rewind < 0:
        raise ValueError(f"cannot rewind to iteration {rewind}; choose 0 (initialisation) or a later one")


def _load(saved: Saved | None, level: int) -> Level | None:
    return saved.load(level) if saved is not None else None


def _dense(train: Train, weights: Weights, mask: Mask, rewind: int, saved: Saved | None) -> Level:
    """Level 0, from W_0: W_k, and the dense network trained from it."""
    rewound = _named_as(weights, train(subnetwork(weights, mask, 0, 0), rewind)[0]) if rewind else weights
    # copied: a training loop may go on using the tensors that it returned
    return _trained(train, _copied(rewound), mask, rewind, 0, saved)


def _trained(train: Train, rewound: Weights, mask: Mask, rewind: int, level: int, saved: Saved | None) -> Level:
    """A level trained from W_k to the end, checked and kept."""
    trained, result = train(subnetwork(rewound, mask, rewind, level), None)
    trained = _named_as(rewound, trained)
    for name, weight in mask.fitting(trained).items():
        pruned = weight[~mask[name].to(weight.device)]
        if bool((pruned.isfinite() & (pruned != 0)).any()):  # NaN is that of a training that diverged
            raise ValueError(
                f"{name}: pruned weights are not 0 after training; call ticket.mask.apply_(model) after every update, "
                "or ticket.mask.hold(model, optimizer) once before the first"
            )
    found = Level(mask, rewound, _copied(trained), result)
    if saved is not None:
        saved.keep(level, found)
    return found


def _pruned(prune: Prune, trained: Weights, mask: Mask) -> Mask:
    """The next mask. `prune` finds the mask's names among the weights, whatever prefixes W_0 had."""
    return Mask(prune({**trained, **mask.fitting(trained)}, mask), shared=mask.shared)


def _named_as(weights: Weights, returned: Weights) -> Weights:
    """What `train` returned, under the names of the weights that it was given."""
    names = under_names({name: name for name in weights}, returned)
    return {names.get(name, name): tensor for name, tensor in returned.items()}


def _own(level: Level) -> Level:
    """A level to hand out: whoever gets it may change its weights, and the search goes on with its own."""
    return level._replace(rewound=_copied(level.rewound), trained=_copied(level.trained))


def _copied(weights: Weights) -> dict[str, Tensor]:
    """Copies that share memory where the originals do: a weight of two layers stays one weight."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    memory = {name: (tensor.data_ptr(), tensor.shape, tensor.stride()) for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if memory[name] not in copies:
            copies[memory[name]] = tensor.detach().clone()
    return {name: copies[memory[name]] for name in weights}
