"""The model card of an export: what the run's files say, and no places of the machine; nothing is uploaded here."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import SmallRuns, saved_run

from crosstask.callbacks.report.model_card import RunFiles, model_card, read_run_files
from crosstask.cli import main

EXTRAS: dict[str, Any] = {"architecture": "OPTForCausalLM", "pretrained": "facebook/opt-1.3b@main", "config": {}}


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture
def run(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> Path:
    """A run's folder with a checkpoint and the files that callbacks write."""
    folder = tmp_path / "run"
    saved_run(SmallRuns(toybench, tmp_path, tiny_model)("tuning"), folder / "checkpoints/last.ckpt")
    version = folder / "version_0"
    (version / "report/test").mkdir(parents=True)
    settings = {
        "trainer": {"max_steps": 2, "precision": "32-true", "default_root_dir": "/home/me/secret"},
        "model": {"class_path": "InstructionTuningModule", "init_args": {"optimizer": {"learning_rate": 0.01}}},
        "data": {
            "init_args": {
                "benchmark": {"init_args": {"folder": "/home/me/secret"}},
                "cache": "/home/me/secret",
                "prompt": {"class_path": "OptImlPrompt", "init_args": {"delimiters": ["\nA:", " A:"]}},
                "demonstrations": None,
            }
        },
    }
    (version / "config.yaml").write_text(yaml.safe_dump(settings))
    (version / "run.json").write_text(
        '{"commit": "abcdef0123456789", "python": "3.12.1", "packages": {"torch": "9.9"}}'
    )
    mixture = "mixture  examples\nall  7\nlicences of toybench: CC0 (3), not stated (1)\n"
    (version / "mixture.txt").write_text(mixture)
    (version / "report/test/report.md").write_text(
        "# Report\n\n## Levels\n\n| a | 61.2 |\n\n## Categories\n\n| b | 0 |\n"
    )
    return folder


def test_a_dry_run_writes_the_card_and_lists_the_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run / "checkpoints/last.ckpt"), str(run / "out"), "--push", "me/tiny", "--dry_run", "true"]
    main([*words, "--licence", "apache-2.0"])
    shown = capsys.readouterr().out
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        assert f" {name}\n" in shown
    assert "nothing was uploaded to me/tiny" in shown
    card = (run / "out/README.md").read_text()
    assert front_matter(card)["license"] == "apache-2.0"
    assert front_matter(card)["pipeline_tag"] == "text-generation"
    assert "for 2 optimizer steps with crosstask (commit abcdef012345)" in card
    assert "random weights" in card
    assert "- licences of toybench: CC0 (3), not stated (1)" in card
    assert "learning_rate: 0.01" in card
    assert "demonstrations" not in card  # null
    assert '- "\\nA:"\n' in card
    assert 'Prompts of tasks ended in one of `"\\nA:"`, `" A:"` in training' in card
    assert 'pipeline("text-generation", "me/tiny", max_new_tokens=64' in card
    assert "| a | 61.2 |" in card
    assert "| b | 0 |" not in card  # categories are left to the report
    assert "Python 3.12.1, torch 9.9." in card
    assert "secret" not in card
    assert str(run) not in card


def test_a_base_of_the_hub_is_named_with_its_revision() -> None:
    card = model_card("me/x", EXTRAS, RunFiles(), steps=1200)
    assert front_matter(card)["base_model"] == "facebook/opt-1.3b"
    assert "license" not in front_matter(card)
    assert "from `facebook/opt-1.3b` at revision `main` for 1,200 optimizer steps" in card
    assert "holds no report" in card
    local = model_card("me/x", {**EXTRAS, "pretrained": "/home/me/secret"}, RunFiles(), steps=1)
    assert "base_model" not in front_matter(local)
    assert "secret" not in local
    assert "from weights in a local folder for 1 optimizer step with" in local
    chat = model_card("me/x", EXTRAS, RunFiles(), steps=1, chat=True)
    assert 'messages = [{"role": "user"' in chat
    assert "--chat" not in chat
    plain = model_card("me/x", EXTRAS, RunFiles(prompts='{"prompt": "secret"}\n'), steps=1, chat=True)
    assert "messages" not in plain
    assert "crosstask chat me/x --chat false" in plain
    assert "answers.jsonl --chat false" in plain
    assert "secret" not in plain
    scorer = model_card("me/x", {**EXTRAS, "architecture": "RobertaForSequenceClassification"}, RunFiles(), steps=1)
    assert front_matter(scorer)["pipeline_tag"] == "text-classification"
    assert "CrossEncoder.from_pretrained" in scorer


def test_a_run_without_files_has_empty_parts(tmp_path: Path) -> None:
    assert read_run_files(tmp_path) == RunFiles()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push", "tiny"], "takes owner/name"),
        (["--push", "me/ti ny"], "the name of a repository"),
        (["--dry_run", "true"], "give --push owner/name, too"),
    ],
)
def test_bad_names_are_rejected_before_weights_are_written(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(["export", str(tmp_path / "last.ckpt"), str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()
