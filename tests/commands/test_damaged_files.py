"""Files that a fault has damaged or cut, read by commands: the file is named, and the way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

from crosstask.callbacks.report.adapted_models import adapted_models
from crosstask.callbacks.report.comparison import System, SystemsReport
from crosstask.callbacks.report.scores import build_report
from crosstask.commands.report import write_report_files
from crosstask.commands.select import require_new_selection
from crosstask.commands.shared.outputs import require_own_report
from crosstask.commands.shared.recipe_runs import _last
from crosstask.datamodules.benchmarks.levels.overlap_decisions import COLUMNS, read_decisions
from crosstask.datamodules.downloads.manual_files import PartFolder
from crosstask.datamodules.downloads.sources import GitPart
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.evaluation.aggregation import ScoredInstance
from crosstask.lightning_modules.prefixes import base_of_prefix
from crosstask.lightning_modules.scoring.cross_encoder import CrossEncoder
from crosstask.lightning_modules.sharding.plain_checkpoints import read_plain


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Replace the content of a JSON file by what `edit` makes of it."""
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def test_a_damaged_tokenizer_is_named(toybench: Path, tmp_path: Path) -> None:
    """Its library raises an error of no kind."""
    folder = Path(shutil.copytree(toybench / "tokenizer", tmp_path / "tokenizer"))
    change(folder / "tokenizer.json", lambda all_: all_["model"]["merges"].append(["no such", "tokens"]) or all_)
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from '.*/tokenizer'.*out of vocabulary"):
        load_tokenizer(str(folder))


@pytest.fixture
def scorer(toybench: Path, tmp_path: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    config = RobertaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    config.num_attention_heads, config.num_labels, config.max_position_embeddings = 2, 1, 130
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (
            "config.json",
            {"num_attention_heads": 12},
            r"scorer cannot be built: .*not a multiple of the number of atten",
        ),
        (
            "tokenizer_config.json",
            {"eos_token": "</z>"},
            r"scorer' has the eos_token '</z>' as number \d+, and the mode",
        ),
    ],
)
def test_a_damaged_model_is_named(scorer: Path, file: str, fields: dict[str, Any], message: str) -> None:
    CrossEncoder.from_pretrained(str(scorer), max_length=64)
    change(scorer / file, lambda content: content | fields)
    with pytest.raises(ValueError, match=message):
        CrossEncoder.from_pretrained(str(scorer), max_length=64)


@pytest.mark.parametrize("content", ["", "{", '{"peft_type": "NONE"}', '{"peft_type": "PREFIX_TUNING"}', "[]"])
def test_a_damaged_configuration_of_an_adapter_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"adapter_config\.json describes no adapter.*: export it again"):
        base_of_prefix(str(tmp_path))


RECORD = {"origin": "o", "licence": "MIT", "revision": "0", "rows": 0, "targets": ["a"], "files": {"a": [1, "0"]}}


@pytest.mark.parametrize(
    "record",
    [
        [],
        {name: value for name, value in RECORD.items() if name != "files"},
        RECORD | {"ovigin": "o"},
        RECORD | {"targets": [1]},
        RECORD | {"files": {"a": ["x", "0"]}},
        RECORD | {"rows": "0"},
    ],
)
def test_a_damaged_record_of_a_download_is_named(tmp_path: Path, record: Any) -> None:
    part = GitPart(name="p", licence="MIT", git="file:///none", commit="0" * 40, files={"a": "a"})
    folder = PartFolder(tmp_path, "c", part)
    folder.path.parent.mkdir(parents=True)
    folder.path.write_text(json.dumps(RECORD))
    assert folder.record() is not None
    folder.path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"p\.json is no record of a download .*; remove it"):
        folder.record()


def test_a_damaged_table_of_decisions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decisions.tsv"
    path.write_bytes("\t".join(COLUMNS).encode() + b"\nkeep\ta\rb\n")
    with pytest.raises(ValueError, match=r"decisions\.tsv is not a table of decisions \(new-line"):
        read_decisions(path)


@pytest.mark.parametrize(
    "content", [b"validation/loss\n1.5\n\xff\n", b"validation/loss\n1.5x\n", b"validation/loss\nnan\n"]
)
def test_damaged_metrics_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "version_0/metrics.csv"
    path.parent.mkdir()
    path.write_bytes(b"step,validation/loss\n1,2.5\n2,1.5\n3,\n")
    assert _last(tmp_path, "validation/loss") == 1.5
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        _last(tmp_path, "validation/loss")


def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    (tmp_path / "version_0").mkdir()
    with pytest.raises(ValueError, match=r"no metrics of the run in .*instances\.validation to 1 or more"):
        _last(tmp_path, "validation/loss")


def test_a_damaged_line_of_choices_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"methods": {}, "scorers": {}, "best_single": "b"}')
    (tmp_path / "choices.jsonl").write_bytes(b'{"task": "\xff"}\n')
    with pytest.raises(ValueError, match=r"choices\.jsonl, line 1: not UTF-8"):
        adapted_models({"a": tmp_path})


def test_a_file_that_is_too_short_for_a_checkpoint_is_named(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"PK\x03\x04"):
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.ckpt cannot be read as a checkpoint"):
            read_plain(tmp_path / "last.ckpt")


def test_half_a_selection_of_a_killed_command_is_removed(tmp_path: Path) -> None:
    """Its choices appear before its table; choices of another command stay."""
    choices = tmp_path / "choices.jsonl"
    choices.touch()
    with pytest.raises(ValueError, match=r"choices\.jsonl exists and is not overwritten"):
        require_new_selection(tmp_path)
    (tmp_path / ".selection.json.0123abcd-1.part").touch()
    require_new_selection(tmp_path)
    assert not choices.exists()


def test_an_interrupted_report_is_written_again(tmp_path: Path) -> None:
    """A page without the file by which a report is recognized would be taken for another command's."""
    row = ScoredInstance("b", "t", None, "c", "fully_held_out", 0, "rouge_l", "1", 0.5, 0.5, 0.0)
    report = SystemsReport("test", "category", [System("a", [], build_report([[row]]))], [], {})
    (tmp_path / "report.md").mkdir()  # it cannot be written
    with pytest.raises(OSError, match=r"report\.md"):
        write_report_files(report, tmp_path, "title")
    (tmp_path / "report.md").rmdir()
    require_own_report(tmp_path, ("systems", "comparisons"), "report")
