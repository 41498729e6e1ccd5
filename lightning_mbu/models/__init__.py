"""Networks that the papers describe, as plain float modules; `MBUQuantize` or `prepare` makes them masked-binary."""

from .bisegunet import BiSegUNet as BiSegUNet
from .bisegunet import bisegunet_512 as bisegunet_512
from .bisegunet import bisegunet_1024 as bisegunet_1024
from .standardise import Standardised as Standardised
from .unet import MBUNet as MBUNet
