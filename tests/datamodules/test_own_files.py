"""A user's files end to end: a messages file and a table each train two steps and are tested with a tiny model."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from small_runs import FAST, QUIET
from tokenizer_kinds import byte_level
from transformers import AutoTokenizer

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.rendering.prompts import ChatPrompt
from crosstask.datamodules.schema import IGNORE_INDEX
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule

TEMPLATE = (Path(__file__).parent / "rendering/chat_templates/chatml.jinja").read_text().strip()


@pytest.fixture
def chat_tokenizer(tmp_path: Path) -> str:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def write_messages(path: Path) -> None:
    turns = ["user", "assistant", "user", "assistant"]
    rows = [
        {"messages": [{"role": role, "content": f"{role} {n} {place}"} for place, role in enumerate(turns)]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_table(path: Path) -> None:
    path.write_text("instruction,input,output\n" + "".join(f"Add one.,{n},{n + 1}\n" for n in range(40)))


@pytest.mark.parametrize(("name", "write"), [("chat.jsonl", write_messages), ("sums.csv", write_table)])
def test_a_file_trains_and_is_tested(
    name: str, write: Any, chat_tokenizer: str, tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path / name)
    data = InstructionTuningDataModule(
        str(tmp_path / name),
        chat_tokenizer,
        prompt=ChatPrompt(),
        rows=Rows(length=256, per_step=2),
        instances=Instances(validation=2, test=3),
        evaluation=Evaluation(max_new_tokens=4),
        cache=str(tmp_path / "store"),
    )
    module = InstructionTuningModule(chat_tokenizer, config=tiny_model, row_length=256, optimizer=FAST, total_steps=2)
    trainer = L.Trainer(max_steps=2, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, data)
    assert trainer.global_step == 2
    trainer.test(module, data, verbose=False)
    assert len(data.evaluation_examples("test")) == 3

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    batch = next(iter(data.train_dataloader()))
    answers = tokenizer.decode(batch.targets[batch.targets != IGNORE_INDEX]).split("<|im_end|>")
    assert all(
        answer == "" or answer.startswith("assistant" if name == "chat.jsonl" else tuple("123456789"))
        for answer in answers
    )
    assert batch.step_targets >= (batch.targets != IGNORE_INDEX).sum()
    prompts = next(iter(data.test_dataloader()))
    text = tokenizer.decode(prompts.input_ids[0][prompts.attention_mask[0] == 1])
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
