"""Subnetworks to train: the ticket, and the two controls that it is compared with."""

from __future__ import annotations

import torch

from lth_core.masks import Mask
from lth_core.pruning import shuffle_within_layers
from lth_core.states import Weights, copied
from lth_core.tickets import Ticket


def random_pruning(mask: Mask, rewound: Weights, seed: int | torch.Generator, iteration: int, level: int) -> Ticket:
    """Control: from the same W_k, as many weights in every layer as `mask` keeps, but random ones."""
    return subnetwork(rewound, shuffle_within_layers(mask, seed), iteration, level)


def random_reinitialisation(mask: Mask, fresh: Weights, iteration: int, level: int) -> Ticket:
    """Control: the same mask on another initialisation, trained from `iteration` on; 0 is a training in full."""
    return subnetwork(fresh, mask, iteration, level)


def subnetwork(weights: Weights, mask: Mask, iteration: int, level: int, remaining: int | None = None) -> Ticket:
    """The ticket (mask . weights) whose schedule starts at `iteration`, with so many iterations `remaining`."""
    copies = copied(weights)
    mask.apply_(copies)
    return Ticket(mask, copies, iteration, level, remaining)
