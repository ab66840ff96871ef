"""Adapt a frozen language model through a scorer, in small: does the scorer's choice beat the model's own answers?

    python examples/adapt_with_a_scorer.py [FOLDER] [--seeds 5]

Everything is trained here, on the embedded benchmark. A language model of 0.9M parameters is trained for half as long
as the quickstart's, so that it errs, and answers with Cappy's 17 candidates (arXiv 2311.06720, section 4.2). A scorer
of 0.5M parameters learns from references, mismatches and the model's answers to training instances, and chooses among
its answers to test instances, which neither was trained on; once for each seed. Printed are ROUGE-L of every way to
choose with 95% t-intervals over seeds, the share of (oracle - best single decoding) that the scorer recovers, and the
rank correlation of its scores. Started again, it goes on where it was.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import crosstask
from crosstask.cli import main as crosstask_main
from crosstask.lightning_modules.evaluation.significance import seed_interval

CONFIGS = Path(crosstask.__file__).parent / "configs"
LEAN = [
    "--trainer.limit_val_batches",
    "0",
    "--trainer.num_sanity_val_steps",
    "0",
    "--trainer.enable_progress_bar",
    "false",
]


def run(*words: Any) -> None:
    """One command of crosstask."""
    crosstask_main([str(word) for word in words])


def train_generator(folder: Path, steps: int) -> Path:
    """The quickstart's model, trained for fewer steps; its folder."""
    exported = folder / "generator"
    if not (exported / "config.json").exists():
        recipe = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
        recipe["trainer"]["callbacks"] = [{"class_path": "HuggingFaceExport", "init_args": {"folder": str(exported)}}]
        recipe["trainer"] |= {"max_steps": steps, "logger": False, "enable_checkpointing": False}
        recipe["model"]["init_args"]["warmup_steps"] = min(60, steps // 2)
        recipe["data"]["init_args"] |= located(folder)
        run("fit", "--config", written(folder / "generator.yaml", recipe), *LEAN)
    return exported


def located(folder: Path) -> dict[str, Any]:
    """Where benchmark, tokenizer and store are, for a data module."""
    bench = {"class_path": "NaturalInstructions", "init_args": {"folder": str(folder / "toybench")}}
    return {"benchmark": bench, "tokenizer": str(folder / "toybench" / "tokenizer"), "cache": str(folder / "store")}


def written(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def sample(folder: Path, generator: Path, part: str, counts: dict[str, int], tasks: list[str]) -> Path:
    """The model's 17 answers to every instance of a part."""
    located_there = located(folder)
    examples = {"benchmark": located_there["benchmark"], "parts": [part], "tasks": tasks, **counts}
    settings = {"examples": examples, "generator": str(generator), "output": str(folder / part), "max_new_tokens": 12}
    run("samples", "--config", written(folder / f"{part}.yaml", settings))
    [path] = (folder / part).glob("*.jsonl")
    return path


def train_scorer(folder: Path, seed: int, steps: int, samples: Path, counts: dict[str, int]) -> Path:
    """A scorer of the recipe's size; its folder."""
    exported = folder / f"scorer{seed}"
    if not (exported / "config.json").exists():
        recipe = yaml.safe_load((CONFIGS / "scorer_toybench.yaml").read_text())
        recipe["seed_everything"] = recipe["model"]["init_args"]["seed"] = seed
        recipe["trainer"]["callbacks"] = [{"class_path": "HuggingFaceExport", "init_args": {"folder": str(exported)}}]
        recipe["trainer"] |= {"max_steps": steps, "logger": False, "enable_checkpointing": False}
        recipe["data"]["init_args"] |= {**located(folder), **counts, "samples": [str(samples)]}
        run("fit", "--config", written(folder / "scorer.yaml", recipe), *LEAN)
    return exported


def select(folder: Path, seed: int, scorer: Path, samples: Path, counts: dict[str, int], tasks: list[str]) -> Any:
    """The table of one scorer."""
    prompt = yaml.safe_load((CONFIGS / "scorer_toybench.yaml").read_text())["data"]["init_args"]["prompt"]
    examples = {
        "benchmark": located(folder)["benchmark"],
        "prompt": prompt,
        "parts": ["test"],
        "tasks": tasks,
        **counts,
    }
    settings = {"examples": examples, "samples": [str(samples)], "scorer": str(scorer), "max_length": 128}
    output = folder / f"selection{seed}"
    run("select", "--config", written(folder / "select.yaml", settings | {"output": str(output)}))
    return json.loads((output / "selection.json").read_text())


def over_seeds(tables: list[Any]) -> str:
    """Means with t-intervals over seeds; what does not depend on the scorer is the same for every seed."""
    lines = [f"{'chosen by':28}{'ROUGE-L':>8}  95% over {len(tables)} seeds"]
    for name in tables[0]["methods"]:
        values = [100 * table["methods"][name]["mean"] for table in tables]
        found = seed_interval(values, tables[0]["instances"]) if len(set(values)) > 1 else None
        spread = f"[{found.low:.1f}, {found.high:.1f}]" if found else ""
        lines.append(f"{name:28}{np.mean(values):8.1f}  {spread}")
    recovered = [table["recovered"] for table in tables]
    spearman = [table["spearman"] for table in tables]
    lines.append(f"recovered of (oracle - best single): {', '.join(f'{share:.1%}' for share in recovered)}")
    lines.append(f"Spearman of score and ROUGE-L: {', '.join(f'{each:.3f}' for each in spearman)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/adapt_with_a_scorer"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generator_steps", type=int, default=800)
    parser.add_argument("--scorer_steps", type=int, default=800)
    parser.add_argument("--train", type=int, default=60, help="training instances of a task, with 17 answers each")
    parser.add_argument("--test", type=int, default=60, help="test instances of a task")
    parser.add_argument("--tasks", nargs="*", default=[], help="tested and answered for training; all by default")
    settings = parser.parse_args(arguments)
    folder: Path = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    run("toybench", "--folder", folder / "toybench")
    generator = train_generator(folder, settings.generator_steps)
    counts = {"train_examples": settings.train, "validation_examples": 4}
    test_counts = {**counts, "test_examples": settings.test}
    tested = sample(folder, generator, "test", test_counts, settings.tasks)
    trained = sample(folder, generator, "train", counts, settings.tasks)
    tables = []
    for seed in range(settings.seeds):
        scorer = train_scorer(folder, seed, settings.scorer_steps, trained, counts)
        tables.append(select(folder, seed, scorer, tested, test_counts, settings.tasks))
    print(over_seeds(tables))


if __name__ == "__main__":
    main()
