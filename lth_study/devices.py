"""The device that trains the networks, its name in records, and the cores; for runner, worker, agenda and readers."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from lth_study.checked import whole_number
from lth_study.ranks import rank_and_count
from lth_study.settings import SettingError


def compute_device() -> torch.device:
    """The device that `LTH_DEVICE` names; by default the GPU, or the processor if there is no GPU.

    Each process that `torchrun` starts on a machine gets its own GPU. Raises `SettingError` for an unknown device.
    """
    gpu = f"cuda:{whole_number('LOCAL_RANK', 0)}" if os.environ.get("LOCAL_RANK") else "cuda"
    chosen = os.environ.get("LTH_DEVICE") or (gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            f"LTH_DEVICE: {chosen!r} is not a device of this machine ({str(error).splitlines()[0]}); name another one"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"LTH_DEVICE: {chosen!r} is not valid; expected cpu, cuda or cuda:N")
    return device


def device_name() -> str:
    """The name of the GPU, or of the processor with its vector instructions: these affect rounding.

    If several processes train one network, their number stands before the name."""
    device = compute_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        with suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
        name = f"{name} ({torch.backends.cpu.get_cpu_capability()})"
    count = rank_and_count()[1]
    return name if count == 1 else f"{count} x {name}"


def cores() -> int:
    """The number of processor cores that the machine, or a limit of its container, gives this process."""
    from joblib import cpu_count

    count: int = cpu_count()
    return count
