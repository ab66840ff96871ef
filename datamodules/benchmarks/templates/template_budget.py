"""The budget of a rendering: a template is charged for what it creates, and so cannot fill memory or run for long."""

import time
from collections.abc import Sequence
from random import Random
from typing import Any

from jinja2.runtime import Context

BUDGET = 2**24
"""Budget of one rendering in characters, list items and iterations; published templates need a thousandth of it."""

SECONDS = 5.0
"""Maximum processor time of one rendering; published templates need a thousandth of it."""

CHECKED = 16
"""Charges and iterations between two reads of the clock, which cost as much as a small charge."""

STATE = "\0state"  # a key that no template can write


class TemplateFault(ValueError):
    """A template cannot be used: it does not compile, accesses a forbidden name, or exceeds its budget."""


class State:
    """Counts what an untrusted template creates while it renders one row, and stops it at a limit of size and time.

    Args:
        rng: Generator of random choices within the template.
        iteration_cost: Charge for each iteration of a loop and each call, in the unit of ``BUDGET``.

    Attributes:
        left: What the template may still create, in characters, list items and iterations.
    """

    def __init__(self, rng: Random, iteration_cost: int) -> None:
        self.rng, self.iteration_cost, self.left = rng, iteration_cost, BUDGET
        self._deadline, self._calls = time.thread_time() + SECONDS, 0

    def spend(self, cost: int) -> None:
        """Subtract a cost from what the template may still create.

        Raises:
            TemplateFault: The budget or the processor time is exceeded.
        """
        self.left -= cost
        if self.left < 0:
            raise TemplateFault("it makes more text, lists or iterations than any prompt needs")
        self.watch()

    def watch(self) -> None:
        """Stop the template if it has run for too long; the clock is read once in ``CHECKED`` calls.

        Raises:
            TemplateFault: The processor time is exceeded.
        """
        self._calls += 1
        if self._calls % CHECKED == 0 and time.thread_time() > self._deadline:
            raise TemplateFault(f"it ran for {SECONDS:.0f} s of processor time, more than any prompt needs")

    def pay(self, value: Any) -> None:
        """Charge the size of a value and of all values that it contains."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, dict):
            self.spend(8)
            for pair in value.items():
                self.pay(pair)
        elif isinstance(value, list | tuple):
            self.spend(8 * (len(value) + 1))
            for item in value:
                self.pay(item)
        else:
            self.watch()


def rendering_state(context: Context) -> State:
    """Return the state of the rendering that a context belongs to."""
    state = context.parent[STATE]
    assert isinstance(state, State)
    return state


def growth(text: str, method: str, args: Sequence[Any]) -> int:
    """Return an upper bound of the work of a string method, in characters, to charge it before it is called.

    It is 0 for methods whose work is linear in the text.

    >>> growth("a-b-c", "replace", ("-", " and "))  # two matches, five characters each
    10

    Args:
        text: The string.
        method: Name of the method.
        args: Its arguments.
    """
    if method == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        return text.count(args[0]) * len(args[1])
    if method == "join" and args and isinstance(args[0], str | list | tuple):
        return len(text) * len(args[0])
    if method in ("rfind", "rsplit") and args and isinstance(args[0], str):
        return len(text) * len(args[0])  # Python's search from the end tries every place
    return 0
