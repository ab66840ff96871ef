"""Checks of Lightning's callbacks: rejects those that would have no effect, change the loss or lose weights.

Training is one epoch of ``max_steps`` optimizer steps. The model is built after the callbacks are set up, and a
checkpoint is between two steps. docs/trainer_settings.md has a row for every callback.
"""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info

REJECTED: dict[type[Callback], str] = {
    BaseFinetuning: "freezes layers before the model is built, and would freeze nothing: train adapters (`lora`, "
    "`prefix`) instead",
    BatchSizeFinder: "changes a batch_size, and a step has the datamodule's rows.per_step: leave it out, and set "
    "trainer.accumulate_grad_batches to hold fewer rows at a time",
    GradientAccumulationScheduler: "changes how many batches make a step after the steps are planned, so that the loss "
    "would be multiplied: set trainer.accumulate_grad_batches",
    LearningRateFinder: "trains steps of the stream that the run would not repeat: leave it out, and set "
    "optimizer.learning_rate",
    ModelPruning: "prunes layers before the model is built, and renames its weights: leave it out",
    OnExceptionCheckpoint: "saves within an optimizer step, whose rows a resumed run would skip: use ModelCheckpoint "
    "with every_n_train_steps, and Preemption",
    SpikeDetection: "lists batches for a sampler to leave out, and the stream has none: leave it out",
    StochasticWeightAveraging: "copies the model before it is built and averages over epochs, of which training has "
    "one: use EMAWeightAveraging",
}


def reject_callbacks(trainer: L.Trainer, *, automatic: bool, validates: bool) -> None:
    """Reject callbacks of Lightning that would have no effect, change the loss or lose weights.

    The rows of every optimizer step are fixed before the first one. Rejected are, among others, callbacks that change
    the batch size or the accumulation, save within an optimizer step, or wait for a validation that never runs;
    docs/trainer_settings.md lists all of Lightning's callbacks.

    Args:
        trainer: The trainer in ``fit``, before anything is built.
        automatic: Whether the module uses automatic optimization.
        validates: Whether a validation runs during or after the training.

    Raises:
        ValueError: With the callback, the reason and the way out.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        reason = next((reason for kind, reason in REJECTED.items() if isinstance(callback, kind)), None)
        if isinstance(callback, EarlyStopping):
            reason = _early_stopping(callback, trainer, validates=validates)
        elif isinstance(callback, Timer) and callback._interval == "epoch":
            reason = "looks at the time at the end of an epoch, and training is one epoch: set its interval to step"
        elif isinstance(callback, WeightAveraging):
            reason = _averaging(callback, trainer)
        elif isinstance(callback, ModelCheckpoint):
            reason = _checkpoint(callback, automatic=automatic, validates=validates)
        if reason is not None:
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]  # it may act on the exception, too
            raise ValueError(f"{type(callback).__name__} {reason}")


def require_checkpoints(trainer: L.Trainer, *, validates: bool) -> None:
    """Reject a run whose ModelCheckpoints never save; warn if its last steps are in no checkpoint.

    Args:
        trainer: The trainer with its callbacks.
        validates: Whether the run has a validation, after which a ModelCheckpoint may save.

    Raises:
        ValueError: The run has a ModelCheckpoint, and none would ever save, e.g. since it waits for a validation.
    """
    writers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    if not writers or trainer.fast_dev_run:  # type: ignore[attr-defined]  # not declared by its class
        return
    last = max(_last_save(writer, trainer, validates=validates) for writer in writers)
    if last == 0:
        raise ValueError(
            f"ModelCheckpoint would never save in the {trainer.max_steps} steps of this run: set its "
            "every_n_train_steps to at most as many, or trainer.enable_checkpointing to false"
        )
    if last < trainer.max_steps:
        rank_zero_info(
            f"the last checkpoint will be of step {last} of {trainer.max_steps}: an every_n_train_steps that divides "
            "max_steps saves the last step, too"
        )


def keep_callback_settings(trainer: L.Trainer, checkpoint: dict[str, Any]) -> list[str]:
    """Replace settings of callbacks in a checkpoint by those of this run, and return a phrase for each change.

    Lightning stores early stopping's patience with its counters, so that a resumed run would continue with the old one.

    Args:
        trainer: The trainer in ``fit``, with its callbacks.
        checkpoint: The checkpoint that training resumes from, before the callbacks read it; changed in place.

    Raises:
        ValueError: The checkpoint's weights are averages, and no callback holds the weights that are trained.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # not declared by its class
    if "averaging_state" in checkpoint and not any(isinstance(callback, WeightAveraging) for callback in callbacks):
        raise ValueError(
            "the checkpoint was saved with WeightAveraging: its weights are averages, and those that were trained are "
            "beside them. List EMAWeightAveraging (or WeightAveraging) again, or start a new run from the averages "
            "(`crosstask export`)"
        )
    changes = []
    for callback in callbacks:
        state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
        if isinstance(callback, EarlyStopping) and state and state["patience"] != callback.patience:
            changes.append(f"EarlyStopping.patience was {state['patience']} and is {callback.patience}")
            state["patience"] = callback.patience
    return changes


