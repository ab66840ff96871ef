"""Speed of training on packed rows against training on padded batches, with the same model and examples.

    python perf/training.py [--examples 512] [--rounds 3]

The peer pads each batch of `--batch` examples to its longest one and masks the padding, as trainers without packing do;
it also computes logits at targets alone. Both take forward and backward over the same examples; real tokens per second
are compared. Texts are those of CROSSTASK_DATA if it is set, and of the embedded benchmark otherwise.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import print_result, real_or_toy_benchmark

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules.packing.best_fit import best_fit, one_per_row
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.rendering.tokenization import load_tokenizer, skip_reason, tokenize_joint
from crosstask.datamodules.schema import CausalBatch, TokenizedExample
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss

MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
ROW = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="examples in a padded batch")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        documents, pad, vocabulary = read_documents(Path(scratch), arguments.examples)
    packed, padded = packed_batches(documents, pad), padded_batches(documents, pad, arguments.batch)
    config = model_config(MODEL, vocabulary=vocabulary, dropout=None)
    models = {
        name: build_model(config, weights=None, vocabulary=vocabulary, attention=name, dtype=torch.float32)
        for name in ("document", "sdpa")
    }
    seconds: dict[str, list[float]] = {"document": [], "sdpa": []}
    for _ in range(arguments.rounds + 1):  # the first round warms up
        for name, batches in (("document", packed), ("sdpa", padded)):
            seconds[name].append(timed(models[name], batches, packed=name == "document"))
    tokens = sum(len(document.input_ids) for document in documents)
    rates = {name: tokens / statistics.median(values[1:]) for name, values in seconds.items()}
    fill = {name: tokens / sum(b.input_ids.numel() for b in bs) for name, bs in (("ours", packed), ("peer", padded))}
    print(f"{'':24}{'tokens/s':>10}{'real tokens in rows':>22}")
    print(f"{'packed, document':24}{rates['document']:>10.0f}{fill['ours']:>22.1%}")
    print(f"{'padded, sdpa':24}{rates['sdpa']:>10.0f}{fill['peer']:>22.1%}")
    print_result(
        "training_packed_over_padded",
        ours=rates["document"],
        peer=rates["sdpa"],
        unit="real tokens per second, forward and backward",
        setting=f"{len(documents)} examples, rows of {ROW}, {torch.get_num_threads()} CPU threads, fp32, "
        f"data {os.environ.get('CROSSTASK_DATA', 'toybench')}",
    )


def read_documents(scratch: Path, count: int) -> tuple[list[TokenizedExample], int, int]:
    """A random sample of tokenized training examples that fit a row, with padding id and vocabulary size."""
    benchmark = real_or_toy_benchmark(scratch)
    train_tokenizer(benchmark, str(scratch / "tokenizer"), vocabulary=8192)
    tokenizer, form = load_tokenizer(str(scratch / "tokenizer")), OptImlPrompt()
    prompts = []
    for name in benchmark.task_names("train"):
        task = benchmark.task(name)
        examples = [example for example in benchmark.examples(name) if skip_reason(task, example) is None][:8]
        prompts += [form(task, example, rendering_rng(0, name, example.id)) for example in examples]
    documents = [document for document in tokenize_joint(tokenizer, prompts) if len(document.input_ids) <= ROW]
    chosen = np.random.default_rng(0).permutation(len(documents))[:count]
    return [documents[i] for i in chosen], tokenizer.pad_token_id, len(tokenizer)


def packed_batches(documents: list[TokenizedExample], pad: int) -> list[CausalBatch]:
    sizes = np.array([len(document.input_ids) for document in documents])
    rows = best_fit(sizes, ROW, np.random.default_rng(0))
    kind = CausalRows(ROW, pad)
    return [kind.collate([[documents[i] for i in rows.row(r)]], step_targets=1) for r in range(len(rows))]


def padded_batches(documents: list[TokenizedExample], pad: int, batch: int) -> list[CausalBatch]:
    made = []
    for start in range(0, len(documents), batch):
        chunk = documents[start : start + batch]
        longest = max(len(document.input_ids) for document in chunk)
        rows = one_per_row(np.array([len(d.input_ids) for d in chunk]), longest, np.random.default_rng(0))
        kind = CausalRows(longest, pad)
        made.append(kind.collate([[chunk[i] for i in rows.row(r)] for r in range(len(rows))], step_targets=1))
    return made


def timed(model: torch.nn.Module, batches: list[CausalBatch], *, packed: bool) -> float:
    started = time.perf_counter()
    for batch in batches:
        target_loss(model, batch, packed=packed).sum.backward()  # type: ignore[arg-type]
    model.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
