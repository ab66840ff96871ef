"""Answers to rank: options of a prompt as token ids, and what all of them share, said once.

Every option makes the document that it would make in training, so that its score is what training would give it
(OPT-IML ranks by the sum of the target's log-likelihoods, eos included). The documents of one prompt begin alike: what
they share becomes a trunk, the rest of each becomes a branch::

    source  "Is the sky blue? Answer:"         trunk     Is the sky blue ? Answer :
    options "yes" "not at all"                 branches                           | yes | not at all
    scored                                     yes </s>, and: not at all </s>

The last token of a option is only predicted, so no branch holds it; a option of one token has no branch at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..rendering.tokenization import tokenize_joint, tokenize_pair
from ..schema import Example, Prompt, TokenizedExample

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class OptionRanking:
    """Evaluate examples with options by ranking these; others are still answered by what the model writes.

    Args:
        labels: Most different references for which a task whose examples list no options is one of classification, its
            references the options (see ``label_options``); 0 for no such task.
        unconditional: A prompt that says nothing, such as "Answer:", for scores by pmi.
        eos: Whether a option ends in the eos token, as in training; without, it is not worse for going on.
    """

    labels: int = 0
    unconditional: str | None = None
    eos: bool = True


def option_problem(options: Sequence[str], answer: int | None = None) -> str | None:
    """Why options cannot be ranked, or None where they can; none at all is no problem of theirs.

    >>> option_problem(["yes", "no", "yes "])
    'duplicate options'
    """
    texts = [option.strip() for option in options]
    if not all(texts):
        return "an empty option"
    if len(set(texts)) < len(texts):
        return "duplicate options"
    if answer is not None and not 0 <= answer < len(texts):
        return "the gold answer is missing among the options"
    return None


def require_options(options: Sequence[str], answer: int | None, where: str) -> None:
    """Refuse options that cannot be ranked.

    Args:
        options: Their texts; spaces around them do not count.
        answer: Place of the right one, or None where nobody asks.
        where: Names the example in the error.

    Raises:
        ValueError: One of them is empty, two are the same, or the answer is none of them.
    """
    if problem := option_problem(options, answer):
        gold = "" if answer is None else f", answer {answer}"
        raise ValueError(f"{where}: {problem}: {list(options)!r}{gold}; give different texts, the right one of them")


def tokenize_options(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    pair: bool,
    bos: bool = False,
    eos: bool = True,
    joint: str = " ",
) -> list[list[TokenizedExample]]:
    """Documents of every prompt's options, tokenized as a training example is, over the joint as well.

    Args:
        tokenizer: Of the model.
        sources: Prompts.
        options: Texts of each prompt's options.
        pair: Whether source and option are tokenized apart, for an encoder-decoder model.
        bos: Whether a decoder-only document begins with the bos token.
        eos: Whether a option ends in the eos token; without it, a option is not worse for going on.
        joint: What stands between a decoder-only model's prompt and a option.

    Raises:
        ValueError: Two options of a prompt are read as the same tokens, or nothing precedes a option.
    """
    prompts = [Prompt(source, text.strip()) for source, texts in zip(sources, options, strict=True) for text in texts]
    if not prompts:
        return [[] for _ in sources]
    documents = tokenize_pair(tokenizer, prompts) if pair else tokenize_joint(tokenizer, prompts, bos=bos, joint=joint)
    if not eos:
        documents = [document._replace(input_ids=document.input_ids[:-1]) for document in documents]
    remaining = iter(documents)
    grouped = [[next(remaining) for _ in texts] for texts in options]
    for source, texts, group in zip(sources, options, grouped, strict=True):
        _check_documents(source, texts, group)
    return grouped


def _check_documents(source: str, texts: Sequence[str], documents: Sequence[TokenizedExample]) -> None:
    first_seen: dict[bytes, str] = {}
    for text, document in zip(texts, documents, strict=True):
        if document.n_source < 1:
            raise ValueError(
                f"nothing precedes option {text!r} of the prompt {source[-40:]!r}, so its first token has no "
                "likelihood: give a prompt, or documents that begin with bos"
            )
        if (other := first_seen.setdefault(document.input_ids.tobytes(), text)) is not text:
            raise ValueError(f"duplicate options: {other!r} and {text!r} are the same tokens to this tokenizer")


class Tree(NamedTuple):
    """A trunk and the branches after it, of C options.

    Args:
        trunk: int64 [n], tokens that every option continues.
        branches: int64 each, the tokens of each option that are read after the trunk; may be empty.
        targets: int64 each, the tokens of each option that are scored, its last ones.
    """

    trunk: Ids
    branches: tuple[Ids, ...]
    targets: tuple[Ids, ...]

    @property
    def columns(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))


def tree_columns(trees: Sequence[Tree]) -> int:
    """Tokens that are read of one prompt and its options."""
    return sum(tree.columns for tree in trees)


def causal_trees(documents: Sequence[TokenizedExample], *, longest: int, share: bool = True) -> list[Tree]:
    """The options of one prompt for a decoder-only model: one tree, or a tree for each option.

    Args:
        documents: Source and option, one document for each option.
        longest: Most tokens that the model reads of prompt and option together. The prompt loses its beginning, the
            same for all options.
        share: Whether branches may share a trunk; a model that cannot keep them apart reads each option alone.

    Raises:
        ValueError: A option alone is longer than the model reads.
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
            f"a option of {len(document.input_ids) - document.n_source} tokens leaves no room for its prompt: the "
            f"longest one of these options fills all {longest} tokens that are read at once; give longer rows or "
            "shorter options"
        )
    return document._replace(input_ids=document.input_ids[cut:], n_source=document.n_source - cut)


