"""What the benchmarks share: their data, and their last line."""

import json
import os
from pathlib import Path

from crosstask.datamodules.benchmarks import NaturalInstructions
from crosstask.datamodules.toybench.writer import write_toybench


def real_or_toy_benchmark(scratch: Path) -> NaturalInstructions:
    """Super-NaturalInstructions where CROSSTASK_DATA points, the embedded benchmark otherwise."""
    if "CROSSTASK_DATA" in os.environ:
        return NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    write_toybench(scratch / "toybench")
    return NaturalInstructions(str(scratch / "toybench"))


def print_result(benchmark: str, *, ours: float, peer: float, unit: str, setting: str) -> None:
    """The line that programs read; `ratio` is ours over the peer's."""
    result = {"benchmark": benchmark, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit}
    print(json.dumps(result | {"setting": setting}))
