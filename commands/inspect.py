"""Print what a run's model reads: documents, packed rows, lengths and the mixture.

Trained tokens and special tokens are colored. Everything is read from the training's batches, and needs neither
weights nor a GPU. Tasks that the store lacks are prepared; with --task, only that task.

Example:
    crosstask inspect --config quickstart
    crosstask inspect --config quickstart --task task001_toy_copy_animals --examples 2 --output page.html
"""

from collections.abc import Sequence

from ..datamodules.messages import expanded
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(inspect_data, words)


def inspect_data(
    settings: Settings,
    task: str | None = None,
    template: str | None = None,
    examples: int = 3,
    rows: int = 1,
    depth: int = 2,
    output: str | None = None,
) -> None:
    """Print the inputs of a run's model, or write them as an HTML page.

    Args:
        settings: Settings of the run.
        task: Name of a trained or evaluated task whose examples are printed; by default the first examples of the
            training are.
        template: Template of the task's examples; by default any.
        examples: Number of examples to print in full; of instruction optimization, for each level (inner and outer).
        rows: Number of packed rows of the first optimizer step whose examples are listed.
        depth: Depth of the mixture's tree: 1 for benchmarks, 2 for categories, 3 for tasks.
        output: Path of an HTML page to write, in place of the text on the terminal; by default the text is printed.

    Raises:
        ValueError: There is no such task or template, or a template is given without a task.
    """
    from ..datamodules.inspection.run_inspection import inspect_run, inspect_task
    from ..datamodules.packing.row_settings import require_positive

    require_positive("inspect", examples=examples, depth=depth)
    if rows < 0:
        raise ValueError(f"inspect: rows must be 0 or more, got {rows}")
    if template is not None and task is None:
        raise ValueError(f"a template belongs to a task: give --task beside --template {template}")
    data = build_data(settings)
    if task is not None:
        inspection = inspect_task(data, task, template=template, examples=examples)
    else:
        steps = settings.trainer.max_steps
        inspection = inspect_run(data, examples=examples, rows=rows, steps=steps if steps > 0 else None, depth=depth)
    if output is None:
        from rich.console import Console

        from ..callbacks.report.inspection_text import print_inspection

        print_inspection(inspection, Console())
        return
    from ..callbacks.report.inspection_page import render_inspection
    from ..datamodules.atomic_files import write_whole

    path = expanded(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render_inspection(inspection, f"What the model reads: {task or 'the first rows'}"))
    print(path)
