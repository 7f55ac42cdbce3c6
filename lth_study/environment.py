"""Whole numbers in environment variables, as `torchrun` and users set them."""

from __future__ import annotations

import os

from lth_study.settings import SettingError


def whole_number(name: str, otherwise: int) -> int:
    """The number that an environment variable holds, or `otherwise` if it is unset or empty.

    Raises `SettingError` for anything but digits.
    """
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise SettingError(f"{name}: {text!r} is not a number; expected digits, 0 or more, or unset it")
    return int(text) if text else otherwise
