"""Peak memory and seconds until the evaluation of a large dataset has its first batch, under all original templates.

    CROSSTASK_DATA=folder python perf/evaluation_memory.py cnn_dailymail    11,490 rows of 800 words, 7 templates
    CROSSTASK_DATA=folder python perf/evaluation_memory.py anli_r3          1,200 rows, 5 shots, ranked

The rows are random words in the number and length of the real test sets; PromptSource's templates are read from
CROSSTASK_DATA. The first start renders the prompts, a later one reads them from the store; each is a process.
"""

import argparse
import json
import random
import resource
import shutil
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import print_result

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.benchmarks import PromptSource
from crosstask.datamodules.benchmarks.templates.template_rows import RowSource
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.toybench.writer import write_toybench

ROWS = {"cnn_dailymail": 11_490, "anli_r3": 1_200}
ROWS_FILE = "data/rows/test.jsonl"  # two folders below the temporary one: a start watches those above a data file
TEMPLATES = {"cnn_dailymail": "cnn_dailymail_3.0.0", "anli_r3": "anli"}


def write_rows(path: Path, case: str, number: int) -> None:
    """Rows of random words, as long as those of the real test set on average."""
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8))) for _ in range(20_000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    def row(index: int) -> dict[str, Any]:
        if case == "cnn_dailymail":
            return {"article": text(800), "highlights": text(55), "id": str(index)}
        return {"premise": text(55), "hypothesis": text(11), "label": index % 3, "uid": str(index)}

    path.write_text("".join(json.dumps(row(index)) + "\n" for index in range(number)))


def start(case: str, home: Path) -> None:
    """Open the evaluation, and print seconds (of the wall, of a processor), MiB above the imports, and prompts."""
    before, began, worked = peak(), time.perf_counter(), time.process_time()
    rows = {case: RowSource(source=str(home / ROWS_FILE), templates=TEMPLATES[case])}
    ranked = case == "anli_r3"
    data = InstructionTuningDataModule(
        PromptSource("$CROSSTASK_DATA/promptsource/templates", rows, prompts="all", split="test"),
        str(home / "tokenizer"),
        rows=Rows(length=2048, per_step=8),
        instances=Instances(test=ROWS[case]),
        evaluation=Evaluation(shots=5 if ranked else 0, ranking=OptionRanking() if ranked else None),
        cache=str(home / "store"),
    )
    data.prepare_data()  # as Lightning does: the store then keeps the prompts
    data.setup("test")
    next(iter(data.test_dataloader()))
    prompts = len(data.evaluation_examples("test"))
    seconds = {"seconds": time.perf_counter() - began, "processor": time.process_time() - worked}
    print(json.dumps({**seconds, "MiB": peak() - before, "prompts": prompts}))


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=sorted(ROWS))
    parser.add_argument("--rows", type=int, help="number of rows; those of the real test set by default")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)  # of the processes that are measured
    settings = parser.parse_args()
    if settings.home is not None:
        return start(settings.case, settings.home)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        write_toybench(home / "toybench", instances=101)
        shutil.copytree(home / "toybench/tokenizer", home / "tokenizer")
        (home / ROWS_FILE).parent.mkdir(parents=True)
        write_rows(home / ROWS_FILE, settings.case, settings.rows or ROWS[settings.case])
        command = [sys.executable, __file__, settings.case, "--home", str(home)]
        results = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(2)]
    for name, result in zip(("the first start", "a later start"), results, strict=True):
        seconds = f"{result['seconds']:.1f} s, {result['processor']:.1f} s of a processor"
        print(f"{name}: {result['prompts']} prompts, {seconds}, {result['MiB']:.0f} MiB", flush=True)
    first, later = results
    print_result("evaluation memory", ours=later["MiB"], peer=first["MiB"], unit="MiB", setting=settings.case)


if __name__ == "__main__":
    main()
