"""``crosstask tokenizer``: train a BPE tokenizer on the training tasks of a benchmark."""

from collections.abc import Iterator
from pathlib import Path

from ..datamodules.benchmarks import Benchmark
from ..datamodules.rendering.bpe import write_bpe
from ..datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from ..datamodules.rendering.tokenization import skip_reason


def train_tokenizer(benchmark: Benchmark, folder: str, vocabulary: int = 8192, longest: int = 2048) -> None:
    """Train a byte-level BPE tokenizer on a benchmark's training tasks.

    Args:
        benchmark: Reader of the benchmark's files.
        folder: Where the tokenizer is written.
        vocabulary: Entries at the most.
        longest: Tokens that a model is meant to read.
    """
    write_bpe(_texts(benchmark), Path(folder), vocabulary=vocabulary, longest=longest)


def _texts(benchmark: Benchmark) -> Iterator[str]:
    form = OptImlPrompt()
    for name in benchmark.task_names("train"):
        task = benchmark.task(name)
        for example in benchmark.examples(name):
            if skip_reason(task, example) is None:
                prompt = form(task, example, rendering_rng(0, name, example.id))
                yield f"{prompt.source} {prompt.target}"
