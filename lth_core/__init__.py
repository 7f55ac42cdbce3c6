"""The method of the study: iterative magnitude pruning with rewinding, and how stable its subnetworks are.

For any network and any training loop. It needs torch, numpy and safetensors; the study itself is `lth_study`.
"""

from torch.serialization import add_safe_globals

from lth_core.exchange import load_mask, load_state, mask_from_torch_prune, save_open_lth, to_numpy, to_torch_prune
from lth_core.imp import iterative_magnitude_pruning, one_shot_pruning, prune_lowest
from lth_core.levels import Level, LevelFolder, Saved
from lth_core.masks import Mask
from lth_core.pruning import densities_to, magnitude, prune_global, prune_layerwise, shuffle_within_layers
from lth_core.scores import grasp, prune_iteratively, snip, synflow
from lth_core.stability import (
    ErrorBarrier,
    Stability,
    angle,
    error_barrier,
    l2_distance,
    stability_to_data_order,
    stability_to_pruning,
)
from lth_core.subnetworks import random_pruning, random_reinitialisation, subnetwork
from lth_core.summary import Summary
from lth_core.tickets import Ticket, load_about, load_trained
from lth_core.weights import Prunable, prunable

__version__ = "0.1.0"

add_safe_globals([Level, Mask, Ticket])  # torch.load reads what torch.save wrote; they hold tensors and no code

__all__ = [
    "ErrorBarrier",
    "Level",
    "LevelFolder",
    "Mask",
    "Prunable",
    "Saved",
    "Stability",
    "Summary",
    "Ticket",
    "angle",
    "densities_to",
    "error_barrier",
    "grasp",
    "iterative_magnitude_pruning",
    "l2_distance",
    "load_about",
    "load_mask",
    "load_state",
    "load_trained",
    "magnitude",
    "mask_from_torch_prune",
    "one_shot_pruning",
    "prunable",
    "prune_global",
    "prune_iteratively",
    "prune_layerwise",
    "prune_lowest",
    "random_pruning",
    "random_reinitialisation",
    "save_open_lth",
    "shuffle_within_layers",
    "snip",
    "stability_to_data_order",
    "stability_to_pruning",
    "subnetwork",
    "synflow",
    "to_numpy",
    "to_torch_prune",
]
