"""Building of sharded models: without weights at first, then filled with each process's shard of the weights.

Tensor parallelism divides the matrices of the blocks. FSDP2 then shards every block, and the rest of the model, over
the data-parallel processes. Weights are read from safetensors by slices: no process reads more than its shard, so that
a model larger than any device can start from published weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import snapshot_download
from lightning.pytorch.strategies import FSDPStrategy
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from ...datamodules.hub_names import hub_source
from ...datamodules.messages import expanded
from ...datamodules.pretrained_weights import require_whole_weights
from ..models import untie_different
from .safetensors_folder import architecture_of
from .tensor_parallel import parallelize


class Sharding(NamedTuple):
    """The division of a model over processes: meshes, device, types and offload.

    Args:
        data: Mesh of the data-parallel processes: [shards], or [copies, shards] for hybrid sharding.
        tensor: Mesh of the processes that together hold one replica (tensor parallelism).
        device: Device of the shards.
        compute_dtype: Type in which blocks are gathered and computed; None for that of the parameters.
        offload: Whether shards and optimizer states are kept in the host's memory.
        sequence: Whether `tensor` also divides the columns of rows between matrices (sequence parallelism).
    """

    data: DeviceMesh
    tensor: DeviceMesh
    device: torch.device
    compute_dtype: torch.dtype | None = None
    offload: bool = False
    sequence: bool = False


def build_sharded(
    build: Callable[[str | None], PreTrainedModel],
    weights: str | None,
    how: Sharding,
    add: Callable[[PreTrainedModel], None] | None = None,
) -> PreTrainedModel:
    """Build a model of which this process holds its shards only, and fill them with slices of the stored weights.

    Args:
        build: Returns the model from weights, or with random weights for None.
        weights: Hub name or folder of safetensors. If None, every process initializes the whole model in the host's
            memory from the state of the random generator, as a single process does, so that training from scratch
            starts from the same numbers under every strategy.
        how: Meshes, device and types.
        add: Adds adapters to a model that starts from weights; their values are set later. None without adapters.

    Raises:
        ValueError: The weights are not in safetensors, or lack parameters of the model.
    """
    if weights is None:
        model = build(None)
        shard(model, how)
        return model
    folder = weights_folder(weights)
    with torch.device("meta"):
        model = build(None)
    names = stored_names(model, folder)  # before FSDP2 gives the model a class of its own
    untie_different(model, partial(stored_tensor, stored_files(folder), names))
    if add is not None:
        with torch.device("meta"):
            add(model)
        names = beside_adapters(model, names)
    shard(model, how)
    home = torch.device("cpu") if how.offload else how.device
    model.to_empty(device=home)
    initialize_buffers(model)
    load_weights(model, folder, names)
    return model


def shard(model: PreTrainedModel, how: Sharding) -> None:
    """Shard a model in place: its matrices over `how.tensor`, then every block over `how.data`."""
    if how.tensor.size() > 1:
        parallelize(model, how.tensor, blocks(model) if how.sequence else ())
    policy = MixedPrecisionPolicy(param_dtype=how.compute_dtype, reduce_dtype=torch.float32)
    if how.compute_dtype is None:
        policy = MixedPrecisionPolicy()
    pinned = how.device.type == "cuda"  # pinned memory is copied to the device asynchronously
    offload: OffloadPolicy = CPUOffloadPolicy(pin_memory=pinned) if how.offload else OffloadPolicy()
    for block in blocks(model):
        fully_shard(block, mesh=how.data, mp_policy=policy, offload_policy=offload)
    fully_shard(model, mesh=how.data, mp_policy=policy, offload_policy=offload)


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Return the repeated blocks of a model, which FSDP2 gathers one at a time.

    Raises:
        ValueError: The model lists none; sharded as one piece, all of it would be gathered at once.
    """
    names = set(model._no_split_modules or ())
    modules = [module for module in model.modules() if type(module).__name__ in names]
    if not modules:
        raise ValueError(
            f"{type(model).__name__} names no blocks (_no_split_modules = {sorted(names)}) to shard one by one: train "
            "it with the strategy auto or ddp"
        )
    return modules


def weights_folder(weights: str) -> Path:
    """Return the folder of safetensors of a path or a hub name; it is downloaded if necessary.

    Raises:
        ValueError: There are no safetensors.
    """
    folder = expanded(weights)
    if not folder.is_dir():
        name, revision = hub_source(weights)
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"], **revision))
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{weights} has no *.safetensors, which sharded strategies read by slices: write them once with "
            f"AutoModel.from_pretrained(NAME).save_pretrained(FOLDER), and set `pretrained` to FOLDER"
        )
    return folder


