"""Documents that an inspection shows in full, and the choice of a task's examples by template."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..messages import nearest
from ..schema import Example
from .read_rows import ReadDocument


@dataclass(frozen=True)
class ShownDocument:
    """A training example or an evaluated prompt that `crosstask inspect` shows in full.

    Args:
        task: Name of the task.
        id: Id of the example.
        document: The document as the model reads it.
        level: ``inner`` or ``outer`` in instruction optimization; ``evaluated (test)`` or ``evaluated (validation)``
            for a prompt that is not trained; otherwise empty.
        template: Template of the prompt; empty if there is none.
        stored: Number of tokens before truncation to a row; 0 if it is unknown.
        references: Accepted answers, or options, of an evaluated prompt.
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
        """Number of tokens that truncation removed."""
        return max(self.stored - self.document.tokens, 0)


def first_of_template(
    task: str, examples: Sequence[Example], template: str | None, number: int
) -> list[tuple[int, Example]]:
    """Return (index, example) of the first examples of a template.

    Args:
        task: Name of the task, for the error.
        examples: All examples of the task.
        template: The template; None for any.
        number: Maximum number of examples to return.

    Raises:
        ValueError: No example is of this template.
    """
    places = [place for place, example in enumerate(examples) if template in (None, example.template)]
    if not places:
        known = sorted({example.template for example in examples if example.template})
        there = f"its templates are {', '.join(known)}; {nearest(str(template), known)}" if known else "it has none"
        raise ValueError(f"task {task!r} has no example of the template {template!r}: {there}")
    return [(place, examples[place]) for place in places[:number]]
