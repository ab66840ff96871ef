"""Documents that are shown in full, and the choice among a task's examples."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..messages import nearest
from ..schema import Example
from .read_rows import ReadDocument


@dataclass(frozen=True)
class ShownDocument:
    """A document in full.

    Args:
        task: Its task.
        id: Id of its example.
        document: The document as the model reads it.
        level: inner or outer, of instruction optimization; "evaluated" of a prompt that is not trained.
        template: Template that rendered it; empty if there is none.
        stored: Its tokens before it was cut to a row; 0 where nothing is stored.
        references: Accepted answers of an evaluated prompt.
    """

    task: str
    id: str
    document: ReadDocument
    level: str = ""
    template: str = ""
    stored: int = 0
    references: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Tokens that were cut."""
        return max(self.stored - self.document.tokens, 0)


def few_of_template(
    task: str, examples: Sequence[Example], template: str | None, number: int
) -> list[tuple[int, Example]]:
    """The first few examples of a template, with their places.

    Args:
        task: Name of the task, for the error.
        examples: All examples to choose among.
        template: None for any.
        number: Number of documents.

    Raises:
        ValueError: No example is of this template.
    """
    places = [place for place, example in enumerate(examples) if template in (None, example.template)]
    if not places:
        known = sorted({example.template for example in examples if example.template})
        there = f"its templates are {', '.join(known)}; {nearest(str(template), known)}" if known else "it has none"
        raise ValueError(f"task {task!r} has no example of the template {template!r}: {there}")
    return [(place, examples[place]) for place in places[:number]]
