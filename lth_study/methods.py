"""The methods: ways to make a subnetwork that is trained beside the dense network. A method is a row of `TABLE`.

`extents` and `plan` ask for methods, `worker` makes their tickets, and `report` names them. Records are read without
torch, so functions import the scores of `lth_core` when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lth_core import Mask, Ticket
    from lth_core.levels import Retrain
    from lth_study.origins import Origin


@dataclass(frozen=True)
class Method:
    """A row of `TABLE`: what figures call a method, and the function that makes its ticket at a level of a chain. There
    is no function where the search itself makes every ticket."""

    title: str
    ticket: Callable[[Origin], Ticket] | None
    starts: Literal["rewound", "initial", "fresh"] = "rewound"
    """The weights it starts from. "rewound": W_k. "initial": W_0, so it is asked for at k = 0 alone. "fresh": another
    initialisation; `reinit_length` says how long it is trained."""
    compared: bool = False
    """Whether it is trained in all data orders, and has distances and barriers."""
    retrain: Retrain | None = None
    """What a pruned network of its own search goes on with (arXiv 2003.02389). None: it stands at the levels of IMP."""


def _random_reinit(at: Origin) -> Ticket:
    return at.fresh(at.mask, at.rewind if at.setting.reinit_length == "remaining" else 0)


def _magnitude(at: Origin, inverted: bool) -> Mask:
    from lth_core import magnitude

    return at.pruned(lambda model, mask: magnitude(mask.fitting(model)), inverted=inverted)


def _snip(at: Origin, inverted: bool) -> Mask:
    """On one batch of the training's size."""
    from lth_core import snip

    loss = at.loss(at.examples(at.setting.batch_size))
    return at.pruned(lambda model, mask: snip(model, mask, loss), inverted=inverted)


def _grasp(at: Origin, inverted: bool) -> Mask:
    """On ten examples of each class, with the temperature of the authors' code."""
    from lth_core import grasp

    loss = at.loss(at.examples(10, of_each_class=True), temperature=200)
    return at.pruned(lambda model, mask: grasp(model, mask, loss), inverted=inverted)


def _synflow(at: Origin, inverted: bool) -> Mask:
    """With ones in place of scaled images."""
    from lth_core import synflow

    example = at.scaled_image()
    return at.pruned(lambda model, mask: synflow(model, mask, example), iterations=100, inverted=inverted)


def _pruned_at_initialisation(name: str, title: str, prune: Callable[[Origin, bool], Mask]) -> dict[str, Method]:
    """The rows of a score: the method, and its sanity checks (arXiv 2009.08576, section 5). These shuffle its mask
    within layers, give it another initialisation, or prune the highest scores in place of the lowest."""
    makers: dict[str, tuple[str, Callable[[Origin], Ticket]]] = {
        "": ("", lambda at: at.ticket(prune(at, False))),
        "_shuffled": (", shuffled", lambda at: at.shuffled(prune(at, False), "shuffled")),
        "_reinit": (", reinitialised", lambda at: at.fresh(prune(at, False), start=0)),
        "_inverted": (", inverted", lambda at: at.ticket(prune(at, True))),
    }
    return {name + end: Method(title + how, ticket, "initial") for end, (how, ticket) in makers.items()}


TABLE: dict[str, Method] = {
    "imp": Method("IMP", lambda at: at.ticket(at.mask), compared=True, retrain="weight_rewinding"),
    "random_pruning": Method("random pruning", lambda at: at.shuffled(at.mask, "random pruning"), compared=True),
    "random_reinit": Method("random reinitialisation", _random_reinit, "fresh"),
    "learning_rate_rewinding": Method("learning-rate rewinding", None, retrain="learning_rate_rewinding"),
    "fine_tuning": Method("fine-tuning", None, retrain="fine_tuning"),
    **_pruned_at_initialisation("magnitude_at_init", "magnitude at initialisation", _magnitude),
    **_pruned_at_initialisation("snip", "SNIP", _snip),
    **_pruned_at_initialisation("grasp", "GraSP", _grasp),
    **_pruned_at_initialisation("synflow", "SynFlow", _synflow),
}
"""Every method by its name. A name stays: files, claims and settings hold it."""
