"""Masks there and back: torch's own pruning, open_lth, numpy, and other programs' files. Loading runs no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import prune

from lth_core.masks import Mask
from lth_core.states import read_state
from lth_core.weights import bare

Source = str | os.PathLike[str]


def to_torch_prune(mask: Mask, model: nn.Module) -> None:
    """Prune a model as `torch.nn.utils.prune` does: `name_orig` a parameter, `name_mask` a buffer, for every mask.

    A wrapped model is pruned inside its wrappers. A weight of several layers is pruned in all of them.
    Raises `ValueError` where the mask does not fit the model.
    """
    model = bare(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, kept in mask.items():
        if name not in parameters or parameters[name].shape != kept.shape:
            raise ValueError(
                f"{name!r}: the mask has shape {tuple(kept.shape)}, and the model has no such parameter of this shape; "
                f"it has {', '.join(parameters)}"
            )
    for name, kept in mask.items():
        for other, parameter in parameters.items():
            if parameter is parameters[name]:
                path, _, own = other.rpartition(".")
                prune.custom_from_mask(model.get_submodule(path), own, kept.to(parameter.device))


def mask_from_torch_prune(model: nn.Module) -> Mask:
    """The mask of a model that `torch.nn.utils.prune` pruned, by the names that its weights had before.

    A weight of several layers is there once. Raises `ValueError` for a model without pruned weights.
    """
    model = bare(model)
    buffers = dict(model.named_buffers(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[int, str] = {}
    for stored, parameter in model.named_parameters(remove_duplicate=False):
        name = stored.removesuffix("_orig")
        if name == stored or f"{name}_mask" not in buffers:
            continue
        if id(parameter) in first:
            shared[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
            found[name] = buffers[f"{name}_mask"]
    if not found:
        raise ValueError(f"{type(model).__name__} has no weights that torch.nn.utils.prune pruned (weight_mask)")
    return Mask(found, shared=shared)


def to_numpy(mask: Mask) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The mask as boolean arrays, for `numpy.savez` say. `Mask(arrays, shared=mask.shared)` is the way back."""
    return {name: kept.numpy() for name, kept in mask.items()}


def save_open_lth(mask: Mask, path: Source) -> None:
    """Write the mask as open_lth does: a `mask.pth` of int32 tensors by name. `load_mask` is the way back."""
    torch.save({name: kept.int() for name, kept in mask.items()}, path)


def load_mask(path: Source) -> Mask:
    """A mask from a file of somebody else's: zeros and ones by name, as in `load_state`, or ours.

    It takes open_lth's `mask.pth`, numpy's `.npz`, safetensors, what `Mask.save` wrote, and the state dict of a model
    that `torch.nn.utils.prune` pruned. Raises `ValueError`, naming the file, for anything else.
    """
    state = load_state(path)
    pruned = {name.removesuffix("_mask"): value for name, value in state.items() if name.endswith("_mask")}
    torchs = {name: value for name, value in pruned.items() if f"{name}_orig" in state}
    try:
        return Mask.of_state(torchs or state)
    except ValueError as error:
        raise ValueError(
            f"{path} holds no mask ({error}); for the non-zero weights of a state dict: "
            "Mask({name: weight != 0 for name, weight in load_state(path).items() if name in Mask.ones(model)})"
        ) from None


def load_state(path: Source) -> dict[str, Tensor]:
    """The tensors of somebody else's file by name: safetensors, `.npz`, or what `torch.save` wrote.

    The last is read with torch's weights-only loading, which runs no code. From a checkpoint its `state_dict` is taken,
    or the one mapping in it that holds tensors. What is not a tensor is left out. Tensors are on the processor.

    Raises `ValueError`, naming the file, if it is missing, holds no tensors or several states, or cannot be read
    safely.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file} is missing, or no file")
    try:
        found = _read(file)
    except Exception as error:  # each of the three readers has errors of its own
        unsafe = isinstance(error, pickle.UnpicklingError)  # torch's own message advises to run the file's code
        reason = "it may hold objects that are not tensors" if unsafe else str(error).split("\n")[0]
        raise ValueError(
            f"{file} cannot be read safely ({reason}); expected safetensors, numpy's .npz without objects, or a state "
            "dict of tensors that torch.save wrote"
        ) from None
    states = {key: held for key, value in {"its top": found, **found}.items() if (held := _by_name(value))}
    if "state_dict" not in states and len(states) != 1:
        what = f"several states ({', '.join(map(str, states))})" if states else "no tensors by name"
        raise ValueError(f"{file} holds {what}; expected a state dict, or a checkpoint with one")
    return states.get("state_dict") or next(iter(states.values()))


def _by_name(state: object) -> dict[str, Tensor]:
    pairs = state.items() if isinstance(state, Mapping) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)}


def _read(file: Path) -> Mapping[Any, Any]:
    if file.suffix == ".npz":
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            ours = "tree" in (tensors.metadata() or {})
            return read_state(file)[0] if ours else {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    found = torch.load(file, map_location="cpu", weights_only=True)
    return found if isinstance(found, Mapping) else {}
