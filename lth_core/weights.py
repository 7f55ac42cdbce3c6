"""Which weights of a network are pruned, and the names that they go by.

A mask's names are those of the bare network. `DataParallel`, `DistributedDataParallel` and `torch.compile` put prefixes
before them (`module.`, `_orig_mod.`); a mask fits a state dict with or without them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.swa_utils import AveragedModel

Choice = str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool]
"""Parameters. A name or a pattern of names (`fnmatch`); "head" is all in it too. A module or a type of module: all in
it. Or a function of a parameter's name and its module."""

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_PREFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LAYERS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.modules.conv._ConvNd)
"""Layers whose weights are pruned whatever a subclass of them is called."""
_ZEROS_STAY = (parametrizations._WeightNorm, parametrizations._SpectralNorm)

# Other people's classes are known by their names: LlamaRMSNorm and LayerNormalization, but not WeightNormLinear.
_EMBEDDING = re.compile(r"Embed(?!\w*Mixin)|Position(?!wise)")
_NORMALISATION = re.compile(r"(?<!Weight)(?<!Spectral)Norm(ali[sz]ation)?(?![a-z])")
_WEIGHT = re.compile(r"weight|weight_.*|.*_weight")
_NO_WEIGHT = re.compile(r"(.*_)?(pos|position|positional|embed|embedding|norm|class|cls)_.*")

_EMBEDDED = "an embedding or position table"
_TIED = "an embedding shares it"
_SCALE = "the scale of a weight norm"
_COMPLEX = "complex numbers"


class Prunable(dict[str, Tensor]):
    """The weights to prune, by name. Printed, it says what is pruned and what is left out."""

    def __init__(self, weights: Mapping[str, Tensor], left_out: Mapping[str, str], shared: Mapping[str, str]) -> None:
        super().__init__(weights)
        self.left_out = dict(left_out)
        """The name of every other parameter -> why it is left out."""
        self.shared = dict(shared)
        """Every further name of a weight that several layers share -> the name that it has here."""

    def __repr__(self) -> str:
        width = max(map(len, [*self, *self.left_out]), default=0)
        chosen = [f"  {name:{width}}  {' x '.join(map(str, weight.shape))}" for name, weight in self.items()]
        others = [f"  {name:{width}}  {why}" for name, why in self.left_out.items()]
        count = sum(weight.numel() for weight in self.values())
        return "\n".join([f"to prune, {count:,} weights:", *chosen, f"left out, {len(others)} parameters:", *others])


def prunable(
    model: nn.Module, *, include: Choice | Iterable[Choice] = (), exclude: Choice | Iterable[Choice] = ()
) -> Prunable:
    """The weights of a model that may be pruned, by the names of the bare network, and why the others are left out.

    They are the weights of linear and convolutional layers of every kind, of attention (packed or apart) and of
    recurrent layers. In other classes: parameters named `weight`, `weight_*` or `*_weight` with two or more dimensions.
    Never biases, normalisation, embeddings, position tables, class tokens and frozen weights. A weight that several
    layers share is there once, by its first name. One that is shared with an embedding is left out, with a warning.

    Under weight or spectral norm it is the stored entry whose zeros make the zeros of the weight, `weight_v` say. (A
    row that weight norm scales must keep a weight: torch divides by its length.) Other parametrizations are left out.

    A model can choose by itself with a method `prunable()` that returns names. `exclude` then takes weights away.
    `include` adds what the rules leave out, an embedding say; vectors, complex and frozen weights stay out. To prune
    nothing but convolutions: `exclude=lambda name, module: not isinstance(module, nn.Conv2d)`.

    Raises `ValueError` for a parameter without a shape yet (lazy modules), and for a pattern or type that matches
    nothing. So it does for a name of the model's `prunable()` that is no parameter.
    """
    model = bare(model)
    places: dict[int, list[_Place]] = {}
    for place in _places(model):
        if is_lazy(place.parameter):
            raise ValueError(
                f"{place.name!r} has no shape yet, as {type(place.owner).__name__} is lazy; pass one batch through the "
                "model before you make its mask"
            )
        places.setdefault(id(place.parameter), []).append(place)
    weights = list(places.values())
    first = {place.name: shared[0].name for shared in weights for place in shared}
    own = getattr(model, "prunable", None)
    named = [_plain(name, _PREFIXES) for name in own()] if callable(own) else None
    if unknown := [name for name in named or () if name not in first]:
        raise ValueError(f"the model's prunable() names {unknown}, but it has no such parameters")
    wanted = [first[name] for name in named or ()]
    added, taken = _matched("include", include, weights), _matched("exclude", exclude, weights)
    chosen: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for shared in weights:
        name, parameter = shared[0].name, shared[0].parameter
        why = _why_not(shared) if named is None else None if name in wanted else "not named by the model's prunable()"
        if name in added and parameter.dim() > 1 and not parameter.is_complex():
            why = None
        if not why and not parameter.requires_grad:
            why = "frozen: requires_grad is False"
        if name in taken:
            why = "excluded"
        if not why:
            chosen[name] = parameter
            continue
        left_out[name] = why
        if why.startswith(_TIED):
            warnings.warn(
                f"{name} is left out of the mask: {why}. To prune it, include={name!r}; to leave it out without this "
                f"warning, exclude={name!r}",
                stacklevel=2,
            )
    return Prunable(
        {name: chosen[name] for name in [*wanted, *chosen] if name in chosen},
        left_out,
        {other: name for other, name in first.items() if other != name and name in chosen},
    )


Held = TypeVar("Held")


