"""Speed and memory of a training step under all combinations of compilation, recomputation and kinds of weights.

    python perf/step_settings.py [--size small-toy] [--rows 2] [--length 512] [--steps 3]  # 1.3b and 8 on a GPU

Each combination runs `perf/gpu/step_speed.py` in its own process. Memory is the peak of the measured steps: that of
torch's allocator on CUDA; without CUDA the resident memory above that before the model, with an allocator that returns
freed memory and a peak that is reset after the warm-up, so that the compiler's memory does not count. The table is
printed as docs/performance.md shows it, and each result as a line of JSON, which `perf/gpu/page.py` reads.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from common import ALLOCATOR

SCRIPT = Path(__file__).parent / "gpu" / "step_speed.py"
RECOMPUTED = {"false": "nothing", '"selective"': "selective", "true": "every block"}
"""Values of network.gradient_checkpointing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small-toy")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    shape = [f"--{name}={value}" for name, value in vars(given).items()]
    print(f"{date.today()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| weights | recomputed | compiled | seconds a step | of the first | MiB | of the first |")
    print("|---|---|---|---|---|---|---|")
    results: list[dict[str, Any]] = []
    for masters, recompute, compiled in itertools.product((False, True), RECOMPUTED, (False, True)):
        words = [*shape, f"--recompute={recompute}", *(["--compile"] * compiled), *(["--masters"] * masters)]
        results.append(measured(words))
        seconds, mib = (results[-1][name] for name in ("cost_per_step", "peak_mib"))
        first = results[0]
        print(
            f"| {'bfloat16, float32 masters' if masters else 'float32'} | {RECOMPUTED[recompute]} | "
            f"{'yes' if compiled else 'no'} | {seconds:.2f} | {seconds / first['cost_per_step']:.2f} | {mib:,.0f} | "
            f"{mib / first['peak_mib']:.2f} |",
            flush=True,
        )
    print()
    for result in results:
        print(json.dumps(result))


def measured(words: list[str]) -> dict[str, Any]:
    """Measure one combination in a process of its own."""
    environment = os.environ | ALLOCATOR | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
