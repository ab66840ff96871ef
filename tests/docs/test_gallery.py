"""The pages of the gallery are small, run nothing, and are what the program of today writes."""

import re
from pathlib import Path

import pytest

import crosstask
from crosstask.callbacks.report.page import TEMPLATES

GALLERY = Path(crosstask.__file__).parent / "docs/gallery"
PAGES = sorted(GALLERY.glob("*.html"))
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8").strip()
TEMPLATE = {"inspect": "inspection.html.j2"}
"""The template of a page; the others are reports."""


def outline(template: str) -> list[str]:
    """Lines of a template's head that every page has, as they are."""
    lines = (TEMPLATES / template).read_text(encoding="utf-8").partition("<main>")[0].splitlines()
    return [line for line in lines if line.startswith("<") and "{" not in line]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_of_the_gallery_is_written_by_this_program(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert STYLE in page, "the style has changed: run docs/gallery/write_pages.sh"
    assert not [line for line in outline(TEMPLATE.get(path.stem, "report.html.j2")) if line not in page]
    assert len(page.encode()) < 200_000
    assert not re.search(r"<(script|img|link|iframe|object)\b|\son\w+=|https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("font-family:") <= page.count("<svg") + STYLE.count("font-family:")
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "rotate(-0" not in svg
        assert not re.search(r"\d\.\d{3}", svg.split("</defs>")[-1].partition("<text")[0])


def test_every_page_is_shown_with_its_commands() -> None:
    gallery = (GALLERY.parent / "gallery.md").read_text(encoding="utf-8")
    script = (GALLERY / "write_pages.sh").read_text(encoding="utf-8").replace("$pages", "docs/gallery")
    names = {path.name for path in PAGES}
    assert names == set(re.findall(r"\]\(gallery/(\w+\.html)\)", gallery))
    assert names == set(re.findall(r"docs/gallery/(\w+\.html)", script))
    done = {" ".join(line.replace('"', "").replace(" --ckpt_path last", "").split()) for line in script.splitlines()}
    commands = re.findall(r"^crosstask .*$", gallery.partition("## The claims")[0], re.MULTILINE)
    assert commands
    assert not {" ".join(command.split()) for command in commands} - done
