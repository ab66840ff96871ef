"""Pages of the site that no file in docs/ holds: README, commands, API, and every source file that a page links.

Hooks of MkDocs (``mkdocs.yml``). Links are those of the repository, so that the same pages are read there.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from crosstask.commands.shared.command_docs import GROUPS, command_doc

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"README.md": "index.md"} | {name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")}
"""Pages of the repository's root, by their name there."""

ROOMS = ("datamodules", "lightning_modules", "callbacks")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sbatch": "bash", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {ours: (ROOT / name).read_text(encoding="utf-8") for name, ours in ROOT_PAGES.items()}
    pages |= {f"reference/{room}.md": reference(room) for room in ROOMS}
    pages["reference/commands.md"] = commands()
    written = {file.src_uri: file.content_string for file in files.documentation_pages()}
    pages |= {source_page(path): source_text(path) for path in linked_sources({**written, **pages})}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to pages of the site."""
    uri = page.file.src_uri
    return LINK.sub(lambda match: site_link(match[1], uri), markdown)


def site_link(link: str, uri: str) -> str:
    """A link of a page as the site has it."""
    if uri.startswith(("source/", "reference/")):
        return link
    return os.path.relpath(_page_of(_target(link, uri)), os.path.dirname(uri) or ".")


def linked_sources(pages: dict[str, str]) -> Iterator[Path]:
    """Files and folders of the repository that pages link and that are no pages."""
    targets = {_target(link, uri) for uri, text in pages.items() for link in LINK.findall(text)}
    yield from sorted(path for path in targets if _page_of(path).startswith("source/"))


def _target(link: str, uri: str) -> Path:
    """What a link means in the repository, where a page of the root lies beside the folder docs."""
    folder = ROOT if uri in ROOT_PAGES.values() else (ROOT / "docs" / uri).parent
    return Path(os.path.normpath(folder / link))


def _page_of(path: Path) -> str:
    """The address of a file of the repository in the site."""
    name = path.relative_to(ROOT).as_posix()
    return ROOT_PAGES.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else source_page(path))


def source_page(path: Path) -> str:
    """The page that shows a source file or lists a folder."""
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def source_text(path: Path) -> str:
    """A source file as code, or the names of a folder's files."""
    title = f"---\nsearch: {{exclude: true}}\n---\n# {path.relative_to(ROOT)}\n"
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix in LANGUAGES)
        return title + "".join(f"- `{name}`\n" for name in names)
    fence = "`" * 6
    text = path.read_text(encoding="utf-8")
    return f"{title}\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"


def commands() -> str:
    """A section for each command, from its file."""
    lines = ["# Commands", "", "`crosstask NAME --help` lists the options of a command.", ""]
    for group, names in GROUPS.items():
        lines += [f"## {group}", ""]
        for name in names:
            doc = command_doc(name)
            example = re.sub(r"^Example:\n", "", doc.example)
            lines += [f"### crosstask {name}", "", doc.description, "", "```bash", *_dedented(example), "```", ""]
    return "\n".join(lines)


def _dedented(text: str) -> list[str]:
    return [line.removeprefix("    ") for line in text.splitlines()]


def reference(room: str) -> str:
    """The names that a room offers, with their docstrings."""
    tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    names = sorted((name, module) for module, name in _offered(tree))
    lines = [f"# crosstask.{room}", "", (ast.get_docstring(tree) or ""), ""]
    for name, module in names:
        lines += [f"::: crosstask.{room}.{module}.{name}", ""]
    return "\n".join(lines)


def _offered(tree: Any) -> Iterator[tuple[str, str]]:
    """(module, name) of what a package imports for type checkers."""
    blocks = (node.body for node in tree.body if isinstance(node, ast.If))
    for node in (node for body in blocks for node in body if isinstance(node, ast.ImportFrom)):
        yield from ((str(node.module), alias.name) for alias in node.names)
