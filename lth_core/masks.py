"""Pruning masks: which weights of a network are still there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lth_core.hold import Hold
from lth_core.states import read_state, write_state
from lth_core.summary import Example, Summary, summarise
from lth_core.weights import Choice, bare, prunable, under_names


class Mask(Mapping[str, Tensor]):
    """An immutable mapping from weight name to a bool tensor: True where the weight survives.

    It is made of bools, or of zeros and ones, as tensors or numpy arrays, and keeps copies of them.
    `shared` gives every further name of a weight that layers share -> its name in the mask; None takes a mask's own.
    """

    def __init__(
        self, mapping: Mapping[str, Tensor | npt.NDArray[Any]], *, shared: Mapping[str, str] | None = None
    ) -> None:
        tensors = {}
        for name, given in mapping.items():
            value = given if isinstance(given, Tensor) else _tensor(name, given)
            if value.dtype != torch.bool and not bool(((value == 0) | (value == 1)).all()):
                raise ValueError(f"mask of {name!r}: expected bool, or only zeros and ones, got {value.dtype} values")
            tensors[name] = value.detach().to("cpu", torch.bool, copy=True).contiguous()
        self._tensors = tensors
        if shared is None:
            shared = mapping.shared if isinstance(mapping, Mask) else {}
        self._shared = {other: name for other, name in shared.items() if name in tensors}

    @classmethod
    def ones(
        cls,
        model: nn.Module | Mapping[str, Tensor],
        *,
        include: Choice | Iterable[Choice] = (),
        exclude: Choice | Iterable[Choice] = (),
    ) -> Mask:
        """The mask that keeps everything, for a model's prunable weights or for a mapping of weights.

        `prunable` says which weights of a model these are, and what `include` and `exclude` do. Each is a `Choice`, or
        several: a name or a pattern of names, a module or a type of module, a function of a name and its module.
        Raises `ValueError` for a model that has no weights to prune, and for what `prunable` refuses.
        """
        kind, shared = type(model).__name__, None
        if isinstance(model, nn.Module):
            model = prunable(model, include=include, exclude=exclude)
            shared = model.shared
        elif include or exclude:
            raise ValueError("include and exclude choose weights of a model; choose those of a mapping yourself")
        if not model:
            raise ValueError(f"{kind} has no weights to prune; {model}")
        return cls({name: torch.ones(w.shape, dtype=torch.bool) for name, w in model.items()}, shared=shared)

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
    def shared(self) -> dict[str, str]:
        """Every further name of a weight that several layers share -> its name in the mask."""
        return dict(self._shared)

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

    def fitting(self, state: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a model, a state dict or scores hold for the mask: by its names, without the prefixes of wrappers.

        Raises `ValueError` where a name is missing or a tensor has another shape than its mask.
        """
        found = under_names(_tensors(state), self._tensors)
        for name, tensor in self._tensors.items():
            if name not in found:
                raise ValueError(
                    f"{name!r} is in the mask, but not in what is given: {', '.join(_tensors(state)) or 'nothing'}"
                )
            if found[name].shape != tensor.shape:
                raise ValueError(f"{name!r}: mask has shape {tuple(tensor.shape)}, not {tuple(found[name].shape)}")
        return found

    @torch.no_grad()
    def apply_(self, model: nn.Module | Mapping[str, Tensor]) -> None:
        """Set the pruned weights of a model, or of a mapping of tensors, to exactly 0.0 in place.

        Names may have the prefixes of wrappers. A weight that layers share is set under all of its names.
        Raises `ValueError`, before anything is changed, where a weight is missing or has another shape.
        """
        self.fitting(model)
        names = {name: name for name in self._tensors} | self._shared
        for name, weight in under_names(_tensors(model), names).items():
            weight.masked_fill_(~self._tensors[names[name]].to(weight.device), 0.0)

    def hold(self, model: nn.Module, *optimizers: Optimizer) -> Hold:
        """Keep the pruned weights of a model at 0.0: now, and after every step of its optimizers.

        Call it once, before training; `remove()` of what it returns ends it. It works with every `torch.optim`
        optimizer, with `GradScaler`, and inside the wrappers of Accelerate and Lightning. Surviving weights keep their
        bits, and pruned ones are never -0.0. A pruned weight that a step made NaN or infinite is set to 0.0 as well. A
        `RuntimeWarning` then names its layer, once. It is looked for every 10 steps, off the processor every 100. The
        mask lies on the weights' device, in integers of their size, and moves with them.

        Gradients stay whole. What reads several at once, such as clipping, Muon, Adafactor or LBFGS, sees those of
        pruned weights too. Set these to 0 before the step, where the subnetwork must train as if it stood alone.

        Raises `ValueError` where a weight is missing, has another shape, or is in none of the optimizers.
        """
        return Hold(self._tensors, self.fitting(model), optimizers)

    def summary(self, model: nn.Module, example: Example | None = None) -> Summary:
        """What the mask leaves of a model: parameters, bytes, and with an example multiply-adds.

        The example is what the model is called with: a tensor, a tuple of arguments or a mapping of keyword arguments,
        on the model's device. Multiply-adds are for all of it; take a batch of one for those of one input. The model
        is called once, in evaluation and without gradients. It need not be pruned, and stays as it is.

        Multiply-adds are those of matrix products, convolutions, attention and recurrent layers, by the formulas of
        torch's `FlopCounterMode`. Positions of padding and masked attention count; biases and activations do not. A
        masked weight needs its dense multiply-adds x density. That is exact for linear, convolutional and recurrent
        layers. Where one weight holds several matrices (attention's), it assumes that all are used equally often. It
        also assumes that zeros stay zeros in whatever is made of a weight, as under weight and spectral norm.
        They are no measure of time: a masked model computes with its zeros.

        Raises `ValueError` where a weight is missing or has another shape.
        """
        return summarise(self._tensors, self.fitting(model), bare(model), example)

    def save(self, path: str | Path) -> None:
        """Write the mask as packed bits in a safetensors file, with a checksum."""
        write_state(Path(path), self.by_every_name())

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Read a mask written by `save` (others: `load_mask`). Raises `ValueError`, naming the file."""
        state = read_state(Path(path))[0]
        try:
            return cls.of_state(state)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} holds no mask ({error})") from None

    def by_every_name(self) -> dict[str, Tensor]:
        """The mask as a state: its tensors, those of shared weights under all of their names."""
        return self._tensors | {other: self._tensors[name] for other, name in self._shared.items()}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Mask:
        """The mask that `by_every_name` gave. Names of one and the same tensor are those of a shared weight."""
        first: dict[int, str] = {}
        names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
        tensors = {name: tensor for name, tensor in state.items() if names[name] == name}
        return cls(tensors, shared={other: name for other, name in names.items() if other != name})


def _tensors(state: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a state holds; of a model, every parameter by all of its names."""
    return dict(state.named_parameters(remove_duplicate=False)) if isinstance(state, nn.Module) else state


def _tensor(name: str, given: npt.NDArray[Any]) -> Tensor:
    try:
        return torch.from_numpy(np.array(given, order="C"))  # a copy: torch takes no negative strides
    except TypeError:
        raise ValueError(f"mask of {name!r}: expected a tensor or an array of numbers, got {given!r}") from None
