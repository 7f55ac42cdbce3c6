"""`Checked`: frozen fields that are checked together, of `settings` and `extents`; and numbers in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator


class SettingError(ValueError):
    """A setting that cannot be run. The message names the value, what was expected and how to fix it."""


class Checked(BaseModel):
    """Frozen fields. One `SettingError` reports every problem with its field and value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @classmethod
    def create(cls, **fields: Any) -> Self:
        """Build it, checking every field. Raises `SettingError`."""
        if unknown := sorted(set(fields) - set(cls.model_fields)):
            raise unknown_setting(unknown, cls.model_fields)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SettingError("; ".join(_explain(problem) for problem in error.errors())) from None

    def updated(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return self.create(**{**dict(self), **changes})


def unknown_setting(names: Iterable[str], known: Iterable[str]) -> SettingError:
    """The error for names that are no setting."""
    return SettingError(f"unknown setting {', '.join(map(repr, names))}; known: {', '.join(known)}")


def whole_number(name: str, otherwise: int) -> int:
    """The number that an environment variable holds, or `otherwise` if it is unset or empty.

    Raises `SettingError` for anything but digits.
    """
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise SettingError(f"{name}: {text!r} is not a number; expected digits, 0 or more, or unset it")
    return int(text) if text else otherwise


def _explain(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    where = ".".join(map(str, problem["loc"]))
    expected = problem["msg"].lower().replace("tuple", "list")  # JSON and notebooks have lists
    if problem["type"] == "tuple_type":
        expected += ", like [1, 2], or 1,2 on a command line"
    return f"{where}: {problem['input']!r} is not valid: {expected}"
