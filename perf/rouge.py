"""ROUGE-L of crosstask against google's rouge_score: the same scores, how much sooner?

    python perf/rouge.py             generated text
    CROSSTASK_DATA=folder python perf/rouge.py        references of Super-NaturalInstructions, in superni/tasks

Each answer is scored against the references of another instance of its task. Rounds alternate between the two and hold
different instances, so that a text is remembered from an earlier one only where the task itself repeats it.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rouge_score.rouge_scorer import RougeScorer

from crosstask.datamodules.rouge import rouge_l, tokenize

LENGTHS = {"1 to 3 words": range(1, 4), "4 to 20 words": range(4, 21), "over 20 words": range(21, 10**9)}


class Pair(NamedTuple):
    prediction: str
    references: Sequence[str]


def real_pairs(folder: Path, rng: random.Random, instances: int = 100) -> list[Pair]:
    """The first instances of each task, each answered with its neighbour's first reference."""
    pairs = []
    for path in sorted(folder.glob("*.json")):
        outputs = [instance["output"] for instance in json.loads(path.read_text())["Instances"][:instances]]
        answers = [output[0] for output in outputs[1:] + outputs[:1]]
        pairs += [Pair(answer, output) for answer, output in zip(answers, outputs, strict=True)]
    rng.shuffle(pairs)
    return pairs


def generated_pairs(rng: random.Random, count: int) -> list[Pair]:
    """Texts of 1 to 60 words from a vocabulary where few words are frequent; a third of the answer is the reference's."""
    vocabulary = ["".join(rng.choices("etaoinsrhldcum", k=rng.randint(2, 10))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    pairs = []
    for _ in range(count):
        length = rng.choice([1, 2, 3, 8, 15, 30, 60])
        reference = rng.choices(vocabulary, weights, k=length)
        invented = rng.choices(vocabulary, weights, k=length)
        answer = [mine if rng.random() < 2 / 3 else theirs for mine, theirs in zip(invented, reference, strict=True)]
        pairs.append(Pair(" ".join(answer), [" ".join(reference)]))
    return pairs


def timed(score: Callable[[Pair], float], pairs: Sequence[Pair]) -> tuple[list[float], float]:
    """Scores, and microseconds for each pair."""
    began = time.perf_counter()
    scores = [score(pair) for pair in pairs]
    return scores, (time.perf_counter() - began) / len(pairs) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="medians are taken over so many")
    parser.add_argument("--pairs", type=int, default=2000, help="answers scored in each round, at most")
    settings = parser.parse_args()
    rng = random.Random(0)
    data = os.environ.get("CROSSTASK_DATA")
    if data:
        pairs, text = real_pairs(Path(data) / "superni" / "tasks", rng), "Super-NaturalInstructions"
    else:
        pairs, text = generated_pairs(rng, (settings.rounds + 1) * settings.pairs), "generated"
    if not pairs:
        raise SystemExit(f"no task files in {data}/superni/tasks")
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def ours(pair: Pair) -> float:
        return rouge_l(pair.prediction, pair.references)

    def peer(pair: Pair) -> float:
        return scorer.score_multi(pair.references, pair.prediction)["rougeL"].fmeasure

    groups = {"all": pairs} | {
        name: [pair for pair in pairs if len(pair.references[0].split()) in lengths]
        for name, lengths in LENGTHS.items()
    }
    table = Table("reference", title=f"ROUGE-L, {text} text: microseconds an answer", title_justify="left")
    for column in ("answers", "crosstask", "rouge_score", "ratio", "largest difference"):
        table.add_column(column, justify="right")
    for name, chosen in groups.items():
        size = min(settings.pairs, len(chosen) // (settings.rounds + 1))
        if not size:
            continue
        rounds = [chosen[start : start + size] for start in range(0, size * (settings.rounds + 1), size)]
        tokenize.cache_clear()  # texts of the group before; the words' stems stay, as in any long run
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        difference = 0.0
        for number, part in enumerate(rounds):
            # Whoever is second finds the text in the processor's caches: take turns.
            order = (("ours", ours), ("peer", peer)) if number % 2 else (("peer", peer), ("ours", ours))
            scores = {}
            for who, score in order:
                scores[who], spent = timed(score, part)
                if number:  # the first round warms both up
                    times[who].append(spent)
            gaps = (abs(a - b) for a, b in zip(scores["ours"], scores["peer"], strict=True))
            difference = max(difference, *gaps) if size > 1 else max(difference, next(gaps))
        mine, theirs = statistics.median(times["ours"]), statistics.median(times["peer"])
        table.add_row(
            name,
            str(size * settings.rounds),
            f"{mine:.2f}",
            f"{theirs:.1f}",
            f"{theirs / mine:.1f}",
            f"{difference:.1g}",
        )
    Console().print(table)
    line = {
        "benchmark": "rouge_l",
        "ours": round(mine, 3),
        "peer": round(theirs, 3),
        "ratio": round(theirs / mine, 2),
        "unit": "microseconds an answer, median of rounds; less is better",
        "setting": f"{text} text, {settings.rounds} interleaved rounds of {size} answers, rouge_score with stemmer",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
