"""Speed and memory of the search for shared 13-grams, against Python sets of word tuples.

    python perf/decontamination.py             150,000 evaluation examples, 1,000,000 training examples
    python perf/decontamination.py --train 50000 --evaluation 10000

Texts are generated, 60 to 140 words each, with words drawn by Zipf's law; 1,000 evaluation examples have a passage of
13 words planted in training. The peer is a Python set of word tuples over 1,000 evaluation examples, because 150,000
would fill the memory. Rates are of processor time, without reading.
"""

import argparse
import random
import re
import resource
import time
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
from common import print_result

from crosstask.datamodules.decontamination.overlap import Document, index_evaluation, overlap

N = 13
TASK = 10_000
BENCH = 18_000_000  # training examples of OPT-IML Bench (arXiv 2212.12017, section 2)
PLANTED = 1_000


def passages(seed: int, count: int) -> Iterator[str]:
    """Yield texts of 60 to 140 words, from a vocabulary of 50,000 words."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{number}" for number in range(50_000)])
    shares = 1 / np.arange(1, len(words) + 1)
    bounds = np.cumsum(shares / shares.sum())
    for first in range(0, count, 1000):
        lengths = rng.integers(60, 141, min(1000, count - first))
        drawn = words[np.minimum(np.searchsorted(bounds, rng.random(lengths.sum())), len(words) - 1)]
        yield from (" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1]))


def evaluation_task(number: int, count: int) -> list[Document]:
    return [Document(str(place), (text,)) for place, text in enumerate(passages(number, count))]


def training_task(number: int, planted: Sequence[str], size: int) -> list[Document]:
    """Return a training task; the passages in `planted` are inserted into its first examples."""
    texts = passages(1 + number, size)
    return [Document(str(i), (f"{text} {planted[i] if i < len(planted) else ''}",)) for i, text in enumerate(texts)]


def word_tuples(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}


def plain_rate(evaluation: Sequence[Document], training: Sequence[Document]) -> float:
    """Return the training examples per second that a set of tuples is searched for, without building the set."""
    known = set().union(*(word_tuples(document.texts[0]) for document in evaluation))
    began = time.thread_time()
    for document in training:
        known.isdisjoint(word_tuples(document.texts[0]))
    return len(training) / (time.thread_time() - began)


def plant(rng: random.Random, evaluation: Sequence[Document]) -> list[str]:
    """Return a passage of N successive words of each example."""
    passages = []
    for document in evaluation:
        words = document.texts[0].split()
        begin = rng.randrange(len(words) - N + 1)
        passages.append(" ".join(words[begin : begin + N]))
    return passages


def peak() -> float:
    """Return the peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=int, default=150_000)
    parser.add_argument("--train", type=int, default=1_000_000)
    options = parser.parse_args()
    rng = random.Random(0)
    evaluation = evaluation_task(0, options.evaluation)
    hosts = rng.sample(range(options.evaluation), PLANTED)
    planted = plant(rng, [evaluation[host] for host in hosts])
    before = peak()
    began = time.thread_time()
    index = index_evaluation({"evaluation": evaluation}, N)
    indexed = time.thread_time() - began
    few = evaluation[:1000]
    del evaluation
    found: set[int] = set()
    ours: list[float] = []
    plain: list[float] = []
    for number in range(-(-options.train // TASK)):
        task = training_task(number, planted if number == 0 else [], min(TASK, options.train))
        began = time.thread_time()
        found.update(overlap(index, str(number), task).hits.tolist())
        ours.append(len(task) / (time.thread_time() - began))
        if number % 10 == 0:
            plain.append(plain_rate(few, task[:1000]))
    rate, peer = median(ours), median(plain)
    print(f"index: {len(index.examples):,} n-grams of {options.evaluation:,} examples in {indexed:.1f} s")
    print(f"planted overlaps found: {len(found & set(hosts))} of {PLANTED}; others hit: {len(found - set(hosts))}")
    print(
        f"peak memory: {peak():,.0f} MiB, of which {before:,.0f} MiB held texts and imports before the index was built"
    )
    print(f"18M examples at this rate: {BENCH / rate / 3600:.2f} hours of one core, reading left out")
    setting = f"{options.evaluation} evaluation, {options.train} training examples, one process"
    print_result("decontamination", ours=rate, peer=peer, unit="training examples/s", setting=setting)


if __name__ == "__main__":
    main()
