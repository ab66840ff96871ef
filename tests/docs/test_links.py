"""Every path, recipe and command that a page, a recipe's comment or a docstring names exists."""

import io
import re
import tokenize
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, code_of

RECIPES = ROOT / "configs"
TOP = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"runs", "build"}

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"[\w*.-]+(?:/[\w*.-]+)+|\b\w+\.py\b")
USER_FILE = re.compile(r"^# (\S+\.(?:yaml|py))", re.MULTILINE)
"""The first line of a file that the reader writes: "# samples.yaml"."""

FOREIGN = {"zero_to_fp32.py", "zero_to_torch.py"}
"""Scripts that DeepSpeed writes into its checkpoints."""


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
    sources = {path.name for folder in TOP for path in (ROOT / folder).rglob("*.py")} | {"cli.py"} | FOREIGN
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


def comments_of(path: Path) -> str:
    """Return the comments of a YAML or of a job script, a line each."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.partition("#")[2] for line in lines if re.search(r"(^|\s)#", line))


def own_names(path: Path) -> list[str]:
    """Return the names of Python files, and the paths below our folders, between double backticks in a source file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    texts = [token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING)]
    names = [name for text in texts for name in re.findall(r"``([\w./-]+)``", text)]
    return [name for name in names if name.endswith(".py") or ("/" in name and name.partition("/")[0] in TOP)]


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


def test_the_table_of_experiments_has_every_script_and_no_other() -> None:
    folder = ROOT / "experiments"
    named = set(re.findall(r"`(\w+\.py)`", (folder / "README.md").read_text(encoding="utf-8")))
    assert named == {path.name for path in folder.glob("*.py")}


@pytest.mark.parametrize("folder", ["configs", "datamodules/benchmarks/data"])
def test_everything_that_a_comment_of_a_recipe_names_exists(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".yaml", ".sbatch")]
    assert files
    recipe_folders = {path.name for path in RECIPES.iterdir() if path.is_dir()}
    for path in files:
        found = [name.rstrip(".") for name in PATH.findall(comments_of(path))]
        named = [name for name in found if name.partition("/")[0] in TOP | recipe_folders]
        missing = [name for name in named if not (any(ROOT.glob(name)) or any(RECIPES.glob(f"{name}*")))]
        assert missing == [], path


def test_every_file_that_a_docstring_names_exists() -> None:
    sources = {path.name for folder in TOP for path in (ROOT / folder).rglob("*.py")} | {"cli.py"}
    missing = []
    for path in (path for folder in TOP - {"docs", "configs"} for path in (ROOT / folder).rglob("*.py")):
        for name in own_names(path):
            place = path.parent / name
            if not (name in sources or place.exists() or any(ROOT.glob(name)) or any(ROOT.glob(f"*/{name}"))):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


def test_missing_names_are_reported(tmp_path: Path) -> None:
    names = ("gone.py", "datamodules/gone.yaml", "rows.x")
    (tmp_path / "a.py").write_text("# As " + " and ".join(f"``{name}``" for name in names) + ", not `other.py`\n")
    assert own_names(tmp_path / "a.py") == ["gone.py", "datamodules/gone.yaml"]
    (tmp_path / "a.yaml").write_text("# see docs/gone.md\na: 1  # configs/gone.yaml\nb: x#docs/text.md\n")
    assert PATH.findall(comments_of(tmp_path / "a.yaml")) == ["docs/gone.md", "configs/gone.yaml"]
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
    assert {path.name for path in PAGES} - {"README.md", "CHANGELOG.md"} <= linked
