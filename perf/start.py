"""Seconds until a prepared run of thousands of tasks has its first batch, with its data files and without them.

    python perf/start.py                      2,000 tasks of 20 examples
    python perf/start.py --examples 200       the same tasks, ten times as large

The tasks are files of Super-NaturalInstructions' format with sentences of the embedded benchmark. The peer is the same
start from a store without its folder `starts`, which reads all data files and digests them.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from common import print_result

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.toybench.writer import write_toybench


def write_tasks(folder: Path, toybench: Path, tasks: int, examples: int) -> None:
    """Write copies of the embedded benchmark's tasks under other names, with equal numbers of instances."""
    (folder / "tasks").mkdir(parents=True)
    records = [json.loads(path.read_text()) for path in sorted((toybench / "tasks").glob("*.json"))]
    for number in range(tasks):
        record = records[number % len(records)]
        instances = record["Instances"]
        repeated = [instances[place % len(instances)] for place in range(examples)]
        named = [{**instance, "id": f"task{number}-{place}"} for place, instance in enumerate(repeated)]
        (folder / f"tasks/task{number:04d}_copy.json").write_text(json.dumps({**record, "Instances": named}))


def start(folder: Path, home: Path) -> float:
    """Return the seconds from building the datamodule to the first batch."""
    began = time.perf_counter()
    data = InstructionTuningDataModule(
        NaturalInstructions(str(folder), splits=""),
        str(home / "tokenizer"),
        rows=Rows(length=512, per_step=8),
        instances=Instances(test=0, validation=1),
        cache=str(home / "store"),
    )
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=20)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        write_toybench(home / "toybench", instances=max(101, min(settings.examples, 500)))
        shutil.copytree(home / "toybench/tokenizer", home / "tokenizer")
        write_tasks(home / "data", home / "toybench", settings.tasks, settings.examples)
        print(f"the first start, which prepares: {start(home / 'data', home):.1f} s", flush=True)
        again = start(home / "data", home)
        shutil.rmtree(home / "store/starts")
        digested = start(home / "data", home)
        (home / "data").rename(home / "gone")
        without = start(home / "data", home)
    print(f"a later start {again:.2f} s, without the data files {without:.2f} s, digesting them {digested:.2f} s")
    setting = f"{settings.tasks} tasks of {settings.examples} examples"
    print_result("start", ours=again, peer=digested, unit="seconds", setting=setting)


if __name__ == "__main__":
    main()
