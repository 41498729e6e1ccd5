"""TrainingAids: what `MBUQuantize` runs beside its gates, as its `Recipe` asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .absent_blocks import BlockMaskedWeight, density_at, pull_blocks_together, share_out
from .averaging import LatentAverage, clip_latent_weights, reestimate_batch_norm
from .distillation import Distillation
from .health import pull_to_one
from .layers import QuantizedConvolution
from .prepare import plan_of, quantized_layers
from .recipe import Recipe
from .schedule import sharpness

_REESTIMATE_AFTER_AVERAGING = 32  # batches, where the recipe names no number: averages need it in any case


class TrainingAids:
    """Distillation, averages, clipping and batch norms of one training run.

    `trainer` is Lightning's everywhere below; only `callback.py` imports it.

    Inputs for the batch norms are the last of the run and not part of a checkpoint: a run that is resumed within
    its last `reestimate` batches measures with fewer.

    Args:
        recipe: what to run.
        network: prepared.
        name: of the network in its LightningModule; `""` for the module itself.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, name: str):
        self.recipe, self.network = recipe, network
        self.finished = False
        self.distillation: Distillation | None = None
        if recipe.distill:
            self.distillation = Distillation(
                network, recipe.distill, recipe.distill_temperature, recipe.distill_features
            )
            if recipe.teacher is not None:
                self.distillation.load_file(recipe.teacher, name)
        self.average = LatentAverage() if recipe.average_from is not None else None
        wanted = recipe.reestimate or (_REESTIMATE_AFTER_AVERAGING if self.average is not None else 0)
        self.inputs: deque[Tensor] = deque(maxlen=wanted)
        if wanted:
            network.register_forward_pre_hook(self._keep_input)

    def _keep_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training and args and isinstance(args[0], Tensor):
            self.inputs.append(args[0].detach())

    def before_switch(self) -> None:
        """The float phase ends: the network as it is becomes the teacher, unless there is one."""
        if self.distillation is not None and not self.distillation.active:
            self.distillation.snapshot()

    def batch_start(self, trainer: Any, progress: float) -> None:
        for _, layer in quantized_layers(self.network):
            if layer.estimator == "annealed":
                layer.sharpness.fill_(sharpness(progress))
        if self.recipe.block_ramp or self.recipe.block_shares != "equal":
            self._share_out(density_at(progress, self.recipe.block_density, self.recipe.block_ramp))
        if self.distillation is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            self.distillation.factor = scale / trainer.accumulate_grad_batches

    def _share_out(self, density: float) -> None:
        plan = plan_of(self.network)
        macs = {layer.name: layer.macs for layer in plan.layers} if plan else {}
        quantizers, weights, costs = [], [], []
        for name, layer in quantized_layers(self.network):
            if isinstance(layer.weight_quantizer, BlockMaskedWeight):
                quantizers.append(layer.weight_quantizer)
                weights.append(layer.latent_weight())
                costs.append(macs[name] * layer.planes)
        share_out(quantizers, weights, costs, density, self.recipe.block_shares)

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, regularizer: float) -> None:
        """Adds the gradients of what pulls latent weights to +-1, and blocks of them to 0.

        Args:
            optimizer: whose step comes next; weights of others are left alone.
            regularizer: strength of the pull to +-1.
        """
        of_blocks = self.recipe.block_regularizer
        if not regularizer and not of_blocks:
            return
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        # Once for a weight that several layers share.
        for layer in {id(layer.weight): layer for _, layer in quantized_layers(self.network)}.values():
            latent = layer.latent_weight()
            pull = pull_to_one(latent, regularizer)
            if of_blocks and isinstance(layer.weight_quantizer, BlockMaskedWeight):
                pull += pull_blocks_together(layer.weight_quantizer, latent, of_blocks)
            pull *= layer.gate
            own = layer.weight.shape[layer.input_axis]
            parts = pull.split([own, pull.shape[layer.input_axis] - own], layer.input_axis)
            for weight, part in zip((layer.weight, layer.plane_weight), parts, strict=True):
                if weight is not None and weight.grad is not None and id(weight) in mine:
                    weight.grad.add_(part)

    def batch_end(self, trainer: Any, progress: float) -> None:
        if self.recipe.clip is not None:
            clip_latent_weights(self.network, self.recipe.clip)
        start = self.recipe.average_from
        if self.average is not None and start is not None and progress >= start:
            self.average.update(self.network)

    def finish(self, trainer: Any) -> None:
        """At the end of the run, before what is left of validation and checkpoints: the average, batch norms."""
        if self.finished:
            return
        self.finished = True
        if self.average is not None and self.average.count:
            self.average.apply(self.network)
        reestimate_batch_norm(self.network, self.inputs)
        if self.inputs and trainer.world_size > 1:
            for name, buffer in self.network.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.copy_(trainer.strategy.reduce(buffer, reduce_op="mean"))
        self.inputs.clear()

    def state_dict(self) -> dict[str, Any]:
        taught = self.distillation is not None and self.distillation.active
        return {
            "teacher": self.distillation.teacher.state_dict() if taught and self.distillation else None,
            "average": None if self.average is None else self.average.state_dict(),
            "finished": self.finished,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.distillation is not None and state["teacher"] is not None:
            self.distillation.load(state["teacher"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.finished = state["finished"]


def at_end(trainer: Any) -> bool:
    """Whether the batch that was trained on last is the last one of the run."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    last_epoch = trainer.max_epochs not in (-1, None) and trainer.current_epoch + 1 >= trainer.max_epochs
    return bool(last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def fit_to_float(layer: QuantizedConvolution, reduce: Callable[[Tensor], Tensor]) -> None:
    """Fits what a layer learns beside its weights to the float network it leaves: scale and further planes now,
    thresholds from the first batch that reaches it.

    Args:
        reduce: the mean of a tensor over all processes.
    """
    layer.reset_weights()
    if not layer.learns_threshold:
        return

    def calibrate(module: nn.Module, args: tuple[Tensor]) -> None:
        with torch.no_grad():
            x = layer.as_images(args[0].detach().float())
            mean, square = reduce(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))
            layer.spread_thresholds(mean, (square - mean.square()).clamp_min(0).sqrt())
        handle.remove()

    handle = layer.register_forward_pre_hook(calibrate)
