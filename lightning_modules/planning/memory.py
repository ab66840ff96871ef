"""Peak memory of one device in a training step, computed without weights, devices or other processes.

The model is built on the meta device and sharded by the code of training (``sharded_models.shard``) over a fake process
group. A forward and a backward pass run on fake tensors, which have shapes but no data, while
``torch.distributed._tools`` records every live storage. DeepSpeed and DDP do not run on fake tensors: for them the step
of one device is measured, and what they divide or add is computed.
"""

# B rows, L columns, N target columns, P parameters of the whole model

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
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

from ..chunked_cross_entropy import CHUNK, chunked_cross_entropy
from ..chunked_head import ChunkedHead, has_plain_head
from ..master_weights import CHUNK as CHUNK_OF_MASTERS
from ..master_weights import is_low
from ..sharding.sharded_models import Sharding, blocks, shard
from .phases import Measure, Memory, Phase, PhaseRecord, Phases, PhaseTracker, ShardedPhaseTracker

Kind = Literal["single", "ddp", "sharded", "zero_1", "zero_2", "zero_3"]
Precision = Literal["64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"]

ADAM_BYTES = 8
"""Bytes of Adam's two moments in float32, per parameter."""


class Layout(NamedTuple):
    """The division of a model over devices: strategy, precision and offload.

    Args:
        kind: single, ddp, sharded (FSDP1 and FSDP2), or zero_1, zero_2, zero_3 (DeepSpeed's stages).
        devices: Number of all devices.
        tensor_parallel: Number of devices that divide the matrices of one replica; only with sharded.
        copies: Number of groups of devices whose shards together are the whole model; only with sharded.
        precision: The trainer's precision.
        compute_dtype: Type in which sharded gathers and computes; None for that of the parameters.
        offload: Whether optimizer states are in the host's memory, and with them the shards of sharded, or the
            gradients of zero_2 and zero_3.
        reduce_once: Whether sharded reduces gradients at the last accumulated batch of a step only.
        sequence_parallel: Whether sharded divides the columns of rows between matrices over `tensor_parallel`, too.
        offload_weights: Whether the weights of zero_3 are in the host's memory, too.
        foreach: Whether the optimizer updates all parameters in one call, which takes one more copy of them. It is
            torch's default on CUDA, unless the optimizer is fused.
        master_weights: Whether the optimizer keeps float32 copies of weights in half precision.
        reduce_bucket: Number of gradients in DeepSpeed's reduction buffer, which is allocated at the start.
    """

    kind: Kind = "single"
    devices: int = 1
    tensor_parallel: int = 1
    copies: int = 1
    precision: Precision = "32-true"
    compute_dtype: torch.dtype | None = None
    offload: bool = False
    reduce_once: bool = False
    sequence_parallel: bool = False
    offload_weights: bool = False
    foreach: bool = False
    master_weights: bool = False
    reduce_bucket: int = 0

    @property
    def replicas(self) -> int:
        """Number of replicas, i.e. of groups of devices that train on different data."""
        return self.devices // self.tensor_parallel


class StepShape(NamedTuple):
    """Size of one device's micro-batch.

    Args:
        rows: Rows of the micro-batch.
        columns: Columns (tokens and padding) of a row; of the encoder's row in an encoder-decoder model.
        targets: Columns of a row that predict a target token; logits are computed for these only.
        target_columns: Columns of the decoder's row, with padding; None for a decoder-only model.
        accumulated: Whether gradients of earlier micro-batches of the step already occupy memory.
        chunked: Whether the loss of many targets is computed in chunks, so that the whole logits never exist.
    """

    rows: int
    columns: int
    targets: int
    target_columns: int | None = None
    accumulated: bool = False
    chunked: bool = True


Build = Callable[[torch.dtype | None], PreTrainedModel]
"""Builds the model with random weights on the default device, in a given dtype or in the configured one."""

Finish = Callable[[PreTrainedModel], None]
"""Adds dropout and activation checkpointing to a built and sharded model, in place."""


