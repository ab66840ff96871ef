"""Text that a tokenizer loses: unknown tokens in evaluated examples, and options that become equal tokens."""

from collections.abc import Sequence

from ..rendering.unknown_tokens import NOTHING_LOST, UnknownCounter, UnknownTokens
from ..schema import Prompt, TokenizedExample
from ..storage.preparation import TOKENIZED_AT_ONCE, Preparation

EQUAL_OPTIONS = "options that are the same tokens"
"""Beginning of the reason for which an example is skipped; the name of its task follows."""


def equal_options_reason(task: str) -> str:
    """Return the reason for which an example of `task` with options of equal tokens is skipped."""
    return f"{EQUAL_OPTIONS} to this tokenizer, task {task}"


def are_equal(documents: Sequence[TokenizedExample]) -> bool:
    """Return whether any two of the documents have equal tokens; options with equal tokens cannot be ranked."""
    return len({document.input_ids.tobytes() for document in documents}) < len(documents)


def lost_text(
    preparation: Preparation, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
) -> list[tuple[tuple[int, int, int], bool]]:
    """Count what the tokenizer loses of each prompt and its texts: (counts, whether two texts have the same tokens).

    The counts are (unknown tokens of the source, unknown tokens of the texts, changed characters of the texts).

    Args:
        preparation: Settings of tokenization.
        prompts: The prompts of a task.
        texts: The options of each prompt, or its references.
    """
    counter = UnknownCounter(preparation.tokenizer)
    if not counter.loses_text:
        return [((0, 0, 0), False)] * len(prompts)
    lost = []
    for first in range(0, len(prompts), TOKENIZED_AT_ONCE):
        part = list(zip(prompts, texts, strict=True))[first : first + TOKENIZED_AT_ONCE]
        pairs = [(prompt.source, text.strip()) for prompt, of_prompt in part for text in of_prompt]
        documents = preparation.answers(pairs)
        place = 0
        for _, of_prompt in part:
            end = place + len(of_prompt)
            counts = [counter.of_document(documents[i], *pairs[i]) for i in range(place, end)]
            source = counts[0][0] if counts else 0
            of_texts = (sum(target for _, target, _ in counts), sum(changed for *_, changed in counts))
            lost.append(((source, *of_texts), are_equal(documents[place:end])))
            place = end
    return lost


def total(counts: Sequence[tuple[int, int, int]]) -> UnknownTokens:
    """Sum what a tokenizer loses over several prompts.

    Args:
        counts: (unknown tokens of the source, unknown tokens of the texts, changed characters of the texts) of each
            prompt, from ``lost_text``.
    """
    unknown = NOTHING_LOST
    for of_prompt in counts:
        unknown = unknown.plus(*of_prompt)
    return unknown
