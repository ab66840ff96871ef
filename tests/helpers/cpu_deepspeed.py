"""DeepSpeed on CPU processes, for tests: Lightning's strategy without its demand for CUDA."""

import importlib
from typing import Any
from unittest.mock import patch

import lightning.pytorch.strategies.deepspeed as lightning_deepspeed
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy

lightning_deepspeed._validate_device_index_selection = lambda devices: None
# DeepSpeed would compile a faster all-reduce for two minutes, and wait for ever for the lock of a process that was
# killed meanwhile; without it, gloo reduces. `deepspeed.comm.torch` as an attribute is torch itself.
backend = importlib.import_module("deepspeed.comm.torch")
assert callable(backend.build_shm_op)
backend.build_shm_op = lambda: None  # type: ignore[attr-defined]


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeed strategy with ZeRO over gloo on CPU processes.

    Args:
        stage: Stage of ZeRO: 1 shards the optimizer's state, 2 also gradients, 3 also weights.
        offload: Whether DeepSpeed's CPU offload of the optimizer's state is used.
    """

    def __init__(self, stage: int = 3, offload: bool = False, initial_scale_power: int = 16) -> None:
        zero: dict[str, Any] = {"stage": stage}
        if offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0}
        config = {
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
        }
        super().__init__(config=config, process_group_backend="gloo", initial_scale_power=initial_scale_power)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)

    def setup_environment(self) -> None:
        with patch.object(lightning_deepspeed, "CUDAAccelerator", CPUAccelerator):
            super().setup_environment()
