"""A byte-level BPE tokenizer trained on a benchmark's own text, for models that start from random weights.

A published model brings its tokenizer from the hub or a folder. Training from scratch needs one too, and one made
from the training tasks spends no vocabulary on text that never comes.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


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
