"""Files of a user's own: a model's folder, and a task in a file."""

import json
from pathlib import Path

from recipes import save_model
from transformers import AutoTokenizer

from crosstask.datamodules.rendering.tokenization import load_tokenizer


def own_model(toybench: Path, folder: Path) -> Path:
    """Write a small Llama with 256 positions and its tokenizer into a folder, as on the hub, and return it."""
    tokenizer = str(toybench / "tokenizer")
    model = save_model("llama", folder, len(load_tokenizer(tokenizer)))
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(model)
    return model


def own_task(folder: Path, examples: int = 200) -> Path:
    """Write a folder with one training task, the number after another one, and return it."""
    (folder / "train").mkdir(parents=True)
    records = [json.dumps({"input": f"{i} + 1", "output": str(i + 1)}) for i in range(examples)]
    (folder / "train/next.jsonl").write_text("\n".join(records) + "\n")
    (folder / "train/next.json").write_text(
        json.dumps({"definition": "Add the two numbers.", "category": "Arithmetic"})
    )
    return folder


def fit_words(model: Path, task: Path, *words: str) -> list[str]:
    """Return the words of a fit of a model on a task, without any YAML."""
    own = [f"--model.pretrained={model}", f"--data.benchmark={task}"]
    return ["fit", *own, "--trainer.accelerator=cpu", "--trainer.devices=1", *words]
