"""What a training holds in memory at most, measured in a process of its own, as the benchmark does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, REAL_DATA

from lth_study.training.train import check_memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process has used")
def test_near_its_memory_limit_a_process_keeps_nothing_that_it_computed():
    """MKL computes products with other bits where it gets no memory for its buffers, and raises no error."""
    script = """
import resource, sys
from pathlib import Path
import torch
from lth_study.training.train import OutOfMemory, steady_arithmetic

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
try:
    with steady_arithmetic():
        torch.empty(2**26, dtype=torch.uint8)
except (OutOfMemory, RuntimeError) as error:
    print(type(error).__name__, error)
"""
    said = {
        spare: subprocess.run(
            [sys.executable, "-c", script, str(spare)], cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout
        for spare in (40, 100, 300)
    }
    assert re.match("RuntimeError .*memory", said[40]), "torch's own error stays"
    assert re.match(
        r"OutOfMemory memory is too small: this process may use \d+ MiB, and used \d+\..*ulimit -v", said[100]
    )
    assert said[300] == ""


def test_a_system_that_does_not_tell_how_much_memory_was_used_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """As in gVisor's sandboxes."""
    monkeypatch.setattr(Path, "read_text", lambda path: "Name: python\nVmSize: 100 kB\n")
    check_memory()
