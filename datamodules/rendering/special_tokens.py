"""Special tokens: encoding texts so that no text becomes one, and the tokens that begin a document.

``split_special_tokens`` of transformers does not suffice. It skips added tokens that are flagged special, but a model's
vocabulary may spell them (a unigram vocabulary holds "</s>" as a piece, a word-level one as a word), normalization may
produce them (NFKC makes "</s>" of full-width brackets), and a tokenizer.json may lack the flag. So texts are encoded by
a copy of the tokenizer in which every special token is spelled with a secret mark before it. Only ``chat.py`` writes
that mark, for the special tokens of the chat template.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..data_files import HALF_PAIR

MARK = f"\ufdd0{secrets.token_hex(8)}"
"""Mark before the text of a chat template's special token. No file can hold it, since every process draws another."""

HIDDEN = f"\ufdd1{secrets.token_hex(8)}:"
"""Beginning of the placeholder for a special token's text in a message, while a chat template is rendered."""


ENCODED_AT_ONCE = 1024
"""Texts that the tokenizer encodes in one call; its encodings take some hundred bytes a token until the call's end."""


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text. A text that spells a special token is encoded as ordinary text.

    Raises:
        ValueError: A text holds half of a surrogate pair, which Python makes of escapes and of input that is not UTF-8.
    """
    backend, ids = text_tokenizer(tokenizer), []
    with _surrogates_rejected(texts):
        for first in range(0, len(texts), ENCODED_AT_ONCE):
            part = list(texts[first : first + ENCODED_AT_ONCE])
            ids += [encoding.ids for encoding in backend.encode_batch_fast(part, add_special_tokens=False)]
    return ids


def encode_with_ends(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Return (token ids, ends) of each text; the end of a token is the number of characters up to its last one."""
    with _surrogates_rejected(texts):
        encodings = text_tokenizer(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    return [(encoding.ids, [end for _, end in encoding.offsets]) for encoding in encodings]


@contextmanager
def _surrogates_rejected(texts: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if (broken := next((text for text in texts if HALF_PAIR.search(text)), None)) is None:
            raise
        raise ValueError(
            f"the text {broken[:40]!r} holds half of a surrogate pair, which is not a character: save it as UTF-8"
        ) from error


def text_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of a tokenizer that turns no text into a special token, and truncates nothing.

    In the copy, special tokens have other spellings. It is made on first use, and again after another token has become
    bos, eos or padding.
    """
    return _text_tokenizer(tokenizer, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)


@contextmanager
def truncating_tokenizer(tokenizer: PreTrainedTokenizerBase, longest: int) -> Iterator[Tokenizer]:
    """Yield a tokenizer that cuts texts to `longest` tokens, of a pair the longer text first.

    Like that of ``text_tokenizer``, it turns no text into a special token.

    Args:
        tokenizer: The model's tokenizer, which also names the side to cut (``truncation_side``).
        longest: Maximum number of tokens of a text or a pair.
    """
    backend = text_tokenizer(tokenizer)
    backend.enable_truncation(longest, strategy="longest_first", direction=tokenizer.truncation_side)
    try:
        yield backend
    finally:
        backend.no_truncation()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the spellings of all special tokens: those flagged special, and those with a role such as eos."""
    flagged = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return flagged | set(tokenizer.all_special_tokens)


@lru_cache(maxsize=8)
def _text_tokenizer(tokenizer: PreTrainedTokenizerBase, *roles: str | None) -> Tokenizer:
    special = special_tokens(tokenizer)
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    spelled = {text: MARK + text for text in special}
    for token in definition["added_tokens"]:
        if token["content"] in special:
            token |= {"content": spelled[token["content"]], "normalized": False}
    model = definition["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {spelled.get(text, text): number for text, number in model["vocab"].items()}
    else:  # pieces of a unigram model with their scores
        model["vocab"] = [[spelled.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in special:
        model["unk_token"] = spelled[model["unk_token"]]
    if model.get("dropout"):  # merges left out at random: other tokens in every epoch, and at evaluation
        model["dropout"] = None
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [merge for merge in model["merges"] if special.isdisjoint(_merged(merge, prefix))]
    return Tokenizer.from_str(json.dumps({**definition, "truncation": None, "padding": None}))


def _merged(merge: str | Sequence[str], prefix: str) -> tuple[str, str, str]:
    """Return the two parts of a merge of byte-pair encoding, and their merged token."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second.removeprefix(prefix)


def leading_tokens(tokenizer: PreTrainedTokenizerBase, bos: bool | None) -> list[int]:
    """Return the token ids with which a model's input begins, before the text, such as bos.

    Args:
        tokenizer: The model's tokenizer.
        bos: None for the tokens that the tokenizer adds by itself, which its model was pre-trained with; True for its
            bos token; False for none.

    Raises:
        ValueError: `bos` is true, and the tokenizer has no bos token.
    """
    if bos and tokenizer.bos_token_id is None:
        raise ValueError(f"bos is true, but the tokenizer {tokenizer.name_or_path!r} has no bos token: leave bos out")
    if bos is not None:
        return [tokenizer.bos_token_id] if bos else []
    encoded = tokenizer("a")
    if 0 not in encoded.sequence_ids(0):  # a small vocabulary may lack "a"
        words = map(tokenizer, tokenizer.get_vocab())
        encoded = next((word for word in words if 0 in word.sequence_ids(0)), encoded)
    sides = encoded.sequence_ids(0)
    return list(encoded["input_ids"][: sides.index(0)]) if 0 in sides else []


def bos_departure(tokenizer: PreTrainedTokenizerBase, bos: bool | None) -> str | None:
    """Return a sentence for the log if `bos` differs from the tokenizer's default; None if it does not."""
    added, chosen = leading_tokens(tokenizer, None), leading_tokens(tokenizer, bos)
    if added == chosen:
        return None
    names = [" ".join(tokenizer.convert_ids_to_tokens(ids)) or "no token" for ids in (added, chosen)]
    return (
        f"the tokenizer {tokenizer.name_or_path!r} begins a text with {names[0]}, and bos: {str(bos).lower()} makes "
        f"documents begin with {names[1]}: leave bos out unless the model was trained so"
    )
