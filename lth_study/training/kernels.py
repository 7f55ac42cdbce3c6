"""3x3 convolutions with few channels on a GPU, in Triton; `train.prepare` puts them into a network.

With 16 to 64 channels cuDNN is far slower than memory allows, most of all for the gradient of the weights. Its tiles
suit hundreds of channels. Here each program holds all channels of some pixels. Every value is then read once from
memory and nine times from cache. Sums are float32 and always split in the same way, so results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

MOST_CHANNELS = 64
CONVOLVE, TO_IMAGES, TO_WEIGHTS = (128, 4), (128, 4), (64, 2)
"""For each kernel: the pixels in a block, and the warps of a program."""
PARTS = 256
"""The most parts into which the sum over pixels in the gradient of the weights is split."""


@triton.jit
def _convolve(
    images, weights, output, pixels,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, STRIDE: tl.constexpr,
    INS: tl.constexpr, OUTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The output pixels of a convolution. HEIGHT and WIDTH are the input's. INS and OUTS are INPUTS and OUTPUTS rounded
    up to a power of two, at least 16."""
    OUT_HEIGHT: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column, row, image = place % OUT_WIDTH, place // OUT_WIDTH % OUT_HEIGHT, place // (OUT_WIDTH * OUT_HEIGHT)
    inputs, outputs = tl.arange(0, INS), tl.arange(0, OUTS)
    total = tl.zeros([BLOCK, OUTS], tl.float32)
    for tap in tl.static_range(9):
        y, x = row * STRIDE + tap // 3 - 1, column * STRIDE + tap % 3 - 1
        there = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH) & (place < pixels)
        at = (image * HEIGHT + y) * WIDTH + x
        values = tl.load(
            images + at[:, None] * INPUTS + inputs[None, :], mask=there[:, None] & (inputs < INPUTS)[None, :], other=0.0
        )
        filters = tl.load(
            weights + outputs[None, :] * (9 * INPUTS) + tap * INPUTS + inputs[:, None],
            mask=(inputs < INPUTS)[:, None] & (outputs < OUTPUTS)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(values, filters, total)
    tl.store(
        output + place[:, None] * OUTPUTS + outputs[None, :], total.to(output.dtype.element_ty),
        mask=(place < pixels)[:, None] & (outputs < OUTPUTS)[None, :],
    )  # fmt: skip


@triton.jit
def _to_images(
    slopes, weights, output, pixels,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, STRIDE: tl.constexpr,
    INS: tl.constexpr, OUTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to the input's pixels."""
    OUT_HEIGHT: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column, row, image = place % WIDTH, place // WIDTH % HEIGHT, place // (WIDTH * HEIGHT)
    inputs, outputs = tl.arange(0, INS), tl.arange(0, OUTS)
    total = tl.zeros([BLOCK, INS], tl.float32)
    for tap in tl.static_range(9):
        y, x = row + 1 - tap // 3, column + 1 - tap % 3
        there = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH) & (place < pixels)
        there = there & (y % STRIDE == 0) & (x % STRIDE == 0)
        at = (image * OUT_HEIGHT + y // STRIDE) * OUT_WIDTH + x // STRIDE
        values = tl.load(
            slopes + at[:, None] * OUTPUTS + outputs[None, :],
            mask=there[:, None] & (outputs < OUTPUTS)[None, :], other=0.0,
        )  # fmt: skip
        filters = tl.load(
            weights + outputs[:, None] * (9 * INPUTS) + tap * INPUTS + inputs[None, :],
            mask=(outputs < OUTPUTS)[:, None] & (inputs < INPUTS)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(values, filters, total)
    tl.store(
        output + place[:, None] * INPUTS + inputs[None, :], total.to(output.dtype.element_ty),
        mask=(place < pixels)[:, None] & (inputs < INPUTS)[None, :],
    )  # fmt: skip


@triton.jit
def _to_weights(
    images, slopes, output, pixels,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, STRIDE: tl.constexpr,
    INS: tl.constexpr, OUTS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One part of the gradient of the weights: one row of taps, summed over BLOCKS blocks of output pixels."""
    OUT_HEIGHT: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    tap_row, part = tl.program_id(0), tl.program_id(1)
    inputs, outputs = tl.arange(0, INS), tl.arange(0, OUTS)
    left = tl.zeros([OUTS, INS], tl.float32)
    middle = tl.zeros([OUTS, INS], tl.float32)
    right = tl.zeros([OUTS, INS], tl.float32)
    for block in range(BLOCKS):
        place = (part * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        column, row, image = place % OUT_WIDTH, place // OUT_WIDTH % OUT_HEIGHT, place // (OUT_WIDTH * OUT_HEIGHT)
        slope = tl.load(
            slopes + place[:, None] * OUTPUTS + outputs[None, :],
            mask=(place < pixels)[:, None] & (outputs < OUTPUTS)[None, :], other=0.0,
        )  # fmt: skip
        slope = tl.trans(slope)
        y, x = row * STRIDE + tap_row - 1, column * STRIDE
        there = (y >= 0) & (y < HEIGHT) & (place < pixels)
        start = images + ((image * HEIGHT + y) * WIDTH + x)[:, None] * INPUTS + inputs[None, :]
        known = (inputs < INPUTS)[None, :]
        left = tl.dot(slope, tl.load(start - INPUTS, mask=(there & (x > 0))[:, None] & known, other=0.0), left)
        middle = tl.dot(slope, tl.load(start, mask=there[:, None] & known, other=0.0), middle)
        right = tl.dot(
            slope, tl.load(start + INPUTS, mask=(there & (x < WIDTH - 1))[:, None] & known, other=0.0), right
        )
    to = output + part * (9 * OUTPUTS * INPUTS) + outputs[:, None] * (9 * INPUTS) + tap_row * 3 * INPUTS
    to += inputs[None, :]
    known = (outputs < OUTPUTS)[:, None] & (inputs < INPUTS)[None, :]
    tl.store(to, left, mask=known)
    tl.store(to + INPUTS, middle, mask=known)
    tl.store(to + 2 * INPUTS, right, mask=known)


def _sizes(images: Tensor, weights: Tensor, stride: int) -> dict[str, int]:
    """The sizes for which the kernels are compiled."""
    outputs, inputs = weights.shape[:2]
    return {
        "HEIGHT": images.shape[2], "WIDTH": images.shape[3], "INPUTS": inputs, "OUTPUTS": outputs, "STRIDE": stride,
        "INS": max(16, triton.next_power_of_2(inputs)), "OUTS": max(16, triton.next_power_of_2(outputs)),
    }  # fmt: skip


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("lth_core::convolve", mutates_args=())
def convolve(images: Tensor, weights: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with padding 1 and at most `MOST_CHANNELS` channels. Images are [batch, inputs, height, width],
    weights [outputs, inputs, 3, 3]. Both are bfloat16, or both are float32 and multiplied as TF32."""
    images, weights = _last(images), _last(weights)
    output = convolve_fake(images, weights, stride)
    pixels = output.numel() // output.shape[1]
    _convolve[(triton.cdiv(pixels, CONVOLVE[0]),)](
        images, weights, output, pixels, **_sizes(images, weights, stride), BLOCK=CONVOLVE[0], num_warps=CONVOLVE[1]
    )
    return output


@convolve.register_fake
def convolve_fake(images: Tensor, weights: Tensor, stride: int) -> Tensor:
    batch, _, height, width = images.shape
    shape = (batch, weights.shape[0], (height - 1) // stride + 1, (width - 1) // stride + 1)
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)


@torch.library.custom_op("lth_core::convolve_to_images", mutates_args=())
def to_images(slopes: Tensor, weights: Tensor, images: Tensor, stride: int) -> Tensor:
    """The gradient with respect to a convolution's images; `slopes` is the gradient with respect to its output."""
    slopes, weights = _last(slopes), _last(weights)
    output = torch.empty_like(images, memory_format=torch.channels_last)
    pixels = output.numel() // output.shape[1]
    _to_images[(triton.cdiv(pixels, TO_IMAGES[0]),)](
        slopes, weights, output, pixels, **_sizes(images, weights, stride), BLOCK=TO_IMAGES[0], num_warps=TO_IMAGES[1]
    )
    return output


@to_images.register_fake
def _(slopes: Tensor, weights: Tensor, images: Tensor, stride: int) -> Tensor:
    return torch.empty_like(images, memory_format=torch.channels_last)


@torch.library.custom_op("lth_core::convolve_to_weights", mutates_args=())
def to_weights(slopes: Tensor, images: Tensor, weights: Tensor, stride: int) -> Tensor:
    """The gradient with respect to the weights, as parts to add up: float32 [parts, outputs, 3, 3, inputs]."""
    slopes, images = _last(slopes), _last(images)
    output = _parts(slopes, weights)
    pixels = slopes.numel() // slopes.shape[1]
    _to_weights[(3, len(output))](
        images, slopes, output, pixels, **_sizes(images, weights, stride), BLOCK=TO_WEIGHTS[0],
        BLOCKS=_blocks(pixels), num_warps=TO_WEIGHTS[1] if weights.shape[0] < MOST_CHANNELS else 2 * TO_WEIGHTS[1],
    )  # fmt: skip
    return output


def _blocks(pixels: int) -> int:
    """The blocks of pixels that one program of `_to_weights` sums over."""
    return max(2, triton.cdiv(pixels, PARTS * TO_WEIGHTS[0]))


def _parts(slopes: Tensor, weights: Tensor) -> Tensor:
    pixels = slopes.numel() // slopes.shape[1]
    parts = triton.cdiv(pixels, _blocks(pixels) * TO_WEIGHTS[0])
    return torch.empty((parts, weights.shape[0], 3, 3, weights.shape[1]), dtype=torch.float32, device=slopes.device)


@to_weights.register_fake
def _(slopes: Tensor, images: Tensor, weights: Tensor, stride: int) -> Tensor:
    return _parts(slopes, weights)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    images, weights, ctx.stride = inputs
    ctx.save_for_backward(images, weights)


def _backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor, None]:
    images, weights = ctx.saved_tensors
    to = to_images(slopes, weights, images, ctx.stride) if ctx.needs_input_grad[0] else None
    filters = to_weights(slopes, images, weights, ctx.stride).sum(0).permute(0, 3, 1, 2)
    return to, filters.to(weights.dtype), None


convolve.register_autograd(_backward, setup_context=_setup)


class FewChannels(nn.Conv2d):
    """A convolution computed by these kernels: in bfloat16 under autocast, else in TF32."""

    def forward(self, images: Tensor) -> Tensor:
        precision = torch.bfloat16 if torch.is_autocast_enabled("cuda") else torch.float32
        output: Tensor = convolve(images.to(precision), self.weight.to(precision), self.stride[0])
        return output


def use_kernels(model: nn.Module) -> None:
    """Make every convolution of a network that these kernels can compute a `FewChannels`."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and (module.kernel_size, module.padding, module.groups, module.bias) == ((3, 3), (1, 1), 1, None)
            and module.stride in ((1, 1), (2, 2))
            and max(module.in_channels, module.out_channels) <= MOST_CHANNELS
        ):
            module.__class__ = FewChannels
