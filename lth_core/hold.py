"""Pruned weights that stay at 0.0 in anyone's training loop; `Mask.hold` is the way in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> the integers that hold its bits."""
_LOOK_EVERY, _LOOK_SELDOM = 10, 100
"""Steps after which weights are looked through for NaN: on the processor, and on devices that looking waits for."""


class Hold:
    """Sets pruned weights to 0.0 after every step of some optimisers, until `remove()`."""

    def __init__(self, mask: Mapping[str, Tensor], weights: Mapping[str, Tensor], optimizers: Sequence[Optimizer]):
        unwrapped = [_unwrapped(optimizer) for optimizer in optimizers]
        for real in unwrapped:
            if not isinstance(real, Optimizer):
                raise ValueError(f"expected optimizers after the model, one by one, got {type(real).__name__}")
        moved = {id(weight) for real in unwrapped for group in real.param_groups for weight in group["params"]}
        for name, weight in weights.items():
            if weight.requires_grad and id(weight) not in moved:
                raise ValueError(
                    f"{name!r} is in the mask, but no optimizer given has it; pass every optimizer of this model, "
                    "made after the model"
                )
        self._weights = dict(weights)
        # Numbers AND -1 keep their bits, numbers AND 0 are +0.0: a product would make -0.0, and NaN of infinity.
        self._bits = {
            name: torch.zeros_like(_bits(weight)).masked_fill_(mask[name].to(weight.device), -1)
            for name, weight in weights.items()
        }
        self._steps = 0
        self._looks = True
        self._after_step()
        self._hooks = [real.register_step_post_hook(self._after_step) for real in unwrapped]

    def remove(self) -> None:
        """Let the weights go: later steps may move them."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _after_step(self, *_: object) -> None:
        odd = []
        for name, weight in self._weights.items():
            if self._bits[name].device != weight.device:
                self._bits[name] = self._bits[name].to(weight.device)
            # A sum that is finite clears a whole layer, in a fraction of the time that looking at each number takes.
            every = _LOOK_EVERY if weight.device.type == "cpu" else _LOOK_SELDOM
            if self._looks and self._steps % every == 0 and not math.isfinite(weight.sum()):
                count = int((~weight.isfinite() & (self._bits[name] == 0)).sum())
                odd += [f"{count} of {name}"] * (count > 0)
            _bits(weight).bitwise_and_(self._bits[name])
        if odd:
            self._looks = False  # said once: a training that diverged stays so
            warnings.warn(
                f"after step {self._steps} pruned weights were NaN or infinite ({', '.join(odd)}) and were set to 0.0; "
                "the training is diverging: lower the learning rate or clip gradients",
                RuntimeWarning,
                stacklevel=2,
            )
        self._steps += 1


def _bits(weight: Tensor) -> Tensor:
    """The same memory as integers."""
    return weight.detach().view(_BITS[weight.element_size()])


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside a wrapper such as Accelerate's or Lightning's, whose own hooks are never called."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