def step_phases(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Phases:
    """Return the peak memory of one device, in bytes, in each phase of a training step.

    The phases are the forward and the backward pass of each block, and the optimizer's step.

    Args:
        build: Builds the model; called with the meta device as default. The model's attention should be ``sdpa``: it
            runs on tensors without data, and its memory equals that of document attention with one document per row,
            the upper bound of packed rows.
        finish: Adds dropout and activation checkpointing to the built and sharded model, in place.
        layout: How the model is divided over devices.
        shape: Micro-batch of a device.

    Raises:
        ValueError: The devices cannot be divided according to the layout.
        RuntimeError: The layout is sharded, and this process has a process group already.
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
            if not parameter.requires_grad:  # it has no gradient for the tracker to hook
                tracker._param_to_grad_hook_handles[parameter] = (
                    RemovableHandle(OrderedDict()),
                    RemovableHandle(OrderedDict()),
                )
        measure, stepping = _divided(model, layout, shape)
        tracker.record = PhaseRecord(blocks(model), measure)
        return {**_phases(model, layout, shape, tracker), Phase("step"): stepping}


def require_divisible(layout: Layout) -> None:
    """Reject devices that cannot be divided into replicas and copies.

    Raises:
        ValueError: The number of devices is not a multiple of tensor_parallel times copies.
    """
    if layout.devices % (layout.tensor_parallel * layout.copies):
        raise ValueError(
            f"{layout.devices} devices cannot be divided into tensor_parallel_size = {layout.tensor_parallel} x copies "
            f"= {layout.copies}: choose a divisor"
        )


def head_memory(width: int, vocabulary: int, columns: int, layout: Layout, *, chunked: bool) -> int:
    """Return the peak bytes of logits, softmax and their gradients for `columns` targets.

    Args:
        width: Columns of the head's matrix, i.e. width of a hidden state.
        vocabulary: Rows of the head's matrix.
        columns: Number of targets.
        layout: How the model is divided over devices; decides the type of the logits.
        chunked: Whether the loss of many targets is computed in chunks of the vocabulary.
    """
    dtype = compute_dtype(layout)
    with FakeTensorMode():
        table = nn.Parameter(torch.empty(vocabulary, width, dtype=dtype))
        hidden = torch.empty(columns, width, dtype=dtype, requires_grad=True)
        targets = torch.zeros(columns, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(table, hidden, targets)
        before = (table.numel() + hidden.numel()) * dtype.itemsize + targets.nbytes
        with tracker:
            if chunked and columns * vocabulary > CHUNK:
                chunked_cross_entropy(hidden, table, None, targets).backward()
            else:
                F.cross_entropy(_wide(F.linear(hidden, table)), targets, reduction="sum").backward()
    gradients = (table.numel() + hidden.numel()) * dtype.itemsize
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return max(int(snapshot["Total"]) - before - gradients, 0)


def _sharded(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Phases:
    """Return the phases of rank 0 of `layout.devices`, sharded as in training."""
    require_divisible(layout)
    with _pretended_group(layout.devices):
        names = ("copies", "shards", "tensor")
        shards = layout.devices // (layout.tensor_parallel * layout.copies)
        mesh = init_device_mesh("cpu", (layout.copies, shards, layout.tensor_parallel), mesh_dim_names=names)
        data = mesh["copies", "shards"] if layout.copies > 1 else mesh["shards"]
        with torch.device("meta"):
            model = _converted(build(None), layout).train()
        whole_blocks = blocks(model)  # FSDP2 replaces their classes
        device, sequence = torch.device("cpu"), layout.sequence_parallel
        shard(model, Sharding(data, mesh["tensor"], device, layout.compute_dtype, sequence=sequence))
        finish(model)
        held = sum(_local(parameter) * parameter.dtype.itemsize for parameter in model.parameters())
        here = 0 if layout.offload else held
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            _learn_shapes(model, layout, shape)
            tracker = ShardedPhaseTracker(model)
            tracker.track_inputs((torch.zeros(1),))
            wide = 4 / compute_dtype(layout).itemsize if layout.compute_dtype is not None else 1
            whole = round(held * shards * wide) if layout.reduce_once and shape.accumulated else 0
            tracker.record = PhaseRecord(whole_blocks, _cut(here, shape, whole))
            phases = _phases(model, layout, shape, tracker)
    return {**phases, Phase("step"): Memory(here, here, 2 * here, 0, here if layout.foreach else 0)}


def _cut(here: int, shape: StepShape, whole: int) -> Measure:
    """Return the measure of a sharded model, with `here` bytes of weights and `whole` bytes of unreduced gradients."""

    def measure(sizes: Mapping[str, int]) -> Memory:
        return Memory(
            weights=here,
            gradients=whole or (here if shape.accumulated else min(sizes["Sharded Grad"], here)),
            optimizer=2 * here,
            gathered=sum(sizes[name] for name in ("Unsharded Param", "Unsharded Grad", "All Gather", "Reduce Scatter")),
            activations=_activations(sizes),
        )

    return measure


def _divided(model: PreTrainedModel, layout: Layout, shape: StepShape) -> tuple[Measure, Memory]:
    """Return the measure of the passes and the memory of the optimizer step, for whole weights.

    DeepSpeed's stages divide gradients or states of whole weights (ZeRO, arXiv 1910.02054).
    """
    if layout.kind.startswith("zero"):
        return _partitioned(model, layout)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trained = sum(parameter.nbytes for parameter in parameters)
    states = sum(_state_bytes(parameter, layout) for parameter in parameters)
    buckets = trained if layout.kind == "ddp" else 0  # DDP reduces copies of the gradients

    def measure(memory: Mapping[str, int]) -> Memory:
        existing = trained if shape.accumulated else memory["Gradient"]
        return Memory(whole, existing, states, buckets, _activations(memory))

    widened = trained if layout.foreach else 0
    if layout.master_weights:  # float32 gradients of a chunk, and foreach's copy of them
        elements = min(CHUNK_OF_MASTERS, sum(parameter.numel() for parameter in parameters))
        widened = elements * 4 * (2 if layout.foreach else 1)
    return measure, Memory(whole, trained, states, buckets, widened)


def _state_bytes(parameter: nn.Parameter, layout: Layout) -> int:
    """Return the bytes of a parameter's Adam moments, and of its master weight if it has one."""
    if layout.master_weights and is_low(parameter):
        return parameter.numel() * (4 + ADAM_BYTES)
    return 2 * parameter.nbytes


def _partitioned(model: PreTrainedModel, layout: Layout) -> tuple[Measure, Memory]:
    """Return the measure of the passes and the memory of the optimizer step under DeepSpeed."""
    count = sum(parameter.numel() for parameter in model.parameters())
    stage, share, compute = int(layout.kind[-1]), layout.devices, compute_dtype(layout).itemsize
    stages = [*blocks(model), model.get_input_embeddings()]
    largest = max(sum(parameter.numel() for parameter in module.parameters()) for module in stages)
    weights = count * compute // (share if stage == 3 else 1) if not layout.offload_weights else 0
    gradients = count * compute // (share if stage >= 2 else 1) if stage == 1 or not layout.offload else 0
    # DeepSpeed keeps weights in the compute type, and float32 copies of them beside Adam's moments.
    optimizer = 0 if layout.offload else count * (4 + ADAM_BYTES) // share
    gathered = (2 * largest if stage == 3 else 0) * compute + layout.reduce_bucket * compute

    def measure(sizes: Mapping[str, int]) -> Memory:
        return Memory(weights, gradients, optimizer, gathered, _activations(sizes))

    # In the optimizer step, the device's shard of the gradients is in float32; stages 2 and 3 no longer hold others.
    widened = count * 4 // share + (gradients if stage == 1 else 0)
    return measure, Memory(weights, 0 if layout.offload else widened, optimizer, gathered, 0)


def _activations(sizes: Mapping[str, int]) -> int:
    return sizes["Activation"] + sizes["Temp"] + sizes["Buffer"]


def _phases(model: PreTrainedModel, layout: Layout, shape: StepShape, tracker: PhaseTracker) -> Phases:
    """Return the phases of a forward and a backward pass on fake tensors."""
    assert tracker.record is not None
    with tracker:
        _pass(model, layout, shape)
    return tracker.record.held


def _learn_shapes(model: PreTrainedModel, layout: Layout, shape: StepShape) -> None:
    """Run an untracked pass, which fills DTensor's cache of result shapes.

    DTensor computes each new shape once, on whole fake tensors, which a tracker would count as memory.
    """
    _pass(model, layout, shape)
    model.zero_grad(set_to_none=True)


def _pass(model: PreTrainedModel, layout: Layout, shape: StepShape) -> None:
    """Run a forward and a backward pass on fake tensors."""
    mixed = layout.precision.endswith("mixed") and layout.compute_dtype is None and not layout.kind.startswith("zero")
    with warnings.catch_warnings():
        # FSDP2 warns of views that are changed in place, which no model does that trains.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        # A CPU's autocast keeps what CUDA's keeps, and float16 takes the two bytes of bfloat16. As in Lightning's
        # plugin, copies of weights are not cached: the graph keeps them as long as it needs them.
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if mixed else nullcontext():
            loss = _loss(model, shape)
        loss.backward()


def _loss(model: PreTrainedModel, shape: StepShape) -> Tensor:
    ids_BL = torch.zeros(shape.rows, shape.columns, dtype=torch.long)
    kept = torch.zeros(shape.targets, dtype=torch.long)
    inputs, columns = {"input_ids": ids_BL}, shape.targets
    if model.config.is_encoder_decoder:
        columns = shape.target_columns or shape.columns
        inputs["decoder_input_ids"] = torch.zeros(shape.rows, columns, dtype=torch.long)
    targets_N = torch.zeros(shape.rows * columns, dtype=torch.long)
    if shape.chunked and has_plain_head(model):
        head = ChunkedHead(model, compares=False)
        if len(targets_N) * head.vocabulary > head.chunk:
            return head.loss_sum(targets_N, partial(_selected, kept, model.config.is_encoder_decoder), **inputs)
    selection = {} if model.config.is_encoder_decoder else {"logits_to_keep": kept}
    logits = model(**inputs, **selection, use_cache=False).logits
    return F.cross_entropy(_wide(logits.flatten(0, 1)), targets_N, reduction="sum")


def _selected(kept: Tensor, all_columns: bool, hidden_BLD: Tensor) -> Tensor:
    return (hidden_BLD if all_columns else hidden_BLD[:, kept]).flatten(0, 1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _converted(model: PreTrainedModel, layout: Layout) -> PreTrainedModel:
    """Return the model with weights of the type that Lightning or DeepSpeed gives them.

    DeepSpeed always keeps weights in the type that it computes in.
    """
    true = layout.precision.endswith("true") and layout.precision != "32-true"
    return model.to(compute_dtype(layout)) if true or layout.kind.startswith("zero") else model  # type: ignore[arg-type]


def compute_dtype(layout: Layout) -> torch.dtype:
    """Return the type in which a model computes: that of its sharding, else that of the trainer's precision."""
    if layout.compute_dtype is not None:
        return layout.compute_dtype
    wide = {"32-true": torch.float32, "64-true": torch.float64}
    return wide.get(layout.precision, torch.bfloat16)


def _local(parameter: Tensor) -> int:
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


@contextmanager
def _pretended_group(size: int) -> Iterator[None]:
    """Initialize a process group whose collectives do nothing, so that one process acts as rank 0 of many."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("memory is planned in a process of its own: a process group is initialized already")
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
