"""What `mbu demo` trains on and with; recipes start from the same pieces."""

from .data import CellsData as CellsData
from .train import LitSegmenter as LitSegmenter
