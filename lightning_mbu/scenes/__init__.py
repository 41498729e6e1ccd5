"""Street scenes and other multi-class data sets in their original folder layouts, and how to train on them.

What the recipes start from. Everything here is an ordinary Lightning project; needs `lightning-mbu[scenes]`.
"""

from .data import SceneData as SceneData
from .labels import DATASETS as DATASETS
from .layouts import find_pairs as find_pairs
from .module import LitScenes as LitScenes
from .recipe import run_recipe as run_recipe
from .trees import write_tree as write_tree
