"""Few-shot prompts in pieces, so that an extractor can choose the demonstrations during training.

The pieces of a prompt of ``with_demonstrations`` (SEP is its separator)::

    definition SEP | input delimiter target SEP | input delimiter target SEP | input delimiter target
    head             exemplar                     exemplar                     document

Any exemplars, in any order, can be put between head and document. The concatenated tokens of the pieces are equal to
the tokens of the whole prompt.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..rendering.demonstrations import solved_text
from ..rendering.prompts import PromptForm
from ..rendering.special_tokens import encode, encode_with_ends
from ..schema import Example, Prompt, Task, TokenizedExample
from ..storage.preparation import Preparation


class PromptPieces(NamedTuple):
    """Few-shot prompt as separate texts, so that an extractor can choose later which exemplars are in it.

    The prompt is the concatenation of head, chosen exemplars and query.

    Args:
        head: Instructions before the exemplars, with the separator; empty without exemplars or instructions.
        exemplars: Text of each exemplar, with the separator at its end.
        query: Text of the example to solve; without exemplars, it begins with the instructions.
        target: The text that the model should write.
    """

    head: str
    exemplars: list[str]
    query: str
    target: str


class EncodedPieces(NamedTuple):
    """Few-shot prompt as separate lists of token ids, so that an extractor can choose which exemplars are in it.

    Args:
        head: Ids of the tokens before the exemplars, bos included.
        exemplars: Ids of each exemplar.
        document: Ids of the query, the example to solve, and of the target.
    """

    head: list[int]
    exemplars: list[list[int]]
    document: TokenizedExample


def prompt_pieces(
    form: PromptForm,
    task: Task,
    example: Example,
    exemplars: Sequence[Example],
    generator: Callable[[], random.Random],
    separator: str,
) -> PromptPieces:
    """Render a few-shot prompt as separate texts: the instructions, each exemplar, the query, and the target.

    Args:
        form: Form of the prompt.
        task: The task.
        example: The example to solve.
        exemplars: Solved examples of the task.
        generator: Function that returns the example's random generator, in the same state at each call.
        separator: Text between two examples.
    """
    parts = form.parts(task, example, generator())
    if not exemplars or not parts.query:
        return PromptPieces("", [], parts.source, parts.target)
    solved = [solved_text(form.parts(task, one, generator())) + separator for one in exemplars]
    head = parts.instructions + separator if parts.instructions else ""
    return PromptPieces(head, solved, parts.query, parts.target)


def encode_pieces(preparation: Preparation, pieces: PromptPieces) -> EncodedPieces:
    """Tokenize a few-shot prompt, and divide its tokens into instructions, exemplars, and query with target.

    The whole prompt is tokenized, so that the concatenated parts have its tokens; a token belongs to the part in which
    its text ends.

    Args:
        preparation: Settings of tokenization, with the tokenizer.
        pieces: Texts of the prompt.

    Raises:
        ValueError: The tokens of an exemplar depend on the text before it.
    """
    [document] = preparation.tokenize(
        [Prompt("".join([pieces.head, *pieces.exemplars[:1], pieces.query]), pieces.target)]
    )
    if not pieces.exemplars:
        return EncodedPieces([], [], document)
    tail = pieces.query if preparation.pair else pieces.query.rstrip(" ")
    exemplars, n_tail = _exemplar_tokens(preparation.tokenizer, pieces._replace(query=tail))
    first = document.n_source - n_tail - preparation.pair  # the eos of a pair's source
    head = document.input_ids[: first - len(exemplars[0])].tolist()
    rest = TokenizedExample(document.input_ids[first:], document.n_source - first)
    return EncodedPieces(head, exemplars, rest)


def _exemplar_tokens(tokenizer: PreTrainedTokenizerBase, pieces: PromptPieces) -> tuple[list[list[int]], int]:
    """Return the tokens of each exemplar, and the number of tokens of the query.

    Rejects a tokenizer by which an exemplar has other tokens after the head than after another exemplar.
    """
    head, first, texts = pieces.head, pieces.exemplars[0], pieces.exemplars
    alone = encode_with_ends(tokenizer, [head + text + pieces.query for text in texts])
    behind = encode(tokenizer, [head + first + text + pieces.query for text in texts])
    parts = [
        _divided(ids, ends, len(head), len(head) + len(text)) for text, (ids, ends) in zip(texts, alone, strict=True)
    ]
    before, first_ids, query = parts[0]
    for text, (left, ids, right), joint in zip(texts, parts, behind, strict=True):
        if (left, right, joint) != (before, query, [*before, *first_ids, *ids, *query]):
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} merges text across the separator of demonstrations, or "
                f"loses the separator, so that they cannot be chosen apart, e.g. {text[:60]!r}: set another "
                "instructions.separator, or instructions.demonstrations to 0"
            )
    return [ids for _, ids, _ in parts], len(query)


def _divided(ids: list[int], ends: list[int], begin: int, end: int) -> tuple[list[int], list[int], list[int]]:
    """Divide tokens by where they end in the text: up to character `begin`, up to character `end`, and after it."""
    first, last = (sum(one <= place for one in ends) for place in (begin, end))
    return ids[:first], ids[first:last], ids[last:]


def stack_exemplars(pieces: Sequence[EncodedPieces], number: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return the exemplars of B prompts as (ids, mask), int64 [B, N, C] each, padded to the C tokens of the longest.

    Args:
        pieces: Tokens of each prompt.
        number: Exemplars of each prompt, N; a prompt with fewer has empty ones.
        padding: Token id of padding.

    Returns:
        The token ids, and the mask, which is 0 at padding and in empty exemplars.
    """
    rows = [[*one.exemplars, *([[]] * (number - len(one.exemplars)))] for one in pieces]
    ids, mask = _padded([ids for row in rows for ids in row], padding)
    return ids.unflatten(0, (len(rows), number)), mask.unflatten(0, (len(rows), number))


def stack_heads(pieces: Sequence[EncodedPieces], padding: int) -> tuple[Tensor, Tensor]:
    """Return the instructions of B prompts as (ids, mask), int64 [B, H] each, padded to the H tokens of the longest.

    Args:
        pieces: Tokens of each prompt, whose instructions are the tokens before its exemplars.
        padding: Token id of padding, where the mask is 0.
    """
    return _padded([one.head for one in pieces], padding)


def _padded(rows: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    ids = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()
