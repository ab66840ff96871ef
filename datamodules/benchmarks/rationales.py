"""Chain-of-thought examples: the target is a rationale, then the answer. Also reads FLAN's tables of them.

The target is "<rationale>. The answer is <answer>", without a full stop at the end (OPT-IML, arXiv 2212.12017, section
2.4 and appendix C). A row without a rationale is skipped.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .catalogue import RenderedExample
from .multiple_choice import answer_index, lettered_options, listed_options
from .rows.row import Row
from .rows.row_files import table_rows

INSTRUCTION = "Answer the following question by reasoning step by step."
"""Instruction of OPT-IML's reasoning tasks."""

NO_RATIONALE = "no rationale"
"""Reason for skipping a row."""

FLAN_COT_COLUMNS = ("question", "answer", "explanation")
"""Columns of FLAN's chain-of-thought tables, which have no header."""


def rationale_target(rationale: str, answer: str) -> str:
    """Return the target of a chain-of-thought example: the rationale, then "The answer is" and the answer.

    >>> rationale_target("Cats purr. ", "yes")
    'Cats purr. The answer is yes'
    """
    text = rationale.strip().rstrip(".").rstrip()
    return f"{text}{'' if text.endswith(('!', '?')) else '.'} The answer is {answer.strip()}"


def rationale_example(
    row: Row, question: str, rationales: Sequence[str], answer: str, options: tuple[str, ...] = ()
) -> Iterable[RenderedExample]:
    """Yield one chain-of-thought example; each rationale that is not empty gives a reference that ends in the answer.

    The example is skipped if all rationales are empty.

    Args:
        row: The row that the question was read from, for errors.
        question: Text of the question.
        rationales: Rationales, of several annotators in some datasets.
        answer: Text of the answer; one of the options if there are some.
        options: Options, which are listed below the question.

    Raises:
        ValueError: The answer is none of the options.
    """
    index = answer_index(row, options, answer) if options else None
    listed = "".join(f"\n- {option}" for option in options)
    text = question.strip() + (f"\nOptions:{listed}" if options else "")
    targets = [rationale_target(rationale, answer) for rationale in rationales if rationale.strip()]
    yield RenderedExample(text, tuple(dict.fromkeys(targets)), options, index, "" if targets else NO_RATIONALE)


def lettered_rationale_example(
    row: Row, question: str, rationale: str, answer: str, options: Sequence[str], letters: Sequence[str]
) -> Iterable[RenderedExample]:
    """Yield one chain-of-thought example of a question whose answer is the letter of an option, e.g. "(A)".

    Args:
        row: The row that the question was read from, for errors.
        question: Text of the question.
        rationale: The rationale; if it is empty, the example is skipped.
        answer: Letter of the correct option.
        options: Texts of the options, listed below the question with their letters.
        letters: Letter of each option.

    Raises:
        ValueError: A letter is missing, or the answer is none of them.
    """
    if len(options) != len(letters):
        raise row.error(f"expected a letter for each choice, got {len(letters)} for {len(options)}")
    labels = tuple(f"({letter})" for letter in letters)
    listed = "".join(f"\n{option}" for option in lettered_options(options, letters))
    index = answer_index(row, labels, f"({answer})")
    target = rationale_target(rationale, labels[index])
    skipped = "" if rationale.strip() else NO_RATIONALE
    yield RenderedExample(f"{question.strip()}\nOptions:{listed}", (target,), labels, index, skipped)


def flan_cot_example(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a row of FLAN's chain-of-thought tables, which write a line end as ``\\n``."""
    question, answer, rationale = (row.text(column).replace("\\n", "\n") for column in FLAN_COT_COLUMNS)
    options = listed_options(question)
    index = answer_index(row, options, answer) if options else None
    skipped = "" if rationale.strip() else NO_RATIONALE
    yield RenderedExample(question.strip(), (rationale_target(rationale, answer),), options, index, skipped)


def flan_cot_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one of FLAN's chain-of-thought tables."""
    yield from table_rows(path, FLAN_COT_COLUMNS)


def sentences(texts: Iterable[str]) -> str:
    """Return the texts that are not empty, each ended by a full stop and joined by spaces.

    >>> sentences(["Cats purr", "", "Dogs bark."])
    'Cats purr. Dogs bark.'
    """
    stripped = [text.strip() for text in texts if text.strip()]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in stripped)
