"""``crosstask plan``: whether a training run fits its devices, and what it costs."""

from typing import Any, Literal

from rich import print as rich_print
from rich.table import Table

from ..lightning_modules.planning.flops import DEVICES
from ..lightning_modules.planning.phases import Memory
from ..lightning_modules.planning.training_plan import GIB, TrainingPlan, make_plan


def plan_training(
    configuration: dict[str, Any],
    memory: float = 80.0,
    device: Literal[
        "A100", "H100", "H100 PCIe", "H100 NVL", "H200", "H200 NVL", "B200", "L40S", "A10G", "V100"
    ] = "A100",
    utilization: float = 0.4,
    targets: float = 0.15,
    devices: int | None = None,
) -> TrainingPlan:
    """Print what a fit of InstructionTuningModule needs of each device, and what it costs.

    Args:
        configuration: Of the fit.
        memory: Of a device, in GiB.
        device: Whose peak rate counts.
        utilization: Share of the peak that the run reaches (MFU).
        targets: Share of a row's tokens that are targets.
        devices: All devices, where the configuration leaves their number to the machine.
    """
    if not 0 < utilization <= 1 or not 0 < targets <= 1:
        raise ValueError(f"utilization and targets are shares in (0, 1], got {utilization} and {targets}")
    if memory <= 0:
        raise ValueError(f"memory must be a positive number of GiB, got {memory}")
    plan = make_plan(
        configuration,
        capacity=round(memory * GIB),
        rate=DEVICES[device][0] * utilization,
        targets=targets,
        devices=devices,
    )
    print_plan(plan)
    return plan


def print_plan(plan: TrainingPlan) -> None:
    """A table of what a device holds, and the run's cost."""
    layout, shape = plan.layout, plan.shape
    table = Table(title=f"One of {layout.devices} devices, GiB", title_justify="left")
    for column in ("", "activations kept", "recomputed"):
        table.add_column(column, justify="left" if not column else "right")
    for name in Memory._fields:
        table.add_row(name, *(f"{getattr(memory, name) / GIB:.2f}" for memory in (plan.kept, plan.recomputed)))
    table.add_row("total", *(f"{memory.total / GIB:.2f}" for memory in (plan.kept, plan.recomputed)))
    rich_print(table)
    cut = f"{layout.kind}, {layout.replicas} replicas x {layout.tensor_parallel} tensor parallel, {layout.precision}"
    print(f"model: {plan.parameters / 1e9:.3f}B parameters; layout: {cut}")
    print(
        f"a device reads {shape.rows} rows of {shape.columns} at a time; logits take {plan.logits / GIB:.2f} GiB of it"
    )
    verdict = "fits" if plan.fits else "does NOT fit"
    how = "with" if plan.checkpointing else "without"
    need = f"{plan.memory.total / GIB:.1f} of {plan.capacity / GIB:.0f} GiB"
    print(f"{verdict} {how} gradient checkpointing: {need} (a twentieth is left to the allocator)")
    print(f"{plan.steps:,} steps of {plan.tokens:,} tokens: {plan.steps * plan.tokens / 1e9:.2f}B tokens")
    print(f"{plan.flops:.3g} operations a step, {plan.device_hours:,.0f} device hours")
