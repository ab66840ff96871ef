"""Lengths of few-shot prompts in tokens, added from those of demonstrations and example.

Many prompts of a task have the same text before the example: its demonstrations. That text is tokenized once, the text
of each example by itself, and the two lengths are added. The sum may differ from the length of the whole prompt, since
a tokenizer may merge text across the joint. A tokenizer that splits text at spaces changes only the tokens of the word
around the joint, which has at most as many tokens as bytes. A prompt whose added length is closer to the limit than
that is tokenized as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..rendering.special_tokens import encode
from ..schema import Prompt
from ..storage.preparation import Preparation

MARGIN = 16
"""Tokens by which an added length may differ beside those of the word at the joint, if words are not split."""

MOST_TEXTS = 2048
"""Number of texts whose lengths are kept; a template has one for each number of demonstrations and each delimiter."""


@dataclass(frozen=True)
class PromptLengths:
    """Compares lengths of few-shot prompts with a limit, and keeps the lengths of their demonstrations.

    Args:
        preparation: Settings of tokenization.
    """

    preparation: Preparation
    _known: dict[str, int] = field(default_factory=dict, repr=False)

    def fits(self, limit: int, query: str) -> Callable[[Prompt], bool]:
        """Return the function from a prompt of an example to whether its source has at most `limit` tokens.

        Args:
            limit: Number of tokens.
            query: Text of the example, with which the sources of its prompts end; empty if it is unknown: the prompts
                are then tokenized as a whole.
        """
        length = len(encode(self.preparation.tokenizer, [query])[0]) if query else 0

        def fits(prompt: Prompt) -> bool:
            before = prompt.source.removesuffix(query)
            if query and before and before != prompt.source:
                added = self._length_before(before) + length
                if abs(added - limit) > MARGIN + _bytes_at_joint(before, query):
                    return added <= limit
            return self._length(prompt) <= limit

        return fits

    def clear(self) -> None:
        """Forget the lengths of demonstrations, before the next task."""
        self._known.clear()

    def _length_before(self, text: str) -> int:
        if text not in self._known:
            if len(self._known) >= MOST_TEXTS:
                self._known.clear()
            self._known[text] = self._length(Prompt(text, ""))
        return self._known[text]

    def _length(self, prompt: Prompt) -> int:
        (source,) = self.preparation.tokenize_sources([prompt])
        return len(source)


def most_fitting(number: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number of demonstrations, at most `number`, with which a prompt fits; 0 if none does.

    Args:
        number: Number of demonstrations to try first.
        fits: Function from a number of demonstrations to whether the prompt fits.

    >>> most_fitting(9, lambda number: number <= 4)
    4
    """
    fitting, too_many = 0, number
    if fits(too_many):
        return too_many
    while too_many - fitting > 1:  # bisection: `fitting` demonstrations fit, or none does; `too_many` do not
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return fitting


def _bytes_at_joint(before: str, after: str) -> int:
    """Return the number of bytes of the word that two joined texts share, spaces at the end of the first one included.

    >>> _bytes_at_joint("No. Yes\\n  ", "Is it? No")
    8
    """
    end = before.rstrip(" ")
    word = end.rpartition(" ")[2] + before[len(end) :] + after.partition(" ")[0]
    return len(word.encode(errors="replace"))
