"""The page of ``crosstask inspect``: the documents and rows of a data stream as HTML that loads and runs nothing."""

from typing import Any

from markupsafe import Markup

from ...datamodules.inspection.lengths import LengthHistogram
from ...datamodules.inspection.run_inspection import Inspection, ShownRow
from ...datamodules.inspection.shown_documents import ShownDocument
from ...datamodules.messages import counted
from .inspection_figures import length_bars, row_strips
from .page import environment
from .page_figures import ReportFigure
from .page_tables import PageTable


def render_inspection(inspection: Inspection, title: str) -> str:
    """Return the HTML page that `crosstask inspect --output` writes.

    Args:
        inspection: Documents, rows, lengths and mixture.
        title: Heading of the page.
    """
    lengths = inspection.lengths
    sections = {
        "documents": ("Documents", bool(inspection.documents)),
        "rows": ("Packed rows", bool(inspection.rows)),
        "lengths": ("Lengths", lengths is not None),
        "mixture": ("Mixture", bool(inspection.mixture)),
    }
    figures = [_length_figure(histogram) for histogram in (lengths.histograms if lengths else ())]
    return (
        environment()
        .get_template("inspection.html.j2")
        .render(
            title=title,
            sections={name: heading for name, (heading, filled) in sections.items() if filled},
            documents=[(document_title(shown), shown) for shown in inspection.documents],
            strips=_placed(_row_figure(inspection.rows)) if inspection.rows else None,
            row_tables=[_row_table(number, row) for number, row in enumerate(inspection.rows, start=1)],
            lengths=lengths.sentence() if lengths else "",
            histograms=[_placed(figure) for figure in figures],
            numbers=PageTable("An epoch", ["quantity", "value"], [[*line] for line in inspection.numbers], text=(0, 1)),
            mixture=list(inspection.mixture),
        )
    )


def document_title(shown: ShownDocument) -> str:
    """Return a line about a document: its level, example and template, and its numbers of tokens."""
    document = shown.document
    parts = [shown.level, f"example {shown.id}", f"template {shown.template}" if shown.template else ""]
    named = [f"{side.tokens:,} {side.name}" for side in document.sides]
    parts += [f"{' + '.join(named) if len(named) > 1 else f'{document.tokens:,}'} tokens"]
    parts += [f"{document.targets:,} trained" if document.targets else ""]
    parts += [f"correctness {document.label:.3g}" if document.label is not None else ""]
    parts += [f"{shown.lost:,} tokens cut" if shown.lost else ""]
    return ", ".join(filter(None, parts))


def row_sentence(row: ShownRow) -> str:
    """Return a sentence with a packed row's numbers of columns, documents, tokens and padding."""
    documents = row.row.documents
    tokens, targets = sum(each.tokens for each in documents), sum(each.targets for each in documents)
    trained = f", {targets:,} of them trained" if targets else ""
    return (
        f"{row.row.columns:,} columns: {counted(len(documents), 'document')} of {counted(tokens, 'token')}{trained}; "
        f"{counted(row.row.padding, 'column')} of padding"
    )


def length_caption(histogram: LengthHistogram) -> str:
    """Return a sentence with the numbers of a histogram."""
    limit = ""
    if histogram.limit is not None:
        limit = f"; {histogram.over:,} are longer than the {histogram.limit:,} tokens that are read"
    lengths = f"{histogram.shortest:,} to {histogram.longest:,} tokens, median {histogram.median:,.0f}"
    return f"{histogram.name}: {lengths}{limit}"


def _length_figure(histogram: LengthHistogram) -> ReportFigure:
    title = f"Lengths: {histogram.name}"
    return ReportFigure(f"lengths-{histogram.name}", title, length_caption(histogram), length_bars(histogram))


def _row_figure(rows: Any) -> ReportFigure:
    caption = "Rows of the first optimizer step: documents one after the other, targets dark, padding empty."
    return ReportFigure("rows", "Packed rows", caption, row_strips([each.row for each in rows]))


def _placed(figure: ReportFigure) -> dict[str, Any]:
    return {"caption": figure.caption, "svg": Markup(figure.svg())}


def _row_table(number: int, shown: ShownRow) -> dict[str, Any]:
    rows: list[Any] = [
        [task, name, f"{document.column:,}", f"{document.tokens:,}", f"{document.targets:,}"]
        for (task, name), document in zip(shown.titles, shown.row.documents, strict=True)
    ]
    header = ["task", "example", "first column", "tokens", "targets"]
    return {
        "heading": f"Row {number}",
        "sentence": row_sentence(shown),
        "table": PageTable(f"Documents of row {number}", header, rows, text=(0, 1)),
    }
