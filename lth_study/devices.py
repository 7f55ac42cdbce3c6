"""What networks are trained on: a processor or a GPU, and how many of them."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from lth_study.ranks import rank_and_count
from lth_study.settings import ConfigError


def compute_device() -> torch.device:
    """Where networks are trained: on the GPU where there is one, unless `LTH_DEVICE` names another device.

    Processes that `torchrun` starts on one machine get a GPU each.
    """
    gpu = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    chosen = os.environ.get("LTH_DEVICE", gpu if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"LTH_DEVICE: {chosen!r} is not a device of this machine ({str(error).splitlines()[0]})"
        ) from None


def device_name() -> str:
    """The GPU; or the processor, with its vector instructions, which decide about rounding. How many, where several
    processes train one network."""
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
    """How many processor cores this process may use: of the machine's, or of its container's share of it."""
    from joblib import cpu_count

    count: int = cpu_count()
    return count
