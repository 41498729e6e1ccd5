"""Masked-binary segmentation networks for PyTorch Lightning.

model -> make_plan -> prepare -> train (MBUQuantize) -> convert -> verify -> torch.compile
"""

from .callback import MBUQuantize as MBUQuantize
from .checkpoints import load_from_checkpoint as load_from_checkpoint
from .checkpoints import prepare_from_checkpoint as prepare_from_checkpoint
from .companions import FinalPhaseCheckpoint as FinalPhaseCheckpoint
from .companions import FinalPhaseStopping as FinalPhaseStopping
from .companions import phase_schedule as phase_schedule
from .deploy import PackedModel as PackedModel
from .deploy import convert as convert
from .deploy import export as export
from .deploy import load as load
from .deploy import save as save
from .deploy import verify as verify
from .float_start import init_from as init_from
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .prepare import prepare as prepare
from .pretrained import load_trained as load_trained
from .pretrained import save_trained as save_trained
from .summary import summary as summary
