"""Do learned training instructions help unseen tasks? A small version of Table 2 of Differentiable Instruction
Optimization (arXiv 2306.10098): definitions against definitions preceded by a learned instruction.

A language model of 10 million parameters is pretrained on the text of real tasks, and then trained on 100 other tasks
in two arms, once per seed. It is evaluated zero-shot, with definitions, on 20 tasks of other categories. The baseline
trains on all 100 tasks, the other arm (instance embedder) on those that are not outer tasks, with as many inner steps::

    CROSSTASK_DATA=... python experiments/learned_instructions_table.py runs/table [--seeds 8] [--answer 3]

--answer selects tasks by the length of their answers: a small model can learn short ones, such as labels. Prints a line
for every run, and the paired differences with 95% t-intervals over seeds. Runs in ``results.jsonl`` are not repeated.
"""

import argparse
import json
import random
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from shared_runs import append_result, bundled_tasks, cpu_trainer, draw_tasks, read_results, t_interval
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.benchmarks import Split
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.prompts import rendering_rng
from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.rendering.tokenization import load_tokenizer, tokenize_joint
from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings, Representation
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.target_loss import target_loss

Arm = Literal["definition", "definition and embedder"]
ARMS: tuple[Arm, ...] = ("definition", "definition and embedder")
PROMPT = TkInstructPrompt(positive_examples=0)
ROW, LONGEST, VOCABULARY, INSTRUCTION, ANSWER = 160, 130, 8192, 8, 16
COUNTS: dict[Split, int] = {"train": 100, "test": 20}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 320,
    "intermediate_size": 864,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120, help="inner steps of a run")
    parser.add_argument("--pretraining_steps", type=int, default=300)
    parser.add_argument("--test_examples", type=int, default=10)
    parser.add_argument("--answer", type=int, default=ROW, help="most tokens of a task's median answer")
    arguments = parser.parse_args()
    eligible = partial(is_short, answer=arguments.answer)
    benchmark = draw_tasks(arguments.folder, COUNTS, eligible, vocabulary=VOCABULARY)
    pretrain(arguments.folder, benchmark, steps=arguments.pretraining_steps)
    done = read_results(arguments.folder)
    for seed in range(arguments.seeds):
        for arm in ARMS:
            if (arm, seed) in done:
                continue
            result = train_and_test(arguments.folder, benchmark, arm, seed, arguments.steps, arguments.test_examples)
            append_result(arguments.folder, result)
            print(json.dumps(result), flush=True)
            done[arm, seed] = result
    for measure in ("rouge_l", "loss"):
        print(difference(done, measure))


def is_short(benchmark: NaturalInstructions, name: str, tokenizer: PreTrainedTokenizerBase, *, answer: int) -> bool:
    """Return whether a task's first 20 prompts have a median of at most LONGEST tokens, and answers of `answer`."""
    documents = documents_of(benchmark, name, tokenizer, 20)
    if len(documents) < 20:
        return False
    answers = [len(document.input_ids) - document.n_source - 1 for document in documents]  # without the last token, eos
    whole = statistics.median(len(document.input_ids) for document in documents)
    return whole <= LONGEST and statistics.median(answers) <= answer


