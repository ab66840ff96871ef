"""Do learned training instructions help unseen tasks? Table 2 of Differentiable Instruction Optimization (arXiv
2306.10098) in small: training with definitions against training with a learned instruction before each definition.

A language model of 10 million parameters is pretrained here on the text of real tasks, and then trained on 100 others
by both arms, once per seed; 20 tasks of categories that are not in training test it, zero-shot with their definitions.
The baseline trains on all 100 tasks, the other arm (instance embedder) on those that are not outer tasks, with as many
steps of theta::

    CROSSTASK_DATA=... python experiments/learned_instructions_table.py runs/table [--seeds 8] [--answer 3]

With --answer, tasks are those whose answers have at most so many tokens, such as labels: a small model can learn to
give them, and its scores are not all near 0. Prints one line for each run, and the paired differences with 95%
t-intervals over the seeds. A run that is found in the folder is not repeated, so that a broken off table goes on where
it was.
"""

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.prompts import rendering_rng
from crosstask.datamodules.rendering.tokenization import load_tokenizer, skip_reason, tokenize_joint
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instruction_kinds import Representation
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss

Arm = Literal["definition", "definition and embedder"]
ARMS: tuple[Arm, ...] = ("definition", "definition and embedder")
PROMPT = TkInstructPrompt(positive_examples=0)
ROW, LONGEST, VOCABULARY, INSTRUCTION, ANSWER = 160, 130, 8192, 8, 16
TRAIN_TASKS, TEST_TASKS = 100, 20
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
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t of a two-sided 95% interval, by degrees of freedom."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120, help="steps of theta in each run")
    parser.add_argument("--pretraining_steps", type=int, default=300)
    parser.add_argument("--test_examples", type=int, default=10)
    parser.add_argument("--answer", type=int, default=ROW, help="most tokens of a task's usual answer")
    arguments = parser.parse_args()
    benchmark = prepare_tasks(arguments.folder, answer=arguments.answer)
    pretrain(arguments.folder, benchmark, steps=arguments.pretraining_steps)
    done = read_results(arguments.folder)
    for seed in range(arguments.seeds):
        for arm in ARMS:
            if (arm, seed) in done:
                continue
            result = train_and_test(arguments.folder, benchmark, arm, seed, arguments.steps, arguments.test_examples)
            with open(arguments.folder / "results.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
            done[arm, seed] = result
    for measure in ("rouge_l", "loss"):
        print(difference(done, measure))


def prepare_tasks(folder: Path, *, answer: int) -> NaturalInstructions:
    """Lists of tasks with short prompts and answers, 100 to train and 20 to test; and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    if not (folder / "tokenizer").exists():
        train_tokenizer(bundle, str(folder / "tokenizer"), vocabulary=VOCABULARY)
    if not (folder / "train_tasks.txt").exists():
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
        for split, count in (("train", TRAIN_TASKS), ("test", TEST_TASKS)):
            names = [name for name in bundle.task_names(split) if is_short(bundle, name, tokenizer, answer)]  # type: ignore[arg-type]
            random.Random(0).shuffle(names)
            if len(names) < count:
                raise ValueError(f"{len(names)} {split} tasks have short prompts, and {count} are needed")
            (folder / f"{split}_tasks.txt").write_text("\n".join(sorted(names[:count])) + "\n")
    return NaturalInstructions("$CROSSTASK_DATA/superni", splits=str(folder.resolve()))


def is_short(benchmark: NaturalInstructions, name: str, tokenizer: Any, answer: int) -> bool:
    """Whether the task's first 20 prompts usually have at most LONGEST tokens, their answers at most `answer`."""
    documents = documents_of(benchmark, name, tokenizer, 20)
    if len(documents) < 20:
        return False
    answers = [len(document.input_ids) - document.n_source - 1 for document in documents]  # without the last token, eos
    whole = statistics.median(len(document.input_ids) for document in documents)
    return whole <= LONGEST and statistics.median(answers) <= answer


def documents_of(benchmark: NaturalInstructions, name: str, tokenizer: Any, limit: int) -> list[Any]:
    task = benchmark.task(name)
    examples = [e for _, e in zip(range(limit), benchmark.examples(name), strict=False) if skip_reason(task, e) is None]
    return list(tokenize_joint(tokenizer, [PROMPT(task, e, rendering_rng(0, name, e.id)) for e in examples]))


def pretrain(folder: Path, benchmark: NaturalInstructions, *, steps: int, rows: int = 8, columns: int = 128) -> None:
    """A language model on the prompts and answers of the training tasks of the benchmark that no arm trains on."""
    if (folder / "pretrained").exists():
        return
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    bundle = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    others = sorted(set(bundle.task_names("train")) - set(benchmark.task_names("train")))
    found = [document.input_ids for name in others for document in documents_of(bundle, name, tokenizer, 60)]
    random.Random(0).shuffle(found)
    text = torch.from_numpy(np.concatenate(found).astype(np.int64))
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
        places = (torch.arange(rows) + step * rows) * columns % (len(text) - columns)
        batch = torch.stack([text[place : place + columns] for place in places.tolist()])
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
    """One run: ROUGE-L of the test tasks in percent, and their mean loss per target token."""
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
        instruction="instance_embedder" if learns else "none",
        preset="fast",
        row_length=ROW,
        total_steps=steps,
        inner_steps=inner_steps,
        instruction_length=INSTRUCTION,
        learning_rate=3e-4,
        warmup_steps=20,
        representation=Representation(width=128),
        outer=OuterSettings(learning_rate=3e-3, gamma=3e-4),
        seed=seed,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
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
    """Mean cross entropy of the test tasks' targets behind their definitions."""
    tokenizer = load_tokenizer(tokenizer_name)
    kind, total, targets = CausalRows(ROW, tokenizer.pad_token_id), 0.0, 0
    model.eval()
    for name in benchmark.task_names("test"):
        documents = [d for d in documents_of(benchmark, name, tokenizer, test_examples) if len(d.input_ids) <= ROW]
        if documents:
            found = target_loss(model, kind.collate([[document] for document in documents], step_targets=1))
            total, targets = total + found.sum.item(), targets + int(found.targets)
    return total / targets


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(result["arm"], result["seed"]): result for result in map(json.loads, lines)}


def difference(results: dict[tuple[str, int], dict[str, Any]], measure: str) -> str:
    """Mean of both arms, and of the differences of the seeds that both have, with its interval."""
    seeds = sorted(seed for arm, seed in results if arm == ARMS[1] and (ARMS[0], seed) in results)
    plain, learned = ([results[arm, seed][measure] for seed in seeds] for arm in ARMS)
    apart = [b - a for a, b in zip(plain, learned, strict=True)]
    if len(apart) < 2:
        return f"{measure}: {len(apart)} seeds of both arms are too few for an interval"
    half = T_975[len(apart) - 1] * statistics.stdev(apart) / math.sqrt(len(apart))
    return (
        f"{measure}: {ARMS[0]} {statistics.mean(plain):.3f}, {ARMS[1]} {statistics.mean(learned):.3f}, "
        f"difference {statistics.mean(apart):+.3f} [{statistics.mean(apart) - half:+.3f}, "
        f"{statistics.mean(apart) + half:+.3f}] over {len(apart)} seeds"
    )


if __name__ == "__main__":
    main()
