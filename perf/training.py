"""Speed of training on packed rows against TRL's SFTTrainer, packed (`bfd`) and padded, on the same documents.

    python perf/training.py [--examples 128] [--rounds 3] [--vocabularies 8192 50272 128256] [--targets all]

TRL's step is its own `training_step` on the batches of its own loader: its packing, collator, loss and metrics,
forward and backward, without the optimizer. Ours is the loss of the rows, forward and backward. Both begin from one
configuration; real tokens per second are compared. Padded batches hold `--batch` examples. The tokenizer has 8,192
tokens; a larger vocabulary is a larger table and head. Ours computes the head at targets alone. So does TRL on CUDA,
where on a CPU it computes it everywhere; `--targets all` trains every token, so that both compute the same. Texts are
those of CROSSTASK_DATA if it is set, and of the embedded benchmark otherwise. The table is printed as
docs/performance.md shows it.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_result, real_or_toy_benchmark

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules.packing.best_fit import best_fit
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.rendering.tokenization import load_tokenizer, tokenize_joint
from crosstask.datamodules.schema import CausalBatch, TokenizedExample
from crosstask.lightning_modules.chunked_head import ChunkedHead
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
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="examples in a padded batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", choices=["answers", "all"], default="answers", help="tokens that are trained")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[8192, 50_272, 128_256])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        documents, tokenizer = read_documents(Path(scratch), arguments.examples)
        if arguments.targets == "all":
            documents = [document._replace(n_source=1) for document in documents]
        targets = sum(len(document.input_ids) - document.n_source for document in documents)
        tokens = sum(len(document.input_ids) for document in documents)
        setting = (
            f"{len(documents)} examples, {tokens} tokens, {targets} of them targets, rows of {ROW}, "
            f"{torch.get_num_threads()} CPU threads, fp32, "
            f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, "
            + ("real texts" if "CROSSTASK_DATA" in os.environ else "embedded benchmark")
        )
        print(f"{date.today()}: {setting}\n")
        print("| vocabulary | crosstask, tokens a second | TRL `bfd` | TRL padded | ratio to `bfd` | ratio to padded |")
        print("|---|---|---|---|---|---|")
        for vocabulary in arguments.vocabularies:
            rates = measured(documents, tokenizer, vocabulary, arguments.batch, arguments.rounds, Path(scratch))
            ours, packed, padded = (rates[name] for name in ("ours", "packed", "padded"))
            cells = [f"{ours:.0f}", f"{packed:.0f}", f"{padded:.0f}", f"{ours / packed:.2f}", f"{ours / padded:.2f}"]
            print("|", " | ".join([f"{vocabulary:,}", *cells]), "|", flush=True)
            unit = "real tokens per second, forward and backward"
            print_result(f"training_over_trl_bfd_{vocabulary}", ours=ours, peer=packed, unit=unit, setting=setting)


def measured(
    documents: list[TokenizedExample], tokenizer: Any, vocabulary: int, batch: int, rounds: int, scratch: Path
) -> dict[str, float]:
    """Return the tokens per second of each trainer: medians over alternating rounds, after a round that warms up."""
    vocabulary = max(vocabulary, len(tokenizer))
    steps: dict[str, Callable[[], None]] = {
        "ours": our_steps(documents, tokenizer.pad_token_id, vocabulary),
        "packed": trl_steps(documents, tokenizer, vocabulary, scratch, packing=True, batch=1),
        "padded": trl_steps(documents, tokenizer, vocabulary, scratch, packing=False, batch=batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, run in steps.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    tokens = sum(len(document.input_ids) for document in documents)
    return {name: tokens / statistics.median(values[1:]) for name, values in seconds.items()}


def read_documents(scratch: Path, count: int) -> tuple[list[TokenizedExample], Any]:
    """Return a random sample of tokenized training examples that fit into a row, and the tokenizer."""
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
    return [documents[i] for i in chosen], tokenizer


def our_steps(documents: list[TokenizedExample], pad: int, vocabulary: int) -> Callable[[], None]:
    """Return a function that runs forward and backward over packed rows, one row per batch."""
    model = new_model(vocabulary, "document")
    head, batches = ChunkedHead(model), packed_batches(documents, pad)

    def run() -> None:
        for batch in batches:
            target_loss(model, batch, head=head).sum.backward()
        model.zero_grad()

    return run


def packed_batches(documents: list[TokenizedExample], pad: int) -> list[CausalBatch]:
    sizes = np.array([len(document.input_ids) for document in documents])
    rows = best_fit(sizes, ROW, np.random.default_rng(0))
    kind = CausalRows(ROW, pad)
    return [kind.collate([[documents[i] for i in rows.row(r)]], step_targets=1) for r in range(len(rows))]


def trl_steps(
    documents: list[TokenizedExample], tokenizer: Any, vocabulary: int, scratch: Path, *, packing: bool, batch: int
) -> Callable[[], None]:
    """Return a function that runs TRL's training steps over the same documents, with a loss on targets only."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": list(map(int, document.input_ids)),
            "labels": [-100] * document.n_source + list(map(int, document.input_ids[document.n_source :])),
        }
        for document in documents
    ]
    settings = SFTConfig(
        output_dir=str(scratch / "trl"),
        per_device_train_batch_size=batch,
        max_length=ROW,
        packing=packing,
        packing_strategy="bfd",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
    )
    trainer = SFTTrainer(
        new_model(vocabulary, "sdpa"), settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.current_gradient_accumulation_steps = 1  # what its train() sets
    batches = list(trainer.get_train_dataloader())

    def run() -> None:
        for inputs in batches:
            trainer.training_step(trainer.model, dict(inputs))
        trainer.model.zero_grad()

    return run


def new_model(vocabulary: int, attention: str) -> Any:
    torch.manual_seed(0)
    config = model_config(MODEL, vocabulary=vocabulary, dropout=None)
    model = build_model(config, weights=None, vocabulary=vocabulary, attention=attention, dtype=torch.float32)
    return model.train()


if __name__ == "__main__":
    main()
