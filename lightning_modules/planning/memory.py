"""Bytes that one device holds at the peak of a training step, found without weights, devices or other processes.

The model is built on the meta device, cut by the very code that cuts it in training (``sharded_models.shard``) over a
process group that only pretends to have peers, and taken through a forward and a backward pass on fake tensors, which
have shapes and no data. ``torch.distributed._tools`` keeps account of every storage that lives meanwhile. DeepSpeed and
DDP do not run on fake tensors: there the step is that of one device, and what they divide or add is arithmetic.
"""

# B rows, L columns, N target columns, P parameters of the whole model

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ..sharding.sharded_models import Sharding, blocks, shard

Kind = Literal["single", "ddp", "sharded", "zero_1", "zero_2", "zero_3"]
Precision = Literal["32-true", "bf16-true", "bf16-mixed", "16-mixed"]

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
        offload: Whether optimizer state (and the shards of ``sharded``) live in the host's memory.
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


class Memory(NamedTuple):
    """Bytes on one device at one moment; ``total`` is their sum.

    Args:
        weights: Its part of the parameters.
        gradients: Its part of their gradients, as far as they exist.
        optimizer: Its part of Adam's moments, and of float32 copies of the parameters.
        gathered: Whole blocks, gathered from other devices' parts, and buffers of collectives.
        activations: What the backward pass needs of the forward pass, logits, and what is needed for a moment.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


Build = Callable[[torch.dtype | None], PreTrainedModel]
"""Builds the model from random weights, of a dtype or of its own, on the default device."""

Finish = Callable[[PreTrainedModel], None]
"""What is done to a model once it is cut: dropout, checkpointing."""


def step_memory(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Memory:
    """Memory of one device when it holds most: in the backward pass, or while the optimizer steps.

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
    # DeepSpeed's weights are of the type it computes in.
    half = layout.precision == "bf16-true" or layout.kind.startswith("zero")
    with torch.device("meta"):
        model = build(_compute_dtype(layout) if half else None).train()
    finish(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        model.to_empty(device="cpu")
        model.tie_weights()
        tracker = MemTracker()
        tracker.track_external(model)
        for parameter in model.parameters():
            if not parameter.requires_grad:  # the tracker would hang a hook on a gradient that never comes
                tracker._param_to_grad_hook_handles[parameter] = (
                    RemovableHandle(OrderedDict()),
                    RemovableHandle(OrderedDict()),
                )
        return _divided(_peak_of_a_step(model, layout, shape, tracker), model, layout, shape)


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
            F.cross_entropy(logits.float(), targets, reduction="sum").backward()
    gradients = (table.numel() + hidden.numel()) * dtype.itemsize
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return max(int(snapshot["Total"]) - before - gradients, 0)


def _sharded(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Memory:
    """The step of rank 0 of `layout.devices`, cut as in training."""
    share = layout.tensor_parallel * layout.copies
    if layout.devices % share:
        raise ValueError(
            f"{layout.devices} devices cannot be divided into tensor_parallel_size = {layout.tensor_parallel} x copies "
            f"= {layout.copies}: choose a divisor"
        )
    with _pretended_group(layout.devices):
        names = ("copies", "shards", "tensor")
        sizes = (layout.copies, layout.devices // share, layout.tensor_parallel)
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        data = mesh["copies", "shards"] if layout.copies > 1 else mesh["shards"]
        with torch.device("meta"):
            model = build(None).train()
        shard(model, Sharding(data, mesh["tensor"], torch.device("cpu"), layout.compute_dtype))
        finish(model)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            tracker = FSDPMemTracker(model)
            tracker.track_inputs((torch.zeros(1),))
            peak = _peak_of_a_step(model, layout, shape, tracker)
        held = sum(_local(parameter) * parameter.dtype.itemsize for parameter in model.parameters())
    here = 0 if layout.offload else held
    during = Memory(
        weights=here,
        gradients=here if shape.accumulated else min(peak["Sharded Grad"], here),
        optimizer=2 * here,
        gathered=sum(peak[name] for name in ("Unsharded Param", "Unsharded Grad", "All Gather", "Reduce Scatter")),
        activations=peak["Activation"] + peak["Temp"] + peak["Buffer"],
    )
    return _larger(during, Memory(here, here, 2 * here, 0, here if layout.foreach else 0))


def _divided(peak: Mapping[str, int], model: PreTrainedModel, layout: Layout, shape: StepShape) -> Memory:
    """What is held besides activations, by arithmetic (ZeRO: arXiv 1910.02054, section 5)."""
    sizes = [(parameter.nbytes, parameter.requires_grad) for parameter in model.parameters()]
    whole, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    activations = peak["Activation"] + peak["Temp"] + peak["Buffer"]
    if not layout.kind.startswith("zero"):
        buckets = trained if layout.kind == "ddp" else 0  # DDP reduces copies of the gradients
        existing = trained if shape.accumulated else peak["Gradient"]
        during = Memory(whole, existing, 2 * trained, buckets, activations)
        return _larger(during, Memory(whole, trained, 2 * trained, buckets, trained if layout.foreach else 0))
    count = sum(parameter.numel() for parameter in model.parameters())
    stage, share, compute = int(layout.kind[-1]), layout.devices, _compute_dtype(layout).itemsize
    stages = [*blocks(model), model.get_input_embeddings()]
    largest = max(sum(parameter.numel() for parameter in module.parameters()) for module in stages)
    weights = count * compute // (share if stage == 3 else 1)
    gradients = count * compute // (share if stage >= 2 else 1)
    # DeepSpeed keeps weights in the type it computes in, and float32 copies of them beside Adam's moments.
    optimizer = 0 if layout.offload else count * (4 + ADAM_BYTES) // share
    gathered = (2 * largest if stage == 3 else 0) * compute + layout.reduce_bucket * compute
    during = Memory(weights, gradients, optimizer, gathered, activations)
    # While it steps, its part of the gradients is there in float32, in place of what a stage above 1 has divided.
    widened = count * 4 // share + (gradients if stage == 1 else 0)
    return _larger(during, Memory(weights, 0 if layout.offload else widened, optimizer, gathered, 0))


def _larger(one: Memory, other: Memory) -> Memory:
    return one if one.total >= other.total else other


def _peak_of_a_step(model: PreTrainedModel, layout: Layout, shape: StepShape, tracker: MemTracker) -> dict[str, int]:
    """Bytes by kind at the peak of a forward and a backward pass on fake tensors."""
    mixed = layout.precision.endswith("mixed") and layout.compute_dtype is None and not layout.kind.startswith("zero")
    # A CPU's autocast keeps what CUDA's keeps, and float16 takes the two bytes of bfloat16.
    with tracker:
        with torch.autocast("cpu", dtype=torch.bfloat16) if mixed else nullcontext():
            loss = _loss(model, shape)
        loss.backward()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return {kind.value if isinstance(kind, Enum) else kind: size for kind, size in snapshot.items()}


def _loss(model: PreTrainedModel, shape: StepShape) -> Tensor:
    ids_BL = torch.zeros(shape.rows, shape.columns, dtype=torch.long)
    if model.config.is_encoder_decoder:
        targets_BL = torch.zeros(shape.rows, shape.target_columns or shape.columns, dtype=torch.long)
        logits = model(input_ids=ids_BL, decoder_input_ids=targets_BL, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets_BL.flatten(), reduction="sum")
    kept = torch.zeros(shape.targets, dtype=torch.long)
    logits = model(input_ids=ids_BL, logits_to_keep=kept, use_cache=False).logits
    targets_N = torch.zeros(shape.rows * shape.targets, dtype=torch.long)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets_N, reduction="sum")


def _compute_dtype(layout: Layout) -> torch.dtype:
    if layout.compute_dtype is not None:
        return layout.compute_dtype
    return torch.float32 if layout.precision == "32-true" else torch.bfloat16


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
