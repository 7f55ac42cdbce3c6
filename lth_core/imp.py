"""Iterative magnitude pruning with rewinding (the paper's Algorithm 1), and one-shot pruning.

Nothing here knows a network, a data set or an optimiser. Training is a function that you pass:

    train(ticket, stop) -> (weights, result)

It starts at `ticket.iteration` and ends at `stop`, or at its own end if that is None. Pruned weights must stay 0.0, as
`ticket.mask.hold(model, optimizer)` keeps them: one that has moved is a `ValueError`. It returns the weights at its
end, a state dict with biases and buffers, and anything else worth keeping, such as the accuracy. The first may hold
more: `{**model.state_dict(), "optimizer": optimizer.state_dict()}`. Prefixes of wrappers, such as `module.`, do no
harm: weights keep the names that they had in W_0.

What a pruned network goes on with is `retrain` (arXiv 2003.02389). T is the iterations of a training, k is `rewind`.
"weight_rewinding": W_k, at iteration k. "learning_rate_rewinding": the trained weights, at iteration k. "fine_tuning":
the trained weights, at iteration T, for as many iterations (T - k) at the schedule's last learning rate. `iterations`
is T: fine-tuning needs it, and with it every ticket says how many iterations are `remaining`. A fine-tuning ticket
starts at `ticket.iteration` = T, and `stop` is T + (T - k). So one `train` serves all three, if its schedule stays at
its last rate after T. Whatever `train` returns beside the weights, such as moments, goes with them.
A search that was broken off goes on if it is given a folder, or a `Saved` that keeps levels and loads them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, get_args

from lth_core.levels import Level, LevelFolder, Retrain, Saved
from lth_core.masks import Mask
from lth_core.pruning import magnitude, prune_global
from lth_core.states import Weights, copied
from lth_core.subnetworks import subnetwork
from lth_core.tickets import Ticket
from lth_core.weights import named_as

Train = Callable[[Ticket, int | None], tuple[Weights, Any]]
Prune = Callable[..., Mask]


def prune_lowest(weights: Weights, mask: Mask, rate: float = 0.2, *, floor: float | Mapping[str, float] = 0.0) -> Mask:
    """Prune the smallest surviving weights by magnitude, all layers together: 20% of them unless told otherwise.

    `floor` is the least fraction that a layer keeps, as in `prune_global`: `prune=partial(prune_lowest, floor=0.01)`.
    """
    return prune_global(magnitude(mask.fitting(weights)), mask, rate, floor=floor)


def iterative_magnitude_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    levels: int | None = None,
    densities: Sequence[float] | None = None,
    rewind: int = 0,
    retrain: Retrain = "weight_rewinding",
    iterations: int | None = None,
    prune: Prune = prune_lowest,
    saved: Saved | str | os.PathLike[str] | None = None,
    first: int = 0,
) -> Iterator[Level]:
    """Find tickets by iterative magnitude pruning with rewinding to iteration `rewind` (Algorithm 1).

    Yields `levels + 1` levels: level 0 is the dense network, level n the ticket after n prunings. `weights` is W_0;
    `rewind=0` is the original lottery ticket procedure. `prune(trained, mask)` returns the next mask. A level is
    trained when it is asked for, so a loop that stops early trains nothing further. Hand over a copy of W_0: the state
    dict of a model that is trained in between changes with it.

    `densities` in place of `levels` say what each pruning keeps: round(density x weights that `mask` keeps), exactly.
    `prune(trained, mask, rate=rate)` then gets the rate. `densities_to` gives those down to a target. `retrain` is the
    module's three variations, and `iterations` their T.

    A level that `saved` has is yielded and not trained; one that is trained is kept in it before it is yielded. Levels
    before `first` are not yielded. The search goes on from the deepest level up to `first` that `saved` has, with that
    level's W_k; earlier levels need not be there. Without such a level it starts at W_0.

    `saved` may be a folder's path (`LevelFolder`): killed at any moment and called again with the same arguments, the
    search gives the same bits. `levels` and `densities` may grow. The folder is checked against W_0, `mask`, `rewind`,
    `retrain`, `iterations`, and level by level against `prune`, not against `train`: choose a folder for each way of
    training.

    Warns (`UserWarning`) of a pruning that empties a layer, and of one that prunes nothing. Raises `ValueError` for
    arguments that make no search and for a pruned weight that training moved. So it does for a folder that holds
    another search or a damaged file.
    """
    if densities is not None and levels is None:
        if not all(0 <= density <= before for before, density in pairwise([1, *densities])):
            raise ValueError(f"cannot keep {list(densities)} in turn; choose densities from 1 to 0 that do not rise")
        levels = len(densities)
    elif densities is not None or levels is None:
        raise ValueError("give either levels (how often to prune) or densities (what each pruning keeps), not both")
    if levels < 0:
        raise ValueError(f"cannot prune {levels} times; choose 0 (the dense network alone) or more levels")
    if not 0 <= first <= levels:
        raise ValueError(f"cannot start at level {first}; choose from 0 (the dense network) to levels={levels}")
    search = _Search(train, weights, mask, rewind, retrain, iterations, saved)
    start = 0 if search.folder else first  # a folder has every level, and each is checked
    while (found := search.load(start)) is None and start:
        start -= 1
    found = found or search.dense()
    for level in range(start, levels + 1):
        if level > start:
            asked = {} if densities is None else {"rate": _rate(found.mask, densities[level - 1], mask)}
            found = search.next(level, found, partial(prune, **asked))
        if level >= first:
            yield _own(found)


def one_shot_pruning(
    train: Train,
    weights: Weights,
    mask: Mask,
    *,
    densities: Sequence[float],
    rewind: int = 0,
    retrain: Retrain = "weight_rewinding",
    iterations: int | None = None,
    prune: Prune = prune_lowest,
    saved: Saved | str | os.PathLike[str] | None = None,
) -> Iterator[Level]:
    """Train once, prune once to each density by global magnitude, rewind to iteration `rewind` and retrain.

    Yields the dense network, then one level for each density, numbered from 1 in the order of `densities`: it keeps
    round(density x weights that `mask` keeps), exactly. `prune(trained, mask, rate=rate)` returns the mask. W_k is that
    of the saved dense network, if there is one. `retrain`, `iterations` and `saved`, which may be a folder's path, are
    those of `iterative_magnitude_pruning`; `densities` may grow at its end.

    Warns and raises as that does, but for a density of 1: it asks for a level that prunes nothing.
    """
    for density in densities:
        if not 0 <= density <= 1:
            raise ValueError(f"cannot keep {density} of the weights; choose densities between 0 and 1")
    search = _Search(train, weights, mask, rewind, retrain, iterations, saved)
    dense = search.load(0) or search.dense()
    yield _own(dense)
    for level, density in enumerate(densities, start=1):
        asked = partial(prune, rate=_rate(dense.mask, density, mask))
        yield _own(search.next(level, dense, asked, may_repeat=density == 1))


class _Search:
    """What both procedures share: how a level is loaded, or pruned, trained, checked and kept."""

    def __init__(
        self,
        train: Train,
        weights: Weights,
        mask: Mask,
        rewind: int,
        retrain: Retrain,
        iterations: int | None,
        saved: Saved | str | os.PathLike[str] | None,
    ) -> None:
        if rewind < 0:
            raise ValueError(f"cannot rewind to iteration {rewind}; choose 0 (initialisation) or a later one")
        if retrain not in get_args(Retrain):
            raise ValueError(f"cannot retrain by {retrain!r}; choose one of {', '.join(get_args(Retrain))}")
        if iterations is None and retrain == "fine_tuning":
            raise ValueError("fine-tuning starts at the end of a training; say with iterations how many that one takes")
        if iterations is not None and iterations <= rewind:
            raise ValueError(f"rewind={rewind} leaves none of iterations={iterations}; rewind to an earlier one")
        if isinstance(saved, str | os.PathLike):
            saved = LevelFolder(saved, weights, mask, rewind, retrain, iterations)
        self.train, self.weights, self.mask, self.saved = train, weights, mask, saved
        self.rewind, self.retrain, self.iterations = rewind, retrain, iterations
        self.folder = saved if isinstance(saved, LevelFolder) else None  # a folder checks every level

    def load(self, level: int) -> Level | None:
        return self.saved.load(level) if self.saved is not None else None

    def dense(self) -> Level:
        """Level 0, from W_0: W_k, and the dense network trained from it."""
        rewound = self.weights
        if self.rewind:
            ticket = subnetwork(rewound, self.mask, 0, 0, self.iterations)
            rewound = self._run(ticket, self.rewind)[0]
        return self._trained(copied(rewound), self.mask, 0)  # a training loop may go on using what it returned

    def next(self, level: int, before: Level, prune: Prune, *, may_repeat: bool = False) -> Level:
        """A level that is saved, or trained under the mask that `prune` makes of the level before."""
        rewound = before.rewound if self.retrain == "weight_rewinding" else before.trained
        found = self.load(level)
        if found is None:
            mask = _pruned(prune, before)
            _warn(level, before.mask, mask, may_repeat)
            return self._trained(rewound, mask, level)
        if self.folder is not None:
            self.folder.check(level, found.mask, _pruned(prune, before))
        return found._replace(rewound=rewound)

    def _run(self, ticket: Ticket, stop: int | None) -> tuple[Weights, Any]:
        """What `train` returned, the weights under the names of the weights that it was given."""
        match self.train(ticket, stop):
            case (Mapping() as weights, result):
                return named_as(ticket.weights, weights), result
            case other:
                raise ValueError(
                    f"train returned {type(other).__name__}; expected two things, the weights as a mapping, such as "
                    "model.state_dict(), and a result, which may be None"
                )

    def _trained(self, rewound: Weights, mask: Mask, level: int) -> Level:
        """A level trained to the end, checked and kept."""
        iteration, remaining, stop = self.rewind, None, None
        if self.iterations is not None:
            remaining = self.iterations - self.rewind
            if level and self.retrain == "fine_tuning":
                iteration, stop = self.iterations, self.iterations + remaining
        trained, result = self._run(subnetwork(rewound, mask, iteration, level, remaining), stop)
        for name, weight in mask.fitting(trained).items():
            pruned = weight[~mask[name].to(weight.device)]
            if bool((pruned.isfinite() & (pruned != 0)).any()):  # NaN is that of a training that diverged
                raise ValueError(
                    f"{name}: pruned weights are not 0 after training; call ticket.mask.apply_(model) after every "
                    "update, or ticket.mask.hold(model, optimizer) once before the first"
                )
        found = Level(mask, rewound, copied(trained), result)
        if self.saved is not None:
            self.saved.keep(level, found)
        return found


def _pruned(prune: Prune, before: Level) -> Mask:
    """The next mask. `prune` finds the mask's names among the weights, whatever prefixes W_0 had."""
    trained, mask = before.trained, before.mask
    found = prune({**trained, **mask.fitting(trained)}, mask)
    if not isinstance(found, Mapping) or found.keys() != mask.keys():
        given = ", ".join(found) if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"prune returned {given}; expected a mask of the layers {', '.join(mask)}")
    return Mask(found, shared=mask.shared)


def _warn(level: int, before: Mask, mask: Mask, may_repeat: bool) -> None:
    """Warn, where the search is looped over, of layers that a pruning empties, and of one that prunes nothing."""
    emptied = [name for name in mask if before[name].any() and not mask[name].any()]
    if emptied and mask.survivors:
        warnings.warn(
            f"level {level} has no weight left in {', '.join(emptied)}; a floor keeps some in every layer: "
            "prune=partial(prune_lowest, floor=0.01)",
            stacklevel=4,
        )
    if mask == before and not may_repeat:
        warnings.warn(
            f"level {level} prunes nothing, and trains the mask of {mask.survivors:,} weights again; end the search at "
            "an earlier level, or prune more at a time",
            stacklevel=4,
        )


def _rate(mask: Mask, density: float, first: Mask) -> float:
    """The rate that leaves round(density x weights of the first mask) of a mask's weights."""
    return max(0.0, 1 - round(density * first.survivors) / mask.survivors) if mask.survivors else 0.0


def _own(level: Level) -> Level:
    """A level to hand out: whoever gets it may change its weights, and the search goes on with its own."""
    return level._replace(rewound=copied(level.rewound), trained=copied(level.trained))