def _tree(documents: Sequence[TokenizedExample], shared: int) -> Tree:
    ids = [document.input_ids.astype(np.int64) for document in documents]
    return Tree(
        trunk=ids[0][:shared],
        branches=tuple(each[shared:-1] for each in ids),
        targets=tuple(each[document.n_source :] for each, document in zip(ids, documents, strict=True)),
    )


def common_prefix(documents: Sequence[TokenizedExample]) -> int:
    """How many tokens all documents begin with, none of them a target's and none of them a document's last.

    Tokens at the joint may belong to a source for one option and not for another: a branch then begins with them.

    >>> a, b = TokenizedExample(np.array([5, 6, 7, 1]), 2), TokenizedExample(np.array([5, 6, 7, 8, 1]), 2)
    >>> common_prefix([a, b])
    2
    """
    limit = min(min(document.n_source, len(document.input_ids) - 1) for document in documents)
    together = np.stack([document.input_ids[:limit] for document in documents])
    differs = (together != together[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else limit


def decoder_tree(
    documents: Sequence[TokenizedExample], *, longest_source: int | None, longest_target: int | None
) -> Tree:
    """The options of one prompt for an encoder-decoder model: the trunk is what the encoder reads.

    A longer source keeps its end, as in training. Every branch begins with a column for the decoder's start token, that
    the model's side fills in.

    Args:
        documents: Source and option, one document for each option.
        longest_source: Most tokens of a source; None for any number.
        longest_target: Most tokens of a option; None for any number.

    Raises:
        ValueError: A option is longer than that.
    """
    targets = tuple(document.input_ids[document.n_source :].astype(np.int64) for document in documents)
    if longest_target is not None and (over := max(map(len, targets))) > longest_target:
        raise ValueError(
            f"a option of {over} tokens exceeds the {longest_target} that a decoder reads at once; "
            "give a longer target_length or shorter options"
        )
    source = documents[0].input_ids[: documents[0].n_source].astype(np.int64)
    begin = np.zeros(1, dtype=np.int64)
    return Tree(
        trunk=source[-(longest_source or len(source)) :],
        branches=tuple(np.concatenate([begin, target[:-1]]) for target in targets),
        targets=targets,
    )


def options_of(example: Example, labels: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """An example's options and the place of the right one; the task's labels where it lists none itself."""
    if example.options or not labels or example.skipped:
        return example.options, example.answer
    return tuple(labels), labels.index(example.targets[0].strip()) if example.targets[0].strip() in labels else None


def ranking_problem(options: Sequence[str], answer: int | None) -> str | None:
    """Why an example cannot be evaluated by ranking, or None where it can."""
    return option_problem(options, len(options) if answer is None else answer)


def label_options(outputs: Sequence[Sequence[str]], *, most: int) -> tuple[str, ...]:
    """The labels of a classification task, read off its instances' references; none where it is no such task.

    A task is one of classification if its instances have at most `most` different references, each of them five times
    or more on average. Labels are in alphabetical order, so that no place says which is right.

    >>> label_options([["yes"], ["no"], ["yes"]] * 5, most=2)
    ('no', 'yes')
    >>> label_options([["Paris"], ["Rome"]], most=2)
    ()
    """
    found = {output.strip() for references in outputs for output in references} - {""}
    if not 1 < len(found) <= most or len(outputs) < 5 * len(found):
        return ()
    return tuple(sorted(found))
