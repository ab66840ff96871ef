"""Small modules and datamodules of instruction optimization that agree with each other."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
from argument_groups import build, with_changes

import crosstask
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.bilevel.instance_rows import LanguageRows
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.schema import Task
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings, Representation
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization

CONFIGS = Path(crosstask.__file__).parent / "configs"
INNER_STEPS = 3
TASK = Task("bench", "task", "category", "Write the number behind the word, and say it as a word.")
T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
DATA = {
    "rows": {"length": 160},
    "levels": {"inner_steps": INNER_STEPS, "inner_rows": 2, "outer_rows": 4},
    "instructions": {"length": 4, "pair_length": 32},
    "instances": {"train": 8, "validation": 1, "test": 2},
    "evaluation": {"max_new_tokens": 4, "batch_tokens": 2048},
}
OUTER = {field.name for field in fields(OuterSettings)} - {"learning_rate", "weight_decay"}
NETWORK = {field.name for field in fields(Network)}
Make = Callable[..., tuple[InstructionOptimizationModule, InstructionOptimizationDataModule]]


def make_runs(
    toybench: Path,
    tiny_model: dict[str, Any],
    seq2seq: bool = False,
    data: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[InstructionOptimizationModule, InstructionOptimizationDataModule]:
    """Return a module and a datamodule with equal settings; each argument goes to the one that has it."""
    tokenizer = str(toybench / "tokenizer")
    common = {"split": CategorySplit(4), "rows": {"target_length": 24 if seq2seq else None}}
    given = with_changes(DATA, common, data or {})
    texts = given["instructions"]
    shared = {"row_length": given["rows"]["length"], "inner_steps": given["levels"]["inner_steps"]}
    fields = T5 if seq2seq else {**tiny_model, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    options: dict[str, Any] = {"config": fields, "total_steps": 7}
    network = {name: arguments.pop(name) for name in NETWORK & set(arguments)}
    options |= {"optimizer": Optimization(learning_rate=1e-2, warmup=1), "network": Network(**network)}
    instruction = {"length": texts["length"], "exemplars": texts.get("exemplars", 0)}
    instruction["demonstrations"] = texts.get("demonstrations", 0)
    kind = "direct_extractor" if instruction["demonstrations"] else "direct_embedder"
    instruction |= {"kind": arguments.pop("instruction", kind)}
    if "start" in arguments:
        instruction["start"] = arguments.pop("start")
    options["instruction"] = InstructionSettings(**instruction, representation=Representation(width=8))
    outer: dict[str, Any] = {"learning_rate": 1e-2, "calibrate_every": 0, "gamma": 0.1}
    outer |= {name: arguments.pop(name) for name in OUTER if name in arguments}
    options |= {"outer": OuterSettings(**outer), "preset": given.get("preset", "paper"), **shared}
    L.seed_everything(0, verbose=False)
    return (
        InstructionOptimizationModule(tokenizer, **{**options, **arguments}),
        build(
            InstructionOptimizationDataModule,
            {"benchmark": NaturalInstructions(str(toybench)), "tokenizer": tokenizer, **given},
        ),
    )


def trainer(steps: int = 7, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": bool(options.get("callbacks")), "limit_val_batches": 0}
    return L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, **{**quiet, **options})


def planned(make_bilevel: Make, seq2seq: bool = False, **data: Any) -> InstructionOptimizationDataModule:
    _, datamodule = make_bilevel(seq2seq, data)
    datamodule.setup("fit")
    return datamodule


def texts(datamodule: InstructionOptimizationDataModule, rows: LanguageRows) -> list[str]:
    tokenizer = datamodule.preparation.tokenizer
    return [tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in rows.input_ids]
