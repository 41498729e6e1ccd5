"""Input standardisation as part of a network, so that it is saved, packed and exported with it."""

from __future__ import annotations

from torch import Tensor, nn


class Standardised(nn.Module):
    """A network behind the standardisation of each image to mean 0 and deviation 1 over its pixels and channels.

        y = network((x - mean(x)) / max(deviation(x), smallest))

    Images may come in any range, 0 to 255 or 0 to 1; nobody has to remember what the network was trained with. What is
    standardised already stays as it is but for rounding, so a network that learned from such images can be wrapped when
    it is packed.

    Args:
        network: takes standardised images `[N, C, H, W]`.
        smallest: deviation below which an image counts as flat, in units of the input; the default is below one
            grey level of either range.

    Raises:
        ValueError: `smallest` is not above 0.
    """

    def __init__(self, network: nn.Module, smallest: float = 1e-4):
        super().__init__()
        if smallest <= 0:
            raise ValueError(
                f"smallest={smallest} must be above 0; it keeps a flat image from dividing by 0."
            )
        self.network, self.smallest = network, smallest

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` in any range -> what the network returns."""
        # torch.std_mean takes several times as long on a CPU.
        centred = x - x.mean((1, 2, 3), keepdim=True)
        deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
        return self.network(centred / deviation.clamp_min(self.smallest))
