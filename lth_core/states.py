"""States as files: nested dictionaries, lists and tensors, one safetensors file each, so one rename makes all valid.

A JSON tree in the header says where each tensor belongs. There is no pickle, so reading runs no code.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Weights = Mapping[str, Any]
"""A state: tensors by name, and whatever else training goes on from (a nested state dict of an optimiser, a number)."""

_FOREIGN = re.compile(rb"PK\x03\x04|\x93NUMPY|\x80[\x02-\x05][^\x00]")
"""How files of `torch.save` and of numpy begin, and pickles; a safetensors file's length may begin with 0x80 too."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def copied(state: Any, copies: dict[object, tuple[Tensor, Tensor]] | None = None) -> Any:
    """A deep copy, with mappings as dictionaries. Tensors that are one in `state` are one in the copy."""
    copies = {} if copies is None else copies
    if isinstance(state, Tensor):
        if _memory(state) not in copies:  # kept with its copy: while it lives, no other tensor gets its memory
            copies[_memory(state)] = state, state.detach().clone()
        return copies[_memory(state)][1]
    if isinstance(state, Mapping):
        return {key: copied(value, copies) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(copied(value, copies) for value in state)
    return copy.deepcopy(state)


def fingerprint(state: Weights) -> str:
    """The SHA-256 of all that a state holds."""
    return _checksum(*_encoded(state, {}))


def write_state(path: Path, state: Weights, mask: Mapping[str, Tensor] | None = None) -> str:
    """Write a state, whole or not at all, and return its fingerprint.

    A tensor of a mask's shape that is 0.0 wherever that mask prunes is stored as its other values: a -0.0 there is
    kept, and makes the tensor dense. Boolean tensors are stored as bits. Raises `ValueError` for what cannot be kept.
    """
    tensors, tree = _encoded(state, dict(mask or {}))
    checksum = _checksum(tensors, tree)
    try:
        write_atomic(path, save(tensors, {"tree": tree, "sha256": checksum}))
    except KeyError as error:
        raise ValueError(f"{path}: tensors of {error} cannot be written; convert them first") from None
    return checksum


def read_state(path: Path, mask: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Any], str]:
    """A state that `write_state` wrote under the same mask, on the processor, and its fingerprint.

    Raises `ValueError`, naming the file, if it is missing, cut off, altered, or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file; make or download it again")
    content = path.read_bytes()
    try:
        tensors = load(content)
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        tree = about["tree"]
        if about["sha256"] != _checksum(tensors, tree):
            raise ValueError("its content does not match its checksum")
        state = dict(_decoded(json.loads(tree), tensors, dict(mask or {})))
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"lacks {error}" if isinstance(error, LookupError) else error
        what, remedy = "damaged, or not a file of lth_core", "delete it, and make or download it again"
        if _FOREIGN.match(content) or reason in ("lacks '__metadata__'", "lacks 'tree'"):
            what, remedy = "not a file of lth_core", "load_mask or load_state may read it, or make or download it again"
        raise ValueError(f"{path} is {what} ({reason}); {remedy}") from None
    return state, about["sha256"]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a temporary file and rename it: whoever reads sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:  # never through a link that lies there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _memory(tensor: Tensor) -> object:
    """Equal for two tensors that are one: a weight of two layers. Empty tensors have no memory to share."""
    if not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _raw(tensor: Tensor) -> Tensor:
    """The same memory as integers: these tell -0.0 from 0.0, and keep the payload of NaN."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def _encoded(state: Any, mask: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors to store by key, and the JSON tree.

    JSON's values and lists stand for themselves. Objects stand for the rest: `{"tensor": key}`, with the name of the
    `"mask"` that it survives, or its shape as `"bits"`, the first in the highest; `"dict"`; `"tuple"`; `"bytes"`.
    """
    tensors: dict[str, Tensor] = {}
    leaves: dict[object, dict[str, Any]] = {}  # by memory: what is one tensor is stored once
    held: list[Tensor] = []  # while a tensor lives, no other one gets its memory

    def leaf(tensor: Tensor, path: Sequence[str]) -> dict[str, Any]:
        key = "/".join(path)
        while key in tensors or key == "__metadata__":
            key += "'"
        if tensor.dtype == torch.bool:
            tensors[key] = torch.from_numpy(np.packbits(tensor.flatten().numpy()))
            return {"tensor": key, "bits": list(tensor.shape)}
        for name in (*path[-1:], *mask):
            kept = mask.get(name)
            if kept is None or kept.shape != tensor.shape or tensor.element_size() not in _INTEGERS:
                continue
            if not bool(_raw(tensor)[~kept].any()):
                tensors[key] = _raw(tensor)[kept].view(tensor.dtype)
                return {"tensor": key, "mask": name}
        tensors[key] = tensor
        return {"tensor": key}

    def node(value: Any, path: Sequence[str]) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor) and value.layout == torch.strided:
            if _memory(value) not in leaves:
                held.append(value)
                leaves[_memory(value)] = leaf(value.detach().cpu().contiguous(), path)
            return leaves[_memory(value)]
        if isinstance(value, Mapping):
            return {"dict": [[node(key, path), node(item, [*path, str(key)])] for key, item in value.items()]}
        if type(value) is bytes:
            return {"bytes": value.decode("latin-1")}
        if type(value) in (list, tuple):
            items = [node(item, [*path, str(i)]) for i, item in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        raise ValueError(
            f"{'/'.join(path)}: a file cannot keep a {type(value).__name__}; give dictionaries, lists, tuples, dense "
            "tensors, numbers, strings, bytes, booleans or None"
        )

    return tensors, json.dumps(node(state, []))


def _decoded(tree: Any, tensors: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Any:
    built: dict[str, Tensor] = {}  # what is one tensor in the file is one again

    def value(node: Any) -> Any:
        if isinstance(node, list):
            return [value(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "tensor" in node:
            if node["tensor"] not in built:
                built[node["tensor"]] = _tensor(tensors[node["tensor"]], node, mask)
            return built[node["tensor"]]
        if "dict" in node:
            return {value(key): value(item) for key, item in node["dict"]}
        return node["bytes"].encode("latin-1") if "bytes" in node else tuple(map(value, node["tuple"]))

    return value(tree)


def _tensor(stored: Tensor, leaf: Mapping[str, Any], mask: Mapping[str, Tensor]) -> Tensor:
    if "bits" in leaf:
        shape = leaf["bits"]
        if any(size < 0 for size in shape) or stored.shape != (-(-math.prod(shape) // 8),):
            raise ValueError(f"{leaf['tensor']!r} holds {stored.numel()} bytes, not the bits of shape {shape}")
        return torch.from_numpy(np.unpackbits(stored.numpy(), count=math.prod(shape))).bool().view(shape)
    if "mask" not in leaf:
        return stored
    kept = mask[leaf["mask"]]
    if stored.shape != (int(kept.sum()),):
        raise ValueError(f"{leaf['tensor']!r} holds {stored.numel()} values, its mask keeps {int(kept.sum())}")
    dense = torch.zeros(kept.shape, dtype=stored.dtype)
    _raw(dense)[kept] = _raw(stored)
    return dense


def _checksum(tensors: Mapping[str, Tensor], tree: str) -> str:
    found = hashlib.sha256(tree.encode())
    for key in sorted(tensors):
        found.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        found.update(tensors[key].flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
