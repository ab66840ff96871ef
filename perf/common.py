"""Code that several measurements share: their data, OPT's shape, and the line of results that they print."""

import json
import os
from pathlib import Path
from typing import Any

from crosstask.datamodules.benchmarks import NaturalInstructions
from crosstask.datamodules.toybench.writer import write_toybench

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment in which glibc returns freed blocks to the system, so that a process's peak is that of its tensors."""


def resident(field: str) -> float:
    """Return MiB of the process's resident memory: VmRSS now, VmHWM at its peak."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[field].split()[0]) / 1024


def reset_peak() -> float:
    """Set the process's peak of resident memory to what it uses now, and return that in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def real_or_toy_benchmark(scratch: Path) -> NaturalInstructions:
    """Return Super-NaturalInstructions in CROSSTASK_DATA if it is set, and the embedded benchmark otherwise."""
    if "CROSSTASK_DATA" in os.environ:
        return NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    write_toybench(scratch / "toybench")
    return NaturalInstructions(str(scratch / "toybench"))


def data_name() -> str:
    """Return the name of the data of ``real_or_toy_benchmark``, for results that are published."""
    return "Super-NaturalInstructions" if "CROSSTASK_DATA" in os.environ else "the embedded benchmark"


def print_result(benchmark: str, *, ours: float, peer: float, unit: str, setting: str) -> None:
    """Print a result as a line of JSON; `ratio` is ours divided by the peer's."""
    result = {"benchmark": benchmark, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit}
    print(json.dumps(result | {"setting": setting}))


def opt_fields(layers: int, width: int, *, positions: int) -> dict[str, Any]:
    """Return the fields of an OPT configuration with heads of 64 and feed-forward layers of four times the width."""
    return {
        "model_type": "opt",
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": positions,
    }
