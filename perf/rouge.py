"""Speed of crosstask's ROUGE-L against Google's rouge_score, at equal scores.

    python perf/rouge.py                           generated text
    CROSSTASK_DATA=folder python perf/rouge.py     references of Super-NaturalInstructions, in superni/tasks

Each answer is scored against the references of another instance of its task. Both score the same answers in turns, and
no round repeats another's, so that a text is cached only if the tasks repeat it. On the first reading most words are
new and must be stemmed; later, as in most of a long run, their stems are cached.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import print_result
from rich.console import Console
from rich.table import Table
from rouge_score.rouge_scorer import RougeScorer

from crosstask.datamodules.rouge import rouge_l, tokenize

SCORER = RougeScorer(["rougeL"], use_stemmer=True)
WORDS = {"1 to 3 words": range(1, 4), "4 to 20 words": range(4, 21), "over 20 words": range(21, 10**9)}


class Pair(NamedTuple):
    """Answer and its references."""

    prediction: str
    references: Sequence[str]


class Comparison(NamedTuple):
    """Microseconds per answer of both programs, and the largest difference between their scores."""

    answers: int
    ours: float
    peer: float
    difference: float


def ours(pair: Pair) -> float:
    return rouge_l(pair.prediction, pair.references)


def peer(pair: Pair) -> float:
    return SCORER.score_multi(pair.references, pair.prediction)["rougeL"].fmeasure


def compare(pairs: Sequence[Pair], rounds: int, most: int) -> Comparison:
    """Compare both programs: medians over rounds of at most `most` pairs, after a round that warms up."""
    size = min(most, len(pairs) // (rounds + 1))
    spent: dict[str, list[float]] = {"ours": [], "peer": []}
    difference = 0.0
    tokenize.cache_clear()  # of texts that were read before; the words' stems stay
    for number in range(rounds + 1):
        chosen = pairs[number * size : (number + 1) * size]
        first, second = (ours, peer) if number % 2 else (peer, ours)
        found = {score.__name__: timed(score, chosen) for score in (first, second)}
        difference = max(difference, *map(abs_difference, found["ours"][0], found["peer"][0]))
        if number:
            for name, (_, microseconds) in found.items():
                spent[name].append(microseconds)
    return Comparison(rounds * size, median(spent["ours"]), median(spent["peer"]), difference)


def timed(score: Callable[[Pair], float], pairs: Sequence[Pair]) -> tuple[list[float], float]:
    """Return the scores, and the microseconds of processor time per pair."""
    began = time.thread_time()
    scores = [score(pair) for pair in pairs]
    return scores, (time.thread_time() - began) / len(pairs) * 1e6


def abs_difference(one: float, other: float) -> float:
    return abs(one - other)


def real_pairs(folder: Path, rng: random.Random, instances: int = 100) -> list[Pair]:
    """Return the first instances of each task, each answered with its neighbour's first reference."""
    pairs = []
    for path in sorted(folder.glob("*.json")):
        outputs = [instance["output"] for instance in json.loads(path.read_text())["Instances"][:instances]]
        answers = [output[0] for output in outputs[1:] + outputs[:1]]
        pairs += [Pair(answer, output) for answer, output in zip(answers, outputs, strict=True)]
    if not pairs:
        raise SystemExit(f"no task files in {folder}")
    rng.shuffle(pairs)
    return pairs


def generated_pairs(rng: random.Random, count: int) -> list[Pair]:
    """Return pairs of texts of 1 to 60 words; a third of each answer is from its reference."""
    vocabulary = ["".join(rng.choices("etaoinsrhldcum", k=rng.randint(2, 10))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    pairs = []
    for _ in range(count):
        length = rng.choice([1, 2, 3, 8, 15, 30, 60])
        reference = rng.choices(vocabulary, weights, k=length)
        invented = rng.choices(vocabulary, weights, k=length)
        answer = [new if rng.random() < 2 / 3 else old for new, old in zip(invented, reference, strict=True)]
        pairs.append(Pair(" ".join(answer), [" ".join(reference)]))
    return pairs


def many(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return `count` pairs: those given, then each answer with the next pair's references, and so on."""
    size = len(pairs)
    return [Pair(pairs[i % size].prediction, pairs[(i + i // size) % size].references) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="medians are taken over so many")
    parser.add_argument("--answers", type=int, default=2000, help="scored in each round, at most")
    parser.add_argument("--predictions", type=int, default=100_000, help="scored in one go at the end; 0 for none")
    settings = parser.parse_args()
    rng = random.Random(0)
    if data := os.environ.get("CROSSTASK_DATA"):
        text, pairs = "Super-NaturalInstructions", real_pairs(Path(data) / "superni" / "tasks", rng)
    else:
        text, pairs = "generated", generated_pairs(rng, (settings.rounds + 1) * settings.answers)

    results = {"first reading": compare(pairs, settings.rounds, settings.answers)}
    for pair in pairs:
        ours(pair)
    results["words known"] = known = compare(pairs, settings.rounds, settings.answers)
    for name, lengths in WORDS.items():
        chosen = [pair for pair in pairs if len(pair.references[0].split()) in lengths]
        if len(chosen) > settings.rounds:
            results[f"  {name}"] = compare(chosen, settings.rounds, settings.answers)

    table = Table("reference", title=f"ROUGE-L, {text} text: microseconds an answer", title_justify="left")
    for column in ("answers", "crosstask", "rouge_score", "ratio", "difference"):
        table.add_column(column, justify="right")
    for name, (answers, mine, theirs, difference) in results.items():
        table.add_row(name, str(answers), f"{mine:.2f}", f"{theirs:.1f}", f"{theirs / mine:.1f}", f"{difference:.1g}")
    Console().print(table)
    if settings.predictions:
        tokenize.cache_clear()
        each = timed(ours, many(pairs, settings.predictions))[1]
        print(f"{settings.predictions:,} predictions, texts read anew: {each * settings.predictions / 1e6:.1f} s")
    print_result(
        "rouge_l",
        ours=1e6 / known.ours,
        peer=1e6 / known.peer,
        unit="answers/s",
        setting=f"{text} text, words known, median of {settings.rounds} interleaved rounds, {known.answers} answers",
    )


if __name__ == "__main__":
    main()
