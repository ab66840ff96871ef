"""Options of an example: the texts that are ranked, and the reasons why some cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..schema import Example


@dataclass(frozen=True)
class OptionRanking:
    """Evaluate examples with options by ranking the options; for examples without, answers are generated.

    Args:
        labels: A task without options whose references take at most this many values is a classification task, and its
            references are its options (see ``label_options``); 0 for no such tasks.
        unconditional: An unconditional prompt, such as "Answer:", for scores by pmi.
        eos: Whether an option ends in the eos token, as in training; without it, a longer continuation costs nothing.
    """

    labels: int = 0
    unconditional: str | None = None
    eos: bool = True

    def __post_init__(self) -> None:
        if self.labels < 0 or self.labels == 1:
            raise ValueError(f"ranking.labels must be 0 for no labels, or at least 2, got {self.labels}")


def option_problem(options: Sequence[str], answer: int | None = None) -> str | None:
    """The reason why options cannot be ranked; None if they can, or if there are none.

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


def require_options(options: Sequence[str], where: str) -> None:
    """Reject options that cannot be ranked.

    Args:
        options: Their texts; white space around them does not count.
        where: Names the example in the error.

    Raises:
        ValueError: An option is empty, or two are equal.
    """
    if problem := option_problem(options):
        raise ValueError(f"{where}: {problem}: {list(options)!r}; give different texts")


def options_of(example: Example, labels: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """An example's options and the place of the right one; the task's labels if the example lists no options."""
    if example.options or not labels or example.skipped:
        return example.options, example.answer
    reference = example.targets[0].strip()
    return tuple(labels), labels.index(reference) if reference in labels else None


def ranking_problem(options: Sequence[str], answer: int | None) -> str | None:
    """The reason why an example cannot be evaluated by ranking, e.g. a missing gold option; None if it can."""
    return option_problem(options, len(options) if answer is None else answer)


def label_options(outputs: Sequence[Sequence[str]], *, most: int) -> tuple[str, ...]:
    """The labels of a classification task, in alphabetical order; () for any other task.

    A classification task has at most `most` different references, each of which occurs five times or more on average.

    >>> label_options([["yes"], ["no"], ["yes"]] * 5, most=2)
    ('no', 'yes')
    >>> label_options([["Paris"], ["Rome"]], most=2)
    ()

    Args:
        outputs: References of each instance.
        most: Most labels.
    """
    labels = {output.strip() for references in outputs for output in references} - {""}
    if not 1 < len(labels) <= most or len(outputs) < 5 * len(labels):
        return ()
    return tuple(sorted(labels))
