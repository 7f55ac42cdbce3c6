"""What a mask leaves of a model: parameters, multiply-adds and bytes; `Mask.summary` is the way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a model is called with: one argument, a tuple of arguments, or keyword arguments."""

_LIBRARIES: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)


class Part(NamedTuple):
    """What a mask leaves of a weight, of all that it masks, or of a model. Multiply-adds are None without an example.

    A parameter is non-zero here if it is not pruned, even where its value is 0.
    """

    name: str
    parameters: int
    nonzero: int
    multiply_adds: int | None = None
    nonzero_multiply_adds: int | None = None

    @property
    def density(self) -> float:
        """The fraction of the parameters that is left; 1.0 of none."""
        return self.nonzero / self.parameters if self.parameters else 1.0


@dataclass(frozen=True)
class Summary:
    """What a mask leaves of a model. Printed, it is a table; a notebook also draws the density of every layer."""

    layers: tuple[Part, ...]
    """Every masked weight, in the order of the mask."""
    masked: Part
    """All of them together."""
    model: Part
    """Everything: biases too, and multiply-adds with no masked weight in them, such as attention's scores."""
    dense_bytes: int
    """Of the model's state dict, without the header of a file."""
    sparse_bytes: int
    """The same, but of every masked weight only its non-zero values, and one bit for each entry."""

    def __str__(self) -> str:
        return self._table(self.layers)

    def _table(self, layers: Iterable[Part]) -> str:
        size = Part("bytes on disk", self.dense_bytes, self.sparse_bytes)
        rows = [["", "dense", "non-zero", "density", "multiply-adds", "non-zero"]]
        for part in [*layers, self.masked, self.model, size]:
            name, *counts = part
            dense, nonzero, *multiply_adds = ["" if count is None else f"{count:,}" for count in counts]
            rows.append([name, dense, nonzero, _percent(part), *multiply_adds])
        if self.model.multiply_adds is None:
            rows = [row[:4] for row in rows]
        width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = ["  ".join([name.ljust(width), *map(str.rjust, cells, widths)]).rstrip() for name, *cells in rows]
        if unseen := [layer.name for layer in self.layers if layer.multiply_adds == 0]:
            lines.append(
                f"no multiply-adds counted: {', '.join(unseen)}; not used, or in ways that torch does not count"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        left = 8 * max((len(layer.name) for layer in self.layers), default=0)
        width, height = left + 320, 20 * len(self.layers)
        bars = [
            f'<g transform="translate({left} {20 * row})">'
            f"<title>{escape(layer.name)}: {layer.nonzero:,} of {layer.parameters:,}</title>"
            f'<text y="14" text-anchor="end">{escape(layer.name)}</text>'
            f'<rect x="8" y="3" width="240" height="14" opacity="0.15"/>'
            f'<rect x="8" y="3" width="{240 * layer.density:.2f}" height="14" opacity="0.7"/>'
            f'<text x="256" y="14">{_percent(layer)}</text></g>'
            for row, layer in enumerate(self.layers)
        ]
        label = escape("Density by layer: " + ", ".join(f"{layer.name} {_percent(layer)}" for layer in self.layers))
        return (
            f'<pre>{escape(self._table([]))}</pre>\n<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'aria-label="{label}" width="{width}" viewBox="0 0 {width} {height}" style="max-width: 100%" '
            f'fill="currentColor" font-family="monospace" font-size="13">{"".join(bars)}</svg>'
        )


def _percent(part: Part) -> str:
    return f"{100 * part.density:.3g}%"


def summarise(
    kept: Mapping[str, Tensor], weights: Mapping[str, Tensor], model: nn.Module, example: Example | None
) -> Summary:
    """The summary of a bare model, whose weights of these names are kept where a bool tensor of that name is True."""
    total, uses = (0, {}) if example is None else _multiply_adds(model, weights, example)
    counts = {}
    state = {id(value): value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    dense_bytes = sparse_bytes = sum(value.numel() * value.element_size() for value in state.values())
    for name, weight in weights.items():
        size, nonzero, dense = weight.numel(), int(kept[name].sum()), uses.get(name, 0)
        counts[name] = size, nonzero, dense, dense * nonzero // max(size, 1)
        sparse_bytes += nonzero * weight.element_size() + (size + 7) // 8 - weight.nbytes
    masked = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0, 0, 0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    everything = parameters, parameters - masked[0] + masked[1], total, total - masked[2] + masked[3]
    known = 2 if example is None else 4
    layers = tuple(Part(name, *row[:known]) for name, row in counts.items())
    both = Part("masked weights", *masked[:known]), Part("parameters", *everything[:known])
    return Summary(layers, *both, dense_bytes, sparse_bytes)


def _multiply_adds(model: nn.Module, weights: Mapping[str, Tensor], example: Example) -> tuple[int, dict[str, int]]:
    """Multiply-adds of one call of a model: all of them, and those of every weight that has any."""
    training = {module: module.training for module in model.modules()}
    enabled, fast = [library.enabled for library in _LIBRARIES], torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    uses = _Uses(counter, model, weights)
    try:
        for module in training:
            module.training = False  # not eval(), as a class may make that do more
        # The counter takes fused attention and recurrent layers for nothing; without the fusion it sees their products.
        torch.backends.mha.set_fastpath_enabled(False)
        _enable([False, False])
        with torch.inference_mode(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, uses:
            if isinstance(example, Mapping):
                model(**example)
            else:
                model(*(example if type(example) is tuple else [example]))  # a PackedSequence is one argument
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        _enable(enabled)
        for module, was in training.items():
            module.training = was
    return counter.get_total_flops() // 2, {name: flops // 2 for name, flops in uses.flops.items()}


def _enable(values: Sequence[bool]) -> None:
    """Turn oneDNN and cuDNN on or off."""
    for library, value in zip(_LIBRARIES, values, strict=True):
        library.enabled = value


class _Uses(TorchDispatchMode):
    """Adds what a counter counts in every operation to the weight that is in it."""

    supports_higher_order_operators = True

    def __init__(self, counter: FlopCounterMode, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.flops: dict[str, int] = {}
        self._counter, self._enabled = counter, [library.enabled for library in _LIBRARIES]
        self._made: list[Tensor] = []
        self._ranges: dict[int, list[tuple[int, int, str]]] = {}
        for name, tensor in [*weights.items(), *(("", t) for t in [*model.parameters(), *model.buffers()])]:
            self._add(name, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._counter.get_total_flops()
        _enable(self._enabled)  # a convolution may be fast; a recurrent layer is in pieces by now
        out = func(*args, **(kwargs or {}))
        _enable([False, False])
        flops = self._counter.get_total_flops() - before
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = [self._name(tensor) for tensor in tensors]
        if flops:
            for name in [name for name in names if name][-1:]:
                self.flops[name] = self.flops.get(name, 0) + flops
        elif names and None not in names:
            # What weight norm, a cast or pruning makes of a weight stands for it: as many numbers, in other memory.
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor) and self._name(leaf) is None:
                    like = (name for name, t in zip(names, tensors, strict=True) if t.numel() == leaf.numel())
                    self._add(next(filter(None, like), ""), leaf)
        return out

    def _add(self, name: str, tensor: Tensor) -> None:
        if tensor.layout == torch.strided:
            self._made.append(tensor)  # kept alive, as another tensor could get its memory
            start = int(tensor.storage_offset())
            ranges = self._ranges.setdefault(tensor.untyped_storage()._cdata, [])
            ranges.append((start, start + tensor.numel(), name))

    def _name(self, tensor: Tensor) -> str | None:
        """The masked weight that a tensor is, views or stands for; "" for what else is the model's; None for data."""
        ranges = self._ranges.get(tensor.untyped_storage()._cdata, []) if tensor.layout == torch.strided else []
        return next((name for start, stop, name in ranges if start <= tensor.storage_offset() < stop), None)
