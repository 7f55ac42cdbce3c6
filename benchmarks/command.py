"""How long the command line takes to answer: `lth --help`, and `lth run` where nothing is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from common import Row, interleaved, row, timed

SMALL = ("run", "lenet_300_100", "--profile", "smoke", "--figure", "stability", "--rewinds", "0", "--levels", "1",
         "--dataset", "mnist_embedded")  # fmt: skip


def rows(rounds: int) -> list[Row]:
    """Seconds from starting a process to its end."""
    with TemporaryDirectory() as folder:
        environment = {**os.environ, "LTH_STORE": f"{folder}/store", "LTH_RESULTS": f"{folder}/results"}

        def lth(*arguments: str) -> None:
            command = [sys.executable, "-m", "lth_study", *arguments]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

        lth(*SMALL)  # from here on nothing is missing
        variants = {
            "lth --help": timed(lambda: lth("--help")),
            "lth run, nothing missing": timed(lambda: lth(*SMALL)),
        }
        seconds = interleaved(variants, rounds)
    return [row(f"{name} (s)", "s", seconds[name]) for name in seconds.columns]
