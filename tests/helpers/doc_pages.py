"""The pages of the documentation, and the code in them."""

import re
from pathlib import Path

import crosstask

ROOT = Path(crosstask.__file__).parent
TOP_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "experiments/README.md")
PAGES = [*(ROOT / name for name in TOP_PAGES), *sorted((ROOT / "docs").rglob("*.md"))]

CODE = re.compile(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def code_of(page: str) -> list[str]:
    """Return the blocks and the inline pieces of code of a page."""
    return [block or span for block, span in CODE.findall(page)]
