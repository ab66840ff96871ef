"""Plan the memory and the cost of a training run, before it has devices.

It reads the options of `crosstask fit` for InstructionTuningModule, and needs neither weights nor devices.

Example:
    crosstask plan --config quickstart --trainer.devices 8 --memory 40 --device A100
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .shared.run_settings import Settings, run_on_settings

if TYPE_CHECKING:  # torch and transformers, which the help does not need
    from ..lightning_modules.planning.training_plan import TrainingPlan


def run(words: Sequence[str]) -> None:
    """Plan by the words of a command line."""
    run_on_settings(plan_training, words, parts=("trainer", "model", "data"))


def plan_training(
    settings: Settings,
    memory: float = 80.0,
    device: Literal[
        "A100", "H100", "H100 PCIe", "H100 NVL", "H200", "H200 NVL", "B200", "L40S", "A10G", "V100"
    ] = "A100",
    utilization: float = 0.4,
    targets: float = 0.15,
    devices: int | None = None,
) -> None:
    """Print what a run of InstructionTuningModule needs of each device, and what it costs.

    Args:
        settings: Of the run.
        memory: Memory of a device, in GiB.
        device: Device whose peak FLOPS count.
        utilization: Share of the peak that the run reaches (MFU).
        targets: Share of a row's tokens that are targets.
        devices: Number of all devices, where the configuration does not state it.
    """
    from ..lightning_modules.planning.flops import DEVICES
    from ..lightning_modules.planning.training_plan import GIB, make_plan

    if not 0 < utilization <= 1 or not 0 < targets <= 1:
        raise ValueError(f"utilization and targets are shares in (0, 1], got {utilization} and {targets}")
    if memory <= 0:
        raise ValueError(f"memory must be a positive number of GiB, got {memory}")
    print_plan(
        make_plan(
            settings.as_dict(),
            capacity=round(memory * GIB),
            rate=DEVICES[device][0] * utilization,
            targets=targets,
            devices=devices,
        )
    )


def print_plan(plan: "TrainingPlan") -> None:
    """Print a table of a device's memory, and the run's cost."""
    from rich import print as rich_print
    from rich.table import Table

    from ..lightning_modules.planning.phases import Memory
    from ..lightning_modules.planning.training_plan import GIB

    layout, shape = plan.layout, plan.shape
    table = Table(title=f"One of {layout.devices} devices, GiB", title_justify="left")
    for column in ("", "activations kept", "recomputed"):
        table.add_column(column, justify="left" if not column else "right")
    for name in Memory._fields:
        table.add_row(name, *(f"{getattr(memory, name) / GIB:.2f}" for memory in (plan.kept, plan.recomputed)))
    table.add_row("total", *(f"{memory.total / GIB:.2f}" for memory in (plan.kept, plan.recomputed)))
    rich_print(table)
    parallel = (
        f"{layout.kind}, {layout.replicas} replicas x {layout.tensor_parallel} tensor parallel, {layout.precision}"
    )
    print(f"model: {plan.parameters / 1e9:.3f}B parameters; layout: {parallel}")
    print(
        f"a device reads {shape.rows} rows of {shape.columns} at a time; their logits take {plan.logits / GIB:.2f} GiB"
    )
    verdict = "fits" if plan.fits else "does NOT fit"
    how = "with" if plan.checkpointing else "without"
    need = f"{plan.memory.total / GIB:.1f} of {plan.capacity / GIB:.0f} GiB"
    print(f"{verdict} {how} gradient checkpointing: {need} (a twentieth is reserved for the allocator)")
    print(f"{plan.steps:,} steps of {plan.tokens:,} tokens: {plan.steps * plan.tokens / 1e9:.2f}B tokens")
    print(f"{plan.flops:.3g} operations a step, {plan.device_hours:,.0f} device hours")
