"""Measure what remains of real instructions that are too long for a scorer, by the part that is cut.

    python experiments/instruction_cuts.py TOKENIZER [--examples 40] [--length 512]

It reads Super-NaturalInstructions and BIG-bench below $CROSSTASK_DATA, renders instances with their definition as a
scorer reads them, and prints for every cut how often the whole definition, the last line (the question) and the first
and last 32 tokens remain, and how many instructions of a task become equal to another one.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from crosstask.datamodules.benchmarks import Benchmark, BigBench, NaturalInstructions

SPECIAL = 3  # tokens of a pair's frame
HEADS = {"end": 1.0, "middle, 3/4 before": 0.75, "middle, 1/2": 0.5, "middle, 1/4 before": 0.25, "beginning": 0.0}
"""Share of the kept tokens that are from the beginning of an instruction, by the name of the cut."""
ENDS = 32  # tokens


def instructions(benchmark: Benchmark, names: Sequence[str], examples: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield (task, definition, instruction, reference) of the first examples of each task."""
    for name in names:
        definition = benchmark.task(name).definition.strip()
        for example in islice(benchmark.examples(name), examples):
            text = f"{definition}\n\n{example.input.strip()}".strip()
            yield name, definition, text, example.targets[0]


def report(
    title: str, benchmark: Benchmark, names: Sequence[str], tokenizer: Tokenizer, examples: int, length: int
) -> None:
    """Print the table of one benchmark's tasks."""
    total, long = 0, []
    for name, definition, text, reference in instructions(benchmark, names, examples):
        total += 1
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        room = length - SPECIAL - len(tokenizer.encode(reference, add_special_tokens=False).ids)
        if len(ids) > room > 2 * ENDS:
            sizes = [
                len(tokenizer.encode(part, add_special_tokens=False).ids) for part in (definition, text.split("\n")[-1])
            ]
            long.append((name, ids, room, *sizes))
    print(f"{title}: {len(long)} of {total} instructions are too long, in {len({one[0] for one in long})} tasks")
    for label, head in HEADS.items() if long else ():
        print(f"  {label:20}", *(f"{100 * value:6.1f}%" for value in kept_shares(long, head)))


def kept_shares(long: Sequence[tuple[str, list[int], int, int, int]], head: float) -> list[float]:
    """Return the shares of instructions that keep definition, last line and ends, or become equal to another."""
    counts, texts = [0.0] * 4, dict[tuple, set[tuple[int, ...]]]()
    for name, ids, room, definition, last_line in long:
        first = round(head * room)
        last = room - first
        kept = first >= definition, last >= last_line, first >= ENDS, last >= ENDS
        counts = [count + fits for count, fits in zip(counts, kept, strict=True)]
        texts.setdefault((name, *ids[:first], -1, *ids[len(ids) - last :]), set()).add(tuple(ids))
    equal = sum(len(of) for of in texts.values() if len(of) > 1)
    return [count / len(long) for count in [*counts, equal]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="a tokenizer.json")
    parser.add_argument("--examples", type=int, default=40, help="first instances of each task")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest pair")
    settings = parser.parse_args()
    tokenizer, data = Tokenizer.from_file(settings.tokenizer), os.environ["CROSSTASK_DATA"]
    tokenizer.no_truncation()
    print(f"{'cut':22} definition last line first {ENDS} last {ENDS} equal")
    files = sorted(path.stem for path in Path(data, "superni/tasks").glob("task*.json"))
    bigbench = BigBench(f"{data}/bigbench")
    for title, benchmark, names in (
        ("Super-NaturalInstructions", NaturalInstructions(f"{data}/superni"), files),
        ("BIG-bench", bigbench, bigbench.task_names("test")),
    ):
        report(title, benchmark, names, tokenizer, settings.examples, settings.length)


if __name__ == "__main__":
    main()
