"""From a trained model to packed bits: convert -> verify -> save / load.

Raises:
    RuntimeError: on import, where this install has no kernels.
"""

from mbu_ops._library import require

require()

from .convert import convert as convert
from .export import export as export
from .files import load as load
from .files import save as save
from .guards import PackedFileError as PackedFileError
from .packed import PackedModel as PackedModel
from .verify import Verification as Verification
from .verify import verify as verify
