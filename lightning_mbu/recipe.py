"""Recipe: the training ingredients of `MBUQuantize` beyond its phases, each with its paper.

All but `planes` are off by default; `mbu study ingredients` measures what each gives on your data.
"""

from __future__ import annotations

from dataclasses import dataclass

from .absent_blocks import SHARES


@dataclass(frozen=True)
class Recipe:
    """Arguments of `MBUQuantize` that change the layers or help them learn.

    Attributes:
        planes: thresholds per channel; 2 or 3 make thermometer activations, whose planes the next layer reads as
            further one-bit channels: as many times the operations, no float between layers. Several binary activations
            of one value are ABC-Net's (arXiv:1711.11294). None: the preset's.
        shortcuts: add real-valued shortcuts around layers of equal shape (Bi-Real Net, arXiv:1808.00278).
        shift: add shifted activations in front of sums (RPReLU of ReActNet, arXiv:2003.03488).
        thresholds: `"auto"` learns activation thresholds (RSign of ReActNet) where a layer's input is not centred,
            `"learned"` everywhere, `"zero"` nowhere.
        linear: make linear layers one-bit too: those of encoders that are transformers.
        mask_blocks: output and input channels of the blocks in which masked layers choose their zeros; None chooses
            weight by weight.
        block_density: share of the blocks that are present, with `mask_blocks`.
        block_shares: `"equal"` leaves that share of the blocks of every layer, `"ranked"` that share of all multiply-adds
            (`absent_blocks.share_out`).
        block_ramp: share of the run over which blocks leave one after another (arXiv:1710.01878).
        block_regularizer: strength of the group lasso over blocks (arXiv:1608.03665).
        weights_after: share of the run by which weights become one-bit later than activations (two stages,
            arXiv:2003.13033).
        clip: largest latent weight; those beyond are set back after every step (BinaryConnect, arXiv:1511.00363).
        distill: weight of the distance to a float teacher in the loss (arXiv:1503.02531); the teacher is the
            network at the end of its float phase, or the one in the file `teacher`.
        distill_temperature: divides the logits of both; the gradient keeps its size.
        distill_features: names of modules whose attention maps are matched too (arXiv:1612.03928).
        teacher: checkpoint or state dict of the float network.
        average_from: share of the run from which latent weights are averaged; the average is the result (stochastic
            weight averaging, arXiv:1803.05407). Signs are taken of the average, not averaged.
        reestimate: training batches from which batch norms are measured anew at the end (arXiv:1803.05407,
            section 3.2).
        log_layers: log the numbers of `layer_health.LayerHealth` for every layer too, not their means alone.
    """

    planes: int | None = None
    shortcuts: bool = False
    shift: bool = False
    thresholds: str = "auto"
    linear: bool = False
    mask_blocks: tuple[int, int] | None = None
    block_density: float = 0.5
    block_shares: str = "equal"
    block_ramp: float = 0.0
    block_regularizer: float = 0.0
    weights_after: float = 0.0
    clip: float | None = None
    distill: float = 0.0
    distill_temperature: float = 1.0
    distill_features: tuple[str, ...] = ()
    teacher: str | None = None
    average_from: float | None = None
    reestimate: int = 0
    log_layers: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("planes", 1), ("reestimate", 0), ("distill", 0), ("block_regularizer", 0)):
            if getattr(self, name) is not None and getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {lowest}.")
        if self.distill_temperature <= 0 or (self.clip is not None and self.clip <= 0):
            raise ValueError(
                f"distill_temperature={self.distill_temperature} and clip={self.clip} must be above 0."
            )
        if self.block_shares not in SHARES:
            raise ValueError(
                f"block_shares={self.block_shares!r} is unknown; choose one of {', '.join(SHARES)}."
            )
        if not 0 <= self.block_ramp < 1:
            raise ValueError(f"block_ramp={self.block_ramp} must be a share of the run, in [0, 1).")
        if self.mask_blocks is None and (self.block_shares, self.block_ramp, self.block_regularizer) != (
            "equal",
            0,
            0,
        ):
            raise ValueError(
                f"block_shares={self.block_shares!r}, block_ramp={self.block_ramp} and block_regularizer="
                f"{self.block_regularizer} act on blocks; say how large they are, mask_blocks=(32, 32)."
            )
        if self.average_from is not None and not 0 <= self.average_from < 1:
            raise ValueError(f"average_from={self.average_from} must be a share of the run, in [0, 1).")

    def check_teacher(self, float_share: float) -> None:
        """Raises ValueError where distillation has no teacher."""
        if self.distill and self.teacher is None and not float_share:
            raise ValueError(
                f"distill={self.distill} has no teacher: this run has no float phase. Set float_share above 0, or "
                "teacher='float.ckpt', a checkpoint of the same network trained in float."
            )
