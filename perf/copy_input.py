"""Scores of a baseline for trained models: the input itself as the answer, on the test tasks.

CROSSTASK_DATA=folder python perf/copy_input.py
"""

import tempfile
from pathlib import Path

import numpy as np
from common import data_name, print_result, real_or_toy_benchmark

from crosstask.datamodules.rouge import rouge_l
from crosstask.lightning_modules.evaluation.answer_rules import exact_match
from crosstask.lightning_modules.evaluation.significance import bootstrap

INSTANCES = 100  # of each test task, in file order
RULE = "super_natural_instructions"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = real_or_toy_benchmark(Path(scratch))
        examples = [
            example for name in benchmark.task_names("test") for example in list(benchmark.examples(name))[:INSTANCES]
        ]
    rouge = bootstrap(np.array([rouge_l(example.input, example.targets) for example in examples]))
    exact = bootstrap(np.array([float(exact_match(example.input, example.targets, RULE)) for example in examples]))
    print(f"{rouge.count} test instances, answered with their input")
    print(f"ROUGE-L {100 * rouge.mean:.2f} [{100 * rouge.low:.2f}, {100 * rouge.high:.2f}]")
    print_result(
        "copy_input",
        ours=100 * rouge.mean,
        peer=100 * exact.mean,
        unit="percent: ours ROUGE-L, peer exact match of the same answers",
        setting=f"data {data_name()}",
    )


if __name__ == "__main__":
    main()
