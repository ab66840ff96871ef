"""Text of evaluated examples that a tokenizer loses: unknown tokens, and options that become the same tokens."""

from collections.abc import Sequence

from ..rendering.unknown_tokens import NOTHING_LOST, UnknownCounter, UnknownTokens
from ..schema import Prompt, TokenizedExample
from ..storage.preparation import TOKENIZED_AT_ONCE, Preparation

EQUAL_OPTIONS = "options that are the same tokens"
"""Beginning of the reason for skipping an example, before the name of its task."""


def equal_options_reason(task: str) -> str:
    """The reason for skipping an example of a task whose options have the same tokens."""
    return f"{EQUAL_OPTIONS} to this tokenizer, task {task}"


def are_equal(documents: Sequence[TokenizedExample]) -> bool:
    """Whether two of a prompt's options are the same tokens, so that ranking them means nothing."""
    return len({document.input_ids.tobytes() for document in documents}) < len(documents)


def lost_text(
    preparation: Preparation, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
) -> list[tuple[int, int, bool]]:
    """Of each prompt: unknown tokens of its source and of its texts, and whether two texts are the same tokens.

    Args:
        preparation: Turns prompts into documents.
        prompts: The prompts of a task.
        texts: The options of each prompt, or its references.
    """
    counter = UnknownCounter(preparation.tokenizer)
    if not counter.loses_text:
        return [(0, 0, False)] * len(prompts)
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
            lost.append((source, sum(target for _, target in counts), are_equal(documents[place:end])))
            place = end
    return lost


def total(counts: Sequence[tuple[int, int, bool]]) -> UnknownTokens:
    """The unknown tokens of a task's prompts."""
    unknown = NOTHING_LOST
    for source, target, _ in counts:
        unknown = unknown.plus(source, target)
    return unknown
