"""Graph rewrites, each a small function `GraphModule -> bool` (whether it changed anything).

A pattern that no pass knows stays as the trained network computes it: right, only slower.
"""

from .average_parts import average_parts as average_parts
from .cleanup import clean as clean
from .fold_thresholds import fold_activation_thresholds as fold_activation_thresholds
from .fold_thresholds import fold_convolution_thresholds as fold_convolution_thresholds
from .fuse_head import fuse_heads as fuse_heads
from .fuse_stem import fuse_stems as fuse_stems
from .fuse_streams import attach_bits as attach_bits
from .fuse_streams import fuse_streams as fuse_streams
from .join_inputs import join_inputs as join_inputs
from .join_narrow import join_narrow as join_narrow
from .lean_floats import lean_floats as lean_floats
from .lift_packs import lift_packs as lift_packs
from .lift_packs import merge_packs as merge_packs
from .merge_planes import merge_planes as merge_planes
from .narrow_streams import narrow_streams as narrow_streams
from .narrow_streams import read_narrow as read_narrow
from .narrow_streams import round_streams as round_streams
from .spread_gates import spread_gates as spread_gates
