"""Inputs of small adaptations: sampled answers of which half are right, and settings of a small scorer's training."""

from pathlib import Path
from typing import Any

from crosstask.datamodules.scoring.samples import Sample
from crosstask.datamodules.splits import choose_prompts, prompt_keys
from crosstask.lightning_modules.adaptation.scorer_training import ScorerTraining

TASKS = ["task001_toy_copy_animals", "task010_toy_reverse_animals"]
ENCODER: dict[str, Any] = {
    "model_type": "roberta",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
}


def answers(benchmark: Any, names: list[str], path: Path, *, wrong: str) -> str:
    """Write samples of a model whose beam answers `wrong`, and one of whose two nucleus samples is right."""
    lines = []
    for name in names:
        for number, example in enumerate(benchmark.examples(name)):
            right = example.targets[0]
            pair = [wrong, right] if number % 2 else [right, wrong]
            for decoding, place, text in (("beam", 0, wrong), ("nucleus", 0, pair[0]), ("nucleus", 1, pair[1])):
                lines.append(Sample(text, "m", decoding, place, -1.0 - place, 3).line(name, example.id))
    path.write_text("".join(lines))
    return str(path)


def held_out_ids(benchmark: Any, name: str, count: int) -> set[str]:
    """Return the ids of a task's instances on which an adaptation is tested; it trains on the others."""
    examples = list(benchmark.examples(name))
    chosen = choose_prompts(name, prompt_keys(examples), trained=True, validation=0, test=count)
    return {examples[place].id for place in chosen.test}


def training(toybench: Path, **arguments: Any) -> ScorerTraining:
    fields: dict[str, Any] = {
        "config": ENCODER,
        "tokenizer": str(toybench / "tokenizer"),
        "steps": 30,
        "batch": 32,
        "learning_rate": 3e-3,
        "row_length": 256,
        "pair_length": 128,
        "train_examples": 30,
        "accelerator": "cpu",
    }
    return ScorerTraining(**{**fields, **arguments})
