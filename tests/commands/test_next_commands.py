"""The commands that a training prints at its end run as they are printed, for every kind of data and model."""

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
import torch
from own_files import own_task
from recipes import save_model
from small_runs import ENCODER
from tokenizer_kinds import byte_level
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import crosstask
from crosstask.callbacks.next_commands import PROMPTS, SHOWN
from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer

ROOT = Path(crosstask.__file__).parent
CHATML = (ROOT / "tests/datamodules/rendering/chat_templates/chatml.jinja").read_text().strip()
ANSWERED = ["predict", "chat", "export"]
"""Commands after every training of a language model."""


def chat_model(folder: Path) -> Path:
    """Write a small Llama whose tokenizer has a chat template, and return its folder."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), max_position_embeddings=256, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def questions(rows: int = 30) -> list[tuple[str, str]]:
    return [(f"cat {number}", f"hat {number}") for number in range(rows)]


def table(rows: int) -> str:
    """Write a table of questions and answers, and return its name."""
    with open("mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([("input", "output"), *questions(rows)])
    return "mine.csv"


def conversations() -> str:
    """Write conversations of two turns, and return the name of the file."""
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in questions()
    ]
    Path("chat.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return "chat.jsonl"


def words_of(kind: str, toybench: Path) -> list[str]:
    """Write the files of a kind of training, and return its options."""
    if kind == "instruction optimization":
        recipe = ["--config=instruction_optimization_toybench", f"--data.benchmark.folder={toybench}"]
        recipe += [f"--data.tokenizer={toybench / 'tokenizer'}", "--trainer.val_check_interval=2"]
        recipe += ["--data.levels.inner_steps=1", "--data.instances.validation=1", "--data.instances.test=1"]
        recipe += ["--model.config.num_hidden_layers=1", "--data.levels.inner_rows=2", "--data.levels.outer_rows=2"]
        recipe += [
            "--model.optimizer.warmup=1",
            "--without=InstructionAnalysis",
            "--trainer.default_root_dir=runs/learned",
        ]
        return [*recipe, "--trainer.callbacks+=RunRecord", "--trainer.callbacks+=RunSummary"]
    if kind == "scorer":
        tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
        vocabulary = len(load_tokenizer(str(toybench / "tokenizer")))
        config = AutoConfig.for_model(**ENCODER | {"vocab_size": vocabulary, "num_labels": 1})
        AutoModelForSequenceClassification.from_config(config).save_pretrained("encoder")
        tokenizer.save_pretrained("encoder")
        words = ["--model=ScorerModule", "--data=ScorerDataModule", "--model.pretrained=encoder"]
        return [
            *words,
            f"--data.benchmark={own_task(Path('mine'))}",
            "--data.rows.length=128",
            "--data.rows.pair_length=64",
        ]
    if kind == "encoder-decoder":
        save_model("t5", Path(), len(load_tokenizer(str(toybench / "tokenizer"))))
        AutoTokenizer.from_pretrained(toybench / "tokenizer").save_pretrained("t5")
        return ["--model.pretrained=t5", f"--data.benchmark={table(30)}", "--data.rows.length=128"]
    changes = {
        "LoRA": ["--model.lora.r=2", "--without=PredictionWriter"],
        "one row": ["--data.instances.validation=0"],
        "table as chat": ["--data.prompt=ChatPrompt"],
    }.get(kind, [])
    source = {"messages": conversations, "one row": lambda: table(1)}.get(kind, lambda: table(30))()
    return [f"--model.pretrained={chat_model(Path('chat model'))}", f"--data.benchmark={source}", *changes]


CASES = {
    "table": ["test", "report", *ANSWERED],
    "table as chat": ["test", "report", *ANSWERED],
    "messages": ["test", "report", *ANSWERED],
    "one row": ANSWERED,  # nothing is held out
    "LoRA": ["test", *ANSWERED],  # without PredictionWriter there is nothing to report
    "encoder-decoder": ["test", "report", *ANSWERED],
    "scorer": ["validate", "report", "export"],
    "instruction optimization": ["test", "report", *ANSWERED],
}
"""Names of the commands that a kind of training prints."""


@pytest.mark.parametrize("kind", CASES)
def test_printed_commands_run_as_printed(
    kind: str, toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "my work"
    work.mkdir()
    monkeypatch.chdir(work)
    short = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.devices=1", "--data.rows.per_step=2"]
    short += ["--trainer.num_sanity_val_steps=0", f"--data.cache={tmp_path / 'store'}"]
    if kind == "instruction optimization":
        short = [word for word in short if "rows.per_step" not in word and "cache" not in word]
    elif kind != "scorer":
        short.append("--data.evaluation.max_new_tokens=4")
    main(["fit", *words_of(kind, toybench), *short])
    printed = capsys.readouterr().out.partition("Next:")[2].splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  crosstask")]
    assert [words[1] for words in commands] == CASES[kind]
    plain = kind in ("table", "LoRA", "one row")  # a chat model that has read no chat template
    assert ["--chat" in words for words in commands if words[1] in ("predict", "chat")] == [plain] * 2 * (
        kind != "scorer"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("cat\n"))
    for words in commands:
        main(words[1:])
    if "predict" in CASES[kind]:
        require_answers_of_validation(commands[CASES[kind].index("predict")], kind)


def require_answers_of_validation(words: list[str], kind: str) -> None:
    """Compare the answers to the run's prompts with what the run generated itself, in its own form of prompts."""
    inputs, output = (Path(words[words.index(option) + 1]) for option in ("--inputs", "--output"))
    answers = [json.loads(line)["answer"] for line in output.read_text().splitlines()]
    assert inputs.name == PROMPTS
    if kind in ("one row", "LoRA"):  # no predictions to compare with
        assert len(answers) == {"one row": 1}.get(kind, SHOWN)
        return
    path = inputs.parent / "predictions/validation.jsonl"
    predictions = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    assert answers == predictions[:SHOWN]
