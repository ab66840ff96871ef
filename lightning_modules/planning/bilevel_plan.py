"""Costs of the outer level of instruction optimization: vectors of theta's size, phi, and passes.

An outer step holds weights and moments as training does, and activations of one pass. In place of the gradients it
holds several vectors of theta's size (as shards under FSDP2). The tests measure their number for every method.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from ...datamodules.bilevel.presets import Choices, choices
from ..instructions.outer_settings import OuterSettings
from .flops import training_flops
from .memory import Layout, StepShape
from .phases import Phases

MOST_TASKS = 757
"""Inner tasks that a plan assumes for direct instructions: the English tasks of Super-NaturalInstructions."""
PENALTY = "crosstask.lightning_modules.hypergradients.penalty"


class OuterPasses(NamedTuple):
    """Numbers of passes through the model, and of vectors in memory, that computing one hypergradient takes.

    Args:
        method: Name of the method that approximates the hypergradient.
        vectors: Number of vectors of theta's size in memory at the peak, besides weights and Adam's moments.
        outer: Number of passes of the outer batch.
        inner: Number of passes of the inner batch that differentiate with respect to theta.
        frozen: Number of passes of the inner batch that differentiate with respect to phi, with theta frozen.
    """

    method: str
    vectors: int
    outer: int = 1
    inner: int = 0
    frozen: int = 2


class OuterPlan(NamedTuple):
    """Size and cost of an outer step of instruction optimization, which updates the learnable instruction (phi).

    Args:
        passes: Numbers of passes through the model, and of vectors in memory, that a hypergradient takes.
        inner_steps: Inner steps for each outer step, K.
        rows: Instances of an outer batch, over all devices.
        flops: Floating-point operations of an outer step, on all devices together.
        instruction: Bytes of phi with its gradient and moments, on every device; 0 for a user's own class.
    """

    passes: OuterPasses
    inner_steps: int
    rows: int
    flops: float
    instruction: int


def outer_passes(outer: OuterSettings, chosen: Choices) -> OuterPasses:
    """Return the passes and vectors in memory of one hypergradient, without a search for the finite-difference radius.

    Args:
        outer: Settings of the hypergradient.
        chosen: The preset's choices, with the settings that override them.

    Raises:
        ValueError: The method is a user's own, or the curvature is exact, whose graphs cannot be estimated.
    """
    if outer.curvature != "finite_difference":
        raise ValueError("no plan can be made for exact curvature, which keeps graphs: set finite_difference")
    if outer.gradient == PENALTY:
        steps = int(outer.options.get("steps", 1))
        return OuterPasses("penalty", 4 if steps == 1 else 6, outer=steps, inner=2 * steps - 1)
    if outer.gradient is not None or "." in outer.method:
        raise ValueError(
            f"the passes of {outer.gradient or outer.method} are unknown: plan with outer.method neumann, with as many "
            "outer.hessian_products as yours, and without outer.options"
        )
    products, name = chosen.hessian_products, outer.method
    if name == "conjugate_gradient":
        return OuterPasses(name, 6 if outer.iterations == 1 else 9, inner=2 * outer.iterations)
    if name in ("identity", "sama") or not products:
        return OuterPasses(name, 3 if name in ("identity", "neumann") else 4)
    vectors = 6 if products == 1 else 9
    if name == "adam_preconditioned":
        return OuterPasses(name, vectors + 1, inner=2 * products)
    skipped = outer.negligible > 0  # the Hessian is computed at searches for the radius, if it is negligible
    return OuterPasses(name, max(vectors, 7 if outer.gamma == "auto" else 0), inner=0 if skipped else 2 * products)


def bilevel_shape(data: Mapping[str, Any], layout: Layout, targets: float) -> StepShape:
    """Return the size of a device's batch in an inner step, which has one instance per row.

    Args:
        data: Arguments of the datamodule.
        layout: How the model is divided over devices.
        targets: Share of a row's tokens that are targets, in [0, 1].

    Raises:
        ValueError: The module rejects the layout, or the rows cannot be divided.
    """
    rows, count = data["rows"], data["levels"]["inner_rows"]
    if layout.kind not in ("single", "ddp", "sharded") or layout.tensor_parallel > 1 or layout.compute_dtype:
        raise ValueError(
            "instruction optimization trains on one device, under ddp, or under ShardedStrategy without tensor "
            f"parallelism and compute_dtype, got {layout.kind}"
        )
    if count % layout.replicas:
        raise ValueError(f"levels.inner_rows = {count} cannot be divided into {layout.replicas} replicas")
    columns, target_columns = rows["length"], rows.get("target_length")
    return StepShape(count // layout.replicas, columns, max(round(columns * targets), 1), target_columns)


def outer_plan(
    arguments: Mapping[str, Any],
    data: Mapping[str, Any],
    outer: OuterSettings,
    whole: PreTrainedModel,
    counts: Callable[[int], Mapping[str, int]],
) -> OuterPlan:
    """Return size and cost of the outer steps that a configuration describes.

    Args:
        arguments: Arguments of the module, by name.
        data: Arguments of the datamodule, by name.
        outer: Settings of the outer level.
        whole: The whole model on the meta device.
        counts: Returns the counts of `training_flops` for a number of rows.
    """
    levels = data["levels"]
    chosen = choices(
        arguments["preset"],
        **outer.overrides(),
        outer_rows=levels["outer_rows"],
        curvature_batch=levels["curvature_batch"],
    )
    passes = outer_passes(outer, chosen)
    curvature_rows = chosen.outer_rows if chosen.curvature_batch == "fresh" else levels["inner_rows"]
    trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    flops = passes.outer * training_flops(whole, counts(chosen.outer_rows))
    flops += passes.inner * training_flops(whole, counts(curvature_rows))
    for parameter in trained:
        parameter.requires_grad_(False)
    flops += passes.frozen * training_flops(whole, counts(curvature_rows))
    for parameter in trained:
        parameter.requires_grad_(True)
    size = instruction_parameters(arguments["instruction"], whole.config)
    return OuterPlan(passes, levels["inner_steps"], chosen.outer_rows, flops, 16 * size)


def pass_rows(outer: OuterSettings, plan: OuterPlan, *, inner: int, replicas: int) -> int:
    """Return how many rows a device puts through the model at a time in an outer step.

    An outer step may have more rows than fit into memory; they are processed in chunks of this many.

    Args:
        outer: Settings of the outer level.
        plan: Costs of an outer step, with its number of rows over all devices.
        inner: Rows of a device in an inner step, the size of a chunk by default.
        replicas: Number of devices among which the rows are divided (data parallelism).

    Raises:
        ValueError: The outer rows cannot be divided.
    """
    if plan.rows % replicas:
        raise ValueError(f"levels.outer_rows = {plan.rows} cannot be divided into {replicas} replicas")
    return min(outer.rows_at_once or inner, max(plan.rows // replicas, inner))


def instruction_parameters(instruction: Mapping[str, Any], config: PreTrainedConfig) -> int:
    """Return the number of parameters of a learnable instruction, for 757 tasks where each task has its own.

    It is 0 for instructions that are not learned, and for a user's own class.

    Args:
        instruction: The module's argument `instruction`, by field.
        config: Configuration of the language model.
    """
    length, exemplars = instruction["length"], instruction["exemplars"]
    representation = instruction["representation"]
    own = representation["width"] if representation["by"] == "own" else 0
    width = own or config.hidden_size
    return {
        "direct_embedder": MOST_TASKS * length * config.hidden_size,
        "instance_embedder": own * config.vocab_size + width * length * config.hidden_size,
        "direct_extractor": MOST_TASKS * exemplars,
        "instance_extractor": own * config.vocab_size + width**2,
    }.get(instruction["kind"], 0)


def outer_phases(phases: Phases, vectors: int) -> Phases:
    """Return the peak memory of one device in each phase of an outer step, from that of an inner step.

    In place of the gradients there are `vectors` vectors of their size, and the model's optimizer takes no step.

    Args:
        phases: Peak memory in each phase of a training step with the rows of a pass of the outer step.
        vectors: Number of vectors of the size of the model's weights that computing a hypergradient holds.
    """
    gradients = max(memory.gradients for memory in phases.values())
    passes = {phase: memory for phase, memory in phases.items() if phase.part != "step"}
    return {phase: memory._replace(gradients=vectors * gradients) for phase, memory in passes.items()}