def documents_of(
    benchmark: NaturalInstructions, name: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[TokenizedExample]:
    """Return the usable ones of a task's first `limit` examples, tokenized with their definition."""
    task = benchmark.task(name)
    examples = [e for _, e in zip(range(limit), benchmark.examples(name), strict=False) if skip_reason(task, e) is None]
    return list(tokenize_joint(tokenizer, [PROMPT(task, e, rendering_rng(0, name, e.id)) for e in examples]))


def pretrain(folder: Path, benchmark: NaturalInstructions, *, steps: int, rows: int = 8, columns: int = 128) -> None:
    """Pretrain and save a language model on the training tasks that neither arm trains on."""
    if (folder / "pretrained").exists():
        return
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    bundle = bundled_tasks()
    others = sorted(set(bundle.task_names("train")) - set(benchmark.task_names("train")))
    documents = [document.input_ids for name in others for document in documents_of(bundle, name, tokenizer, 60)]
    random.Random(0).shuffle(documents)
    text = torch.from_numpy(np.concatenate(documents).astype(np.int64))
    torch.manual_seed(0)
    config = model_config(LLAMA, vocabulary=len(tokenizer), dropout=None)
    model = build_model(config, weights=None, vocabulary=len(tokenizer), attention="sdpa", dtype=torch.float32)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters; {len(text):,} tokens of text, {steps * rows * columns:,} of them read", flush=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min((step + 1) / 50, (steps - step) / steps)
        starts = (torch.arange(rows) + step * rows) * columns % (len(text) - columns)
        batch = torch.stack([text[start : start + columns] for start in starts.tolist()])
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"pretraining step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    model.save_pretrained(folder / "pretrained")


def train_and_test(
    folder: Path, benchmark: NaturalInstructions, arm: Arm, seed: int, steps: int, test_examples: int
) -> dict[str, Any]:
    """Train and test an arm; return ROUGE-L in percent, mean loss per target token, and the model's size."""
    started = time.perf_counter()
    L.seed_everything(seed, verbose=False)
    learns, tokenizer = arm != "definition", str(folder / "tokenizer")
    inner_steps = 5
    data = InstructionOptimizationDataModule(
        benchmark,
        tokenizer,
        CategorySplit(0.2, seed=seed) if learns else None,
        prompt=PROMPT,
        preset="fast",
        rows=BilevelRows(length=ROW),
        levels=Levels(inner_steps=inner_steps, inner_rows=4, outer_rows=8),
        instructions=InstructionTexts(length=INSTRUCTION),
        instances=Instances(train=100, validation=0, test=test_examples),
        evaluation=Evaluation(max_new_tokens=ANSWER, batch_tokens=4096),
        seed=seed,
    )
    module = InstructionOptimizationModule(
        tokenizer,
        pretrained=str(folder / "pretrained"),
        optimizer=Optimization(learning_rate=3e-4, warmup=20),
        instruction=InstructionSettings(
            "instance_embedder" if learns else "none", INSTRUCTION, representation=Representation(width=128)
        ),
        preset="fast",
        row_length=ROW,
        total_steps=steps,
        inner_steps=inner_steps,
        outer=OuterSettings(learning_rate=3e-3, gamma=3e-4),
        seed=seed,
    )
    trainer = cpu_trainer(steps)
    trainer.fit(module, data)
    trained = time.perf_counter() - started
    (scores,) = trainer.test(module, data, verbose=False)
    assert data.task_levels is not None
    return {
        "arm": arm,
        "seed": seed,
        "rouge_l": 100 * scores["test/rouge_l"],
        "loss": test_loss(module.language_model, benchmark, tokenizer, test_examples),
        "inner_tasks": len(data.task_levels.inner),
        "outer_tasks": len(data.task_levels.outer),
        "outer_steps": module.outer_step,
        "train_seconds": round(trained),
        "seconds": round(time.perf_counter() - started),
    }


@torch.no_grad()
def test_loss(model: PreTrainedModel, benchmark: NaturalInstructions, tokenizer_name: str, test_examples: int) -> float:
    """Return the mean cross entropy per target token of the test tasks, with their definitions."""
    tokenizer = load_tokenizer(tokenizer_name)
    kind, total, targets = CausalRows(ROW, tokenizer.pad_token_id), 0.0, 0
    model.eval()
    for name in benchmark.task_names("test"):
        documents = [d for d in documents_of(benchmark, name, tokenizer, test_examples) if len(d.input_ids) <= ROW]
        if documents:
            loss = target_loss(model, kind.collate([[document] for document in documents], step_targets=1))
            total, targets = total + loss.sum.item(), targets + int(loss.targets)
    return total / targets


def difference(results: dict[tuple[str, int], dict[str, Any]], measure: str) -> str:
    """Return the means of both arms, and the mean of their paired differences with its interval, as text."""
    seeds = sorted(seed for arm, seed in results if arm == ARMS[1] and (ARMS[0], seed) in results)
    plain, learned = ([results[arm, seed][measure] for seed in seeds] for arm in ARMS)
    if len(seeds) < 2:
        return f"{measure}: {len(seeds)} seeds of both arms are too few for an interval"
    mean, low, high = t_interval([b - a for a, b in zip(plain, learned, strict=True)])
    return (
        f"{measure}: {ARMS[0]} {statistics.mean(plain):.3f}, {ARMS[1]} {statistics.mean(learned):.3f}, "
        f"difference {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {len(seeds)} seeds"
    )


if __name__ == "__main__":
    main()
