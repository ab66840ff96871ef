"""The example of a training that uses the datamodule and nothing else of this package."""

import runpy
from pathlib import Path

import crosstask

EXAMPLE = Path(crosstask.__file__).parent / "examples/own_lightning_project.py"


def test_a_plain_lightning_module_learns_from_the_datamodule(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    losses = example["main"](tmp_path, steps=20).losses
    assert len(losses) == 20
    assert example["mean"](losses[-5:]) < example["mean"](losses[:5]) - 0.5
    assert "lightning_modules" not in "\n".join(
        line for line in EXAMPLE.read_text().splitlines() if line.startswith(("import", "from"))
    )
