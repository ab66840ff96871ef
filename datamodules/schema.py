"""The data contract: tasks and examples of a benchmark, documents, and batches of a model.

An example takes one path::

    benchmark file -> Example -> Prompt(source, target) -> TokenizedExample -> row -> batch

Packed rows are drawn with small arrays. One row of L = 8 columns holds two documents and one padding column::

    tokens         the  cat  sat  </s>  le  chat  </s>  <pad>
    document         1    1    1    1    2    2    2      3       padding is a document too
    position_ids     0    1    2    3    0    1    2      0       restart at each document
    targets         -100  sat </s> -100 chat  </s> -100  -100     of the SAME column's logits
    offsets          0                   4               7     8  of the documents, in the flattened rows

``targets`` are shifted once, when a row is assembled. They are not called ``labels``, because a Hugging Face
model that is handed ``labels`` shifts them a second time without an error. A document's last column is always
ignored, so no document can be trained to predict the first token of its neighbour.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a report needs no torch
    from torch import Tensor

IGNORE_INDEX = -100
"""Target of a column that is not trained (the default ``ignore_index`` of torch's cross entropy)."""

Metric = Literal["rouge_l", "exact_match", "accuracy", "token_f1"]
"""Score of an answer; accuracy is of a choice among options."""

MatchRule = Literal[
    "text", "super_natural_instructions", "squad", "bbh", "bigbench", "gsm8k", "math", "unifiedskg", "rationale"
]
"""Rule by which an answer equals a reference, see ``lightning_modules/evaluation/answer_rules.py``."""

InstructionLevel = Literal["task", "instance", "none"]
"""Place of an example's instruction: with its task, in its input, or none."""

Level = Literal["fully_supervised", "partially_supervised", "fully_held_out"]
"""Level of generalization of an evaluation task, in the words of OPT-IML, section 2.3."""

LEVELS: tuple[Level, ...] = ("fully_supervised", "partially_supervised", "fully_held_out")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A solved example that a benchmark's authors wrote to explain a task; a negative one shows a wrong output."""

    input: str
    output: str
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A task without its examples: origin, instruction, demonstrations and metric.

    Args:
        benchmark: The collection it belongs to, e.g. ``"super_natural_instructions"``.
        name: Unique within the benchmark.
        category: The one category that decides its generalization level.
        definition: The instruction of a task-level benchmark; empty where each example brings its own.
        positive_examples: Demonstrations to imitate.
        negative_examples: Demonstrations of what not to answer.
        instruction_level: Whether one instruction serves the whole task, each example is rendered with its own, or
            there is none and no input: all text is target (dialogue, pre-training text).
        parent: The task whose score this one is a part of (a subject of MMLU), or None.
        sources: Names of the data the task was made from; tasks of one source should not straddle a split.
        metric: The headline metric, a ``Metric``.
        dataset: The dataset it was made from, under one name for all collections (``dataset_identities.py``), which a
            ``Bench`` sets; empty elsewhere.
        match: By whose rule an answer equals a reference, a ``MatchRule``; ``"text"`` where the authors publish none.
        answer_pattern: Regular expression whose first match in a generated text is the answer; empty: the whole text.
        level: Its level of generalization, where declared; None where it follows from the training tasks.
        licence: Licence of the instances, as the benchmark states it.
    """

    benchmark: str
    name: str
    category: str
    definition: str = ""
    positive_examples: tuple[Demonstration, ...] = ()
    negative_examples: tuple[Demonstration, ...] = ()
    instruction_level: InstructionLevel = "task"
    parent: str | None = None
    sources: tuple[str, ...] = ()
    metric: Metric = "rouge_l"
    dataset: str = ""
    match: MatchRule = "text"
    answer_pattern: str = ""
    level: Level | None = None
    licence: str = ""


Role = Literal["system", "user", "assistant"]
"""Speaker of a turn in a conversation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; an assistant's may be read and not trained."""

    role: Role
    content: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One instance of a task, as the benchmark's files hold it.

    Args:
        task: Name of its task.
        id: Unique within the task.
        index: Its place in the upstream file, from 0.
        input: The text to solve; of an instance-level benchmark, the whole rendered prompt.
        targets: Every accepted reference, at least one (none where ``skipped``).
        template: Identifier of the template that rendered it, or None.
        options: The answer choices, empty for free-form tasks.
        answer: Place of the gold option in ``options``, or None.
        skipped: The reason why this record of the file cannot be used, e.g. ``"the template does not apply"``; such an
            example is counted by that reason wherever it would have been used. Empty for a good one.
        turns: The turns of a conversation, which ends with an assistant's turn that is trained: an optional system
            turn, then user and assistant in alternation. `input` is then the text before the last turn, and that turn
            the one target.
    """

    task: str
    id: str
    index: int
    input: str
    targets: tuple[str, ...]
    template: str | None = None
    options: tuple[str, ...] = ()
    answer: int | None = None
    skipped: str = ""
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered example: the text that the model reads, and the text that it should write.

    Args:
        source: Text before the target.
        target: The text that the model should write.
        turns: Turns of a conversation that a chat template renders instead; source and target are then its text.
        all_turns: Whether all answers of the conversation with `trained` turns are trained, or the last one.
        demonstrated: Answers at the beginning of the conversation that are demonstrations and not trained.
    """

    source: str
    target: str
    turns: tuple[Turn, ...] = ()
    all_turns: bool = True
    demonstrated: int = 0


class TokenizedExample(NamedTuple):
    """A document before it has a place: source tokens, then target tokens, the last of them eos.

    ``input_ids [n]`` holds the first ``n_source`` tokens of the source and the n - n_source tokens of the target. A
    scored pair (source: the instruction, target: the response) has a ``label`` too, its correctness in [0, 1], and a
    ``group``: the same number for all pairs of an example. ``unknown`` counts the unknown tokens of source and
    target, where a preparation has counted it. A conversation has several targets: ``holes`` are the (begin, end) of
    the tokens between them, which are read and not trained::

        input_ids   user Hi bot Hello <end> user Bye bot Bye <end>     n_source 3, holes ((5, 8),)
        trained                 ----- -----              --- -----
    """

    input_ids: NDArray[np.integer]
    n_source: int
    label: float | None = None
    group: int | None = None
    unknown: tuple[int, int] = (0, 0)
    holes: tuple[tuple[int, int], ...] = ()


class EvaluationExample(NamedTuple):
    """An evaluated example: its prompt, references and options, and the properties that a report lists.

    A NamedTuple, like the batch that carries it: Lightning refuses frozen dataclasses inside batches. ``benchmark``,
    ``parent``, ``metric``, ``match`` and ``answer_pattern`` are those of its task; ``shots`` is the number of
    demonstrations.
    """

    number: int
    task: str
    category: str
    level: Level
    id: str
    source: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer: int | None = None
    benchmark: str = ""
    parent: str | None = None
    metric: Metric = "rouge_l"
    shots: int = 0
    match: MatchRule = "text"
    answer_pattern: str = ""


class CausalBatch(NamedTuple):
    """Packed rows for a decoder-only model. B rows, L columns, D documents (padding included).

    Args:
        input_ids: int64 [B, L].
        targets: int64 [B, L], of the same column's logits; ``IGNORE_INDEX`` where nothing is trained.
        position_ids: int64 [B, L], restarting at 0 in every document.
        offsets: int32 [D + 1], where documents start in the flattened rows [B * L]; the last is B * L, and every
            multiple of L is among them.
        step_targets: Target tokens of the whole optimizer step, over all replicas and accumulated batches.
        n_documents: Documents in this batch, padding not counted.
        n_tokens: Tokens in this batch, padding not counted.
        target_places: int64 [N], where the batch's targets are in the flattened rows, in order. They are computed on
            the host: to find them on a device, the host would wait for it.
    """

    input_ids: "Tensor"
    targets: "Tensor"
    position_ids: "Tensor"
    offsets: "Tensor"
    step_targets: int
    n_documents: int
    n_tokens: int
    target_places: "Tensor"


class Seq2SeqBatch(NamedTuple):
    """Packed rows for an encoder-decoder model: document d of the encoder is document d of the decoder.

    The decoder's inputs are not stored: they are ``targets`` moved one column to the right inside each document.

    Args:
        input_ids: int64 [B, L_source], encoder tokens.
        offsets: int32 [D + 1], documents in the flattened encoder rows [B * L_source].
        targets: int64 [B, L_target], of the same column's logits.
        target_offsets: int32 [D + 1], the same documents in the flattened decoder rows [B * L_target].
        step_targets: Target tokens of the whole optimizer step, over all replicas and accumulated batches.
        n_documents: Documents in this batch, padding not counted.
        n_tokens: Tokens in this batch, padding not counted.
        target_places: int64 [N], where the batch's targets are in the flattened decoder rows, in order.
    """

    input_ids: "Tensor"
    offsets: "Tensor"
    targets: "Tensor"
    target_offsets: "Tensor"
    step_targets: int
    n_documents: int
    n_tokens: int
    target_places: "Tensor"


class ScoredBatch(NamedTuple):
    """Packed (instruction, response) pairs for an encoder that scores them. S scored documents of D.

    Args:
        input_ids: int64 [B, L].
        position_ids: int64 [B, L], restarting at 0 in every document and 0 in padding; the scorer adds its model's
            first position, which is ``pad_token_id + 1`` for RoBERTa.
        token_type_ids: int64 [B, L], 1 in responses, for models with a type for each side (BERT, not RoBERTa).
        offsets: int32 [D + 1], documents in the flattened rows, padding included.
        scored: int64 [S], place of each pair's first token in the flattened rows.
        labels: float32 [S], correctness in [0, 1].
        step_count: Number of terms in the mean loss of the whole optimizer step, over all replicas and accumulated
            batches: its pairs, or its groups where there are any.
        longest: Tokens of the longest pair, which the model must have positions for.
        groups: Number of pairs of each group, in the order of `scored`: the responses to an instruction that a ranking
            loss compares. Empty where single pairs are drawn.
    """

    input_ids: "Tensor"
    position_ids: "Tensor"
    token_type_ids: "Tensor"
    offsets: "Tensor"
    scored: "Tensor"
    labels: "Tensor"
    step_count: int
    longest: int
    groups: tuple[int, ...] = ()


class PromptBatch(NamedTuple):
    """Sources to answer, left-padded for a decoder-only model and right-padded for an encoder-decoder model.

    Args:
        input_ids: int64 [B, L].
        attention_mask: int64 [B, L], 0 at padding.
        examples: The evaluated example of each row; shorter than B where a row only keeps replicas in step.
        max_new_tokens: Longest answer in tokens.
    """

    input_ids: "Tensor"
    attention_mask: "Tensor"
    examples: tuple[EvaluationExample, ...]
    max_new_tokens: int


Stage = Literal["validation", "test"]


class ReportLines(Protocol):
    """A report that is printed as a table."""

    def lines(self) -> list[tuple[str, str]]:
        """(quantity, value) of each line."""
        ...


class Description(Protocol):
    """A description of the training data that is printed as a tree."""

    def lines(self, depth: int = 3) -> list[str]:
        """Lines of text, down to a depth: 1 for benchmarks or levels, 2 for categories, 3 for tasks."""
        ...


class HasLength(Protocol):
    """The rows of a datamodule."""

    @property
    def length(self) -> int:
        """Columns of a row."""
        ...


@runtime_checkable
class RunData(Protocol):
    """Interface of crosstask's datamodules for modules and callbacks; see ``run_data``."""

    tokenizer_name: str

    @property
    def rows(self) -> HasLength:
        """The rows that the module reads."""
        ...

    def evaluation_examples(self, stage: Stage) -> Sequence[EvaluationExample]:
        """The evaluated examples of a stage, by number; after ``setup``."""
        ...

    def evaluation_fingerprint(self, stage: Stage) -> dict[str, str] | None:
        """Fingerprint of a stage's prompts and batches; None if an interrupted evaluation cannot resume."""
        ...

    def skip_examples(self, stage: Stage, numbers: Collection[int]) -> None:
        """Skip the batches of a stage whose examples are all among these numbers, equal on every process."""
        ...

    def evaluation_coverage(self, stage: Stage, scored: Collection[int]) -> Any:
        """The ``Coverage`` of a table's tasks by the scored examples; None if no table lists tasks."""
        ...

    def training_fingerprint(self) -> str | None:
        """Digest of the beginning of the training stream, equal on every process; None before ``setup("fit")``."""
        ...

    def require_same_stream(self, checkpoint: Mapping[str, Any]) -> None:
        """Reject a checkpoint of another training stream, before a run resumes from it."""
        ...

    def step_examples(self) -> Callable[[], list[tuple[str, str]]]:
        """A function that reads (task, example id) of every example in the current optimizer step, of all replicas."""
        ...

    def report(self) -> ReportLines:
        """One epoch of training in numbers; after ``setup("fit")``."""
        ...

    def describe(self, steps: int | None = None) -> Description:
        """Expected draws in `steps` optimizer steps; None for the trainer's ``max_steps``, or an epoch."""
        ...


@runtime_checkable
class ResumableModule(Protocol):
    """A module whose interrupted evaluation can resume."""

    def answer_fingerprint(self) -> dict[str, str] | None:
        """Weights digest and settings that decide answers; None if an interrupted evaluation cannot resume."""
        ...

    def restore_answers(self, answers: Sequence[Any]) -> None:
        """Count answers of the interrupted evaluation in this evaluation's scores."""
        ...
