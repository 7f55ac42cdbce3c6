"""Iterative magnitude pruning with rewinding (the paper's Algorithm 1), one-shot pruning, and the two controls.

Nothing here knows a network, a data set or an optimiser. Training is a function that you pass:

    train(ticket, stop) -> (weights, result)

It trains the network that `ticket` describes from iteration `ticket.iteration` up to iteration `stop`, or to the end
of training when `stop` is None, and never lets a pruned weight move from 0.0: one that has moved is a `ValueError`.
`ticket.mask.hold(model, optimizer)` sees to that.
It returns the weights it ended with, a mapping from name to tensor (a state dict: biases and batch-norm buffers belong
in it), and anything else worth keeping, such as the accuracy. The mapping may hold more than tensors, such as the
optimiser's own state dict: `{**model.state_dict(), "optimizer": optimizer.state_dict()}`. A wrapped network's prefixes
(`module.`, `_orig_mod.`) do no harm: weights keep the names that they had in W_0.

A search that is broken off goes on where it was if it is given a folder, or a `Saved` that keeps levels and loads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from lth_core.levels import Level, LevelFolder, Saved
from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_global, shuffle_within_layers
from lth_core.states import Weights, copied
from lth_core.tickets import Ticket
from lth_core.weights import under_names

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
    saved: Saved | str | os.PathLike[str] | None = None,
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

    `saved` may be a folder's path (`LevelFolder`): killed at any moment and called again with the same arguments, the
    search gives the same bits. `levels` may grow. The folder is checked against W_0, `mask`, `rewind`, and level by
    level against `prune`, not against `train`: choose a folder for each way of training.

    Raises `ValueError` for negative `levels` or `rewind`, for `first` outside 0 to `levels`, for a pruned weight that
    training moved, and for a folder that holds another search or a damaged file.
    """
    if levels < 0:
        raise ValueError(f"cannot prune {levels} times; choose 0 (the dense network alone) or more levels")
    if not 0 <= first <= levels:
        raise ValueError(f"cannot start at level {first}; choose from 0 (the dense network) to levels={levels}")
    _check_rewind(rewind)
    saved = _opened(saved, weights, mask, rewind)
    start = 0 if isinstance(saved, LevelFolder) else first  # a folder has every level, and each is checked
    while (found := _load(saved, start)) is None and start:
        start -= 1
    if found is None:
        found = _dense(train, weights, mask, rewind, saved)
    for level in range(start, levels + 1):
        if level > start:
            found = _next(train, found, partial(_pruned, prune, found.trained, found.mask), rewind, level, saved)
        if level >= first:
            yield _own(found)


def one_shot_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    densities: Sequence[float],
    rewind: int = 0,
    saved: Saved | str | os.PathLike[str] | None = None,
) -> Iterator[Level]:
    """Train once, prune once to each density by global magnitude, rewind to iteration `rewind` and retrain.

    Yields the dense network, then one level for each density (a fraction of the weights that `mask` keeps), numbered
    from 1 in the order of `densities`. A level that `saved` has is yielded and not trained; one that is trained is kept
    in it before it is yielded. W_k is that of the saved dense network, if there is one. `saved` may be a folder's path,
    as in `iterative_magnitude_pruning`; `densities` may grow at its end.

    Raises `ValueError` for densities outside 0 to 1, a negative `rewind`, for a pruned weight that training moved, and
    for a folder that holds another search or a damaged file.
    """
    for density in densities:
        if not 0 <= density <= 1:
            raise ValueError(f"cannot keep {density} of the weights; choose densities between 0 and 1")
    _check_rewind(rewind)
    saved = _opened(saved, weights, mask, rewind)
    dense = _load(saved, 0) or _dense(train, weights, mask, rewind, saved)
    yield _own(dense)
    for level, density in enumerate(densities, start=1):
        pruned = partial(prune_lowest, dense.trained, dense.mask, 1 - density)
        yield _own(_next(train, dense, pruned, rewind, level, saved))


def random_pruning(mask: Mask, rewound: Weights, seed: int | torch.Generator, iteration: int, level: int) -> Ticket:
    """Control: from the same W_k, as many weights in every layer as `mask` keeps, but random ones."""
    return subnetwork(rewound, shuffle_within_layers(mask, seed), iteration, level)


def random_reinitialisation(mask: Mask, fresh: Weights, iteration: int, level: int) -> Ticket:
    """Control: the same mask on another initialisation, trained from `iteration` on; 0 is a training in full."""
    return subnetwork(fresh, mask, iteration, level)


def subnetwork(weights: Weights, mask: Mask, iteration: int, level: int) -> Ticket:
    """The ticket (mask . weights) that starts at `iteration`."""
    copies = copied(weights)
    mask.apply_(copies)
    return Ticket(mask, copies, iteration, level)


def _check_rewind(rewind: int) -> None:
    if rewind < 0:
        raise ValueError(f"cannot rewind to iteration {rewind}; choose 0 (initialisation) or a later one")


def _opened(saved: Saved | str | os.PathLike[str] | None, weights: Weights, mask: Mask, rewind: int) -> Saved | None:
    return LevelFolder(saved, weights, mask, rewind) if isinstance(saved, str | os.PathLike) else saved


def _load(saved: Saved | None, level: int) -> Level | None:
    return saved.load(level) if saved is not None else None


def _dense(train: Train, weights: Weights, mask: Mask, rewind: int, saved: Saved | None) -> Level:
    """Level 0, from W_0: W_k, and the dense network trained from it."""
    rewound = _named_as(weights, train(subnetwork(weights, mask, 0, 0), rewind)[0]) if rewind else weights
    # copied: a training loop may go on using the tensors that it returned
    return _trained(train, copied(rewound), mask, rewind, 0, saved)


def _next(
    train: Train, before: Level, pruned: Callable[[], Mask], rewind: int, level: int, saved: Saved | None
) -> Level:
    """A level that is saved, or trained under the mask that `pruned` gives."""
    found = _load(saved, level)
    if found is None:
        return _trained(train, before.rewound, pruned(), rewind, level, saved)
    if isinstance(saved, LevelFolder):
        saved.check(level, found.mask, pruned())
    return found


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
    found = Level(mask, rewound, copied(trained), result)
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
    return level._replace(rewound=copied(level.rewound), trained=copied(level.trained))
