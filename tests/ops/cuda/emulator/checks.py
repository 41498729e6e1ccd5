"""What an emulated convolution gives, against what it should."""

from __future__ import annotations

import torch

from mbu_ops import reference

from .cases import Problem, Stream


def check_bits(library, kernel: str, problem: Problem, **options) -> None:
    threshold, flip = problem.thresholds()
    expected = (problem.dots, threshold, flip)
    bits = problem.bits(library, kernel, threshold, flip, **options)
    assert torch.equal(bits, reference._threshold(*expected))


def random_stream(problem: Problem, seed: int) -> Stream:
    """One of the shapes that a float stream takes, chosen by the seed."""
    random, conv = torch.Generator().manual_seed(seed), problem.conv
    oc, (height, width) = conv.out_channels, conv.output()
    stream = Stream(torch.randn(seed % 3, 2, oc, generator=random), relu=seed % 2 == 0)
    if seed % 4:
        stream.threshold = torch.randn(conv.planes, oc, generator=random)
    stream.dtype = (torch.float32, torch.bfloat16, torch.float16, torch.int8)[seed % 4]
    if seed % 5 == 1:  # two parts, one of them transposed in memory, with more channels than the layer
        parts = torch.randn(conv.batch, height, width, 2 * oc, generator=random).permute(0, 3, 1, 2)
        stream.residual = [parts[:, : oc // 2 + 1], parts[:, oc // 2 + 1 :].contiguous()]
    elif seed % 5 == 2:
        stream.pool = 2
        size = (conv.batch, oc, 2 * height, 2 * width)
        stream.residual = [torch.randn(size, generator=random).to(torch.bfloat16)]
    elif seed % 5 == 3 and height % 2 == 0 and width % 2 == 0:
        stream.upsample = 2
        size = (conv.batch, oc, height // 2, width // 2)
        stream.residual = [torch.randn(size, generator=random).to(torch.float16)]
    elif seed % 5 == 4:  # fewer channels, repeated
        channels = next(n for n in range(1, oc + 1) if oc % n == 0 and n * 2 >= min(oc, 4))
        values = torch.randn(conv.batch, channels, height, width, generator=random)
        stream.residual = [reference.narrow(values, torch.int8)]
    return stream


def check_stream(library, kernel: str, problem: Problem, seed: int, **options) -> None:
    stream = random_stream(problem, seed)
    values, bits = problem.stream(library, kernel, stream, **options)
    expected_values, expected_bits = problem.expected_stream(stream)
    assert torch.equal(values, expected_values)
    assert torch.equal(bits, expected_bits)


def check_head(library, kernel: str, problem: Problem, seed: int, **options) -> None:
    """Numbers are integers small enough that sums in any order are exact."""
    random, oc = torch.Generator().manual_seed(seed), problem.conv.out_channels

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=random).float()

    stream = Stream(integers(seed % 3, 2, oc), relu=seed % 2 == 0)
    stream.dtype = (torch.float32, torch.bfloat16, torch.float16, torch.int8)[seed % 4]
    stream.head = integers(1 + seed % 5, oc)
    stream.head_bias = integers(len(stream.head)) if seed % 3 else None
    values, _ = problem.expected_stream(stream)
    bias = 0 if stream.head_bias is None else stream.head_bias[:, None, None]
    expected = torch.einsum("nchw,kc->nkhw", reference.widen(values), stream.head) + bias
    assert torch.equal(problem.logits(library, kernel, stream, **options), expected)
