"""Every path, recipe and command that a page of the documentation names exists."""

import re
from pathlib import Path

import pytest

import crosstask

ROOT = Path(crosstask.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = ROOT / "configs"
TOP = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"runs"}

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"[\w*.-]+(?:/[\w*.-]+)+|\b\w+\.py\b")
CODE = re.compile(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
USER_FILE = re.compile(r"^# (\S+\.(?:yaml|py))", re.MULTILINE)
"""The first line of a file that the reader writes: "# samples.yaml"."""


def code_of(page: str) -> list[str]:
    return [block or span for block, span in CODE.findall(page)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def missing_links(page: str, folder: Path) -> list[str]:
    """Relative links whose file or heading is missing."""
    missing = []
    for link in LINK.findall(page):
        name, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", link):
            continue
        if not (folder / name).exists():
            missing.append(link)
        elif anchor:
            text = (folder / name).read_text() if name else page
            if anchor not in {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}:
                missing.append(link)
    return missing


def missing_paths(page: str) -> list[str]:
    """Paths below a folder of the repository or of ``configs``, and names of Python files, that are missing."""
    recipe_folders = {path.name for path in RECIPES.iterdir() if path.is_dir()}
    sources = {path.name for folder in TOP for path in (ROOT / folder).rglob("*.py")} | {"cli.py"}
    missing = []
    for code in code_of(page):
        for path in PATH.findall(code):
            top = path.partition("/")[0]
            if "/" not in path:
                exists = path in sources or path in USER_FILE.findall(page)
            elif top in TOP:
                exists = any(ROOT.glob(path))
            elif top in recipe_folders and code == path:
                exists = any(RECIPES.glob(path)) or any(RECIPES.glob(f"{path}.yaml"))
            else:
                continue  # a file of the reader, e.g. runs/quickstart
            missing += [] if exists else [path]
    return missing


def missing_recipes(page: str) -> list[str]:
    """Arguments of ``--config`` that are neither in ``configs`` nor a YAML that the page shows."""
    missing = []
    for code in code_of(page):
        for name in re.findall(r"--config[ =]([\w./-]+)", code):
            installed = (RECIPES / name).is_file() or (RECIPES / f"{name}.yaml").is_file() or (ROOT / name).is_file()
            written = name.startswith("runs/")  # by a run, as its config.yaml
            if not (installed or written or name.isupper() or name in USER_FILE.findall(page)):  # CONFIG stands for any
                missing.append(name)
    return missing


def missing_commands(page: str) -> list[str]:
    """Words after ``crosstask`` in code that are no command."""
    known = {path.stem for path in (ROOT / "commands").glob("*.py")}
    words = [word for code in code_of(page) for word in re.findall(r"(?:^|\s)crosstask ([a-z]\w*)", code)]
    return [word for word in words if word not in known]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_everything_that_a_page_names_exists(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    missing = {
        "links": missing_links(page, path.parent),
        "paths": missing_paths(page),
        "recipes": missing_recipes(page),
        "commands": missing_commands(page),
    }
    assert {kind: names for kind, names in missing.items() if names} == {}


def test_missing_names_are_reported() -> None:
    assert missing_links("[a](docs/gone.md) [b](#gone) [c](https://example.org)", ROOT) == ["docs/gone.md", "#gone"]
    assert missing_paths("`datamodules/gone.py`, `gone.py`, `schema.py`, `runs/mine`") == [
        "datamodules/gone.py",
        "gone.py",
    ]
    assert missing_recipes("`--config papers/gone` and `--config mine.yaml`\n```\n# mine.yaml\n```") == ["papers/gone"]
    assert missing_commands("`crosstask gone`, `crosstask fit`, crosstask trains") == ["gone"]


def test_pages_are_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    others = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("design.md", "first_run.md")]
    linked = {Path(link.partition("#")[0]).name for link in LINK.findall("".join([readme, *others]))}
    assert {path.name for path in PAGES} - {"README.md"} <= linked
