"""Sample files for tests."""

import json
from pathlib import Path


def written(folder: Path, *lines: object) -> str:
    """Write a sample file with a line for each sample or text, and return its path."""
    path = folder / "samples.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)
