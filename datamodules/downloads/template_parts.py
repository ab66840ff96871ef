"""The hub datasets of FLAN's and PromptSource's templates: one part to download for each task and split."""

from pathlib import Path

from ..benchmarks.flan_datasets import flan_datasets
from ..benchmarks.promptsource import PromptSource
from ..messages import MissingFiles
from .sources import HubPart, TemplateRowsPart


def template_parts(part: TemplateRowsPart, folder: Path) -> list[HubPart]:
    """Return a download for each hub dataset and split for which FLAN, or PromptSource, has templates.

    Args:
        part: Entry of the table of sources that stands for all of these datasets.
        folder: Data folder, in which PromptSource's templates are.

    Raises:
        ValueError: PromptSource's templates are not downloaded yet.
    """
    return _flan(part) if part.rows_of == "flan" else _promptsource(part, folder)


def _flan(part: TemplateRowsPart) -> list[HubPart]:
    return [
        HubPart(
            name=f"{task}-{split}",
            licence=part.licence,
            hub=dataset.source,
            config=dataset.config or "",
            split=dataset.splits[split],  # type: ignore[index]  # names of splits
            to=f"{part.to}/{split}/{task}.jsonl",
            parquet="0000.parquet" if dataset.rows else "*.parquet",
        )
        for task, dataset in flan_datasets().items()
        for split in part.splits
        if dataset.source and split in dataset.splits
    ]


def _promptsource(part: TemplateRowsPart, folder: Path) -> list[HubPart]:
    templates = folder / "promptsource" / "templates"
    try:
        tasks = PromptSource(str(templates)).datasets()
    except MissingFiles as error:
        raise ValueError(
            f"download PromptSource's templates first, which name the datasets of these rows: {error}"
        ) from error
    return [
        HubPart(
            name=f"{task}-{split}",
            licence=part.licence,
            hub=dataset,
            config=subset,
            split=split,
            to=f"{part.to}/{split}/{task}.jsonl",
        )
        for task, (dataset, subset) in tasks.items()
        for split in part.splits
    ]
