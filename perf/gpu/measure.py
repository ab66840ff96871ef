"""Run all measurements that need a GPU, each in a process of its own with a time limit, and write one JSON.

    python perf/gpu/measure.py runs/gpu.json [--toy] [--sections training_125m ranking]

The file is written after every section, so that an interruption keeps earlier measurements. A section that fails or
exceeds its time is recorded with its error, and the others run. A section whose peer is not installed fails by itself.
Sections run in the order of ``SECTIONS``, the most important ones first, until the time is used up. At toy size, a
section may take as long as a busy machine needs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

PERF = Path(__file__).resolve().parents[1]
BUDGET = 530
"""Seconds of all sections together, on a GPU."""
TOY_LIMIT = 900
"""Seconds of a section at toy size."""

STEPS = ["gpu/step_speed.py"]
BF16 = ["--device=cuda", "--dtype=bfloat16"]


class Section(NamedTuple):
    """Measurement that runs a script.

    Args:
        command: Script in perf/, and its options.
        toy: The options at toy size, on a CPU.
        limit: Time limit in seconds.
    """

    command: list[str]
    toy: list[str]
    limit: int


TOY = ["--rows=1", "--length=128", "--steps=1"]
SMALL = [*STEPS, "--size=125m", "--rows=16", "--steps=5"]
SECTIONS = {
    "tests": Section(
        ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests"], ["-c", "print('{}')"], 110
    ),
    "training_125m": Section([*STEPS, "--size=125m", "--rows=32", "--compile"], [*STEPS, "--size=toy", *TOY], 60),
    "fit_1.3b": Section(
        ["gpu/fit_speed.py"], ["gpu/fit_speed.py", "--toy", "--rows=1", "--batches=2", "--steps=3"], 100
    ),
    "training_1.3b": Section(
        [*STEPS, "--size=1.3b", "--rows=8", "--batches=4", "--steps=6", "--compile"],
        [*STEPS, "--size=toy", "--batches=2", *TOY],
        80,
    ),
    "training_1.3b_masters": Section(
        [*STEPS, "--size=1.3b", "--rows=8", "--batches=4", "--steps=6", "--compile", "--masters"],
        [*STEPS, "--size=toy", "--batches=2", "--masters", *TOY],
        60,
    ),
    "training_6.7b": Section(
        [*STEPS, "--size=6.7b", "--rows=4", "--batches=4", "--steps=3", "--compile", "--recompute=true"],
        [*STEPS, "--size=toy", "--recompute=true", *TOY],
        90,
    ),
    "training_llama": Section(
        [*STEPS, "--size=llama-1.3b", "--rows=8", "--steps=8", "--compile"], [*STEPS, "--size=llama-toy", *TOY], 60
    ),
    "training_llama_trl": Section(
        [*STEPS, "--size=llama-1.3b", "--rows=8", "--steps=8", "--peer"],
        [*STEPS, "--size=llama-toy", "--peer", *TOY],
        60,
    ),
    "ranking": Section(
        [
            "rank_classification.py",
            *BF16,
            "--kinds=decoder-only",
            "--layers=24",
            "--width=1024",
            "--examples=64",
            "--prompts",
            "220",
            "1000",
            "--options=4",
        ],
        [
            "rank_classification.py",
            "--prompts=20",
            "--options=2",
            "--examples=2",
            "--rounds=1",
            "--layers=1",
            "--width=64",
        ],
        70,
    ),
    "scoring": Section(
        ["scoring.py", *BF16, "--layers=24", "--width=1024", "--pairs=4000", "--rounds=3", "--distinct"],
        ["scoring.py", "--layers=1", "--width=64", "--pairs=64", "--rounds=1", "--distinct"],
        70,
    ),
    "generation": Section(
        ["generation.py", *BF16, "--layers=24", "--width=2048", "--prompts=256", "--budget=65536", "--rounds=1"],
        ["generation.py", "--layers=1", "--width=64", "--prompts=8", "--tokens=16", "--length=4", "--rounds=1"],
        60,
    ),
    "generation_compiled": Section(
        [
            "generation.py",
            "--compiled",
            *BF16,
            "--layers=24",
            "--width=2048",
            "--prompts=128",
            "--budget=65536",
            "--rounds=1",
        ],
        ["generation.py", "--compiled", "--layers=1", "--width=64", "--prompts=8", "--tokens=16", "--rounds=1"],
        90,
    ),
    "bilevel": Section(
        ["bilevel.py", "--device=cuda", "--rounds=3"], ["bilevel.py", "--rounds=1", "--inner_steps=1"], 50
    ),
    "training_t5": Section(
        [*STEPS, "--size=t5-220m", "--rows=16", "--steps=5", "--compile"], [*STEPS, "--size=t5-toy", *TOY], 60
    ),
    "loss": Section(
        ["logits_memory.py", "--device=cuda", "--vocabularies", "50272", "262144", "--tokens=8192", "--rounds=1"],
        ["logits_memory.py", "--vocabularies=2048", "--tokens=64", "--rounds=1"],
        60,
    ),
    "recomputed_nothing": Section(SMALL, [*STEPS, "--size=toy", *TOY], 30),
    "recomputed_selective": Section(
        [*SMALL, '--recompute="selective"'], [*STEPS, "--size=toy", '--recompute="selective"', *TOY], 30
    ),
    "recomputed_second": Section([*SMALL, "--recompute=2"], [*STEPS, "--size=toy", "--recompute=2", *TOY], 30),
    "recomputed_all": Section([*SMALL, "--recompute=true"], [*STEPS, "--size=toy", "--recompute=true", *TOY], 30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), dict[str, Any]()
    for name in given.sections:
        section = SECTIONS[name]
        left = BUDGET - (time.monotonic() - began)
        if given.toy:
            results[name] = run(section.toy, TOY_LIMIT)
        else:
            results[name] = (
                run(section.command, min(section.limit, left)) if left > 10 else {"error": "no time was left"}
            )
        print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
        content = {"toy": given.toy, "machine": machine(), "sections": results}
        given.results.write_text(json.dumps(content, indent=1) + "\n")


def run(words: list[str], limit: float) -> dict[str, Any]:
    """Run a script, and return the results that it printed, also those before an error or the end of its time."""
    words = words if words[0].startswith("-") else [str(PERF / words[0]), *words[1:]]
    began = time.monotonic()
    paths = filter(None, [str(PERF), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=PERF.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    error = ""
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        error = f"no end within {limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)  # with its workers, which would slow the next section
        output, errors = process.communicate()
    lines = [line for line in output.splitlines() if line.strip()]
    results = list(filter(None, map(result_of, lines)))
    result: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1), "results": results}
    if not results:
        result["last_line"] = lines[-1] if lines else ""
    if process.returncode:
        result["error"] = error or ((errors or output).strip() or f"it ended by {process.returncode}").splitlines()[-1]
    return result


def result_of(line: str) -> dict[str, Any] | None:
    """Return the JSON object in a line of a script's output; None for other output, such as a trainer's logs.

    >>> result_of('{"benchmark": "scoring"}'), result_of("{'train_runtime': 1.5}"), result_of("[1]")
    ({'benchmark': 'scoring'}, None, None)
    """
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def machine() -> dict[str, Any]:
    """Return the device, and the versions of the libraries that decide speeds."""
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
