"""The commands that come after a training: evaluation, answers, export; or the one that resumes it."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L

from ..datamodules.atomic_files import write_whole
from ..datamodules.base import BenchmarkDataModule, run_data
from ..datamodules.evaluation.prompt_stage import PromptStage
from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
from ..datamodules.instruction_tuning import InstructionTuningDataModule
from ..datamodules.messages import command_line
from ..datamodules.rendering.skipped_examples import skip_reason
from ..datamodules.schema import Prompt
from ..lightning_modules.instruction_tuning import InstructionTuningModule
from .prediction_writer import PredictionWriter

PROMPTS = "prompts.jsonl"
"""File in the run's folder with a few prompts of the run, as `crosstask predict` reads them."""

SHOWN = 5
"""Maximum number of prompts in the file."""

PromptedData = InstructionTuningDataModule | InstructionOptimizationDataModule


def next_commands(trainer: L.Trainer, folder: Path, root: Path, checkpoint: Path) -> list[str]:
    """Return the commands that evaluate, answer with and export a trained model. Each runs as it is printed.

    Args:
        trainer: The trainer after ``fit``.
        folder: The run's folder, which holds config.yaml.
        root: The trainer's ``default_root_dir``, below which evaluations write.
        checkpoint: The last checkpoint.
    """
    commands, data = [], run_data(trainer)
    if (stage := evaluated_stage(data)) is not None:
        command = "test" if stage == "test" else "validate"
        commands.append(command_line(command, "--config", folder / "config.yaml", "--ckpt_path", checkpoint))
        if any(isinstance(each, PredictionWriter) and each.folder is None for each in trainer.callbacks):  # type: ignore[attr-defined]
            commands.append(command_line("report", root, "--stage", stage, "--folder", root / "report"))
    if isinstance(trainer.lightning_module, InstructionTuningModule) and isinstance(data, PromptedData):
        words = [*chat_words(data), "--max_new_tokens", data.evaluation.max_new_tokens]
        if (prompts := folder / PROMPTS).is_file():
            output = folder / "answers.jsonl"
            commands.append(command_line("predict", checkpoint, "--inputs", prompts, "--output", output, *words))
        commands.append(command_line("chat", checkpoint, *words))
    commands.append(command_line("export", checkpoint, folder / "export", "--dtype", "bfloat16"))
    return commands


def evaluated_stage(data: Any) -> str | None:
    """Return the stage that a trained model can be evaluated on: ``test``, else ``validation``; None if there is none.

    Args:
        data: The run's datamodule; one of another project is assumed to have a test.
    """
    if not isinstance(data, BenchmarkDataModule):
        return "test"
    return next((stage for stage in ("test", "validation") if data.holds_out(stage)), None)


def chat_words(data: PromptedData) -> list[str]:
    """Return the words ``--chat false`` for `crosstask chat` if training used no chat template; [] if it did."""
    if not data.preparation.tokenizer.chat_template or any(prompt.turns for prompt in shown_prompts(data)):
        return []
    return ["--chat", "false"]


def write_prompts(data: Any, folder: Path) -> None:
    """Write a few prompts to ``prompts.jsonl`` for `crosstask predict`, rendered as the training prompts were."""
    if isinstance(data, PromptedData) and (prompts := shown_prompts(data)):
        records = [json.dumps(record_of(prompt), ensure_ascii=False) for prompt in prompts]
        write_whole(folder / PROMPTS, "\n".join(records) + "\n")


def record_of(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as a line of a file for `crosstask predict`.

    >>> record_of(Prompt("Rhyme cat:", "hat"))
    {'prompt': 'Rhyme cat:'}
    """
    if not prompt.turns:
        return {"prompt": prompt.source}
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns[:-1]]}


def shown_prompts(data: PromptedData) -> list[Prompt]:
    """Return the first ``SHOWN`` validation prompts; training prompts if the run has no validation."""
    stage = data.stage_if_read("validation")
    if isinstance(stage, PromptStage):
        prompts: Iterable[Prompt] = stage.evaluated.prompts
    else:
        prompts = () if data.files_are_gone() else training_prompts(data)
    return list(islice((prompt for prompt in prompts if prompt.turns or prompt.source.strip()), SHOWN))


def training_prompts(data: PromptedData) -> Iterator[Prompt]:
    """Render the prompts of the training tasks one after another; files are read only as far as they are needed."""
    for name in data.task_names()["train"]:
        task = data.task(name)
        examples = (each for each in data.benchmark.examples(name) if skip_reason(task, each) is None)
        yield from (data.preparation.render(task, example) for example in examples)