def _last_save(writer: ModelCheckpoint, trainer: L.Trainer, *, validates: bool) -> int:
    """Return the last step after which a ModelCheckpoint saves; 0 if it never does."""
    steps, every = trainer.max_steps, writer._every_n_train_steps
    if every:
        return (steps - steps % every) or (steps if writer.save_last else 0)
    if writer.save_last:  # Lightning saves it at the end of the training if it was never saved
        return steps
    if writer._train_time_interval is not None or validates or writer._save_on_train_epoch_end:
        return steps
    # Without a validation Lightning saves at the epoch's end, unless validations are counted across epochs.
    return steps if trainer.check_val_every_n_epoch == 1 and writer._save_on_train_epoch_end is None else 0


def _checkpoint(writer: ModelCheckpoint, *, automatic: bool, validates: bool) -> str | None:
    if writer.save_on_exception:
        return (
            "with save_on_exception saves within an optimizer step, whose rows a resumed run would skip: leave it out"
        )
    if (writer._every_n_epochs or 0) > 1:
        return f"saves every {writer._every_n_epochs} epochs, and training is one: set every_n_train_steps"
    if writer._train_time_interval is not None and not automatic:
        return "does not look at train_time_interval in manual optimization: set every_n_train_steps"
    if writer.monitor is not None and writer.monitor.startswith("validation/") and not validates:
        return f"monitors {writer.monitor}, and no validation runs: leave monitor out, or hold out instances"
    return None


def _early_stopping(callback: EarlyStopping, trainer: L.Trainer, *, validates: bool) -> str | None:
    at_end = callback._check_on_train_epoch_end
    if at_end is None:
        at_end = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
    if validates and not at_end:
        return None
    reason = "no validation runs" if not validates else "it would be checked at the end of the training alone"
    return (
        f"stops after a validation within the training, and {reason}: hold out instances (instances.validation), set "
        "trainer.val_check_interval to fewer batches than the training has, and leave check_on_train_epoch_end out"
    )


def _averaging(callback: WeightAveraging, trainer: L.Trainer) -> str | None:
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"holds the whole model twice: set the strategy to auto or ddp, got {type(trainer.strategy).__name__}"
    if isinstance(callback, EMAWeightAveraging):
        if callback.update_starting_at_epoch is not None:
            return "counts epochs in update_starting_at_epoch, and training is one: leave it out"
        if callback.update_starting_at_step or callback.update_every_n_steps < 1:
            return (
                "holds the initial weights until its first update, and validates, saves and exports those: leave "
                "update_starting_at_step out, and set update_every_n_steps to 1 or more"
            )
    return None
