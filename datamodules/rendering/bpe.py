"""A byte-level BPE tokenizer trained on a benchmark's own text, for models that start from random weights.

A published model brings its tokenizer from the hub or a folder. Training from scratch needs one too, and one made
from the training tasks spends no vocabulary on text that never comes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..benchmarks import Benchmark
from .prompts import OptImlPrompt, rendering_rng
from .tokenization import refusal


def write_bpe(texts: Iterable[str], folder: Path, *, vocabulary: int, longest: int) -> None:
    """Train on texts and save for ``AutoTokenizer.from_pretrained``: bytes, ``<pad>``, ``</s>`` and merges.

    Args:
        texts: What to learn merges from.
        folder: Where tokenizer.json and its configuration go.
        vocabulary: Entries at the most, at least 258.
        longest: Tokens that a model is meant to read (``model_max_length``).
    """
    if vocabulary < 258:
        raise ValueError(f"a byte-level vocabulary has 256 bytes, <pad> and </s> at least, got {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=longest
    )
    wrapped.save_pretrained(folder)


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
            if refusal(task, example) is None:
                prompt = form(task, example, rendering_rng(0, name, example.id))
                yield f"{prompt.source} {prompt.target}"