def under_names(weights: Mapping[str, Held], names: Iterable[str]) -> dict[str, Held]:
    """What a state holds under these names, whatever prefixes wrappers gave it. A name that it lacks is left out."""
    by_plain: dict[str, list[str]] = {}
    for key in weights:
        by_plain.setdefault(_plain(key), []).append(key)
    found = {name: [name] if name in weights else by_plain.get(_plain(name), []) for name in names}
    return {name: weights[keys[0]] for name, keys in found.items() if len(keys) == 1}


def named_as(weights: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A state under the names that these weights have, whatever prefixes wrappers gave it."""
    names = under_names({name: name for name in weights}, state)
    return {names.get(name, name): value for name, value in state.items()}


class _Place(NamedTuple):
    """Where a parameter is: its name, the module that uses it, and the tensor that it is there for."""

    name: str
    owner: nn.Module
    key: str
    parameter: nn.Parameter
    obstacle: str | None
    """Why the zeros of this entry do not make zeros of the tensor."""
    owners: tuple[nn.Module, ...]
    """The modules around it, itself among them."""


def bare(model: nn.Module) -> nn.Module:
    """The network inside wrappers."""
    while True:
        inner = next((model._modules[name] for name in _PREFIXES if name in model._modules), None)
        if isinstance(model, _WRAPPERS):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _plain(name: str, prefixes: tuple[str, ...] = ("module", *_PREFIXES)) -> str:
    return ".".join(part for part in name.split(".") if part not in prefixes)


def _places(model: nn.Module) -> Iterator[_Place]:
    modules = {_plain(path, _PREFIXES): module for path, module in model.named_modules(remove_duplicate=False)}
    for path, module in modules.items():
        if isinstance(module, ParametrizationList):
            continue  # what it stores belongs to the module that it parametrises
        parts = path.split(".") if path else []
        owners = tuple(modules[".".join(parts[:depth])] for depth in range(len(parts) + 1))
        stored = [(key, parameter, *_made_by_hooks(module, key)) for key, parameter in module._parameters.items()]
        lists = cast(Mapping[str, ParametrizationList], module._modules.get("parametrizations") or {})
        for made, kinds in lists.items():
            others = [type(kind).__name__ for kind in kinds if not isinstance(kind, _ZEROS_STAY)]
            direction = "original1" if isinstance(kinds[0], parametrizations._WeightNorm) else "original"
            for key, parameter in kinds._parameters.items():
                obstacle = f"made by {', '.join(others)}, whose zeros are others" if others else None
                obstacle = obstacle or (_SCALE if key != direction else None)
                stored.append((f"parametrizations.{made}.{key}", parameter, made, obstacle))
        for key, parameter, made, obstacle in stored:
            if parameter is not None:
                yield _Place(".".join([*parts, key]), module, made, parameter, obstacle, owners)


def _made_by_hooks(module: nn.Module, key: str) -> tuple[str, str | None]:
    """The tensor that a hook makes of a parameter: `weight_norm` of two, torch's older `spectral_norm` and pruning."""
    for suffix in ("_g", "_v", "_orig"):
        made = key.removesuffix(suffix)
        if made != key and made not in module._parameters and isinstance(getattr(module, made, None), Tensor):
            return made, _SCALE if suffix == "_g" else None
    return key, None


def _why_not(shared: list[_Place]) -> str | None:
    """Why the rules leave a weight out that is in these places, whether it is frozen or not; None if they do not."""
    whys = {place.name: _why_not_here(place) for place in shared}
    layers = [name for name, why in whys.items() if why is None]
    if layers and _EMBEDDED in whys.values():
        return f"{_TIED} with {', '.join(layers)}"
    return None if layers else whys[shared[0].name]


def _why_not_here(place: _Place) -> str | None:
    kinds = [] if isinstance(place.owner, _LAYERS) else [kind.__name__ for kind in type(place.owner).__mro__]
    if any(map(_EMBEDDING.search, kinds)):
        return _EMBEDDED
    if any(map(_NORMALISATION.search, kinds)):
        return "normalisation"
    if "bias" in place.key:
        return "a bias"
    if place.parameter.is_complex():
        return _COMPLEX
    if not _WEIGHT.fullmatch(place.key) or (kinds and _NO_WEIGHT.fullmatch(place.key)):
        return "not named weight, weight_* or *_weight"
    return place.obstacle or ("fewer than two dimensions" if place.parameter.dim() < 2 else None)


def _matched(argument: str, choices: Choice | Iterable[Choice], weights: list[list[_Place]]) -> set[str]:
    """The first names of the weights that any of the choices matches."""
    several = not isinstance(choices, (str, type, nn.Module, Tensor)) and isinstance(choices, Iterable)
    matched: set[str] = set()
    for choice in cast(Iterable[Choice], choices) if several else [cast(Choice, choices)]:
        if not isinstance(choice, str) and not callable(choice):
            raise ValueError(
                f"{argument}={choice!r} is no choice; expected a name, a module, a type of module, or a function of a "
                "name and its module"
            )
        found = {shared[0].name for shared in weights if any(_matches(choice, place) for place in shared)}
        if not found and isinstance(choice, (str, type, nn.Module)):
            raise ValueError(
                f"{argument}={choice!r} matches none of the model's parameters; print(prunable(model)) lists them"
            )
        matched |= found
    return matched


def _matches(choice: Choice, place: _Place) -> bool:
    if isinstance(choice, str):
        return fnmatchcase(place.name, choice) or fnmatchcase(place.name, f"{choice}.*")
    if isinstance(choice, type):
        return any(isinstance(owner, choice) for owner in place.owners)
    if isinstance(choice, nn.Module):
        return choice in place.owners
    return bool(choice(place.name, place.owner))
