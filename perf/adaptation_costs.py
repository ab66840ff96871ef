"""Costs of adapting a language model to a task: through a scorer, by fine-tuning, by prefix tuning, in context.

    python perf/adaptation_costs.py [--layers 12 --width 768] [--scorer_layers 12 --scorer_width 768]

Each method runs in a separate process, with random weights, on the same number of tokens a step. Fine-tuning and
prefix tuning (20 virtual tokens before every layer) train the language model; the scorer trains on as many tokens of
packed pairs; in context nothing is trained, and demonstrations are read with every prompt. Prints the peak memory
above that of the imported libraries, seconds of a training step, disk space of a task, and the tokens read beside a
prompt. A scorer also needs responses, which any model may sample once: their cost is a separate row.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import print_result
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from crosstask.datamodules.schema import ScoredBatch
from crosstask.lightning_modules.cache_names import CACHE
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import generate
from crosstask.lightning_modules.scoring.pair_scores import pair_scores
from crosstask.lightning_modules.scoring.scorer_models import build_scorer

VOCABULARY, VIRTUAL, SHOTS = 16_000, 20, 5
WAYS = ("through a scorer", "fine-tuning", "prefix tuning", "in context", "answering, 17 candidates")


def memory() -> float:
    """Return the process's peak memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def language_model(settings: argparse.Namespace) -> Any:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 64,
        max_position_embeddings=8 * settings.prompt,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config)


def token_rows(settings: argparse.Namespace) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (settings.rows, settings.prompt))


def stepped(parameters: list[torch.nn.Parameter], loss: Any, steps: int) -> float:
    """Return the seconds of an optimizer step; the first step, which allocates memory, is not counted."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def tune_all(settings: argparse.Namespace) -> dict[str, float]:
    model, rows = language_model(settings), token_rows(settings)
    seconds = stepped(list(model.parameters()), lambda: model(rows, labels=rows).loss, settings.steps)
    return {"seconds": seconds, "storage": megabytes(model.parameters()), "read": 0}


def tune_prefix(settings: argparse.Namespace) -> dict[str, float]:
    model, rows = language_model(settings).requires_grad_(False), token_rows(settings)
    shape = (settings.layers, 2, model.config.num_key_value_heads, VIRTUAL, 64)
    prefix = torch.nn.Parameter(torch.randn(shape) * 0.02)

    def loss() -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        for layer, (keys, values) in enumerate(prefix):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), layer)
        mask = torch.ones(len(rows), VIRTUAL + rows.shape[1], dtype=torch.int64)
        return model(rows, labels=rows, attention_mask=mask, **{CACHE: cache}).loss  # type: ignore[no-any-return]

    return {"seconds": stepped([prefix], loss, settings.steps), "storage": megabytes([prefix]), "read": VIRTUAL}


@torch.no_grad()
def read_in_context(settings: argparse.Namespace) -> dict[str, float]:
    model = language_model(settings).eval()
    demonstrated = torch.randint(3, VOCABULARY, (settings.rows, settings.prompt * (SHOTS + 1)))
    began = time.perf_counter()
    model(demonstrated, logits_to_keep=1)
    return {"seconds": time.perf_counter() - began, "storage": 0, "read": settings.prompt * SHOTS}


def train_scorer(settings: argparse.Namespace) -> dict[str, float]:
    config = AutoConfig.for_model(
        "roberta",
        vocab_size=VOCABULARY,
        hidden_size=settings.scorer_width,
        intermediate_size=4 * settings.scorer_width,
        num_hidden_layers=settings.scorer_layers,
        num_attention_heads=settings.scorer_width // 64,
        max_position_embeddings=settings.prompt + 2,
        pad_token_id=1,
    )
    model, rows = build_scorer(config, weights=None, dtype=torch.float32), token_rows(settings)
    starts = torch.arange(0, rows.numel() + 1, settings.prompt)
    batch = ScoredBatch(
        rows,
        torch.arange(settings.prompt).repeat(len(rows), 1),
        torch.zeros_like(rows),
        starts.to(torch.int32),
        starts[:-1],
        torch.rand(len(rows)),
        len(rows),
        settings.prompt,
    )

    def loss() -> torch.Tensor:
        return (pair_scores(model, batch) - batch.labels).square().mean()

    seconds = stepped(list(model.parameters()), loss, settings.steps)
    return {"seconds": seconds, "storage": megabytes(model.parameters()), "read": 0}


class _Tokens:
    """Stub of a tokenizer for ``generate``, whose tokens have no text."""

    eos_token_id, pad_token_id = 2, 1

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def answer(settings: argparse.Namespace) -> dict[str, float]:
    model, rows = language_model(settings).eval(), token_rows(settings).tolist()
    decodings = [Decoding(beams=4), *(Decoding(sampling=True, samples=4, top_k=k) for k in (0, 20, 40, 60))]
    began = time.perf_counter()
    tokens: Any = _Tokens()
    list(generate(model, tokens, rows, decodings, seeds=range(len(rows)), max_new_tokens=8, budget=4096))
    return {"seconds": time.perf_counter() - began, "storage": 0, "read": 0}


def megabytes(weights: Any) -> float:
    return sum(weight.numel() * weight.element_size() for weight in weights) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of the language model")
    parser.add_argument("--width", type=int, default=768, help="of the language model, a multiple of 64")
    parser.add_argument("--scorer_layers", type=int, default=6)
    parser.add_argument("--scorer_width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=8, help="examples or pairs of a step")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="run this one here")
    settings = parser.parse_args()
    if settings.way:
        run = dict(zip(WAYS, (train_scorer, tune_all, tune_prefix, read_in_context, answer), strict=True))
        before = memory()
        found = run[settings.way](settings)
        print(json.dumps(found | {"memory": memory() - before}))
        return
    costs: dict[str, dict[str, float]] = {}
    for way in WAYS:
        ran = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, capture_output=True, text=True)
        costs[way] = json.loads(ran.stdout.splitlines()[-1])
    print(f"{'':26}{'MiB':>8}{'s a step':>10}{'MiB a task':>12}{'more tokens read':>18}")
    for way, cost in costs.items():
        print(f"{way:26}{cost['memory']:8.0f}{cost['seconds']:10.2f}{cost['storage']:12.1f}{cost['read']:18.0f}")
    print_result(
        "adaptation_memory",
        ours=round(costs["through a scorer"]["memory"]),
        peer=round(costs["fine-tuning"]["memory"]),
        unit="MiB of training, less is better",
        setting=f"language model {settings.layers} x {settings.width}, scorer {settings.scorer_layers} x "
        f"{settings.scorer_width}, {settings.rows} x {settings.prompt} tokens a step, float32, "
        f"{torch.get_num_threads()} CPU thread(s)",
    )


if __name__ == "__main__":
    main()
