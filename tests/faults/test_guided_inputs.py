"""JSON, YAML and answers that atheris finds by coverage, where it is installed (`pip install crosstask[fuzz]`)."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("datamodules.data_files", "datamodules.yaml_files", "lightning_modules.evaluation.answer_rules")
SEEDS = ('{"a": [1, "\\u00e9\\ud83d\\ude00"], "b": -1e9}', "a: &x {b: [1, .nan]}\nc: *x", "The answer is -$1,000.50.")


@pytest.mark.faults
def test_a_text_is_read_or_rejected_with_its_place(fault_seed: int, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    for number, seed in enumerate(SEEDS):
        (tmp_path / str(number)).write_text(seed)
    words = [sys.executable, __file__, f"-seed={fault_seed + 1}", "-runs=2000", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def main() -> None:
    """Run libFuzzer with the words of the command line."""
    import atheris

    with atheris.instrument_imports(include=[f"crosstask.{name}" for name in TARGETS]):
        data_files, yaml_files, answer_rules = (importlib.import_module(f"crosstask.{name}") for name in TARGETS)

    def read(data: bytes) -> None:
        for parse in (data_files.parse_json, yaml_files.parse_yaml):
            try:
                parse(data_files.decoded(data, "a file"), "a file")
            except ValueError as error:
                if not str(error).startswith("a file"):
                    raise RuntimeError("the error does not name the file") from error
        text = data.decode(errors="replace")
        assert all(answer_rules.exact_match(text, [text], rule) for rule in answer_rules.RULES), text

    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
