"""Estimate the memory and the cost of a training run, before it has devices.

It reads the options of `crosstask fit` for InstructionTuningModule or InstructionOptimizationModule, and needs neither
weights nor devices.

Example:
    crosstask plan --config quickstart --trainer.devices 8 --memory 40 --device A100
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..datamodules.messages import counted, short_number
from .shared.run_settings import Settings, run_on_settings

if TYPE_CHECKING:  # torch and transformers, which the help does not need
    from ..lightning_modules.planning.resource_plan import ResourcePlan


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(plan_training, words, parts=("trainer", "model", "data"))


def plan_training(
    settings: Settings,
    memory: float = 80.0,
    device: Literal[
        "A100", "H100", "H100 PCIe", "H100 NVL", "H200", "H200 NVL", "B200", "GB200", "L40S", "A10G", "V100"
    ] = "A100",
    utilization: float = 0.4,
    targets: float = 0.15,
    devices: int | None = None,
    node_bandwidth: float = 300.0,
    network_bandwidth: float = 25.0,
) -> None:
    """Print the memory that a run needs on each device, its time and its cost.

    Args:
        settings: Settings of the run.
        memory: Memory of a device, in GiB.
        device: Device whose peak FLOPS are assumed.
        utilization: Share of the peak FLOPS that the run reaches (MFU), in (0, 1].
        targets: Share of a row's tokens that are targets, in (0, 1].
        devices: Number of all devices; needed if the configuration does not state it.
        node_bandwidth: GB/s that a device sends to others of its node of 8 devices; the default is NVLink of an A100.
        network_bandwidth: GB/s that a device sends to other nodes; the default is 200 Gb/s for each device.

    Raises:
        ValueError: A number is out of its range, or no plan exists for the module or its settings.
    """
    from ..lightning_modules.planning.communication import Links
    from ..lightning_modules.planning.flops import DEVICES
    from ..lightning_modules.planning.resource_plan import GIB, make_plan

    if not 0 < utilization <= 1 or not 0 < targets <= 1:
        raise ValueError(f"utilization and targets are shares in (0, 1], got {utilization} and {targets}")
    if memory <= 0:
        raise ValueError(f"memory must be a positive number of GiB, got {memory}")
    if node_bandwidth <= 0 or network_bandwidth <= 0:
        raise ValueError(f"bandwidths must be positive GB/s, got {node_bandwidth} and {network_bandwidth}")
    print_plan(
        make_plan(
            settings.as_dict(),
            capacity=round(memory * GIB),
            rate=DEVICES[device][0] * utilization,
            targets=targets,
            links=Links(node_bandwidth * 1e9, network_bandwidth * 1e9),
            devices=devices,
        )
    )


def print_plan(plan: "ResourcePlan") -> None:
    """Print a table of a device's memory by recomputation, whether it fits, and the run's time and cost."""
    from rich import print as rich_print
    from rich.table import Table

    from ..lightning_modules.planning.phases import Memory
    from ..lightning_modules.planning.resource_plan import GIB

    layout, shape = plan.layout, plan.shape
    table = Table(title=f"One of {counted(layout.devices, 'device')}, GiB; recomputed:", title_justify="left")
    for column in ("", *map(_named, plan.memories)):
        table.add_column(column, justify="left" if not column else "right")
    for name in Memory._fields:
        table.add_row(name, *(f"{getattr(memory, name) / GIB:.2f}" for memory in plan.memories.values()))
    table.add_row("total", *(f"{memory.total / GIB:.2f}" for memory in plan.memories.values()))
    rich_print(table)
    divided = "tensor and sequence parallel" if layout.sequence_parallel else "tensor parallel"
    parallel = (
        f"{layout.kind}, {counted(layout.replicas, 'replica')} x {layout.tensor_parallel} {divided}, {layout.precision}"
    )
    print(f"model: {short_number(plan.parameters)} parameters; layout: {parallel}")
    read = f"{counted(shape.rows, 'row')} of {shape.columns:,} tokens"
    print(f"a device reads {read} at a time; their logits take {plan.logits / GIB:.2f} GiB")
    need = f"{plan.memory.total / GIB:.2g} of {plan.capacity / GIB:.0f} GiB"
    verdict, how = "fits" if plan.fits else "does NOT fit", _named(plan.recomputation)
    print(f"{verdict} with {how} recomputed: {need} (a twentieth is reserved for the allocator)")
    if plan.least is not None and plan.least != plan.recomputation:
        print(f"network.gradient_checkpointing: {_setting(plan.least)} fits and recomputes the least")
    total = short_number(plan.steps * plan.tokens)
    print(f"{counted(plan.steps, 'step')} of {plan.tokens:,} tokens: {total} tokens")
    print(f"{plan.flops:.3g} operations a step, {_hours(plan.device_hours)}")
    if plan.cast:
        print(
            f"conversions between float32 and half precision move {plan.cast / 1e9:.3g} GB of a device's memory a step"
        )
    if plan.outer is not None:
        print_outer(plan)
    if layout.devices > 1:
        print_exchange(plan)


def print_exchange(plan: "ResourcePlan") -> None:
    """Print the seconds of computation and of communication of a step."""
    weights, gradients, activations = plan.exchange
    print(
        f"a step computes for {plan.compute:.3g} s and communicates for {plan.exchange.total:.3g} s if none overlaps:"
    )
    print(f"weights {weights:.3g} s, gradients {gradients:.3g} s, tensor-parallel activations {activations:.3g} s")


def _hours(hours: float) -> str:
    """Return hours of a device as text, less than one in minutes."""
    return f"{hours:,.1f} device hours" if hours >= 1 else f"{60 * hours:.2g} device minutes"


def _named(choice: bool | int | str) -> str:
    """Return a setting of recomputation in words."""
    if choice == "selective":
        return "all but products"
    return {0: "nothing", 1: "all blocks", 2: "every second block"}.get(int(choice), f"every {choice}th block")


def _setting(choice: bool | int | str) -> str:
    """Return a setting of recomputation as YAML."""
    return str(choice).lower()


def print_outer(plan: "ResourcePlan") -> None:
    """Print the memory and computation that the steps of the instruction's parameters (phi) add."""
    from ..lightning_modules.planning.bilevel_plan import MOST_TASKS
    from ..lightning_modules.planning.resource_plan import GIB

    outer = plan.outer
    assert outer is not None
    passes, share = outer.passes, outer.flops / outer.inner_steps / plan.flops
    print(
        f"an outer step every {outer.inner_steps} steps ({passes.method}), {share:.0%} of the operations: "
        f"{counted(passes.outer, 'pass', 'passes')} of {counted(outer.rows, 'outer row')} and "
        f"{passes.inner + passes.frozen} of the inner batch, with {counted(passes.vectors, 'vector')} of theta's size"
    )
    print(f"phi with its moments: {outer.instruction / GIB:.2f} GiB ({MOST_TASKS} tasks, if it has a row for each)")
