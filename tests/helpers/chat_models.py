"""A small model with its tokenizer, with and without a chat template, and files of JSON lines."""

import json
from pathlib import Path
from typing import Any

from recipes import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstask.datamodules.rendering.tokenization import load_tokenizer

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def save_with_tokenizer(tokenizer_folder: Path, path: Path) -> Path:
    """Save a small OPT from random weights with a tokenizer; return its folder."""
    tokenizer = load_tokenizer(str(tokenizer_folder))
    folder = save_model("opt", path, len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


def save_with_template(folder: Path, path: Path) -> Path:
    """Save a folder's model again with a chat template; return the new folder."""
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
