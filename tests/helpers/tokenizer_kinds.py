"""Tokenizers of every kind, small: their vocabularies spell special tokens wherever that kind of vocabulary can."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?<>|/[]_-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXTS = ["is the sky blue ? answer : yes", "the cat of the house </s> ends </s> here", "a <unk> b <pad> c [SEP] d"] * 9


def byte_level(*, words: bool = True) -> PreTrainedTokenizerBase:
    """Return a tokenizer like GPT-2's and OPT's; without `words`, merges cross spaces and spell special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=sorted(alphabet), show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="</s>", eos_token="</s>", pad_token="<pad>")


def superwords() -> PreTrainedTokenizerBase:
    return byte_level(words=False)


def spelling_merges() -> PreTrainedTokenizerBase:
    """Return a byte-pair encoding whose merges spell an end token of its vocabulary."""
    vocabulary = {text: number for number, text in enumerate(["</s>", "<pad>", *LETTERS, "Ġ", "</", "s>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("<", "/"), ("s", ">"), ("</", "s>")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def t5() -> PreTrainedTokenizerBase:
    """Return a unigram tokenizer with the piece "</s>", after NFKC normalization."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁", -2.0), ("▁the", -3.0), ("yes", -3.5), *((letter, -5.0) for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=[*special, *pieces], extra_ids=0)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def bert() -> PreTrainedTokenizerBase:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *LETTERS.lower(), *(f"##{letter}" for letter in LETTERS.lower()), "the", "yes"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return BertTokenizer(vocab=vocabulary, eos_token="[SEP]")


def whole_words() -> PreTrainedTokenizerBase:
    """Return a word-level tokenizer with RoBERTa's template, in which "</s>" is a word."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "the", "yes", "answer", ":"]
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names: dict[str, Any] = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def llama() -> PreTrainedTokenizerBase:
    """Return a SentencePiece byte-pair encoding that adds bos by itself; "<|end|>" ends a chat's turn."""
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("y", "e"), ("ye", "s"), (":", "yes"), ("<", "/"), ("</", "s")]
    merges += [("</s", ">")]
    words = ["<unk>", "<s>", "</s>", "▁", *LETTERS, *(a + b for a, b in merges)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, pad_token="<unk>", add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>", "<|assistant|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    kind.__name__: kind for kind in (byte_level, superwords, spelling_merges, t5, bert, whole_words, llama)
}
"""Functions that build the tokenizers, by name."""
