"""JSON and checksummed tensor files for the store, records and data caches: never half written, never read damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor

CHECKED, SHA256 = "checked", "sha256"
"""The keys that `write_json` adds."""
LOCK = ".lock"
"""The file that a process locks to have a folder for itself. It names the process that locked it last."""


class StoreError(RuntimeError):
    """The store cannot be used. The message names the file and the reason."""


class Damaged(StoreError):
    """A file is missing, truncated or altered. Its content must be computed again."""


def project_folder() -> Path:
    """The checkout that holds this package; the current folder if the package is installed without a checkout."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def write_state(path: Path, state: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors and notes about them as safetensors, with a checksum over both."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        content = save(tensors, {**(about or {}), "sha256": _checksum(tensors, about or {})})
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise MemoryError(f"{path}: {error}") from None  # so Rust reports that Python has no memory for the bytes
    write_atomic(path, content)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and notes of a file.

    Raises `Damaged` if the file is missing, truncated or altered, and `StoreError` if it cannot be read now.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb"), safe_open(path, "pt") as file:  # `open` gives the reason if the file cannot be opened
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error})") from None
    if about.pop("sha256", None) != _checksum(tensors, about):
        raise Damaged(f"{path} is damaged: its contents do not match its checksum")
    return tensors, about


def write_atomic(path: Path, content: bytes) -> None:
    """Write a temporary file and rename it to `path`: readers see the old file or the whole new one, never a part."""
    from lth_core import states

    make_folder(path.parent)
    try:
        states.write_atomic(path, content)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}. Finished results are kept; remove the cause and run again"
        ) from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with a checksum over it. `checked` says that there is one, so that neither name can be lost alone."""
    kept = {**content, CHECKED: True}
    write_atomic(path, json.dumps({**kept, SHA256: _digest(kept)}, indent=1).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, or JSON from before it kept a checksum.

    Raises `Damaged` if the file is missing, truncated or altered, and `StoreError` if it cannot be read now.
    """
    again = "delete it and run again: the run computes its content again"
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as error:
        kind = Damaged if isinstance(error, FileNotFoundError) else StoreError
        raise kind(f"{path} cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({error}); {again}") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} holds no JSON object; {again}")
    if not {CHECKED, SHA256}.isdisjoint(content):
        found = content.pop(SHA256, None)
        if found != _digest(content) or not content.pop(CHECKED, None):
            raise Damaged(f"{path} is damaged: its contents do not match its checksum; {again}")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {error.strerror}; choose another folder") from None


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a folder's lock. If another process holds it, wait for it, or without `wait` raise filelock's `Timeout`.

    The system frees the lock of a process that is gone. A lock file without the system's lock would stay for ever.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        reason = "its file system has no locks" if error.errno == errno.ENOSYS else error.strerror
        raise StoreError(f"cannot write into the folder {folder}: {reason}; choose another one") from None
    try:
        with suppress(OSError):  # only a message needs it
            (folder / LOCK).write_text(f"{os.getpid()} {os.getppid()} {platform.node()}")
        yield
    finally:
        lock.release()


def holder(folder: Path) -> str:
    """The process that holds a folder's lock: "process 12 on HOST". Empty if it is this one or a helper of it."""
    with suppress(OSError, ValueError):
        process, parent, host = (folder / LOCK).read_text().split(" ", 2)
        own = host == platform.node() and str(os.getpid()) in (process, parent)
        return "" if own else f"process {process} on {host}"
    return "another process"


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(-1).numpy().data)
    for name in sorted(about):
        digest.update(f"{name}={about[name]};".encode())
    return digest.hexdigest()
