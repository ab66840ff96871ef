"""What the tests' recipes have in common: the embedded benchmark as data, and small models' folders."""

from pathlib import Path
from typing import Any

import torch
from argument_groups import with_changes
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

SMALL: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 32, "dropout": 0.0},
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "dropout_rate": 0.0, "decoder_start_token_id": 0},
}


def store_of(toybench: Path) -> Path:
    """The store of the tests that do not look into it; what it holds is addressed by content, and written once."""
    return toybench.parent / "store"


def few_tasks(toybench: Path, folder: Path, trained: int = 16) -> str:
    """A folder of split lists: some training tasks of the embedded benchmark, and two of its test tasks."""
    for split, count in (("train", trained), ("test", 2)):
        names = (toybench / f"splits/default/{split}_tasks.txt").read_text().splitlines()[:count]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))
    return str(folder)


def tuning_data(toybench: Path, **arguments: Any) -> dict[str, Any]:
    """The embedded benchmark in rows of 128 tokens, for a recipe's ``data``.

    Args:
        toybench: Its folder, with its tokenizer.
        arguments: Others of the datamodule's; of groups, some of their fields.
    """
    settings = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}},
        "tokenizer": str(toybench / "tokenizer"),
        "rows": {"length": 128},
        "evaluation": {"max_new_tokens": 6},
        "cache": str(store_of(toybench)),
    }
    return {"class_path": "InstructionTuningDataModule", "init_args": with_changes(settings, arguments)}


def save_model(kind: str, folder: Path, vocabulary: int) -> Path:
    """A small model of an architecture with large enough weights that a wrong step shows."""
    shape = {"num_layers": 2} if kind == "t5" else {"num_hidden_layers": 2, "max_position_embeddings": 256}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **shape, **SMALL[kind])
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder / kind)
    return folder / kind
