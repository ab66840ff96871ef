"""Program of one of two processes: losses and gradients of small models whose rows are divided, or not, over both."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from recipes import SMALL
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from crosstask.lightning_modules.adapters import LoRA, add_adapters
from crosstask.lightning_modules.attention.document_attention import Documents
from crosstask.lightning_modules.recomputation import recompute_blocks
from crosstask.lightning_modules.sharding.sharded_models import Sharding, blocks, shard

ROWS, COLUMNS = 3, 16
OFFSETS = torch.tensor([0, 5, 16, 23, 32, 48])  # documents cross the middle of rows
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {}),
    "opt, norms after additions": ("opt", {"do_layer_norm_before": False}),
    "opt, adapters": ("opt", {}),
    "llama": ("llama", {}),
    "gpt_neox": ("gpt_neox", {}),
    "t5": ("t5", {}),
}
"""Model type and fields of the configuration, by name."""
COUNTED = ("opt", "llama", "t5")
CHOICES = [(sequence, recomputed) for sequence in (False, True) for recomputed in (False, True)]


def main(path: str) -> int:
    """Write each model's largest relative errors against one process, its collectives, and the columns of a block."""
    dist.init_process_group("gloo")
    results: dict[str, Any] = {name: {each: _compare(name, each) for each in (False, True)} for name in MODELS}
    for name in COUNTED:
        results[f"{name}, numbers"] = [_numbers(name, *choices) for choices in CHOICES]
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(results))
    dist.destroy_process_group()
    return 0


def _compare(name: str, sequence: bool) -> dict[str, float]:
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    whole, divided = build(name), build(name)
    shard(divided, Sharding(mesh["data"], mesh["tensor"], torch.device("cpu"), sequence=sequence))
    recompute_blocks(divided, True)
    seen: list[int] = []
    blocks_of = [module for module in divided.modules() if type(module).__name__.removeprefix("FSDP") in _names(whole)]
    blocks_of[1].register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0].shape[1]), with_kwargs=True)
    (expected, gradients), (loss, got) = (_gradients(model, name) for model in (whole, divided))
    assert set(got) == set(gradients)
    # OPT's biases of keys have gradients of 0.
    errors = [(got[key] - value).norm() / (value.norm() + 1e-3) for key, value in gradients.items()]
    divided.eval()
    odd, even = (_logits(model.eval(), name, COLUMNS - 1) for model in (whole, divided))
    return {
        "loss": float((loss - expected).abs() / expected),
        "gradients": float(max(errors)),
        "odd columns": float((odd - even).norm() / odd.norm()),
        "columns": seen[0],
        "columns of odd rows": seen[-1],
    }


def _numbers(name: str, sequence: bool, recomputed: bool) -> float:
    """Return the numbers that a process sends per hidden state of a block, an all-reduce being twice its numbers."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    model = build(name)
    shard(model, Sharding(mesh["data"], mesh["tensor"], torch.device("cpu"), sequence=sequence))
    recompute_blocks(model, recomputed)
    with SentNumbers(model.config.hidden_size) as sent:
        _backward(model, name)
    return sent.total


class SentNumbers(TorchDispatchMode):
    """Context that adds up the numbers of collectives on hidden states: sums twice, gathers and divided sums once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.total = width, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace == "_c10d_functional" and args[0].ndim > 1 and args[0].shape[-1] == self.width:
            passes = {"all_reduce": 2, "reduce_scatter_tensor": 1, "all_gather_into_tensor": 1}.get(name, 0)
            self.total += passes * max(args[0].numel(), result.numel())
        return result


def _names(model: PreTrainedModel) -> set[str]:
    return {type(block).__name__ for block in blocks(model)}


def build(name: str) -> PreTrainedModel:
    kind, changes = MODELS[name]
    shape = {"num_layers": 2} if kind == "t5" else {"num_hidden_layers": 2, "max_position_embeddings": 64}
    config = AutoConfig.for_model(kind, vocab_size=100, **shape, **SMALL[kind], **changes)
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="document", dtype=torch.float64).train()
    if "adapters" in name:
        add_adapters(model, LoRA(r=2, target_modules=["q_proj", "out_proj", "fc1", "fc2"]))
        model.double()
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def _inputs(name: str, columns: int) -> dict[str, Any]:
    ids = torch.arange(ROWS * columns).view(ROWS, columns) * 7 % 100
    if name == "t5":
        written = torch.tensor([0, 3, 8, 12, 16, 24])
        return {"input_ids": ids, "decoder_input_ids": ids[:, :8].flip(1), "documents": Documents(OFFSETS, written)}
    positions = torch.cat([torch.arange(length) for length in OFFSETS.diff()]).view(ROWS, columns)
    return {"input_ids": ids, "position_ids": positions, "documents": Documents(OFFSETS)}


def _backward(model: PreTrainedModel, name: str) -> torch.Tensor:
    logits = _plain(model(**_inputs(name, COLUMNS), use_cache=False).logits)
    loss = logits.log_softmax(-1)[..., ::7].square().sum()
    loss.backward()
    return loss.detach()


def _gradients(model: PreTrainedModel, name: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = _backward(model, name)
    named = model.named_parameters()
    return loss, {key: _plain(value.grad) for key, value in named if value.grad is not None}


@torch.no_grad()
def _logits(model: PreTrainedModel, name: str, columns: int) -> torch.Tensor:
    """Return logits of rows that two processes cannot divide equally."""
    ids = torch.arange(ROWS * columns).view(ROWS, columns) * 7 % 100
    read = {"decoder_input_ids": ids[:, :7]} if name == "t5" else {}
    mask = torch.ones_like(ids)
    return _plain(model(input_ids=ids, attention_mask=mask, **read, use_cache=False).logits)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
