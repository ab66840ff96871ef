"""How a run's checkpoints are read and written: of any layout, as plain values, whole, and after the last step too."""

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy

from ...lightning_modules.sharding.checkpoint_replacement import save_through_replacing
from ...lightning_modules.sharding.checkpoints import AnyLayoutIO, read_plain_values_alone


def set_up_checkpoints(trainer: Trainer) -> None:
    """Set up how a trainer's strategy reads and writes checkpoints.

    It reads checkpoints of any layout (a file, a folder of shards, DeepSpeed's), as plain values, and replaces them by
    renames, so that a complete one always exists.

    Raises:
        ValueError: The strategy is DeepSpeed, and the device is not CUDA.
    """
    strategy = trainer.strategy
    if type(strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise ValueError(
            f"DeepSpeed is only supported on CUDA devices, and the accelerator is "
            f"{type(trainer.accelerator).__name__}: set trainer.strategy to auto, ddp or ShardedStrategy"
        )
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        files = strategy.checkpoint_io
        if type(files) is TorchCheckpointIO:
            strategy.checkpoint_io = AnyLayoutIO()
        elif type(files) is AsyncCheckpointIO and type(files.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AsyncCheckpointIO(AnyLayoutIO())
    elif isinstance(strategy, DeepSpeedStrategy | FSDPStrategy):
        save_through_replacing(strategy)
    read_plain_values_alone(strategy)


class LastStep(ModelCheckpoint):
    """ModelCheckpoint that saves ``last.ckpt`` after the last step; its number is read once the data is set up."""

    @property
    def state_key(self) -> str:
        """The same key for trainings of any length, so that a longer training can resume from the checkpoint."""
        return type(self).__name__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._every_n_train_steps = max(0, trainer.max_steps)
        super().setup(trainer, pl_module, stage)


def save_last_step(trainer: Trainer) -> None:
    """Add a callback that saves ``last.ckpt`` after the last step, if no ModelCheckpoint of the trainer saves then."""
    for writer in [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]:
        every, timed = writer._every_n_train_steps, writer._train_time_interval is not None
        if writer.dirpath is not None and (timed or (every and (trainer.max_steps < 0 or trainer.max_steps % every))):
            final = LastStep(
                writer.dirpath,
                every_n_train_steps=1,
                save_last=True,
                save_top_k=0,
                save_weights_only=writer.save_weights_only,
                enable_version_counter=writer._enable_version_counter,
            )
            trainer.callbacks.append(final)  # type: ignore[attr-defined]
            return
