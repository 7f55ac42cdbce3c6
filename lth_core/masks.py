"""Pruning masks: which weights of a network are still there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lth_core.states import read_state, write_state


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model that may be pruned, by state-dict name.

    A model can say so itself with a method `prunable()` that returns their names. Otherwise they are the weights of
    its linear and convolutional layers: never biases, normalisation, embeddings, recurrent or transposed layers. A
    weight that two layers share is there once.
    """
    parameters = dict(model.named_parameters())
    named = getattr(model, "prunable", None)
    if named is not None:
        return {name: parameters[name] for name in named()}
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = {id(parameter): name for name, parameter in parameters.items()}
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, layers):
            if id(layer.weight) not in names:
                raise ValueError(
                    f"{path}: its weight is no parameter (as under weight_norm, or torch's own pruning); give the "
                    "model a method prunable() that names the weights to prune"
                )
            found[names[id(layer.weight)]] = layer.weight
    return found


class Mask(Mapping[str, Tensor]):
    """An immutable mapping from weight name to a bool tensor: True where the weight survives.

    It is made of tensors or numpy arrays of bool, or of zeros and ones.
    """

    def __init__(self, mapping: Mapping[str, Tensor | np.ndarray]) -> None:
        tensors = {}
        for name, given in mapping.items():
            value = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
            if value.dtype != torch.bool and not bool(((value == 0) | (value == 1)).all()):
                raise ValueError(f"mask of {name!r}: expected bool, or only zeros and ones, got {value.dtype} values")
            tensors[name] = value.detach().to("cpu", torch.bool, copy=True).contiguous()
        self._tensors = tensors

    @classmethod
    def ones(cls, model: nn.Module | Mapping[str, Tensor]) -> Mask:
        """The mask that keeps everything, for a model's prunable weights or for a mapping of weights."""
        weights = prunable(model) if isinstance(model, nn.Module) else model
        if not weights:
            raise ValueError(f"{type(model).__name__} has no weights to prune: no linear or convolutional layer")
        return cls({name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self._tensors.keys() == other._tensors.keys() and all(
            torch.equal(mine, other._tensors[name]) for name, mine in self._tensors.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask({len(self)} layers, {self.survivors:,} of {self.size:,} weights, density {self.density:.4g})"

    @property
    def size(self) -> int:
        """How many weights the mask covers."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    @property
    def survivors(self) -> int:
        """How many weights survive."""
        return sum(int(tensor.sum()) for tensor in self._tensors.values())

    @property
    def density(self) -> float:
        """The fraction of weights that survive, over all layers; 1.0 for a mask over no weights."""
        return self.survivors / self.size if self.size else 1.0

    def density_by_layer(self) -> dict[str, float]:
        """The fraction of weights that survive, layer by layer."""
        return {name: float(tensor.double().mean()) for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def apply_(self, model: nn.Module | Mapping[str, Tensor]) -> None:
        """Set the pruned weights of a model, or of a mapping of tensors, to exactly 0.0 in place."""
        weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
        for name, tensor in self._tensors.items():  # all of them before the first is changed
            if name not in weights:
                raise ValueError(f"{name!r} is in the mask and not among the weights: {', '.join(weights)}")
            if weights[name].shape != tensor.shape:
                raise ValueError(f"{name!r}: mask has shape {tuple(tensor.shape)}, weight {tuple(weights[name].shape)}")
        for name, tensor in self._tensors.items():
            weights[name].masked_fill_(~tensor.to(weights[name].device), 0.0)

    def save(self, path: str | Path) -> None:
        """Write the mask as packed bits in a safetensors file, with a checksum."""
        write_state(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Read a mask written by `save` (others: `load_mask`). Raises `ValueError`, naming the file."""
        state = read_state(Path(path))[0]
        try:
            return cls(state)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} holds no mask ({error})") from None
