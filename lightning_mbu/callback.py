"""MBUQuantize: the callback that turns a network masked-binary while a Trainer trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor, nn

from . import companions
from .aids import TrainingAids, at_end, fit_to_float
from .averaging import parameter_groups
from .checkpoints import store_with_weights
from .config import preset as find_preset
from .float_start import init_from
from .health import binary_fraction
from .layer_health import HealthWatch
from .layers import QuantizedConvolution
from .plan import Plan, make_plan
from .prepare import plan_of, prepare, quantized_layers
from .recipe import Recipe
from .schedule import PHASES, Phases

_DEFAULT_SIZE = 256  # pixels; costs and roles depend on ratios of sizes, not on the size itself


class MBUQuantize(companions.PlanKeeper):
    """Makes a segmentation network masked-binary, layer by layer, during `Trainer.fit`.

    The surgery is done once, in `setup`; phases only move gates. Settings left at None come from the preset.

    Args:
        preset: `"default"`; `"plain"`, faster and less accurate; or a paper's own settings: `"mbunet"`, `"bisegunet"`.
        model: attribute of the LightningModule that holds the network; None finds the one that has convolutions.
        input_size: height and width in pixels of the plan's example input; None takes `example_input_array` of the
            LightningModule, or 256x256.
        plan: path of a plan written as JSON (`mbu plan --json`), instead of making one.
        float_share, incremental_share: shares of the run in full precision and in switching layers one by one.
        ramp: share of the run over which a switching layer's gate rises.
        masked: share of the blocks to mask, cheapest first; `"all"` or `"none"`.
        order: conversion order: `"forward"`, `"reverse"`, `"cost"` or `"all"`.
        mask_rule: `"twn"`, `"learned"` or `"sparsity"` (then `sparsity` is the share of zeros).
        sparsity: share of zeros for `mask_rule="sparsity"`.
        scale: per output channel: `"learned"` (True), `"analytic"` or `"none"` (False).
        estimator: straight-through estimator of the activations: `"clipped"`, `"approx_sign"`, `"tanh"` or
            `"annealed"`.
        regularizer: strength of the pull of latent weights to +-1 (BiSegUNet, Eq. 24).
        min_channels: layers with fewer channels stay float.
        exclude: names of layers or modules to leave float.
        init_from: weights of the network trained in float, read once when `fit` begins: what `float_start.init_from`
            takes, except a dict. A checkpoint that training resumes from replaces them.
        restarts: a learning-rate cosine in each phase, where the module configures no scheduler.
        recipe: what `recipe.Recipe` lists, such as `planes=1` or `distill=1.0`.

    Attributes:
        health: of every layer in the last epoch, to print or to read (`layer_health.HealthWatch`).
    """

    parameter_groups = staticmethod(parameter_groups)

    def __init__(
        self,
        preset: str = "default",
        model: str | None = None,
        input_size: tuple[int, int] | None = None,
        plan: str | None = None,
        float_share: float | None = None,
        incremental_share: float | None = None,
        ramp: float | None = None,
        masked: float | str | None = None,
        order: str | None = None,
        mask_rule: str | None = None,
        sparsity: float = 0.5,
        scale: bool | str | None = None,
        estimator: str | None = None,
        regularizer: float | None = None,
        min_channels: int = 8,
        exclude: list[str] | None = None,
        init_from: str | None = None,
        restarts: bool = True,
        **recipe: Any,
    ):
        super().__init__()
        base = find_preset(preset)
        self.recipe = Recipe(**recipe)

        def choose(value: Any, default: Any) -> Any:
            return default if value is None else value

        self.phases = Phases(
            choose(float_share, base.phases.float_share),
            choose(incremental_share, base.phases.incremental_share),
            choose(ramp, base.phases.ramp),
            self.recipe.weights_after,
        )
        self.recipe.check_teacher(self.phases.float_share)
        self.model = model
        self.input_size = input_size
        self.masked = choose(masked, base.masked)
        self.order = choose(order, base.order)
        self.planes = choose(self.recipe.planes, base.planes)
        self.mask_rule = choose(mask_rule, base.mask_rule)
        self.sparsity = sparsity
        self.scale = choose(scale, base.scale)
        self.estimator = choose(estimator, base.estimator)
        self.regularizer = choose(regularizer, base.regularizer)
        self.min_channels = min_channels
        self.exclude = tuple(exclude or ())
        self.init_from = init_from
        self.restarts = restarts
        self.plan: Plan | None = None
        self._plan_path = plan
        self._begun = False  # `init_from` has been read
        self._progress = 0.0
        self._started: set[str] = set()  # layers that have begun to switch: calibrated, never again
        self.health = HealthWatch({})
        self._layers: dict[str, QuantizedConvolution] = {}
        self._aids: TrainingAids | None = None

    # ---- surgery ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        companions.refuse_sharding(trainer)
        network = self.network(pl_module)
        if self.init_from and stage == "fit" and not self._begun:
            init_from(network, self.init_from)
            self._begun = True
        if self.plan is None:
            stored = self._plan_path and Path(self._plan_path).read_text(encoding="utf-8")
            known = Plan.from_json(stored) if stored is not None else plan_of(network)
            self.plan = known or self._make_plan(network, pl_module)
        prepare(network, self.plan, **self._options())
        self._layers = dict(quantized_layers(network))
        store_with_weights(pl_module, network, self.plan, self._options())
        companions.copy_again(trainer, pl_module, stage, self)
        if stage == "fit":
            companions.check_length(trainer)
            companions.write_whole(trainer)
            name = next(name for name, module in pl_module.named_modules() if module is network)
            self._aids = TrainingAids(self.recipe, network, name)

    def _options(self) -> dict[str, Any]:
        """What `prepare` takes besides the plan."""
        return {
            "mask_rule": self.mask_rule, "sparsity": self.sparsity, "scale": self.scale, "estimator": self.estimator,
            "mask_blocks": self.recipe.mask_blocks, "block_density": self.recipe.block_density,
        }  # fmt: skip

    def network(self, pl_module: LightningModule) -> nn.Module:
        """The part of `pl_module` that is quantized.

        Raises:
            MisconfigurationException: `model` names nothing, or it is not given and there is no single candidate.
        """
        return companions.find_network(pl_module, self.model)

    def _make_plan(self, network: nn.Module, pl_module: LightningModule) -> Plan:
        example = pl_module.example_input_array
        if self.input_size is not None or not isinstance(example, Tensor):
            first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
            height, width = self.input_size or (_DEFAULT_SIZE, _DEFAULT_SIZE)
            example = torch.empty(1, first.in_channels, height, width, dtype=first.weight.dtype)
        return make_plan(
            network, example, masked=self.masked, order=self.order, min_channels=self.min_channels,
            exclude=self.exclude, thresholds=self.recipe.thresholds, planes=self.planes,
            shortcuts=self.recipe.shortcuts, shift=self.recipe.shift, linear=self.recipe.linear,
        )  # fmt: skip

    # ---- progress, phases and gates --------------------------------------------------------------------------

    @staticmethod
    def progress(trainer: Trainer, batch_idx: int) -> float:
        """Position in the run, in [0, 1]: whichever of max_steps, max_epochs and max_time is nearest its end."""
        shares = []
        if trainer.max_steps != -1:
            shares.append(trainer.global_step / max(trainer.max_steps, 1))
        if trainer.max_epochs not in (-1, None):
            batches = trainer.num_training_batches
            inside = batch_idx / batches if batches not in (0, float("inf")) else 0.0
            shares.append((trainer.current_epoch + inside) / max(trainer.max_epochs, 1))
        if (share := companions.time_share(trainer)) is not None:
            shares.append(share)
        return min(max(shares), 1.0)

    @property
    def phase(self) -> str:
        """`"float"`, `"incremental"` or `"quantized"`."""
        return self.phases.phase(self._progress)

    def _set_gates(self) -> None:
        assert self.plan is not None
        for name, position, count in self._positions():
            layer = self._layers[name]
            layer.gate.fill_(self.phases.gate(self._progress, position, count))
            layer.weight_gate.fill_(self.phases.weight_gate(self._progress, position, count))

    def _positions(self) -> list[tuple[str, int, int]]:
        assert self.plan is not None
        quantized = self.plan.quantized
        count = max((layer.position or 0 for layer in quantized), default=0) + 1
        return [(layer.name, layer.position or 0, count) for layer in quantized]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._set_gates()
        self.health = HealthWatch(self._layers)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        companions.count_epoch(trainer)
        self._progress = self.progress(trainer, batch_idx)
        if self._aids is not None:
            self._aids.batch_start(trainer, self._progress)
        for name, position, count in self._positions():
            if name not in self._started and self._progress >= self.phases.switch(position, count):
                self._start(name, trainer)
        self._set_gates()
        if batch_idx == 0:
            self.health.look()
        if self.restarts and not trainer.lr_scheduler_configs:
            companions.set_rates(trainer.optimizers, self._progress, self.phases)

    def _start(self, name: str, trainer: Trainer) -> None:
        """Fits what a layer learns beside its weights to the float network that it leaves."""
        if self._aids is not None and not self._started:
            self._aids.before_switch()
        self._started.add(name)
        fit_to_float(self._layers[name], lambda moments: trainer.strategy.reduce(moments, reduce_op="mean"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._aids is not None:
            self._aids.batch_end(trainer, self._progress)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last validation, and what is kept by its score, sees the network as it will be.
        if self._aids is not None and not trainer.sanity_checking and at_end(trainer):
            self._aids.finish(trainer)

    # ---- regularizer -----------------------------------------------------------------------------------------

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # After AMP has unscaled the gradients and before they are clipped: as if it were part of the loss (BiSegUNet, Eq. 25).
        if self._aids is not None:
            self._aids.before_step(optimizer, self.regularizer)

    # ---- logging ---------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._aids is not None and at_end(trainer):
            self._aids.finish(trainer)  # before checkpoints, which are always written last
        for warning in self.health.end_epoch():
            rank_zero_warn(warning)
        values = self.health.numbers(self.recipe.log_layers)
        # A number: loggers cannot plot a name.
        pl_module.log_dict(
            {"mbu/phase": float(PHASES.index(self.phase)), **companions.rate(trainer), **values}
        )
        pl_module.log("mbu/binary_fraction", binary_fraction(self._layers), prog_bar=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.progress_bar_callback is not None and self.health.latest:
            Console().print(self.health)

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "progress": self._progress,
            "started": sorted(self._started),
            "aids": None if self._aids is None else self._aids.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        stored = state_dict["plan"] and Plan.from_json(state_dict["plan"])
        if stored and self.plan is not None:
            companions.refuse_another_plan(stored, self.plan)
        self._progress = state_dict["progress"]
        self._started = set(state_dict["started"])
        if self._aids is not None and state_dict.get("aids"):
            self._aids.load_state_dict(state_dict["aids"])
        if self._layers:
            self._set_gates()
