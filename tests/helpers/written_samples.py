"""Files of samples."""

import json
from pathlib import Path


def written(folder: Path, *lines: object) -> str:
    """The path of a file with one line for each sample, or with the texts given."""
    path = folder / "samples.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)
