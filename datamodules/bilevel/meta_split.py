"""Splits of the training tasks into inner tasks (meta-train) and outer tasks (meta-test).

Inner tasks have learnable instructions. Outer tasks keep their human-written instructions; their loss measures how well
a model that was trained with the learnable instructions generalizes to other tasks. Test tasks are neither.

A split is a frozen dataclass that is called with the training tasks; equal settings split equal tasks equally.
"""

import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedModel

from ..data_files import listed_lines
from ..messages import expanded, some
from ..pretrained_weights import load_pretrained
from ..rendering.special_tokens import truncating_tokenizer
from ..rendering.tokenization import load_tokenizer
from ..schema import Task


class InnerOuter(NamedTuple):
    """Names of the inner tasks (which train the model) and the outer tasks (which train the instructions).

    Both are in the order of the training list.
    """

    inner: list[str]
    outer: list[str]


class MetaSplit(ABC):
    """Base class of rules that divide the training tasks into inner and outer tasks.

    Inner tasks train the model behind learnable instructions; the loss on outer tasks trains the instructions.
    """

    # A base class and not a protocol: jsonargparse resolves short class names in YAML by subclasses.

    @abstractmethod
    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        """Split the training tasks.

        Raises:
            ValueError: A level has no tasks, or the settings do not fit these tasks.
        """


def described_split(split: MetaSplit | None) -> str:
    """Return the class and settings of a split as text, by which a resumed run notices another split.

    A user's class that is no dataclass is described by its attributes, since its ``repr`` differs between runs.

    >>> described_split(CategorySplit(outer=3))
    'CategorySplit(outer=3, seed=0)'
    """
    text = repr(split)
    if " at 0x" in text:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(split).items())
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{type(split).__name__}({settings})")
    return text


def divided_levels(split: MetaSplit, tasks: Sequence[Task]) -> InnerOuter:
    """Divide the training tasks into inner and outer tasks, and check the result, which may come from a user's class.

    Args:
        split: Rule that divides the tasks.
        tasks: The training tasks.

    Raises:
        ValueError: There are no inner or no outer tasks, a task is named twice, or is no training task.
    """
    kind, known = type(split).__name__, {task.name for task in tasks}
    levels = _two_lists(split(tasks), kind)
    for level, names in zip(InnerOuter._fields, levels, strict=True):
        if not names:
            raise ValueError(f"{kind} leaves no {level} task of {len(tasks)} training tasks: both levels need one")
    counts = Counter([*levels.inner, *levels.outer])
    if unknown := sorted(counts.keys() - known):
        raise ValueError(f"{kind} names tasks that are no training tasks: {some(unknown)}")
    if several := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"{kind} names tasks twice, in one level or in both: {some(several)}")
    return levels


def _two_lists(returned: Any, kind: str) -> InnerOuter:
    """Return what a split returned, with both levels as lists of names."""
    two = isinstance(returned, tuple | list) and len(returned) == 2
    if not two or not all(
        isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)
        for names in returned
    ):
        raise ValueError(f"{kind} must return InnerOuter(inner, outer), two lists of names of tasks")
    return InnerOuter(*map(list, returned))


@dataclass(frozen=True)
class CategorySplit(MetaSplit):
    """Makes all tasks of randomly drawn categories outer tasks, whose loss trains the instructions.

    The paper (arXiv 2306.10098) takes 10 of 60 categories, the best of 16 random draws by validation: try several
    seeds.

    Args:
        outer: Number of categories whose tasks are outer tasks; a number below 1 is a share of all categories.
        seed: Seed of the draw.
    """

    outer: int | float = 10
    seed: int = 0

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        categories = sorted({task.category for task in tasks})
        if not 0 < self.outer < 1 and not float(self.outer).is_integer():
            raise ValueError(f"outer must be a number of categories, or a share of them below 1, got {self.outer}")
        if len(categories) < 2:
            raise ValueError(
                f"the {len(tasks)} training tasks have one category, {categories[0]!r}, which cannot be divided: set "
                "split to ClusterSplit, FileSplit, or a class of your own"
            )
        # 0.2 is one in five categories; jsonargparse may pass 10 as 10.0.
        number = round(self.outer * len(categories)) if 0 < self.outer < 1 else int(self.outer)
        if not 0 < number < len(categories):
            raise ValueError(
                f"outer = {self.outer} takes {number} of the {len(categories)} training categories for the outer "
                f"tasks: choose 1 to {len(categories) - 1}, or the corresponding share"
            )
        random.Random(f"{self.seed} categories").shuffle(categories)
        chosen = set(categories[:number])
        return _divided(tasks, lambda task: task.category in chosen)


@dataclass(frozen=True)
class FileSplit(MetaSplit):
    """Makes the tasks that a file names outer tasks, which train the instructions, and all others inner tasks.

    Args:
        outer: Path of the file, with one task name per line.
        by_category: Whether to reject a list by which a category has inner and outer tasks.
    """

    outer: str
    by_category: bool = True

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        path = expanded(self.outer)
        if not path.is_file():
            raise ValueError(f"no file {path}; it should list the outer tasks, one name per line")
        listed = {name for _, name in listed_lines(path)}
        unknown = sorted(listed - {task.name for task in tasks})
        if unknown:
            raise ValueError(
                f"{path}: {len(unknown)} of {len(listed)} outer tasks are not training tasks, "
                f"e.g. {', '.join(unknown[:3])}"
            )
        split = _divided(tasks, lambda task: task.name in listed)
        if self.by_category:
            _reject_shared_categories(tasks, listed)
        return split


