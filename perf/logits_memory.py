"""Peak memory and processor time of a loss that is computed in chunks of the vocabulary, against whole logits.

    python perf/logits_memory.py [--vocabularies 32768 131072 262144] [--tokens 512] [--rounds 3]

Each cell takes one forward and backward of a Llama-like model of one block of width 256 in its own process: rows of
instructions, of which 15% are targets, and rows of pre-training, all of which are. Memory is the peak above the process
before the step, with gradients allocated; times are medians over interleaved rounds. The last column is
what the logits of every token would take, targets or not, as a model computes them without `logits_to_keep`.
The table is printed as docs/performance.md shows it.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from datetime import date
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import print_result

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
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{date.today()}, {arguments.tokens} tokens, float32, 1 thread, load {load:.1f} on {os.cpu_count()} cores\n")
    print("| vocabulary | rows | MiB, chunked | whole | every token | seconds, chunked | whole | every token |")
    print("|---|---|---|---|---|---|---|---|")
    costs = {}
    for vocabulary in arguments.vocabularies:
        for kind in SHARES:
            costs[vocabulary, kind] = cell(arguments.tokens, vocabulary, kind, arguments.rounds)
            chunked, whole, every = (costs[vocabulary, kind][variant] for variant in VARIANTS)
            print(
                f"| {vocabulary:,} | {kind} | {chunked.mib:,.0f} | {whole.mib:,.0f} | {every.mib:,.0f} | "
                f"{chunked.seconds:.2f} | {whole.seconds:.2f} | {every.seconds:.2f} |",
                flush=True,
            )
    largest = costs[max(arguments.vocabularies), "pre-training"]
    print_result(
        "chunked_loss_peak_memory",
        ours=largest["chunked"].mib,
        peer=largest["whole"].mib,
        unit="MiB above the model (less is better)",
        setting=f"vocabulary {max(arguments.vocabularies)}, {arguments.tokens} tokens, all targets, fp32, CPU",
    )


def cell(tokens: int, vocabulary: int, kind: str, rounds: int) -> dict[str, Cost]:
    """Measure the costs of every variant, in turns."""
    measured: dict[str, list[Cost]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                measured[variant].append(pool.apply(step_cost, (tokens, vocabulary, SHARES[kind], variant)))
    return {
        variant: Cost(max(cost.mib for cost in costs), statistics.median(cost.seconds for cost in costs))
        for variant, costs in measured.items()
    }


def step_cost(tokens: int, vocabulary: int, share: float, variant: str) -> Cost:
    """Measure one forward and backward pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = model_config({**MODEL, "max_position_embeddings": tokens}, vocabulary=vocabulary, dropout=None)
    model = build_model(config, weights=None, vocabulary=0, attention="document", dtype=torch.float32)
    ids = torch.randint(0, vocabulary, (1, tokens))
    targets = ids.roll(-1).where(torch.rand(1, tokens) < share, -100)
    offsets = torch.tensor([0, tokens], dtype=torch.int32)
    places = (targets[0] != -100).nonzero().squeeze(1)
    batch = CausalBatch(ids, targets, torch.arange(tokens)[None], offsets, 1, 1, tokens, places)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if variant == "every token":
        logits = model(ids, position_ids=batch.position_ids, attention_mask=torch.ones_like(ids)).logits
        loss = F.cross_entropy(logits[targets != -100].float(), targets[targets != -100], reduction="sum")
    else:
        loss = target_loss(model, batch, head=ChunkedHead(model) if variant == "chunked" else None).sum
    loss.backward()
    return Cost((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, time.process_time() - started)


if __name__ == "__main__":
    main()
