"""Training of a byte-level BPE tokenizer on a benchmark's text, for models with random initial weights.

A pretrained model has a tokenizer, on the hub or in its folder. A model trained from scratch needs its own; one that is
trained on the training tasks spends no vocabulary on text that does not occur in them.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def write_bpe(texts: Iterable[str], folder: Path, *, vocabulary: int, longest: int, sentinels: int = 0) -> None:
    """Train a tokenizer of bytes, ``<pad>``, ``</s>`` and merges; save it for ``AutoTokenizer.from_pretrained``.

    Args:
        texts: Texts to learn merges from.
        folder: Folder for tokenizer.json and its configuration.
        vocabulary: Maximum number of entries of the vocabulary; at least 258 more than `sentinels`.
        longest: The tokenizer's ``model_max_length``, in tokens.
        sentinels: Number of sentinel tokens for span corruption; ``<extra_id_0>`` has the highest id, as in T5's
            vocabulary.

    Raises:
        ValueError: The vocabulary is too small.
    """
    if vocabulary - sentinels < 258:
        raise ValueError(
            f"a byte-level vocabulary has 256 bytes, <pad>, </s> and {sentinels} sentinels at least, got {vocabulary}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - sentinels,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in reversed(range(sentinels))])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=longest
    )
    wrapped.save_pretrained(folder)
