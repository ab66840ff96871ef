"""Peak memory and processor time of a loss that is computed in chunks of the vocabulary, against whole logits.

    python perf/logits_memory.py [--vocabularies 32768 131072 262144] [--tokens 512] [--rounds 3] [--device cuda]

Each cell takes one forward and backward of a Llama-like model of one block of width 256, on a CPU in its own process:
rows of instructions, of which 15% are targets, and rows of pre-training, all of which are. Memory is the peak above
that before the step, with gradients allocated; times are medians over interleaved rounds, in processor seconds, or on a
GPU in seconds that pass. The last column is what the logits of every token would take, targets or not, as a model
computes them without `logits_to_keep`.
The table is printed as docs/performance.md shows it.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from datetime import date
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from common import print_result, reset_peak, resident
from lightning.fabric.utilities import move_data_to_device

from crosstask.datamodules.schema import CausalBatch
from crosstask.lightning_modules.chunked_head import ChunkedHead
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss

WIDTH = 256
MODEL = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
SHARES = {"instructions": 0.15, "pre-training": 1.0}
VARIANTS = ("chunked", "whole", "every token")


class Cost(NamedTuple):
    """Cost of a step: peak memory in MiB above that before it, and processor seconds."""

    mib: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_768, 131_072, 262_144])
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    where = f"1 thread, load {load:.1f} on {os.cpu_count()} cores" if arguments.device == "cpu" else arguments.device
    print(f"{date.today()}, {arguments.tokens} tokens, float32, {where}\n")
    print("| vocabulary | rows | MiB, chunked | whole | every token | seconds, chunked | whole | every token |")
    print("|---|---|---|---|---|---|---|---|")
    costs = {}
    for vocabulary in arguments.vocabularies:
        for kind in SHARES:
            costs[vocabulary, kind] = cell(arguments, vocabulary, kind)
            chunked, whole, every = (costs[vocabulary, kind][variant] for variant in VARIANTS)
            print(
                f"| {vocabulary:,} | {kind} | {chunked.mib:,.0f} | {whole.mib:,.0f} | {every.mib:,.0f} | "
                f"{chunked.seconds:.2f} | {whole.seconds:.2f} | {every.seconds:.2f} |",
                flush=True,
            )
    vocabulary = max(arguments.vocabularies)
    largest = costs[vocabulary, "pre-training"]
    print_result(
        "chunked_loss_peak_memory",
        ours=largest["chunked"].mib,
        peer=largest["whole"].mib,
        unit="MiB above the model (less is better)",
        setting=f"vocabulary {vocabulary}, {arguments.tokens} tokens, all targets, fp32, {arguments.device}",
    )


def cell(arguments: argparse.Namespace, vocabulary: int, kind: str) -> dict[str, Cost]:
    """Measure the costs of every variant, in turns."""
    measured: dict[str, list[Cost]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            words = (arguments.tokens, vocabulary, SHARES[kind], variant, arguments.device)
            if arguments.device == "cpu":  # memory that one step has freed would serve the next
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    measured[variant].append(pool.apply(step_cost, words))
            else:  # that of torch's allocator can, and CUDA does not survive a fork
                measured[variant].append(step_cost(*words))
    return {
        variant: Cost(max(cost.mib for cost in costs), statistics.median(cost.seconds for cost in costs))
        for variant, costs in measured.items()
    }


def step_cost(tokens: int, vocabulary: int, share: float, variant: str, device: str) -> Cost:
    """Measure one forward and backward pass, on a GPU the second one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = model_config({**MODEL, "max_position_embeddings": tokens}, vocabulary=vocabulary, dropout=None)
    model = build_model(config, weights=None, vocabulary=0, attention="document", dtype=torch.float32).to(device)
    ids = torch.randint(0, vocabulary, (1, tokens))
    targets = ids.roll(-1).where(torch.rand(1, tokens) < share, -100)
    offsets = torch.tensor([0, tokens], dtype=torch.int32)
    places = (targets[0] != -100).nonzero().squeeze(1)
    batch = CausalBatch(ids, targets, torch.arange(tokens)[None], offsets, 1, 1, tokens, places)
    batch = move_data_to_device(batch, device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if device != "cpu":
        loss_of(model, batch, variant).backward()  # loads the kernels
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        loss_of(model, batch, variant).backward()
        torch.cuda.synchronize()
        return Cost((torch.cuda.max_memory_allocated() - before) / 2**20, time.perf_counter() - started)
    before, started = reset_peak(), time.process_time()
    loss_of(model, batch, variant).backward()
    return Cost(resident("VmHWM") - before, time.process_time() - started)


def loss_of(model: Any, batch: CausalBatch, variant: str) -> torch.Tensor:
    """Return the summed loss of a batch, computed as the variant does."""
    if variant != "every token":
        return target_loss(model, batch, head=ChunkedHead(model) if variant == "chunked" else None).sum
    ones, trained = torch.ones_like(batch.input_ids), batch.targets != -100
    logits = model(batch.input_ids, position_ids=batch.position_ids, attention_mask=ones).logits
    return F.cross_entropy(logits[trained].float(), batch.targets[trained], reduction="sum")


if __name__ == "__main__":
    main()
