"""The attentions of BiSegUNet: over channels (Eq. 8-10), over pixels (ANP, Eq. 12-14), and CBAM of its Table 7."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention


class ChannelAttention(nn.Module):
    """Weighs channels by their means: w = sigmoid(W2 relu(W1 z)), Eq. 8-10.

    The weights are positive. A sign taken of the result with threshold 0 would not see them; the binarizers that
    read it learn their thresholds, and there a weight moves bits.

    Args:
        channels: channels of the feature map.
        reduction: the hidden layer has `channels / reduction` units, at least 4.
    """

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.reduce = nn.Linear(channels, hidden)
        self.activation = nn.ReLU()
        self.expand = nn.Linear(hidden, channels)

    def mlp(self, z: Tensor) -> Tensor:
        """Descriptor `[N, C]` -> logits of the weights `[N, C]`."""
        return self.expand(self.activation(self.reduce(z)))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> the same shape."""
        z = x.mean((2, 3))  # Eq. 8
        w = torch.sigmoid(self.mlp(z))  # Eq. 9
        return w[:, :, None, None] * x  # Eq. 10


class CBAM(ChannelAttention):
    """Channel attention from means and maxima, then spatial attention (arXiv:1807.06521), for Table 7.

    Args:
        channels, reduction: as in `ChannelAttention`.
    """

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__(channels, reduction)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> the same shape."""
        w = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = w[:, :, None, None] * x
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.spatial(pooled)) * x


class ANP(nn.Module):
    """Attention Network Part: self-attention over the pixels of the bottleneck (Eq. 12-14).

    Args:
        in_channels: channels of F_aspp.
        key_channels: d_k, channels of queries and keys.
        out_channels: channels of the values, and so of the result.
    """

    def __init__(self, in_channels: int, key_channels: int, out_channels: int):
        super().__init__()
        self.query = nn.Linear(in_channels, key_channels, bias=False)
        self.key = nn.Linear(in_channels, key_channels, bias=False)
        self.value = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """F_aspp `[N, in_channels, H, W]` -> F_bottleneck `[N, out_channels, H, W]`."""
        tokens = x.flatten(2).transpose(1, 2)[:, None]  # [N, 1 head, H * W, in_channels]
        q, k, v = self.query(tokens), self.key(tokens), self.value(tokens)  # Eq. 12
        scale = q.shape[-1] ** -0.5
        if x.is_cpu:
            # Torch's kernel that never stores the H * W x H * W weights wants heads of one width here.
            wider = (0, max(v.shape[-1] - q.shape[-1], 0))
            q, k = pad(q, wider), pad(k, wider)
        attended = scaled_dot_product_attention(q, k, v, scale=scale)  # Eq. 13 and 14
        return attended[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
