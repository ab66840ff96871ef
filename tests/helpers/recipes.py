"""Parts of the tests' recipes: the embedded benchmark as data, and folders of small models."""

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
    """Return the store that tests share if they do not examine it; its folders are addressed by content."""
    return toybench.parent / "store"


def few_tasks(toybench: Path, folder: Path, trained: int = 16) -> str:
    """Write lists of splits, some training tasks and two test tasks of the embedded benchmark; return their folder."""
    for split, count in (("train", trained), ("test", 2)):
        names = (toybench / f"splits/default/{split}_tasks.txt").read_text().splitlines()[:count]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))
    return str(folder)


def tuning_data(toybench: Path, **arguments: Any) -> dict[str, Any]:
    """Return a recipe's ``data``: the embedded benchmark in rows of 128 tokens.

    Args:
        toybench: Folder of the embedded benchmark and its tokenizer.
        arguments: Arguments of the datamodule that override these; of a group, only the fields to change.
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
    """Save a small model whose weights are so large that a wrong step shows, and return its folder."""
    shape = {"num_layers": 2} if kind == "t5" else {"num_hidden_layers": 2, "max_position_embeddings": 256}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **shape, **SMALL[kind])
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder / kind)
    return folder / kind
