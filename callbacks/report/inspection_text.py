"""The output of ``crosstask inspect`` in a terminal: trained tokens are green, special tokens magenta.

Without colors, trained tokens are enclosed in « and ».
"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...datamodules.inspection.lengths import DocumentLengths
from ...datamodules.inspection.read_rows import Side
from ...datamodules.inspection.run_inspection import Inspection, ShownRow
from ...datamodules.inspection.shown_documents import ShownDocument
from ...datamodules.visible_text import terminal_text, visible
from .inspection_figures import bin_name
from .inspection_page import document_title, length_caption, row_sentence

TARGET, SPECIAL = "bold green", "magenta"
WIDEST_BAR = 40  # characters
LEGEND = "trained tokens are green, special tokens are magenta"
PLAIN_LEGEND = "trained tokens are between « and »"


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the inputs of a model: examples, packed rows, lengths and the mixture of tasks."""
    colored = console.color_system is not None
    if inspection.documents:
        console.print(LEGEND if colored else PLAIN_LEGEND, style="dim", highlight=False)
    for shown in inspection.documents:
        _print_document(shown, console, colored)
    for number, row in enumerate(inspection.rows, start=1):
        _print_row(number, row, console)
    if inspection.lengths is not None:
        _print_lengths(inspection.lengths, console)
    lines = [*inspection.mixture, *(f"{quantity}: {value}" for quantity, value in inspection.numbers)]
    if lines:
        console.print(Text("\n" + visible("\n".join(lines))), soft_wrap=True)


def side_text(side: Side, *, colored: bool) -> Text:
    """Return a decoded token sequence for the terminal, with trained and special tokens in colors.

    Without colors, trained text is between « and ».
    """
    text = Text()
    for place, span in enumerate(side.spans):
        style = " ".join([TARGET] * span.trained + [SPECIAL] * span.special)
        opens = span.trained and not (place and side.spans[place - 1].trained)
        closes = span.trained and not (place + 1 < len(side.spans) and side.spans[place + 1].trained)
        shown = visible(span.text)
        text.append(shown if colored else f"{'«' * opens}{shown}{'»' * closes}", style=style)
    return text


def _print_document(shown: ShownDocument, console: Console, colored: bool) -> None:
    console.print()
    console.print(
        Text(visible(shown.task), style="bold"),
        Text(visible(f"({document_title(shown)})"), style="dim"),
        soft_wrap=True,
    )
    for side in shown.document.sides:
        if len(shown.document.sides) > 1:
            console.print(Text(f"{side.name}:", style="dim"))
        console.print(side_text(side, colored=colored), soft_wrap=True)
    if shown.references:
        console.print(Text("accepted answers:", style="dim"))
        console.print(Text(visible("\n".join(shown.references))), soft_wrap=True)


def _print_row(number: int, shown: ShownRow, console: Console) -> None:
    table = Table()
    for name in ("task", "example"):
        table.add_column(name, overflow="fold")
    for name in ("first column", "tokens", "targets"):
        table.add_column(name, justify="right")
    for (task, example), document in zip(shown.titles, shown.row.documents, strict=True):
        counts = (document.column, document.tokens, document.targets)
        table.add_row(terminal_text(task), terminal_text(example), *(f"{count:,}" for count in counts))
    console.print()
    console.print(Text(f"row {number}: {row_sentence(shown)}", style="bold"), soft_wrap=True)
    console.print(table)


def _print_lengths(lengths: DocumentLengths, console: Console) -> None:
    console.print()
    console.print(Text(visible(lengths.sentence()), style="bold"), soft_wrap=True)
    for histogram in lengths.histograms:
        console.print(Text(length_caption(histogram)), soft_wrap=True)
        most = max((each.documents for each in histogram.bins), default=1)
        for each in histogram.bins:
            bar = "█" * max(round(WIDEST_BAR * each.documents / most), int(each.documents > 0))
            console.print(Text(f"{bin_name(each.first, each.last):>17} {bar} {each.documents:,}"), soft_wrap=True)