def beside_adapters(model: PreTrainedModel, names: Mapping[str, str]) -> dict[str, str]:
    """Return the stored name of each frozen parameter, by the name that it has after peft has added adapters.

    Args:
        model: The model with its adapters; a matrix beside an adapter is called ``NAME.base_layer.weight``.
        names: Stored names, by the parameters' names in the model without adapters.
    """
    ours = {name.replace(".base_layer.", "."): name for name in model.state_dict(keep_vars=True)}
    return {ours.get(name, name): stored for name, stored in names.items()}


def load_weights(model: PreTrainedModel, folder: Path, names: Mapping[str, str]) -> None:
    """Load the weights of a folder of safetensors into a model, sharded or not; each process reads its slices.

    Every process must call it.

    Args:
        model: Model with allocated parameters.
        folder: Folder of safetensors.
        names: Stored name of each parameter, from ``stored_names``, which must be called before the model is sharded;
            for a model with adapters, passed through ``beside_adapters``.

    Raises:
        ValueError: The folder lacks parameters of the model, or their shapes differ. The message names the first such
            parameter.
    """
    require_stored(model, folder, names)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    # A tied table is stored under one of its names, and filling it fills the others.
    tensors = {names[name]: tensor for name, tensor in wanted.items() if name in names}
    dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))


def require_stored(model: PreTrainedModel, folder: Path, names: Mapping[str, str]) -> None:
    """Reject a folder of safetensors that lacks weights of a model or has other shapes.

    Args:
        model: The model, whose parameters may be empty.
        folder: Folder of safetensors.
        names: Stored name of each parameter, as in ``load_weights``.

    Raises:
        ValueError: There are such weights; the message names the first.
    """
    states = model.state_dict(keep_vars=True).items()
    # Adapters are not stored with the frozen weights.
    adapters = {name for name in (name for name, _ in states) if ".lora_" in name}
    tensors = {name: tensor for name, tensor in states if isinstance(tensor, Tensor) and name not in adapters}
    ours = {name: tuple(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in tensors.items()}
    theirs = stored_shapes(folder)
    tables = {name: table_of(model, name) for name in ours}
    stored = {tables[name] for name in names if name in tables}
    unstored_buffers = {name for name, _ in model.named_buffers()} - set(ours)
    require_whole_weights(
        folder,
        architecture_of(model),
        expected=len(ours),
        missing=[name for name in ours if tables[name] not in stored],
        reshaped={
            name: (theirs[names[name]], shape)
            for name, shape in ours.items()
            if name in names and theirs[names[name]] != shape
        },
        unused=[names[name] for name in names if name not in ours and name not in unstored_buffers],
    )


def table_of(model: PreTrainedModel, name: str) -> str:
    """Return the name under which a model owns a tied weight; for any other weight, its own name."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    return tied.get(name, name)


def stored_names(model: PreTrainedModel, folder: Path) -> dict[str, str]:
    """Return the stored name of each parameter in a folder of safetensors, which may use names of an older version.

    Raises:
        ValueError: transformers computes a parameter from several stored tensors.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    wanted, names = model.state_dict(), {}
    for stored in stored_shapes(folder):
        name, converted = rename_source_key(stored, renamings, converters, model.base_model_prefix, wanted)
        if converted is not None:
            raise ValueError(
                f"{folder}: transformers converts {stored} while it loads {type(model).__name__}, which cannot be done "
                "by slices: train it with the strategy auto or ddp"
            )
        names[name] = stored
    return names


def stored_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor in a folder of safetensors, by name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    return files


def stored_tensor(files: Mapping[str, Path], names: Mapping[str, str], name: str) -> Tensor | None:
    """Return the stored values of a model's weight, in full, on the CPU; None if the folder lacks it.

    Args:
        files: File of every stored tensor, from ``stored_files``.
        names: Stored name of each parameter, from ``stored_names``.
        name: Name of the weight in the model.
    """
    if name not in names:
        return None
    with safe_open(files[names[name]], framework="pt") as file:
        tensor: Tensor = file.get_tensor(names[name])
    return tensor


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder of safetensors, without reading values."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def initialize_buffers(model: PreTrainedModel) -> None:
    """Compute the buffers that checkpoints do not store, such as rotary frequencies and position numbers, in place.

    Raises:
        ValueError: A module has buffers and parameters, so that its buffers cannot be computed alone.
    """
    for module in model.modules():
        if next(module.buffers(recurse=False), None) is not None:
            if next(module.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"{type(module).__name__} holds parameters beside buffers: it cannot be built in parts"
                )
            with torch.no_grad():
                model._init_weights(module)


def is_sharded(parameter: Tensor) -> bool:
    """Return whether this process holds only a shard of a parameter (FSDP2, tensor parallelism, DeepSpeed's ZeRO-3)."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def wrap_blocks(strategy: FSDPStrategy, model: PreTrainedModel) -> None:
    """Make FSDP1 gather block by block, unless the user has set auto_wrap_policy."""
    if strategy.kwargs.get("auto_wrap_policy") is None:
        strategy.kwargs["auto_wrap_policy"] = ModuleWrapPolicy({type(block) for block in blocks(model)})
