"""Tokens of an evaluation's prompts and options, some prompts at a time, so that a large evaluation fits into memory.

A list of Python's integers takes some ten times the memory of an array, and the tokenizer's encodings more.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..rendering.chat import chat_end, chat_prompt
from ..schema import Prompt, TokenizedExample
from ..storage.preparation import TOKENIZED_AT_ONCE, Preparation

TokenIds = Sequence[int] | NDArray[np.integer]
"""Token ids of a prompt."""

Documents = list[list[TokenizedExample]]
"""The documents of each prompt's options."""


def prompt_tokens(
    preparation: Preparation, prompts: Sequence[Prompt], longest: int
) -> tuple[list[NDArray[np.int32]], int]:
    """Return the tokens of each prompt, int32 [n], and the number of prompts that lose their beginning.

    Args:
        preparation: Turns prompts into tokens.
        prompts: The prompts.
        longest: Maximum number of tokens of a prompt; the last ones are kept.
    """
    tokens, cut = [], 0
    for part in _parts(len(prompts)):
        for ids in preparation.tokenize_sources(prompts[part]):
            cut += len(ids) > longest
            tokens.append(np.array(ids[-longest:], dtype=np.int32))
    return tokens, cut


def option_documents(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    options: Sequence[Sequence[str]],
    tokenize: Callable[..., Documents],
) -> Iterator[list[TokenizedExample]]:
    """Tokenize each option behind its prompt, some prompts at a time, and yield the options' tokens for each prompt.

    Prompts that are conversations are rendered by the tokenizer's chat template.

    Args:
        tokenizer: The model's tokenizer.
        prompts: The prompts.
        options: The options of each prompt.
        tokenize: ``tokenize_options`` with the settings of the model and the ranking.
    """
    for part in _parts(len(prompts)):
        pairs = list(zip(prompts[part], options[part], strict=True))
        kinds = [bool(prompt.turns) for prompt, _ in pairs]
        of_kind = {kind: [pair for pair in pairs if bool(pair[0].turns) == kind] for kind in (True, False)}
        texts = tokenize([prompt.source for prompt, _ in of_kind[False]], [of_one for _, of_one in of_kind[False]])
        chats: Documents = []
        if of_kind[True]:
            rendered = [chat_prompt(tokenizer, prompt.turns[:-1]) for prompt, _ in of_kind[True]]
            of_chats = [of_one for _, of_one in of_kind[True]]
            chats = tokenize(rendered, of_chats, bos=False, joint="", end=chat_end(tokenizer))
        remaining = {True: iter(chats), False: iter(texts)}
        yield from (next(remaining[kind]) for kind in kinds)


def _parts(number: int) -> Iterator[slice]:
    """Yield slices of `number` prompts, in order."""
    return (slice(first, first + TOKENIZED_AT_ONCE) for first in range(0, number, TOKENIZED_AT_ONCE))
