"""Option trees: the documents of one prompt's options, with their common beginning stored once.

An option with its prompt is tokenized to the same document as in training, so that its likelihood is the same as there
(OPT-IML, arXiv 2212.12017, ranks by the sum of the target's log-likelihoods, eos included). The common beginning of one
prompt's documents is the prefix, and the rest of each document is a branch::

    source  "Is the sky blue? Answer:"         prefix     Is the sky blue ? Answer :
    options "yes" "not at all"                 branches                           | yes | not at all
    scored                                     yes </s>, and: not at all </s>

The last token of an option is only predicted, so that no branch holds it; an option of one token has an empty branch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..rendering.tokenization import tokenize_joint, tokenize_pair
from ..schema import Prompt, TokenizedExample

Ids = NDArray[np.int64]


def tokenize_options(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    pair: bool,
    bos: bool | None = None,
    eos: bool = True,
    joint: str = " ",
    end: int | None = None,
) -> list[list[TokenizedExample]]:
    """Tokenize each option behind its prompt, as training examples are tokenized; return a document for each option.

    Args:
        tokenizer: The model's tokenizer.
        sources: The prompts.
        options: Texts of each prompt's options; surrounding white space is removed.
        pair: Whether prompt and option are tokenized apart, for an encoder-decoder model.
        bos: Whether documents begin with the bos token; None for the tokenizer's default.
        eos: Whether the eos token after an option is scored, too.
        joint: Text between a decoder-only model's prompt and an option.
        end: Id of the token after a decoder-only model's option; None for the tokenizer's eos.

    Raises:
        ValueError: No token precedes an option, so that its first token has no likelihood.
    """
    prompts = [Prompt(source, text.strip()) for source, texts in zip(sources, options, strict=True) for text in texts]
    if not prompts:
        return [[] for _ in sources]
    if pair:
        documents = tokenize_pair(tokenizer, prompts, bos=bos)
    else:
        documents = tokenize_joint(tokenizer, prompts, bos=bos, joint=joint, end=end)
    if not eos:
        documents = [document._replace(input_ids=document.input_ids[:-1]) for document in documents]
    remaining = iter(documents)
    grouped = [[next(remaining) for _ in texts] for texts in options]
    for source, texts, group in zip(sources, options, grouped, strict=True):
        if texts and group[0].n_source < 1:
            raise ValueError(
                f"nothing precedes option {texts[0]!r} of the prompt {source[-40:]!r}, so its first token has no "
                "likelihood: give a prompt, or documents that begin with bos"
            )
    return grouped


class OptionTree(NamedTuple):
    """Options of one prompt as a prefix and a branch for each option.

    Args:
        prefix: int64 [n], tokens that all options' documents begin with.
        branches: For each option, int64 tokens that the model reads after the prefix; may be empty.
        targets: For each option, int64 tokens that are scored: the last ones of its document.
    """

    prefix: Ids
    branches: tuple[Ids, ...]
    targets: tuple[Ids, ...]

    @property
    def columns(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.prefix) + sum(map(len, self.branches))


def tree_columns(trees: Sequence[OptionTree]) -> int:
    """Return the number of tokens that the model reads for one prompt and its options."""
    return sum(tree.columns for tree in trees)


def causal_trees(documents: Sequence[TokenizedExample], *, longest: int, share: bool = True) -> list[OptionTree]:
    """Return the options of one prompt as trees for a decoder-only model: one tree, or a tree for each option.

    A tree holds the tokens that all of its options begin with once (the prefix), and the rest of each option.

    Args:
        documents: A document (prompt and option) for each option.
        longest: Maximum number of tokens of prompt and option together. A prompt that is too long loses its beginning,
            the same for all options.
        share: Whether options share a prefix, which needs document attention; otherwise each option is a tree.

    Raises:
        ValueError: An option leaves no room for its prompt.
    """
    shared = common_prefix(documents)
    end = max(len(document.input_ids) for document in documents)
    if (cut := end - longest) > 0:
        documents = [_without_beginning(document, cut, longest) for document in documents]
        shared -= cut
    if not share or shared < 1:
        return [_tree([document], len(document.input_ids) - 1) for document in documents]
    return [_tree(documents, shared)]


def _without_beginning(document: TokenizedExample, cut: int, longest: int) -> TokenizedExample:
    if document.n_source <= cut:
        raise ValueError(
            f"an option of {len(document.input_ids) - document.n_source} tokens leaves no room for its prompt: the "
            f"longest of these options fills all {longest} tokens that are read at once; give longer rows or "
            "shorter options"
        )
    return document._replace(input_ids=document.input_ids[cut:], n_source=document.n_source - cut)


def _tree(documents: Sequence[TokenizedExample], shared: int) -> OptionTree:
    ids = [document.input_ids for document in documents]
    # Copies, since a view of a branch would keep the prompt before it in memory.
    return OptionTree(
        prefix=ids[0][:shared].astype(np.int64),
        branches=tuple(document_ids[shared:-1].astype(np.int64) for document_ids in ids),
        targets=tuple(document.input_ids[document.n_source :].astype(np.int64) for document in documents),
    )


def common_prefix(documents: Sequence[TokenizedExample]) -> int:
    """Return the number of tokens that the documents of a prompt's options have in common at their beginning.

    Tokens of an option itself and last tokens do not count.

    >>> a, b = TokenizedExample(np.array([5, 6, 7, 1]), 2), TokenizedExample(np.array([5, 6, 7, 8, 1]), 2)
    >>> common_prefix([a, b])
    2
    """
    limit = min(min(document.n_source, len(document.input_ids) - 1) for document in documents)
    together = np.stack([document.input_ids[:limit] for document in documents])
    differs = (together != together[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else limit


def seq2seq_tree(
    documents: Sequence[TokenizedExample], *, longest_source: int | None, longest_target: int | None
) -> OptionTree:
    """Return the options of one prompt as a tree for an encoder-decoder model, which reads the prompt once.

    The prefix is the encoder's input, and each option is a branch, a document of the decoder. The first token of a
    branch is a place for the decoder's start token, which ``likelihood.py`` fills in.

    Args:
        documents: A document (source and option) for each option.
        longest_source: Maximum number of tokens of a source, of which the end is kept, as in training; None for any
            number.
        longest_target: Maximum number of tokens of an option; None for any number.

    Raises:
        ValueError: An option is longer than `longest_target`.
    """
    targets = tuple(document.input_ids[document.n_source :].astype(np.int64) for document in documents)
    if longest_target is not None and (over := max(map(len, targets))) > longest_target:
        raise ValueError(
            f"an option of {over} tokens exceeds the {longest_target} that a decoder reads at once; "
            "give a longer target_length or shorter options"
        )
    source = documents[0].input_ids[: documents[0].n_source].astype(np.int64)
    begin = np.zeros(1, dtype=np.int64)
    return OptionTree(
        prefix=source[-(longest_source or len(source)) :],
        branches=tuple(np.concatenate([begin, target[:-1]]) for target in targets),
        targets=targets,
    )
