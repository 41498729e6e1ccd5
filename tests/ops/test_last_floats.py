"""Bilinear upsampling and attention agree with torch's own up to rounding, every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate, scaled_dot_product_attention

from mbu_ops import fallback
from mbu_ops import functional as ops
from mbu_ops.backends import use_cpu_kernel


@settings(max_examples=40)
@given(data=st.data())
def test_upsampling_by_any_factor(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    n, channels = data.draw(st.integers(0, 2)), data.draw(st.sampled_from([1, 5, 16, 19, 33]))
    height, width = data.draw(st.integers(1, 9), label="height"), data.draw(st.integers(1, 9), label="width")
    x = torch.randn(n, channels, height, width)
    if data.draw(st.booleans(), label="channels_last"):
        x = x.contiguous(memory_format=torch.channels_last)
    align = data.draw(st.booleans(), label="align_corners")
    if data.draw(st.booleans(), label="factors"):
        factors = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)), label="factor")
        size = [height * factors[0], width * factors[1]]
        expected = interpolate(x, scale_factor=factors, mode="bilinear", align_corners=align)
        arguments = (x, size, align, *map(float, factors))
    else:
        size = [data.draw(st.integers(1, 20), label="OH"), data.draw(st.integers(1, 20), label="OW")]
        expected = interpolate(x, size, mode="bilinear", align_corners=align)
        arguments = (x, size, align)
    with use_cpu_kernel(kernel):
        found = ops.upsample_bilinear2d(*arguments)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fallback.FALLBACKS["upsample_bilinear2d"](*arguments), expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tokens, keys", [(1, 7), (511, 40), (1030, 1030)])
def test_attention_with_values_wider_than_keys(tokens: int, keys: int) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, tokens, 12), torch.randn(2, 3, keys, 12)
    value = torch.randn(2, 3, 20, keys).transpose(2, 3)
    expected = scaled_dot_product_attention(query, key, value, scale=0.3)
    torch.testing.assert_close(ops.attention(query, key, value, 0.3), expected)
    torch.testing.assert_close(fallback.FALLBACKS["attention"](query, key, value, 0.3), expected)


def test_what_does_not_fit_together_is_refused() -> None:
    x = torch.randn(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="x is Double with 4 dimensions; it must be float32"):
        ops.upsample_bilinear2d(x.double(), [6, 8], False)
    with pytest.raises(RuntimeError, match="x has 0x4 pixels"):
        ops.upsample_bilinear2d(x[:, :, :0], [6, 8], False)
    with pytest.raises(RuntimeError, match="size"):
        ops.upsample_bilinear2d(x, [6, 0], False)
    with pytest.raises(RuntimeError, match="value is Float with 3 dimensions"):
        ops.attention(x, x, x[0], 1.0)
    with pytest.raises(RuntimeError, match="key has 3 tokens and value 2"):
        ops.attention(x, x, x[:, :, :2], 1.0)
