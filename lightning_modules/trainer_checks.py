"""Checks of a trainer's and a datamodule's settings, made before a model is built."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.plugins import BitsandbytesPrecision, TransformerEnginePrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from ..datamodules.base import BenchmarkDataModule, run_data
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.schema import RunData
from .callback_checks import reject_callbacks, require_checkpoints


def reject_settings(trainer: L.Trainer, *, automatic: bool = True) -> None:
    """Reject settings and callbacks of ``fit`` that would have no effect or would change the loss.

    Training is one epoch of ``max_steps`` optimizer steps, whose rows the datamodule fixes in advance.
    docs/trainer_settings.md has a row for every setting. With a datamodule of another project, only what holds for any
    data is checked.

    Args:
        trainer: The trainer in ``fit``, before anything is built.
        automatic: Whether the module uses automatic optimization.

    Raises:
        ValueError: With the setting and the way out.
    """
    planned = run_data(trainer) is not None
    reason = next(_without_effect(trainer), None)
    if reason is None and planned:
        reason = next(_against_one_epoch(trainer), None)
    if reason is not None:
        raise ValueError(reason)
    reject_callbacks(trainer, automatic=automatic, validates=not planned or _validates(trainer))
    if planned and trainer.max_steps > 0:
        reject_lengths(trainer)


def reject_lengths(trainer: L.Trainer) -> None:
    """Reject intervals of validations and checkpoints that are longer than the training.

    Raises:
        ValueError: With the setting and the way out.
    """
    if (reason := next(_beyond_the_end(trainer), None)) is not None:
        raise ValueError(reason)
    require_checkpoints(trainer, validates=_validates(trainer))


def _without_effect(trainer: L.Trainer) -> Iterator[str]:
    """Yield the reasons to reject settings with any data."""
    clip, accumulated = trainer.gradient_clip_val, trainer.accumulate_grad_batches
    if clip is not None and not clip >= 0.0:  # torch would turn the gradient around
        yield f"trainer.gradient_clip_val must be the largest norm of a gradient, or null for any, got {clip}"
    if accumulated < 1:
        yield f"trainer.accumulate_grad_batches must be at least 1 batch a step, got {accumulated}"
    if trainer.gradient_clip_algorithm is not None and not trainer.gradient_clip_val:
        yield "trainer.gradient_clip_algorithm has no effect without trainer.gradient_clip_val: set both, or neither"
    if trainer.gradient_clip_algorithm == "value" and isinstance(trainer.strategy, DeepSpeedStrategy):
        yield "DeepSpeed clips gradients by their norm: leave trainer.gradient_clip_algorithm out, or set it to norm"
    if trainer._accelerator_connector._layer_sync is not None:
        yield "trainer.sync_batchnorm has no effect: language models have no batch norm; leave it out"
    if trainer._model_registry is not None:
        yield "trainer.model_registry has no effect: --ckpt_path takes paths; leave it out"
    if isinstance(trainer.precision_plugin, BitsandbytesPrecision | TransformerEnginePrecision):
        yield (
            f"{type(trainer.precision_plugin).__name__} replaces layers while a model is built, and transformers "
            "builds this one: set trainer.precision to bf16-mixed, and network.dtype to bfloat16 for frozen weights"
        )


ONE_EPOCH = "training is one epoch of trainer.max_steps optimizer steps"
VALIDATE = "set trainer.val_check_interval to a number of batches, and check_val_every_n_epoch to null"


def _against_one_epoch(trainer: Any) -> Iterator[str]:  # Lightning sets attributes that its class does not declare
    """Yield the reasons to reject settings that repeat, cut or count epochs."""
    limit, accumulated = trainer.limit_train_batches, trainer.accumulate_grad_batches
    if trainer.overfit_batches:
        yield (
            "trainer.overfit_batches repeats batches of a DataLoader, and training reads a stream: set the "
            "datamodule's instances.train to a few, and trainer.limit_val_batches"
        )
    if trainer.fast_dev_run and int(trainer.fast_dev_run) % accumulated:
        yield (
            f"trainer.fast_dev_run = {int(trainer.fast_dev_run)} batches are no whole optimizer steps of "
            f"{accumulated} accumulated batches: set it to a multiple"
        )
    if (limit != 1.0 or isinstance(limit, int)) and not trainer.fast_dev_run:
        yield f"trainer.limit_train_batches would begin another epoch, and {ONE_EPOCH}: leave it out, and set max_steps"
    if trainer.max_epochs not in (-1, None) and trainer.max_steps >= 1 and not trainer.fast_dev_run:
        yield f"trainer.max_epochs = {trainer.max_epochs} has no effect, since {ONE_EPOCH}: leave it out"
    if trainer.min_steps or trainer.min_epochs:
        yield (
            f"trainer.min_steps and min_epochs would keep a run from stopping early at all, since {ONE_EPOCH}: leave "
            "them out, and set EarlyStopping's patience"
        )
    if trainer.check_val_every_n_epoch not in (None, 1):
        yield f"trainer.check_val_every_n_epoch above 1 would never validate, since {ONE_EPOCH}: {VALIDATE}"
    if trainer.reload_dataloaders_every_n_epochs:
        yield f"trainer.reload_dataloaders_every_n_epochs has no effect, since {ONE_EPOCH}: leave it out"
    if trainer._val_check_time_interval is not None and trainer.num_devices * trainer.num_nodes > 1:
        yield f"trainer.val_check_interval is a time, and processes would not reach it at the same batch: {VALIDATE}"


def _beyond_the_end(trainer: Any) -> Iterator[str]:
    """Yield the reason to reject an interval between validations: the training ends before."""
    accumulated = trainer.accumulate_grad_batches
    if _interval(trainer) > trainer.max_steps * accumulated > 0:
        yield (
            f"trainer.val_check_interval = {_interval(trainer)} exceeds the {trainer.max_steps} x {accumulated} "
            f"batches of the training, so that no validation would run: {VALIDATE}, or trainer.limit_val_batches to 0"
        )


def _interval(trainer: Any) -> int:
    """Return the number of batches between validations if no epoch bounds it; 0 in other cases."""
    counted = trainer.check_val_every_n_epoch is None and trainer._val_check_time_interval is None
    if not counted or not trainer.limit_val_batches or not isinstance(trainer.val_check_interval, int):
        return 0
    return int(trainer.val_check_interval)


def _validates(trainer: L.Trainer) -> bool:
    data = run_data(trainer)
    held_out = data.instances.validates if isinstance(data, BenchmarkDataModule) else True
    return bool(trainer.limit_val_batches) and held_out


def training_steps(total_steps: int, trainer: L.Trainer) -> int:
    """Return the optimizer steps of the whole training: the module's, or trainer.max_steps if the module has -1.

    Raises:
        ValueError: Neither is set.
    """
    if total_steps < 1 and trainer.max_steps < 1:
        raise ValueError(
            f"training is counted in optimizer steps, and trainer.max_steps is {trainer.max_steps}: set "
            "Trainer(max_steps=...) and leave max_epochs out"
        )
    return total_steps if total_steps >= 1 else trainer.max_steps


def reject_spawned_processes(trainer: L.Trainer) -> None:
    """Reject strategies whose processes are copies of this one (ddp_spawn, ddp_fork, ddp_notebook).

    Weights and scores of a copy are lost when it ends.

    Raises:
        ValueError: With the way out.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":
        raise ValueError(
            f"the strategy starts copies of this process (ddp_{strategy._start_method}), whose weights and scores are "
            "lost when they end: set trainer.strategy to ddp, or trainer.devices to 1 in a notebook"
        )


