"""Reasons for skipping examples in training and evaluation; imports no tokenizer."""

from ..schema import Example, Task


def skip_reason(task: Task, example: Example) -> str | None:
    """Return the reason for skipping an example: the reader's, "empty input" or "empty target"; None if it is used.

    Dialogue and pre-training text have no input, and all of the text is target. Other examples need an input.
    """
    if example.skipped:
        return example.skipped
    if task.instruction_level != "none" and not example.input.strip():
        return "empty input"
    if not any(target.strip() for target in example.targets):
        return "empty target"
    return None
