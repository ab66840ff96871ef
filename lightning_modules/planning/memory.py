"""Bytes that one device holds at the peak of a training step, found without weights, devices or other processes.

The model is built on the meta device, cut by the very code that cuts it in training (``sharded_models.shard``) over a
process group that only pretends to have peers, and taken through a forward and a backward pass on fake tensors, which
have shapes and no data. ``torch.distributed._tools`` keeps account of every storage that lives meanwhile. DeepSpeed and
DDP do not run on fake tensors: there the step is that of one device, and what they divide or add is arithmetic.
"""

# B rows, L columns, N target columns, P parameters of the whole model

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ..sharding.sharded_models import Sharding, blocks, shard
from .phases import Measure, Memory, Phase, PhaseRecord, Phases, PhaseTracker, ShardedPhaseTracker, most

Kind = Literal["single", "ddp", "sharded", "zero_1", "zero_2", "zero_3"]
Precision = Literal["64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"]

ADAM_BYTES = 8
"""Two moments in float32 for a parameter in float32."""


class Layout(NamedTuple):
    """How a model lies on devices.

    Args:
        kind: ``single``, ``ddp``, ``sharded`` (FSDP and FSDP2, over `copies` groups) or DeepSpeed's ``zero_1`` to 3.
        devices: All devices.
        tensor_parallel: Devices that share one replica's matrices (``sharded`` alone).
        copies: Groups that each hold the whole model (``sharded`` alone).
        precision: The trainer's.
        compute_dtype: What ``sharded`` gathers and computes in, where it is not the parameters' type.
        offload: Whether optimizer state lives in the host's memory, with the shards of ``sharded`` and the gradients
            that ZeRO-2 and 3 divide.
        offload_weights: Whether ZeRO-3's part of the weights does, too.
        foreach: Whether the optimizer updates all parameters in one call, which takes one more copy of them;
            torch's default on CUDA, unless the optimizer is fused.
        reduce_bucket: Gradients that DeepSpeed collects before it reduces them; their buffer is there from the start.
    """

    kind: Kind = "single"
    devices: int = 1
    tensor_parallel: int = 1
    copies: int = 1
    precision: Precision = "32-true"
    compute_dtype: torch.dtype | None = None
    offload: bool = False
    offload_weights: bool = False
    foreach: bool = False
    reduce_bucket: int = 0

    @property
    def replicas(self) -> int:
        """Devices that see different data."""
        return self.devices // self.tensor_parallel


class StepShape(NamedTuple):
    """What one device reads between two collectives.

    Args:
        rows: Rows of a batch.
        columns: Columns of a row.
        targets: Target columns of a row: logits are made for them alone.
        target_columns: Columns of the decoder's row of an encoder-decoder model.
        accumulated: Whether gradients of earlier batches are there already.
    """

    rows: int
    columns: int
    targets: int
    target_columns: int | None = None
    accumulated: bool = False


Build = Callable[[torch.dtype | None], PreTrainedModel]
"""Builds the model from random weights, of a dtype or of its own, on the default device."""

Finish = Callable[[PreTrainedModel], None]
"""What is done to a model once it is cut: dropout, checkpointing."""


