"""Networks that the papers describe, as plain float modules; `MBUQuantize` or `prepare` makes them masked-binary."""

from .standardise import Standardised as Standardised
from .unet import MBUNet as MBUNet
