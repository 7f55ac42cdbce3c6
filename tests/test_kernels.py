"""The study's own kernels against convolutions in double precision, by Triton's interpreter: no GPU is needed."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT

pytest.importorskip("triton", reason="needs Triton, which torch has where it supports GPUs")

COMPARISON = """
import torch
from torch.nn import functional as F
from lth_study.training.kernels import FewChannels, convolve, use_kernels

torch.manual_seed(0)
for inputs, outputs, stride, side, batch in {shapes}:
    images = torch.randn(batch, inputs, side, side, requires_grad=True)
    weights = torch.randn(outputs, inputs, 3, 3, requires_grad=True)
    output = convolve(images, weights, stride)
    slopes = torch.randn(output.shape)
    found = output, *torch.autograd.grad(output, (images, weights), slopes)
    exact = images.detach().double().requires_grad_(), weights.detach().double().requires_grad_()
    expected = F.conv2d(*exact, stride=stride, padding=1)
    expected = expected, *torch.autograd.grad(expected, exact, slopes.double())
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one.double() - other).norm() / other.norm()) < 1e-6, (inputs, outputs, stride, side)
    alone = torch.autograd.grad(convolve(images.detach(), weights, stride), weights, slopes)[0]
    assert torch.equal(alone, found[2])

model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.Conv2d(8, 8, 1, bias=False),
    torch.nn.Conv2d(8, 65, 3, padding=1, bias=False), torch.nn.Conv2d(65, 8, 3, padding=1),
)
images, expected = torch.randn(2, 3, 6, 6), [type(module) for module in model]
before = model(images)
use_kernels(model)
assert [type(module) is FewChannels for module in model] == [True, False, False, False]
torch.testing.assert_close(model(images), before)
"""


def test_convolutions_and_their_gradients_are_those_of_double_precision():
    """Inputs, outputs, stride, side, batch: the stem, both strides, odd sides, channels that are no power of two."""
    shapes = "[(3, 16, 1, 8, 3), (16, 32, 2, 8, 3), (12, 12, 1, 5, 2), (16, 24, 2, 7, 2), (64, 64, 1, 4, 5)]"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", COMPARISON.replace("{shapes}", shapes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
