"""Train a byte-level BPE tokenizer on the training tasks of a benchmark.

Example:
    crosstask tokenizer --benchmark NaturalInstructions --benchmark.folder runs/quickstart/toybench \\
      --folder runs/tokenizer
"""

from collections.abc import Iterator, Sequence

from ..datamodules.atomic_files import require_new, whole_folder
from ..datamodules.benchmarks import Benchmark
from ..datamodules.benchmarks.own_data.file_tasks import as_benchmark
from ..datamodules.messages import expanded
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(train_tokenizer, words, benchmarks=True)


def train_tokenizer(
    benchmark: Benchmark | str, folder: str, vocabulary: int = 8192, longest: int = 2048, sentinels: int = 0
) -> None:
    """Train a byte-level BPE tokenizer on the training tasks of a benchmark.

    Args:
        benchmark: Benchmark whose training tasks are read, or the path or hub name of your own data.
        folder: Folder into which the tokenizer is written; it must be new or empty.
        vocabulary: Largest number of tokens in the vocabulary.
        longest: Maximum number of tokens that a model reads (``model_max_length`` of the tokenizer).
        sentinels: Number of sentinel tokens in the vocabulary, for span corruption (T5 has 100).
    """
    from ..datamodules.rendering.bpe import write_bpe

    target = expanded(folder)
    require_new(target)
    texts = _texts(as_benchmark(benchmark))
    with whole_folder(target) as partial:
        write_bpe(texts, partial, vocabulary=vocabulary, longest=longest, sentinels=sentinels)


def _texts(benchmark: Benchmark) -> Iterator[str]:
    from ..datamodules.rendering.prompts import OptImlPrompt, rendering_rng
    from ..datamodules.rendering.skipped_examples import skip_reason

    form = OptImlPrompt()
    for name in benchmark.task_names("train"):
        task = benchmark.task(name)
        for example in benchmark.examples(name):
            if skip_reason(task, example) is None:
                prompt = form(task, example, rendering_rng(0, name, example.id))
                yield f"{prompt.source} {prompt.target}"