def reject_two_optimizers(module: L.LightningModule, trainer: L.Trainer) -> None:
    """Reject DeepSpeed for a module with manual optimization.

    Raises:
        ValueError: With the strategies that work.
    """
    if isinstance(trainer.strategy, DeepSpeedStrategy) and not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} has an optimizer for each level, and DeepSpeed takes one optimizer: set the "
            f"strategy to auto, ddp or ShardedStrategy, got {type(trainer.strategy).__name__}"
        )


def reject_scaled_clipping(trainer: L.Trainer, *, fused: bool) -> None:
    """Reject gradient clipping where a fused optimizer unscales the gradients inside its step.

    Raises:
        ValueError: With the way out.
    """
    if fused and trainer.gradient_clip_val and trainer.precision == "16-mixed":
        raise ValueError(
            "a fused optimizer unscales gradients of 16-mixed inside its step, after they would be clipped: set "
            "optimizer.fused to false, or trainer.precision to bf16-mixed"
        )


def require_same_rows(row_length: int, data: RunData) -> None:
    """Reject a datamodule whose rows have another length than the module expects.

    Raises:
        ValueError: With both lengths.
    """
    if data.rows.length != row_length:
        raise ValueError(
            f"row_length is {row_length} in the module, and rows.length {data.rows.length} in the datamodule: give "
            "both the same number"
        )


def require_same_tokenizer(name: str, data: RunData) -> None:
    """Reject a datamodule with another vocabulary than the module's.

    Raises:
        ValueError: With both names, if the vocabularies differ.
    """
    if data.tokenizer_name == name:
        return
    if load_tokenizer(name, eos=False).get_vocab() != load_tokenizer(data.tokenizer_name, eos=False).get_vocab():
        raise ValueError(
            f"the tokenizer is {name} in the module and {data.tokenizer_name} in the datamodule, and their "
            "vocabularies differ: give both the same tokenizer"
        )
