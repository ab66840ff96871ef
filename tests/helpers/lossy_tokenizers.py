"""Tokenizers that lose text, as T5's and BERT's do: no braces, no angle brackets, no line breaks."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?()=;"


def unigram() -> PreTrainedTokenizerBase:
    """Return a tokenizer like T5's: successive unknown characters are one token, and a line break is a space."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -5.0) for letter in LETTERS)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Replace("\n", " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def wordpiece() -> PreTrainedTokenizerBase:
    """Return a tokenizer like BERT's uncased one: a word with an unknown character is one unknown token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)}, eos_token="[SEP]")


KINDS = {"unigram": unigram, "wordpiece": wordpiece}


def saved(kind: str, folder: Path) -> str:
    """Save a tokenizer, and return its folder."""
    KINDS[kind]().save_pretrained(folder)
    return str(folder)
