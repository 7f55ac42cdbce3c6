"""Stand-ins for what a training is given: where it saves, and when it is asked to stop."""

from collections.abc import Mapping

from torch import Tensor


class Kept:
    """Keeps states in memory as they are handed over."""

    def __init__(self) -> None:
        self.states: dict[int, Mapping[str, Tensor]] = {}

    def load_checkpoint(self) -> None:
        return None

    def save_checkpoint(self, iteration: int, seconds: float, state: Mapping[str, Tensor]) -> None:
        pass

    def save_state(self, iteration: int, state: Mapping[str, Tensor]) -> None:
        self.states[iteration] = state


class StopAt:
    """Says yes the nth time it is asked, counting from 0."""

    def __init__(self, call: int | None = None) -> None:
        self.call = call
        self.calls = 0

    def __call__(self) -> bool:
        self.calls += 1
        return self.calls - 1 == self.call
