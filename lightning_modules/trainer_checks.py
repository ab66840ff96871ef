"""Settings of a trainer and of its datamodule that a module rejects before a model is built."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.schema import RunData


def training_steps(total_steps: int, trainer: L.Trainer) -> int:
    """Optimizer steps of the whole training: the module's, or trainer.max_steps where the module has -1.

    Raises:
        ValueError: Neither has them.
    """
    if total_steps < 1 and trainer.max_steps < 1:
        raise ValueError(
            f"training is counted in optimizer steps, and trainer.max_steps is {trainer.max_steps}: set "
            "Trainer(max_steps=...) and leave max_epochs out"
        )
    return total_steps if total_steps >= 1 else trainer.max_steps


def reject_spawned_processes(trainer: L.Trainer) -> None:
    """Reject strategies whose processes are copies of this one (ddp_spawn, ddp_fork, ddp_notebook).

    What a copy has trained, scored or written into the module is lost when it ends.

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
    """Require a datamodule's rows to be as long as the module expects.

    Raises:
        ValueError: With both lengths.
    """
    if data.rows.length != row_length:
        raise ValueError(
            f"row_length is {row_length} in the module, and rows.length {data.rows.length} in the datamodule: give "
            "both the same number"
        )


def require_same_tokenizer(name: str, data: RunData) -> None:
    """Require a datamodule to encode texts as the module decodes them.

    Raises:
        ValueError: With both names, where the vocabularies differ.
    """
    if data.tokenizer_name == name:
        return
    if load_tokenizer(name, eos=False).get_vocab() != load_tokenizer(data.tokenizer_name, eos=False).get_vocab():
        raise ValueError(
            f"the tokenizer is {name} in the module and {data.tokenizer_name} in the datamodule, and their "
            "vocabularies differ: give both the same tokenizer"
        )
