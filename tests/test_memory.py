"""What a training holds in memory at most, measured in a process of its own, as the benchmark does."""

import json
import os
import subprocess
import sys

from conftest import PROJECT, REAL_DATA

LIMIT = 2e9 / 2**20
"""MiB in 2 GB."""


def test_a_training_of_resnet20_in_the_papers_batches_takes_less_than_2_gb_with_its_images():
    """With CIFAR-10's images where they are there, and as many random ones elsewhere."""
    command = [sys.executable, str(PROJECT / "benchmarks" / "bench.py"), "--only", "resnet20"]
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "LTH_DATA": str(REAL_DATA)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    mebibytes = json.loads(done.stdout)["mebibytes"]
    assert mebibytes > 60_000 * 3 * 32 * 32 / 2**20, "the images alone"
    assert mebibytes < LIMIT