@dataclass(frozen=True)
class ClusterSplit(MetaSplit):
    """Makes the tasks of one k-means cluster of task definitions outer tasks, whose loss trains the instructions.

    A category may have inner and outer tasks. The paper's variant (arXiv 2306.10098) has 16 clusters and tries each of
    them as the outer tasks.

    Args:
        groups: Number of clusters.
        group: Number of the cluster whose tasks are outer tasks, from 0, the largest cluster.
        encoder: Hub name or folder of a model that embeds the definitions by its mean last hidden states; null embeds
            them by the TF-IDF of their words.
        seed: Seed of the initial cluster centres.
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
        definitions = [task.definition for task in tasks]
        embedded = embed_texts(definitions, self.encoder) if self.encoder else tf_idf(definitions)
        labels = k_means(embedded, self.groups, seed=self.seed)
        by_size = [label for label, _ in Counter(labels.tolist()).most_common()]
        if self.group >= len(by_size):
            raise ValueError(
                f"the {len(tasks)} definitions form only {len(by_size)} clusters, so group {self.group} is empty: "
                f"choose group 0 to {len(by_size) - 1}"
            )
        wanted = {task.name for task, label in zip(tasks, labels, strict=True) if label == by_size[self.group]}
        return _divided(tasks, lambda task: task.name in wanted)


def tf_idf(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the TF-IDF of lower-case words, float64 [texts, words], in rows of unit length.

    A text without words is a row of zeros.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds

    if not any(text.strip() for text in texts):
        return np.zeros((len(texts), 1))
    # Words are what spaces separate: the default pattern would drop single characters and punctuation.
    return TfidfVectorizer(token_pattern=r"\S+").fit_transform(texts).toarray()


@torch.no_grad()
def embed_texts(texts: Sequence[str], encoder: str) -> NDArray[np.float64]:
    """Return the mean last hidden state of each text, float64 [texts, width].

    Args:
        texts: The texts.
        encoder: Hub name or folder of a model; of an encoder-decoder model, the encoder is used.
    """
    tokenizer = load_tokenizer(encoder, eos=False)
    model: Any = load_pretrained(AutoModel, encoder, optional=_is_unread).eval()
    reader = model.encoder if _has_decoder_behind_encoder(model) else model
    rows = []
    with truncating_tokenizer(tokenizer, min(tokenizer.model_max_length, 1 << 20)) as backend:
        encodings = backend.encode_batch_fast([text or " " for text in texts])
    for encoding in encodings:
        rows.append(reader(input_ids=torch.tensor([encoding.ids])).last_hidden_state.mean(dim=1)[0].double().numpy())
    return np.stack(rows)


def _is_unread(model: PreTrainedModel, name: str) -> bool:
    """Return whether ``embed_texts`` needs no such weight: one of a pooler, or of an encoder-decoder's decoder."""
    return "pooler" in name.split(".") or (name.startswith("decoder.") and _has_decoder_behind_encoder(model))


def _has_decoder_behind_encoder(model: PreTrainedModel) -> bool:
    """Return whether a model has an encoder and a decoder; the configuration of an encoder alone may claim both."""
    return {"encoder", "decoder"} <= {name for name, _ in model.named_children()}


def k_means(points: NDArray[np.float64], groups: int, *, seed: int) -> NDArray[np.int64]:
    """Return the cluster of each point, int64 [n], from the best of ten k-means++ initializations.

    Args:
        points: float64 [n, width].
        groups: Number of clusters; fewer if there are fewer distinct points.
        seed: Seed of the initial cluster centres.

    >>> labels = k_means(np.array([[0.0], [0.1], [5.0], [5.2]]), 2, seed=0)
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """
    from sklearn.cluster import KMeans  # takes seconds

    distinct = len(np.unique(points, axis=0))  # k-means warns of more clusters than distinct points
    return KMeans(min(groups, distinct), n_init=10, random_state=seed).fit(points).labels_.astype(np.int64)


def _divided(tasks: Sequence[Task], is_outer: Callable[[Task], bool]) -> InnerOuter:
    split = InnerOuter(
        [task.name for task in tasks if not is_outer(task)], [task.name for task in tasks if is_outer(task)]
    )
    for level, names in zip(InnerOuter._fields, split, strict=True):
        if not names:
            raise ValueError(
                f"the split leaves no {level} task of {len(tasks)} training tasks: both levels need at least one"
            )
    return split


def _reject_shared_categories(tasks: Sequence[Task], outer: set[str]) -> None:
    inner_categories = {task.category for task in tasks if task.name not in outer}
    outer_categories = {task.category for task in tasks if task.name in outer}
    if shared := sorted(inner_categories & outer_categories):
        raise ValueError(
            f"{len(shared)} categories have inner and outer tasks, e.g. {', '.join(shared[:3])}: move whole "
            "categories, or set by_category to false"
        )
