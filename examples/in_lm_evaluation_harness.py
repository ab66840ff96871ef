"""Write the ranked prompts of a test as tasks of lm-evaluation-harness, and compare both programs' log-likelihoods.

The harness needs ``pip install "crosstask[harness]"``. Its log-likelihoods have no end token, so the test has none::

    crosstask test ... --data.evaluation.ranking.eos false
    python examples/in_lm_evaluation_harness.py write runs/fit-1/version_0/predictions/test.jsonl harness
    lm_eval run --model hf --model_args pretrained=MODEL,dtype=float32 --include_path harness --tasks crosstask \\
        --log_samples --output_path harness/results
    python examples/in_lm_evaluation_harness.py compare runs/fit-1/version_0/predictions/test.jsonl harness
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TASK = {
    "tag": "crosstask",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}
"""Configuration of a task of the harness: a prompt, a space, and each option."""


class Comparison(NamedTuple):
    """Comparison of crosstask and the harness on the same prompts.

    Args:
        options: Options of all prompts.
        difference: The largest difference of two log-likelihoods, in nats.
        choices: Prompts for which the programs choose different options.
    """

    options: int
    difference: float
    choices: int


def ranked(predictions: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a prediction file that have options."""
    with predictions.open(encoding="utf-8") as lines:
        yield from (record for record in map(json.loads, lines) if "options" in record)


def write_tasks(predictions: Path, folder: Path) -> list[str]:
    """Write a task of the harness for each task and number of shots, and return their names."""
    rows = defaultdict(list)
    for record in ranked(predictions):
        options = list(record["options"])
        row = {"number": record["number"], "prompt": record["prompt"], "options": options}
        name = f"{record['task']}_{record['shots']}shot".replace("/", "_")
        rows[name].append(row | {"label": options.index(record["right_option"].strip())})
    if not rows:
        raise SystemExit(f"{predictions} has no ranked prompt: test with --data.evaluation.ranking.eos false")
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        task = TASK | {"task": f"crosstask_{name}", "dataset_kwargs": {"data_files": {"test": str(data.resolve())}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return list(rows)


def compare(predictions: Path, folder: Path) -> Comparison:
    """Compare the log-likelihoods of a prediction file with those in the newest results of the harness."""
    samples = {}
    for path in sorted(folder.glob("results/**/samples_*.jsonl"), key=lambda path: path.stat().st_mtime):
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            samples[sample["doc"]["number"]] = [score for score, _ in sample["filtered_resps"]]
    differences, choices = [], 0
    for record in ranked(predictions):
        ours = [scores["sum"] for scores in record["options"].values()]
        theirs = [float(score) for score in samples[record["number"]]]
        differences += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        choices += ours.index(max(ours)) != theirs.index(max(theirs))
    return Comparison(len(differences), max(differences), choices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("predictions", type=Path, help="predictions/test.jsonl of a run")
    parser.add_argument("folder", type=Path, help="folder of the harness's tasks and, below results, its output")
    given = parser.parse_args()
    if given.action == "write":
        print(f"{len(write_tasks(given.predictions, given.folder))} tasks in {given.folder}, all of the tag crosstask")
    else:
        print(compare(given.predictions, given.folder))


if __name__ == "__main__":
    main()
