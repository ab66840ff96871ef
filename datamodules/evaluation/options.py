"""Answer options of an example: which texts are ranked, and why options of some examples cannot be ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..schema import Example


@dataclass(frozen=True)
class OptionRanking:
    """Settings of rank classification: the option with the highest likelihood is the answer.

    Args:
        labels: If a task lists no options and its references have at most this many different values, these values are
            its options. 0 treats no task in this way: its answers are generated.
        unconditional: A prompt without the question, such as "Answer:", that the score ``pmi`` needs; null for none.
        eos: Whether the eos token after an option is scored, as in training. Without it, an option that is the
            beginning of another one is always at least as likely.
    """

    labels: int = 0
    unconditional: str | None = None
    eos: bool = True

    def __post_init__(self) -> None:
        if self.labels < 0 or self.labels == 1:
            raise ValueError(f"ranking.labels must be 0 for no labels, or at least 2, got {self.labels}")


def option_problem(options: Sequence[str], answer: int | None = None) -> str | None:
    """Return the reason why options cannot be ranked; None if they can be, or if there are none.

    The reasons are ``an empty option``, ``duplicate options`` and ``the gold answer is missing among the options``.

    Args:
        options: Texts of the options; surrounding white space is ignored.
        answer: Index of the right option; None if it is unknown, and not checked.

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
        options: Texts of the options; surrounding white space is ignored.
        where: Name of the example, for the error.

    Raises:
        ValueError: An option is empty, or two are equal.
    """
    if problem := option_problem(options):
        raise ValueError(f"{where}: {problem}: {list(options)!r}; give different texts")


def options_of(example: Example, labels: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """Return the options of an example, and the index of the right one; None if it is not among them.

    Args:
        example: The example.
        labels: Labels of its task, which are the options of an example that lists none; may be empty.
    """
    if example.options or not labels or example.skipped:
        return example.options, example.answer
    reference = example.targets[0].strip()
    return tuple(labels), labels.index(reference) if reference in labels else None


def ranking_problem(options: Sequence[str], answer: int | None) -> str | None:
    """Return the reason why an example cannot be evaluated by ranking its options; None if it can be.

    >>> ranking_problem(["yes", "no"], 1)
    >>> ranking_problem(["yes", "no"], None)
    'the gold answer is missing among the options'

    Args:
        options: Texts of the options.
        answer: Index of the right option; None if it is not among the options, which is a reason.
    """
    return option_problem(options, len(options) if answer is None else answer)


def label_options(outputs: Sequence[Sequence[str]], *, most: int) -> tuple[str, ...]:
    """Return the labels of a classification task, in alphabetical order; () for any other task.

    A task is a classification task if it has 2 to `most` different references, and at least five times as many
    instances as different references.

    >>> label_options([["yes"], ["no"], ["yes"]] * 5, most=2)
    ('no', 'yes')
    >>> label_options([["Paris"], ["Rome"]], most=2)
    ()

    Args:
        outputs: References of each instance of the task; surrounding white space is ignored.
        most: Largest number of labels.
    """
    labels = {output.strip() for references in outputs for output in references} - {""}
    if not 1 < len(labels) <= most or len(outputs) < 5 * len(labels):
        return ()
    return tuple(sorted(labels))
