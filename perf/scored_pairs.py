"""Preparation and training of the scorer's pairs at scale: pairs per second, bytes on disk, and memory over tasks.

    python perf/scored_pairs.py [--pairs 5000000] [--tasks 39] [--steps 200] [--training_steps 20]

Tasks of generated text are prepared as a real benchmark's are: references, one mismatch each, and three samples of a
language model labelled by ROUGE-L, from a file of samples. The process's memory is recorded after every task: it should
not grow from the second task to the last. Then training batches are read, and a small encoder is trained on them,
interrupted halfway and resumed. Time and disk are projected to the 160 million pairs of Cappy's pretraining (arXiv
2311.06720), with half a million examples in a task at the most.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lightning as L

from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.rendering.bpe import write_bpe
from crosstask.datamodules.schema import Example, Task
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.samples import Sample
from crosstask.datamodules.scoring.scorer_settings import Augmentation, PairRows
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules import ScorerModule
from crosstask.lightning_modules.optimization import Optimization

WORDS = [f"{a}{b}" for a in ("ba", "do", "ki", "lu", "me", "ra", "so", "tu") for b in ("n", "r", "l", "st", "m", "k")]
SAMPLES = 3
PROJECTED = 160_000_000
ENCODER = {
    "model_type": "roberta",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 514,
}


class Generated(Benchmark):
    """Benchmark whose examples are computed from their numbers, so that nothing is in memory."""

    def __init__(self, tasks: int, examples: int) -> None:
        self.tasks, self.count = tasks, examples

    def task_names(self, split: Split) -> list[str]:
        return [f"task{number}" for number in range(self.tasks)] if split == "train" else []

    def task(self, name: str) -> Task:
        return Task("generated", name, "generated", instruction_level="instance")

    def examples(self, name: str) -> Iterator[Example]:
        for place in range(self.count):
            rng = random.Random(f"{name} {place}")
            text = " ".join(rng.choices(WORDS, k=rng.randint(10, 40)))
            yield Example(name, str(place), place, f"{text} {place}", (answer(rng),))

    def fingerprint(self, name: str) -> str:
        return f"{name} {self.count}"


def answer(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 10)))


def write_sample_file(benchmark: Generated, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as out:
        for name in benchmark.task_names("train"):
            for place in range(benchmark.count):
                rng = random.Random(f"samples {name} {place}")
                out.writelines(Sample(answer(rng)).line(name, str(place)) for _ in range(SAMPLES))


def resident() -> float:
    """Return this process's memory in MiB, without memory mapped from files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def train(data: ScorerDataModule, folder: Path, steps: int) -> list[float]:
    """Train for half of the steps, save, resume in a new trainer, and return the losses of both."""
    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    for last in (steps // 2, steps):
        module = ScorerModule(
            data.tokenizer_name,
            config=ENCODER,
            optimizer=Optimization(learning_rate=1e-3, warmup=0.1),
            row_length=2048,
            total_steps=steps,
        )
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=last,
            max_epochs=-1,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            log_every_n_steps=1,
            callbacks=[Losses()],
        )
        trainer.fit(module, data, ckpt_path=None if last < steps else folder / "half.ckpt")
        trainer.save_checkpoint(folder / "half.ckpt")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--tasks", type=int, default=39)
    parser.add_argument("--steps", type=int, default=200, help="training batches that are read")
    parser.add_argument(
        "--training_steps", type=int, default=20, help="optimizer steps, half of them after a resumption"
    )
    settings = parser.parse_args()
    benchmark = Generated(settings.tasks, -(-settings.pairs // (settings.tasks * (2 + SAMPLES))))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = random.Random(0)
        write_bpe((answer(rng) for _ in range(2000)), folder / "tokenizer", vocabulary=400, longest=512)
        write_sample_file(benchmark, folder / "samples.jsonl")
        data = ScorerDataModule(
            benchmark,
            str(folder / "tokenizer"),
            rows=PairRows(length=2048, pair_length=512, per_step=16),
            instances=Instances(validation=0),
            augmentation=Augmentation(samples=[str(folder / "samples.jsonl")]),
            cache=str(folder / "store"),
        )
        began, memory = time.perf_counter(), []
        for name in benchmark.task_names("train"):
            data.preparation.write(name, validated=True, tested=False)
            memory.append(resident())
        prepared = time.perf_counter() - began
        disk = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
        data.prepare_data()
        data.setup("fit")
        report, planned = data.report(), resident()
        began, read = time.perf_counter(), 0
        for batch in islice(data.train_dataloader(), settings.steps):
            read += len(batch.scored)  # type: ignore[union-attr]
        reading, after = time.perf_counter() - began, resident()
        losses = train(data, folder, settings.training_steps)
        trained = resident()
    pairs = report.examples
    result = {
        "benchmark": "scored_pairs",
        "pairs": pairs,
        "prepared_per_second": round(pairs / prepared),
        "read_per_second": round(read / reading),
        "bytes_per_pair": round(disk / pairs, 1),
        "memory_after_task": {"2": round(memory[min(1, len(memory) - 1)]), str(len(memory)): round(memory[-1])},
        "memory_planned_read_and_trained": [round(planned), round(after), round(trained)],
        "losses": [round(losses[0], 4), round(losses[-1], 4)],
        "projected_160M": {
            "hours_to_prepare": round(PROJECTED / pairs * prepared / 3600, 1),
            "gibibytes_on_disk": round(PROJECTED / pairs * disk / 2**30, 1),
        },
        "unit": "pairs/s, MiB of anonymous memory",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
