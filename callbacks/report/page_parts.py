"""What every section of the report's page is made of: scores, tables, figures."""

from collections.abc import Iterable, Sequence

from ...lightning_modules.evaluation.significance import Estimate
from .markup import Markup, element, escaped, join


def score(estimate: Estimate | None) -> Markup:
    """A score and its interval in percent, or a dash."""
    if estimate is None:
        return element("span", "–", class_="pale")
    low, high = 100 * estimate.low, 100 * estimate.high
    return join([element("b", f"{100 * estimate.mean:.1f}"), " ", element("small", f"[{low:.1f}, {high:.1f}]")])


def figure(chart: Markup, caption: str, table: Markup | None = None, *, long: bool = False) -> Markup:
    """A chart, its caption, and its numbers folded below it."""
    numbers = [details("The numbers", table)] if table is not None else []
    return element("figure", element("figcaption", caption), chart, *numbers, class_="long" if long else None)


def details(summary: str, content: Markup) -> Markup:
    """What is folded until somebody opens it."""
    return element("details", element("summary", summary), content)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], text: Sequence[int] = ()) -> Markup:
    """A table whose first column names its rows; columns in `text` are set as text rather than as numbers."""

    def of(place: int) -> str | None:
        return "text" if place in text else None

    heads = element("tr", *(element("th", said, scope="col", class_=of(i)) for i, said in enumerate(head)))
    lines_ = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=of(i)) for i, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    ]
    whole = element("table", element("thead", heads), element("tbody", *lines_))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=escaped(head[0] or "Scores"))
