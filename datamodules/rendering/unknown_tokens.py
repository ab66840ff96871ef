"""Counts of text that a tokenizer loses: unknown tokens, line breaks, and characters that its normalizer changes.

T5's vocabulary has no ``{``, ``<`` or line break: a model cannot write a target that holds them, and reads a source
without them. BERT's uncased tokenizer reads "Été" as "ete", and T5's reads "x²" as "x2": a model trained on such tokens
cannot write the target either, although no token is unknown. Byte-level vocabularies lose nothing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import normalize

import numpy as np

from ..messages import N_NAMED, counted
from ..schema import TokenizedExample

if TYPE_CHECKING:  # a report needs no transformers
    from transformers import PreTrainedTokenizerBase


class UnknownTokens(NamedTuple):
    """Counts of what a tokenizer loses of a task's texts; a line break that it drops counts as an unknown token.

    Args:
        source: Unknown tokens in the sources.
        target: Unknown tokens in the targets; for a ranked example, in its options.
        examples: Examples with unknown tokens in their target.
        changed: Characters of the targets that the tokenizer's normalizer replaces or drops.
        changed_examples: Examples with changed characters in their target.
    """

    source: int = 0
    target: int = 0
    examples: int = 0
    changed: int = 0
    changed_examples: int = 0

    def plus(self, source: int, target: int, changed: int = 0) -> "UnknownTokens":
        """Return the numbers with one more example added."""
        return UnknownTokens(
            self.source + source,
            self.target + target,
            self.examples + bool(target),
            self.changed + changed,
            self.changed_examples + bool(changed),
        )


NOTHING_LOST = UnknownTokens()


class UnknownCounter:
    """Counts what a tokenizer loses of a document's text: unknown tokens, line breaks, changed characters.

    Args:
        tokenizer: The tokenizer. If its unknown token is also its end, beginning or padding (GPT-2, OPT), the
            vocabulary is byte-level, and that token is not counted.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.special = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        self.unknown = None if tokenizer.unk_token_id in self.special else tokenizer.unk_token_id
        ids = tokenizer("a\nb", add_special_tokens=False, verbose=False)["input_ids"]
        self.drops_breaks = "\n" not in tokenizer.decode(ids)
        self.normalizer = tokenizer.backend_tokenizer.normalizer
        self.loses_text = self.unknown is not None or self.drops_breaks or self.normalizer is not None
        """Whether two different texts may become the same tokens."""

    def of_document(self, document: TokenizedExample, source: str, target: str) -> tuple[int, int, int]:
        """Return (unknown tokens of the source, unknown tokens of the target, changed characters of the target).

        A target of which only the end token is left counts as one unknown token.

        Args:
            document: Token ids of the example.
            source: Text of the source, whose line breaks are counted if the tokenizer drops them.
            target: Text of the target, likewise.
        """
        trained = np.arange(len(document.input_ids)) >= document.n_source
        for begin, end in document.holes:
            trained[begin:end] = False
        of_target = self._count(document.input_ids[trained], target)
        if target.strip() and self.special.issuperset(document.input_ids[trained].tolist()):  # e.g. accents alone
            of_target = max(of_target, 1)
        changed = self._changed(document.input_ids[trained], target)
        return self._count(document.input_ids[~trained], source), of_target, changed

    def _changed(self, ids: np.ndarray, text: str) -> int:
        """Return the number of characters of a text that the normalizer replaces or drops for good.

        White space does not count, nor does another composition of the same characters (Unicode's form NFC).
        """
        if self.normalizer is None:
            return 0
        before, after = _characters(text), _characters(self.normalizer.normalize_str(text))
        if before == after:
            return 0
        decoded = str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        # A normalizer that spells bytes as letters changes every text, and the decoder changes it back.
        return (Counter(before) - Counter(after) & Counter(before) - Counter(_characters(decoded))).total()

    def _count(self, ids: np.ndarray, text: str) -> int:
        unknown = 0 if self.unknown is None else int(np.count_nonzero(ids == self.unknown))
        return unknown + (text.count("\n") if self.drops_breaks else 0)


def _characters(text: str) -> str:
    """Return a text's characters in NFC, without white space and SentencePiece's sign for it."""
    return "".join(normalize("NFC", text).replace("\u2581", " ").split())


def unknown_lines(tasks: Mapping[str, UnknownTokens]) -> list[tuple[str, str]]:
    """Return (quantity, value) of what is lost in sources and in targets, with the tasks that lose the most.

    >>> unknown_lines({"code": UnknownTokens(0, 7, 2, 3, 1), "tables": UnknownTokens(5, 1, 1)})
    [('unknown tokens in sources', '5 in 1 task: tables 5'),
     ('unknown tokens in targets', '8 in 3 examples of 2 tasks: code 7, tables 1'),
     ('characters of targets that the tokenizer changes', '3 in 1 example of 1 task: code 3')]
    """
    sources = {name: counts.source for name, counts in tasks.items() if counts.source}
    targets = {name: counts.target for name, counts in tasks.items() if counts.target}
    changed = {name: counts.changed for name, counts in tasks.items() if counts.changed}
    examples = sum(counts.examples for counts in tasks.values())
    of_changed = sum(counts.changed_examples for counts in tasks.values())
    return [
        ("unknown tokens in sources", _most(sources, "")),
        ("unknown tokens in targets", _most(targets, f"{counted(examples, 'example')} of ")),
        ("characters of targets that the tokenizer changes", _most(changed, f"{counted(of_changed, 'example')} of ")),
    ]


def _most(counts: Mapping[str, int], examples: str) -> str:
    if not counts:
        return "none"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{name} {count:,}" for name, count in ordered[:N_NAMED])
    more = f" and {len(ordered) - N_NAMED} more tasks" if len(ordered) > N_NAMED else ""
    return f"{sum(counts.values()):,} in {examples}{counted(len(counts), 'task')}: {named}{more}"
