"""One-bit convolutions for PyTorch: the runtime of lightning-mbu. Imports torch and nothing else.

Importing the package registers ``torch.ops.mbu.*``; :mod:`mbu_ops.functional` documents what each operation does.
"""

from __future__ import annotations

from . import _library as _library
from . import backends as backends
from . import cuda as cuda
from . import fakes as fakes
from . import fallback as fallback
from . import functional as functional
from . import packages as packages
from . import packing as packing
from . import reference as reference
from .packages import load_package as load_package
from .packing import pack_bits as pack_bits
from .packing import pack_weight as pack_weight
from .packing import unpack_bits as unpack_bits
from .packing import unpack_weight as unpack_weight
