"""Which training tasks are inner tasks (meta-train), and which are outer ones (meta-test).

Learnable instructions belong to the inner tasks. Outer tasks keep the instructions that people wrote, and their loss
says how well the model, trained with the learnable ones, generalizes to tasks it was not trained on. The test's own
tasks take part in neither.

A split is a frozen dataclass that is called with the training tasks; the same settings split the same tasks alike.
"""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from ..rendering.tokenization import load_tokenizer
from ..schema import Task


class InnerOuter(NamedTuple):
    """Names of the tasks of both levels, each in the order of the training list."""

    inner: list[str]
    outer: list[str]


class MetaSplit(ABC):
    """How training tasks become inner and outer ones."""

    # A base class rather than a protocol, so that a YAML finds splits by their short names.

    @abstractmethod
    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        """Split the training tasks.

        Raises:
            ValueError: A level is left without tasks, or the split cannot be made of these tasks.
        """


@dataclass(frozen=True)
class CategorySplit(MetaSplit):
    """Whole categories, drawn at random: no category has tasks at both levels.

    The paper takes 10 of 60 categories, the best of 16 random draws by validation: try seeds.

    Args:
        outer: Categories of the outer tasks: a number of them, or a share below 1.
        seed: Another seed draws other categories.
    """

    outer: int | float = 10
    seed: int = 0

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        categories = sorted({task.category for task in tasks})
        # A share of 0.2 is one in five categories; jsonargparse may hand 10 over as 10.0.
        number = round(self.outer * len(categories)) if 0 < self.outer < 1 else int(self.outer)
        if not 0 < number < len(categories):
            raise ValueError(
                f"outer = {self.outer} takes {number} of the {len(categories)} training categories for the outer "
                f"tasks: choose 1 to {len(categories) - 1}, or a share that comes to as many"
            )
        random.Random(f"{self.seed} categories").shuffle(categories)
        chosen = set(categories[:number])
        return _divided(tasks, lambda task: task.category in chosen)


@dataclass(frozen=True)
class FileSplit(MetaSplit):
    """The outer tasks as a file lists them, one name a line; all other training tasks are inner ones.

    Args:
        outer: The file.
        by_category: Whether to reject a list that leaves tasks of one category at both levels.
    """

    outer: str
    by_category: bool = True

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        path = Path(self.outer).expanduser()
        if not path.is_file():
            raise ValueError(f"no file {path}, which should list the outer tasks, one name a line")
        listed = {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
        unknown = sorted(listed - {task.name for task in tasks})
        if unknown:
            raise ValueError(
                f"{path}: {len(unknown)} of {len(listed)} outer tasks are not on the training list, "
                f"e.g. {', '.join(unknown[:3])}"
            )
        found = _divided(tasks, lambda task: task.name in listed)
        if self.by_category:
            _reject_shared_categories(tasks, listed)
        return found


@dataclass(frozen=True)
class ClusterSplit(MetaSplit):
    """One group of tasks with similar definitions, found by k-means; a category may have tasks at both levels.

    The paper's variant has 16 groups, each a exemplar for the outer tasks.

    Args:
        groups: Groups that k-means makes.
        group: Which of them holds the outer tasks; groups are numbered from the largest, 0.
        encoder: Hub name or folder of a model whose mean last hidden states embed the definitions; TF-IDF of their
            words where it is left out.
        seed: Of the first centres.
    """

    groups: int = 16
    group: int = 0
    encoder: str | None = None
    seed: int = 0

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        if not 2 <= self.groups <= len(tasks) or not 0 <= self.group < self.groups:
            raise ValueError(
                f"groups = {self.groups} must lie between 2 and the {len(tasks)} training tasks, and "
                f"group = {self.group} between 0 and {self.groups - 1}"
            )
        texts = [task.definition for task in tasks]
        embedded = embed_texts(texts, self.encoder) if self.encoder else tf_idf(texts)
        labels = k_means(embedded, self.groups, np.random.default_rng(self.seed))
        by_size = [label for label, _ in Counter(labels.tolist()).most_common()]
        if self.group >= len(by_size):
            raise ValueError(
                f"the {len(tasks)} definitions fall into {len(by_size)} groups only, and group {self.group} is empty"
            )
        wanted = {task.name for task, label in zip(tasks, labels, strict=True) if label == by_size[self.group]}
        return _divided(tasks, lambda task: task.name in wanted)


def tf_idf(texts: Sequence[str]) -> NDArray[np.float64]:
    """Rows of unit length [texts, words]: how often a word stands in a text, less where it stands in many."""
    counted = [Counter(text.lower().split()) for text in texts]
    place = {word: column for column, word in enumerate(sorted(set().union(*counted)))}
    counts = np.zeros((len(texts), max(len(place), 1)))
    for row, words in enumerate(counted):
        for word, count in words.items():
            counts[row, place[word]] = count
    weighted = counts * (np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1)
    return weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)


@torch.no_grad()
def embed_texts(texts: Sequence[str], encoder: str) -> NDArray[np.float64]:
    """Mean last hidden states [texts, width] of a model's encoder, one text at a time."""
    tokenizer, model = load_tokenizer(encoder, eos=False), AutoModel.from_pretrained(encoder).eval()
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    rows = []
    for text in texts:
        ids = tokenizer(text or " ", return_tensors="pt", truncation=True)["input_ids"]
        rows.append(reader(input_ids=ids).last_hidden_state.mean(dim=1)[0].double().numpy())
    return np.stack(rows)


def k_means(
    points: NDArray[np.float64], groups: int, rng: np.random.Generator, *, rounds: int = 100
) -> NDArray[np.int64]:
    """A group for each of `points` [n, width]: Lloyd's algorithm from the first centres of k-means++.

    >>> labels = k_means(np.array([[0.0], [0.1], [5.0], [5.2]]), 2, np.random.default_rng(0))
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """
    centres = points[[int(rng.integers(len(points)))]]
    while len(centres) < groups:
        apart = _squared_distances(points, centres).min(axis=1)
        far = apart if apart.sum() > 0 else np.ones(len(points))
        centres = np.vstack([centres, points[rng.choice(len(points), p=far / far.sum())]])
    labels = _squared_distances(points, centres).argmin(axis=1)
    for _ in range(rounds):
        for group in set(labels.tolist()):
            centres[group] = points[labels == group].mean(axis=0)
        found = _squared_distances(points, centres).argmin(axis=1)
        if (found == labels).all():
            break
        labels = found
    return labels


def _squared_distances(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    apart = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.maximum(apart, 0.0)


def _divided(tasks: Sequence[Task], is_outer: Callable[[Task], bool]) -> InnerOuter:
    found = InnerOuter(
        [task.name for task in tasks if not is_outer(task)], [task.name for task in tasks if is_outer(task)]
    )
    for level, names in zip(("inner", "outer"), found, strict=True):
        if not names:
            raise ValueError(
                f"the split leaves no {level} task of {len(tasks)} training tasks: both levels need at least one"
            )
    return found


def _reject_shared_categories(tasks: Sequence[Task], outer: set[str]) -> None:
    inside, outside = ({task.category for task in tasks if (task.name in outer) == side} for side in (False, True))
    if shared := sorted(inside & outside):
        raise ValueError(
            f"{len(shared)} categories have inner and outer tasks, e.g. {', '.join(shared[:3])}: move whole "
            "categories, or set by_category to false"
        )