def step_memory(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Memory:
    """Memory of one device when it holds most: in the forward or backward pass, or while the optimizer steps.

    The arguments are those of ``step_phases``.
    """
    return most(step_phases(build, finish, layout, shape))


def step_phases(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Phases:
    """The most that one device holds in each phase of a step.

    Args:
        build: Called with the meta device as default; must attend by ``sdpa``, whose memory is that of document
            attention with one document a row, the most that a row can need.
        finish: Called with the model once it is cut.
        layout: Where the model lies.
        shape: What a device reads.

    Raises:
        ValueError: The devices cannot be divided as the layout says.
    """
    if layout.kind == "sharded":
        return _sharded(build, finish, layout, shape)
    if layout.tensor_parallel > 1 or layout.copies > 1:
        raise ValueError(f"only the sharded strategy divides a replica or keeps copies, got {layout}")
    with torch.device("meta"):
        model = _converted(build(None), layout).train()
    finish(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        model.to_empty(device="cpu")
        model.tie_weights()
        tracker = PhaseTracker()
        tracker.track_external(model)
        for parameter in model.parameters():
            if not parameter.requires_grad:  # the tracker would hang a hook on a gradient that never comes
                tracker._param_to_grad_hook_handles[parameter] = (
                    RemovableHandle(OrderedDict()),
                    RemovableHandle(OrderedDict()),
                )
        measure, stepping = _divided(model, layout, shape)
        tracker.record = PhaseRecord(blocks(model), measure)
        return {**_phases(model, layout, shape, tracker), Phase("step"): stepping}


def require_divisible(layout: Layout) -> None:
    """Refuse devices that cannot be divided into replicas and copies.

    Raises:
        ValueError: With the sizes.
    """
    if layout.devices % (layout.tensor_parallel * layout.copies):
        raise ValueError(
            f"{layout.devices} devices cannot be divided into tensor_parallel_size = {layout.tensor_parallel} x copies "
            f"= {layout.copies}: choose a divisor"
        )


def head_memory(width: int, vocabulary: int, columns: int, layout: Layout) -> int:
    """Bytes that logits, softmax and their gradients of `columns` targets take at their peak."""
    dtype = _compute_dtype(layout)
    with FakeTensorMode():
        table = nn.Parameter(torch.empty(vocabulary, width, dtype=dtype))
        hidden = torch.empty(columns, width, dtype=dtype, requires_grad=True)
        targets = torch.zeros(columns, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(table, hidden, targets)
        before = (table.numel() + hidden.numel()) * dtype.itemsize + targets.nbytes
        with tracker:
            logits = F.linear(hidden, table)
            F.cross_entropy(_wide(logits), targets, reduction="sum").backward()
    gradients = (table.numel() + hidden.numel()) * dtype.itemsize
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return max(int(snapshot["Total"]) - before - gradients, 0)


def _sharded(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Phases:
    """The step of rank 0 of `layout.devices`, cut as in training."""
    require_divisible(layout)
    with _pretended_group(layout.devices):
        names = ("copies", "shards", "tensor")
        shards = layout.devices // (layout.tensor_parallel * layout.copies)
        mesh = init_device_mesh("cpu", (layout.copies, shards, layout.tensor_parallel), mesh_dim_names=names)
        data = mesh["copies", "shards"] if layout.copies > 1 else mesh["shards"]
        with torch.device("meta"):
            model = _converted(build(None), layout).train()
        whole_blocks = blocks(model)  # FSDP2 gives them classes of its own
        shard(model, Sharding(data, mesh["tensor"], torch.device("cpu"), layout.compute_dtype))
        finish(model)
        held = sum(_local(parameter) * parameter.dtype.itemsize for parameter in model.parameters())
        here = 0 if layout.offload else held
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            _learn_shapes(model, layout, shape)
            tracker = ShardedPhaseTracker(model)
            tracker.track_inputs((torch.zeros(1),))
            tracker.record = PhaseRecord(whole_blocks, _cut(here, shape))
            phases = _phases(model, layout, shape, tracker)
    return {**phases, Phase("step"): Memory(here, here, 2 * here, 0, here if layout.foreach else 0)}


def _cut(here: int, shape: StepShape) -> Measure:
    """What is held while a model computes of which `here` bytes are this device's."""

    def measure(found: Mapping[str, int]) -> Memory:
        return Memory(
            weights=here,
            gradients=here if shape.accumulated else min(found["Sharded Grad"], here),
            optimizer=2 * here,
            gathered=sum(found[name] for name in ("Unsharded Param", "Unsharded Grad", "All Gather", "Reduce Scatter")),
            activations=_activations(found),
        )

    return measure


def _divided(model: PreTrainedModel, layout: Layout, shape: StepShape) -> tuple[Measure, Memory]:
    """What is held while the model computes, and while it steps, by arithmetic (ZeRO: arXiv 1910.02054, section 5)."""
    if layout.kind.startswith("zero"):
        return _partitioned(model, layout)
    sizes = [(parameter.nbytes, parameter.requires_grad) for parameter in model.parameters()]
    whole, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    buckets = trained if layout.kind == "ddp" else 0  # DDP reduces copies of the gradients

    def measure(found: Mapping[str, int]) -> Memory:
        existing = trained if shape.accumulated else found["Gradient"]
        return Memory(whole, existing, 2 * trained, buckets, _activations(found))

    return measure, Memory(whole, trained, 2 * trained, buckets, trained if layout.foreach else 0)


def _partitioned(model: PreTrainedModel, layout: Layout) -> tuple[Measure, Memory]:
    """The same under DeepSpeed."""
    count = sum(parameter.numel() for parameter in model.parameters())
    stage, share, compute = int(layout.kind[-1]), layout.devices, _compute_dtype(layout).itemsize
    stages = [*blocks(model), model.get_input_embeddings()]
    largest = max(sum(parameter.numel() for parameter in module.parameters()) for module in stages)
    weights = count * compute // (share if stage == 3 else 1) if not layout.offload_weights else 0
    gradients = count * compute // (share if stage >= 2 else 1) if stage == 1 or not layout.offload else 0
    # DeepSpeed keeps weights in the type it computes in, and float32 copies of them beside Adam's moments.
    optimizer = 0 if layout.offload else count * (4 + ADAM_BYTES) // share
    gathered = (2 * largest if stage == 3 else 0) * compute + layout.reduce_bucket * compute

    def measure(found: Mapping[str, int]) -> Memory:
        return Memory(weights, gradients, optimizer, gathered, _activations(found))

    # While it steps, its part of the gradients is there in float32, in place of what a stage above 1 has divided.
    widened = count * 4 // share + (gradients if stage == 1 else 0)
    return measure, Memory(weights, 0 if layout.offload else widened, optimizer, gathered, 0)


def _activations(found: Mapping[str, int]) -> int:
    return found["Activation"] + found["Temp"] + found["Buffer"]


def _phases(model: PreTrainedModel, layout: Layout, shape: StepShape, tracker: PhaseTracker) -> Phases:
    """The phases of a forward and a backward pass on fake tensors."""
    assert tracker.record is not None
    with tracker:
        _pass(model, layout, shape)
    return tracker.record.held


def _learn_shapes(model: PreTrainedModel, layout: Layout, shape: StepShape) -> None:
    """A pass that is not tracked, after which DTensor has the shapes of all results in its cache.

    It computes each new shape once, on fake tensors of whole shapes, which a tracker would count as held matrices.
    """
    _pass(model, layout, shape)
    model.zero_grad(set_to_none=True)


def _pass(model: PreTrainedModel, layout: Layout, shape: StepShape) -> None:
    """A forward and a backward pass on fake tensors."""
    mixed = layout.precision.endswith("mixed") and layout.compute_dtype is None and not layout.kind.startswith("zero")
    with warnings.catch_warnings():
        # FSDP2 warns of views that are changed in place, which no model does that trains.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        # A CPU's autocast keeps what CUDA's keeps, and float16 takes the two bytes of bfloat16.
        with torch.autocast("cpu", dtype=torch.bfloat16) if mixed else nullcontext():
            loss = _loss(model, shape)
        loss.backward()


def _loss(model: PreTrainedModel, shape: StepShape) -> Tensor:
    ids_BL = torch.zeros(shape.rows, shape.columns, dtype=torch.long)
    if model.config.is_encoder_decoder:
        targets_BL = torch.zeros(shape.rows, shape.target_columns or shape.columns, dtype=torch.long)
        logits = model(input_ids=ids_BL, decoder_input_ids=targets_BL, use_cache=False).logits
        return F.cross_entropy(_wide(logits.flatten(0, 1)), targets_BL.flatten(), reduction="sum")
    kept = torch.zeros(shape.targets, dtype=torch.long)
    logits = model(input_ids=ids_BL, logits_to_keep=kept, use_cache=False).logits
    targets_N = torch.zeros(shape.rows * shape.targets, dtype=torch.long)
    return F.cross_entropy(_wide(logits.flatten(0, 1)), targets_N, reduction="sum")


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _converted(model: PreTrainedModel, layout: Layout) -> PreTrainedModel:
    """A model with weights of the type that Lightning or DeepSpeed, which always computes in them, gives them."""
    true = layout.precision.endswith("true") and layout.precision != "32-true"
    return model.to(_compute_dtype(layout)) if true or layout.kind.startswith("zero") else model  # type: ignore[arg-type]


def _compute_dtype(layout: Layout) -> torch.dtype:
    if layout.compute_dtype is not None:
        return layout.compute_dtype
    wide = {"32-true": torch.float32, "64-true": torch.float64}
    return wide.get(layout.precision, torch.bfloat16)


def _local(parameter: Tensor) -> int:
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


@contextmanager
def _pretended_group(size: int) -> Iterator[None]:
    """A process group whose collectives do nothing, so that one process can be rank 0 of many."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("memory is planned in a process of its own: a process group is initialized already")
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
