"""PromptSource's Jinja templates: each renders a row as a prompt with its answer and choices.

A template reads one row and writes ``prompt ||| answer``. It is untrusted code and runs in the sandbox of
``template_sandbox.py``; errors name the template. ``promptsource.py`` reads the files of templates.
"""

import random
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import TemplateError, Undefined, UndefinedError, nodes

from ...data_files import HALF_PAIR
from .template_budget import STATE, State, TemplateFault
from .template_filters import WritesNull
from .template_sandbox import ENVIRONMENT, SEPARATOR, ChargeInserter, ColumnError

LONGEST_OUTPUT = 2**20
"""Maximum number of characters of a rendered prompt with its answer."""


class MissingColumn(ValueError):
    """A template reads a column that the row lacks."""


class DoesNotApply(ValueError):
    """A template yields no prompt or no answer for a row."""


class RenderedPrompt(NamedTuple):
    """Prompt, answer and answer choices that a template of PromptSource made from a row.

    Args:
        source: The prompt, stripped.
        target: The answer, stripped.
        choices: Answer choices of the template, stripped; empty if it has none.
    """

    source: str
    target: str
    choices: tuple[str, ...]


class PromptTemplate:
    """Renders rows with one of PromptSource's Jinja templates, which is compiled once and runs in a sandbox.

    >>> template = PromptTemplate("can we infer", "{{premise}} Really? ||| {{answer_choices[label]}}", "Yes ||| No")
    >>> template.render({"premise": "It rains.", "label": 1}, random.Random(0))
    RenderedPrompt(source='It rains. Really?', target='No', choices=('Yes', 'No'))

    Args:
        name: Name of the template, for errors.
        jinja: Jinja source of the prompt, ``|||`` and the answer.
        answer_choices: Jinja source of the choices, separated by ``|||``; None for free-form answers.
    """

    def __init__(self, name: str, jinja: str, answer_choices: str | None = None) -> None:
        self.name = name
        self._prompt = self._compiled(jinja)
        self._choices = None if answer_choices is None else self._compiled(answer_choices)

    def render(self, fields: Mapping[str, Any], rng: random.Random) -> RenderedPrompt:
        """Return the prompt, answer and choices of a row.

        Args:
            fields: Columns of the row. A hyphen in a name is read as an underscore, as in templates.
            rng: Generator of random choices within the template.

        Raises:
            TemplateFault: The template does something forbidden, or exceeds its budget of time or memory.
            MissingColumn: The template reads a column that `fields` lacks.
            DoesNotApply: The template yields no prompt or no answer for this row.
        """
        if "answer_choices" in fields:
            raise MissingColumn("the row has a column 'answer_choices', a name that templates reserve; rename it")
        columns = {key.replace("-", "_"): value for key, value in fields.items()}
        choices = None
        if self._choices is not None:
            choices = [choice.strip() for choice in self._filled(self._choices, columns, rng).split(SEPARATOR)]
        # Without choices, answer_choices is None in a template, as in PromptSource.
        text = self._filled(self._prompt, columns | {"answer_choices": choices}, rng)
        if HALF_PAIR.search(text):
            raise DoesNotApply(f"template {self.name!r} writes half of a surrogate pair, which is not a character")
        parts = [part.strip() for part in text.split(SEPARATOR)]
        if len(parts) != 2 or not all(parts):
            raise DoesNotApply(f"template {self.name!r} does not apply")
        return RenderedPrompt(parts[0], parts[1], tuple(choices or ()))

    def _compiled(self, source: str) -> "_Compiled":
        try:
            tree = ChargeInserter(self.name).visit(ENVIRONMENT.parse(source))
            assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
            changes = bool(re.search("append|update|pop", source))
            return _Compiled(ENVIRONMENT.from_string(tree), len(source), changes, frozenset(assigned))
        except TemplateFault:
            raise
        except (TemplateError, RecursionError, SyntaxError, ValueError, OverflowError) as error:
            raise TemplateFault(f"template {self.name!r} does not compile: {error}") from error

    def _filled(self, compiled: "_Compiled", fields: Mapping[str, Any], rng: random.Random) -> str:
        state = State(rng, 64 + compiled.length)
        values: dict[str, Any] = {name: Undefined(name=name) for name in compiled.assigned}
        values |= deepcopy(dict(fields)) if compiled.changes else fields
        chunks: list[str] = []
        left = LONGEST_OUTPUT
        try:
            for chunk in compiled.template.generate({**values, STATE: state}):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise TemplateFault(f"writes more than {LONGEST_OUTPUT} characters")
        except ColumnError as error:
            columns = ", ".join(sorted(fields.keys() - {"answer_choices"}))
            raise MissingColumn(f"template {self.name!r} reads a column: {error}; the row has {columns}") from error
        except WritesNull as error:
            raise DoesNotApply(f"template {self.name!r} would write a null of the row as the word None") from error
        except (UndefinedError, TypeError, LookupError, ZeroDivisionError, AttributeError) as error:
            raise DoesNotApply(f"template {self.name!r} fails: {type(error).__name__}") from error
        except (TemplateFault, TemplateError, RecursionError, MemoryError, OverflowError) as error:
            raise TemplateFault(f"template {self.name!r} was stopped: {error}") from error
        except (ValueError, ArithmeticError) as error:
            raise DoesNotApply(f"template {self.name!r} fails: {type(error).__name__}") from error
        return "".join(chunks)


@dataclass(frozen=True, slots=True)
class _Compiled:
    template: Any
    length: int
    changes: bool  # whether it may change a list or dict of the row
    assigned: frozenset[str]  # names that it assigns: never columns, even if a branch leaves them unset
