"""Multiple-choice questions: the index of the correct option, options read from a question or written into one."""

import re
from collections.abc import Iterable, Sequence

from .catalogue import RenderedExample
from .rows.row import Row

UNLABELLED = "its label is not published"
"""Reason for skipping a question without a published answer."""


def answer_index(row: Row, options: tuple[str, ...], answer: str) -> int:
    """Return the index of an answer's text in the options of a multiple-choice question.

    Args:
        row: The row that the question was read from, for errors.
        options: Texts of the options.
        answer: Text of the answer, which must equal one of the options.

    Raises:
        ValueError: There are no options, one is empty, or the answer is none of them.
    """
    if not options or not all(option.strip() for option in options):
        raise row.error(f"empty choices: {list(options)}")
    if answer not in options:
        raise row.error(f"the answer {answer!r} is none of the choices {list(options)}")
    return options.index(answer)


def choice_example(row: Row, prompt: str, options: Sequence[str], answer: int | None) -> Iterable[RenderedExample]:
    """Yield one multiple-choice example; it is skipped as unlabelled if its answer is None.

    Options are stripped; the target is the text of the correct one.

    Args:
        row: The row that the question was read from, for errors.
        prompt: Text of the question, as the model reads it.
        options: Texts of the options to rank.
        answer: Index of the correct option; None if no answer is published.

    Raises:
        ValueError: The index is outside the options, or an option is empty.
    """
    stripped = tuple(option.strip() for option in options)
    if answer is None:
        yield RenderedExample(prompt, (), stripped, skipped=UNLABELLED)
        return
    if not 0 <= answer < len(stripped):
        raise row.error(f"the answer {answer} is none of the choices {list(stripped)}")
    answer_index(row, stripped, stripped[answer])  # rejects empty options
    yield RenderedExample(prompt, (stripped[answer],), stripped, answer)


def lettered_options(options: Sequence[str], letters: Sequence[str]) -> tuple[str, ...]:
    """Return the options, stripped, each with its letter in brackets.

    >>> lettered_options(["a cat", "a dog"], "AB")
    ('(A) a cat', '(B) a dog')
    """
    return tuple(f"({letter}) {option.strip()}" for letter, option in zip(letters, options, strict=True))


def listed_options(question: str) -> tuple[str, ...]:
    """Return the options listed below "Options:" in a question: their letters if they have some, else their texts.

    >>> listed_options("Pick.\\nOptions:\\n(A) a cat\\n(B) a dog"), listed_options("Is it?\\nOptions:\\n- yes\\n- no")
    (('(A)', '(B)'), ('yes', 'no'))
    """
    _, heading, listed = question.rpartition("Options:\n")
    lines = [line.strip().removeprefix("- ") for line in listed.splitlines() if line.strip()] if heading else []
    parts = [re.match(r"\([A-Z]\)|Sentence [AB](?=:)|.+", line) for line in lines]
    return tuple(part.group().strip() for part in parts if part)


def ai2_question(row: Row) -> tuple[str, list[str], list[str]]:
    """Return (question, option texts, option letters) of a row of ARC, OpenBookQA or CommonsenseQA.

    Both formats are read: AI2's files (``question.stem``, ``question.choices``), and the datasets on the hub
    (``question``, ``choices``).

    Raises:
        ValueError: The numbers of texts and letters differ.
    """
    if isinstance(row.value("question"), str):
        stem, choices = row.text("question"), row.child("choices")
        texts, letters = list(choices.texts("text")), list(choices.texts("label"))
    else:
        fields = row.child("question")
        stem, listed = fields.text("stem"), fields.children("choices")
        texts, letters = [choice.text("text") for choice in listed], [choice.text("label") for choice in listed]
    if len(texts) != len(letters):
        raise row.error(f"expected a letter for each choice, got {len(letters)} for {len(texts)}")
    return stem, texts, letters
