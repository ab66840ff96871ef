"""The table of architectures: its page names every model type, and its verdicts are reproduced."""

import os
import re
from pathlib import Path

import pytest
from architecture_table import MAPPINGS, Kind, walked

import crosstask

PAGE = (Path(crosstask.__file__).parent / "docs/architectures.md").read_text(encoding="utf-8")


def lines_of(kind: Kind) -> list[str]:
    section = PAGE.partition(f"## {kind.capitalize()}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("kind", MAPPINGS)
def test_the_page_has_a_line_for_every_model_type(kind: Kind) -> None:
    listed = [line.split("`")[1] for line in lines_of(kind)]
    assert listed == sorted(config_class.model_type for config_class in MAPPINGS[kind])
    assert all(line.split(" | ")[1] == "exact" or line.split(" | ")[2].strip(" |") for line in lines_of(kind))


FEW: list[tuple[str, Kind, str]] = [
    ("gemma3_text", "causal", "exact"),  # windows
    ("gpt_oss", "causal", "exact"),  # sinks
    ("qwen3_moe", "causal", "exact"),
    ("gptj", "causal", "exact"),  # attention of its own, which reads masks
    ("mpt", "causal", "exact"),  # positions as distances
    ("bloom", "causal", "exact"),  # the same, built by column
    ("xglm", "causal", "padded"),  # attention of its own, and positions by column
    ("qwen3_next", "causal", "exact"),  # a state
    ("lfm2", "causal", "exact"),  # a convolution
    ("mamba2", "causal", "padded"),  # a state that gets no documents
    ("bert", "causal", "rejected"),
    ("umt5", "encoder-decoder", "exact"),
    ("bart", "encoder-decoder", "padded"),  # positions by column
    ("xlm-roberta", "classification", "exact"),  # positions behind the padding's id
    ("bloom", "classification", "padded"),
]
"""Model types of every reason for a verdict, as (model type, kind, verdict)."""

OTHERS = [
    (model_type, kind, verdict)
    for kind in MAPPINGS
    for line in lines_of(kind)
    for model_type, verdict in re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", line)
    if (model_type, kind, verdict) not in FEW and os.environ.get("CROSSTASK_ARCHITECTURES") == "all"
]
"""All other rows of the page, which take an hour: tested by `make test-architectures`."""


@pytest.mark.parametrize(("model_type", "kind", "verdict"), FEW + OTHERS)
def test_a_walked_model_type_has_the_verdict_of_the_page(model_type: str, kind: Kind, verdict: str) -> None:
    row = walked(model_type, kind)
    assert row.verdict == verdict, row
    assert f"| `{model_type}` | {verdict} | {row.reason} |" in lines_of(kind)
