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

if TYPE_CHECKING:  # reports import no torch
    from torch import Tensor

IGNORE_INDEX = -100
"""Target of a column that is not trained (the default ``ignore_index`` of torch's cross entropy)."""

Metric = Literal["rouge_l", "exact_match", "accuracy", "token_f1"]
"""Score of an answer in [0, 1]: ROUGE-L, equality with a reference, the choice among options, or F1 over words."""

MatchRule = Literal[
    "text", "super_natural_instructions", "squad", "bbh", "bigbench", "gsm8k", "math", "unifiedskg", "rationale"
]
"""Rule by which an answer equals a reference; ``lightning_modules/evaluation/answer_rules.py`` has each."""

InstructionLevel = Literal["task", "instance", "none"]
"""Where the instruction is: one for the task, one in the input of each instance, or none."""

Level = Literal["fully_supervised", "partially_supervised", "fully_held_out"]
"""Generalization level of an evaluation task (OPT-IML, arXiv 2212.12017, section 2.3).

The task itself trains; or only other tasks of its category do; or no task of its category does.
"""

LEVELS: tuple[Level, ...] = ("fully_supervised", "partially_supervised", "fully_held_out")
"""All levels, from the easiest to the hardest."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A solved example that a benchmark's authors wrote to explain a task.

    Args:
        input: Text to solve.
        output: The answer; a wrong one in a negative demonstration.
        explanation: Why the answer is right or wrong; empty for none.
    """

    input: str
    output: str
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A task without its examples: origin, instruction, demonstrations and metric.

    Args:
        benchmark: Collection of the task, e.g. ``"super_natural_instructions"``.
        name: Name, unique within the benchmark.
        category: The category that decides its generalization level.
        definition: Instruction of the task; empty if each example has its own.
        positive_examples: Demonstrations with right answers.
        negative_examples: Demonstrations with wrong answers.
        instruction_level: ``task`` if one instruction serves the whole task; ``instance`` if each example's input has
            its own; ``none`` if there is neither instruction nor input, and all text is target (dialogue, pre-training
            text).
        parent: Task whose score is the mean of this task's and others' (``mmlu`` for its subjects); None for none.
        sources: Names of the data that the task was made from. Tasks of one source should not both train and be
            evaluated.
        metric: The headline metric: ``rouge_l``, ``exact_match``, ``accuracy`` or ``token_f1``.
        dataset: Dataset that the task was made from, under one name for all collections (``dataset_identities.py``).
            Only a ``Bench`` sets it.
        match: Rule by which an answer equals a reference, a ``MatchRule``; ``text`` if the authors publish none.
        answer_pattern: Regular expression whose first match in a generated text is the answer; empty for the whole
            text.
        level: Generalization level that the benchmark declares; None to compute it from the training tasks.
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
    """One turn of a conversation.

    Args:
        role: Speaker.
        content: Text of the turn.
        trained: Whether an assistant's turn is a target; false if it is only read.
    """

    role: Role
    content: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One instance of a task, as the benchmark's files hold it.

    Args:
        task: Name of its task.
        id: Identifier, unique within the task.
        index: Index of its row in the upstream file, from 0. Examples that several templates render from one row share
            it.
        input: Text to solve. If the task's `instruction_level` is ``instance``, this is the whole rendered prompt.
        targets: Accepted references, at least one; none if `skipped`.
        template: Name of the template that rendered it; None for none.
        options: Answer choices; empty for free-form tasks.
        answer: Index of the correct option in `options`; None without options.
        skipped: Reason why this record of the file cannot be used, e.g. ``"the template does not apply"``; empty for a
            usable one. A skipped example is counted by its reason instead of being used.
        turns: Turns of a conversation: an optional system turn, then user and assistant in alternation. The last is an
            assistant's that is trained. `input` is then the text before the last turn, and that turn is the only
            target.
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
        source: Text that the model reads.
        target: Text that the model should write.
        turns: Turns that a chat template renders instead of `source` and `target`, which then hold the same text; empty
            for plain text.
        all_turns: Whether all answers among `turns` that are marked as trained are targets; if false, only the last one
            is.
        demonstrated: Number of answers at the beginning of `turns` that are demonstrations and no targets.
    """

    source: str
    target: str
    turns: tuple[Turn, ...] = ()
    all_turns: bool = True
    demonstrated: int = 0


class TokenizedExample(NamedTuple):
    """A tokenized example, before it is placed in a row: source tokens, then target tokens, the last of them eos.

    A conversation has several targets, with ``holes`` between them::

        input_ids   user Hi bot Hello <end> user Bye bot Bye <end>     n_source 3, holes ((5, 8),)
        trained                 ----- -----              --- -----

    Args:
        input_ids: int [n], the tokens of source and target.
        n_source: Number of source tokens, which come first.
        label: Correctness in [0, 1] of a scored pair, whose source is the instruction and whose target the response;
            None for other examples.
        group: Number that all scored pairs of an example share; None for other examples.
        unknown: Numbers of unknown tokens in source and target, and of characters of the target that the tokenizer
            changes, if the preparation counted them.
        holes: (begin, end) of each run of tokens between two targets, which are read and not trained.
    """

    input_ids: NDArray[np.integer]
    n_source: int
    label: float | None = None
    group: int | None = None
    unknown: tuple[int, int, int] = (0, 0, 0)
    holes: tuple[tuple[int, int], ...] = ()


# A NamedTuple, like the batch that carries it: Lightning rejects frozen dataclasses inside batches.
class EvaluationExample(NamedTuple):
    """An evaluated example: its prompt, references and options, and the properties that a report lists.

    Args:
        number: Index of the example among all of the validation, or of the test; the same on every process.
        task: Name of its task.
        category: Category of its task.
        level: Generalization level of its task: ``fully_supervised``, ``partially_supervised`` or ``fully_held_out``.
        id: Identifier in the benchmark.
        source: The prompt.
        references: Accepted answers.
        options: Options to rank; empty for generation.
        answer: Index of the correct option; None without options.
        benchmark: Collection of its task, e.g. ``"super_natural_instructions"``.
        parent: Task whose score is the mean of its task's and others' (``mmlu`` for its subjects); None for none.
        metric: The headline metric: ``rouge_l``, ``exact_match``, ``accuracy`` or ``token_f1``.
        shots: Number of demonstrations in the prompt.
        match: Rule by which an answer equals a reference, a ``MatchRule``.
        answer_pattern: Regular expression whose first match in a generated text is the answer; empty for the whole
            text.
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
    """Packed rows for a decoder-only model: B rows of L columns, which hold D documents.

    A document is a tokenized example, or the padding at the end of a row.

    Args:
        input_ids: int64 [B, L].
        targets: int64 [B, L], the target of the same column's logits; ``IGNORE_INDEX`` if nothing is trained there.
        position_ids: int64 [B, L], restarting at 0 in every document.
        offsets: int32 [D + 1], where documents start in the flattened rows [B * L]; the last is B * L, and every
            multiple of L is among them.
        step_targets: Number of target tokens of the whole optimizer step, over all replicas and accumulated batches.
        n_documents: Number of documents in this batch, without padding.
        n_tokens: Number of tokens in this batch, without padding.
        target_places: int64 [N], indices of the batch's N targets in the flattened rows, in order. They are computed on
            the host, which would have to wait for a device to find them.
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
    """Packed rows for an encoder-decoder model: sources in encoder rows, and their targets in decoder rows.

    There are D documents: examples, or the padding at the end of a row; document d of the encoder's rows is document d
    of the decoder's. The decoder's inputs are not stored: they are ``targets`` moved one column to the right inside
    each document.

    Args:
        input_ids: int64 [B, L_source], encoder tokens.
        offsets: int32 [D + 1], where documents start in the flattened encoder rows [B * L_source].
        targets: int64 [B, L_target], the target of the same column's logits; ``IGNORE_INDEX`` if nothing is trained
            there.
        target_offsets: int32 [D + 1], where the same documents start in the flattened decoder rows [B * L_target].
        step_targets: Number of target tokens of the whole optimizer step, over all replicas and accumulated batches.
        n_documents: Number of documents in this batch, without padding.
        n_tokens: Number of tokens in this batch, without padding.
        target_places: int64 [N], indices of the batch's N targets in the flattened decoder rows, in order.
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
    """Packed (instruction, response) pairs for a model that scores them: B rows of L columns with S pairs.

    There are D documents: the pairs, and the padding at the end of rows.

    Args:
        input_ids: int64 [B, L].
        position_ids: int64 [B, L], restarting at 0 in every document and 0 in padding. The scorer adds its model's
            first position, which is ``pad_token_id + 1`` for RoBERTa.
        token_type_ids: int64 [B, L], 1 in responses, for models with a type for each side (BERT, not RoBERTa).
        offsets: int32 [D + 1], where documents start in the flattened rows [B * L].
        scored: int64 [S], index of each pair's first token in the flattened rows.
        labels: float32 [S], correctness in [0, 1].
        step_count: Terms of the mean loss of the whole optimizer step, over all replicas and accumulated batches: its
            pairs, or its groups if there are any.
        longest: Tokens of the longest pair, which must not exceed the model's positions.
        groups: Number of pairs of each group, in the order of `scored`. A group holds the responses to an instruction
            that a ranking loss compares. Empty if single pairs are drawn.
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
    """Prompts to answer, left-padded for a decoder-only model and right-padded for an encoder-decoder model.

    Args:
        input_ids: int64 [B, L].
        attention_mask: int64 [B, L], 0 at padding.
        examples: Evaluated example of each row. If there are fewer than B, the last rows only keep replicas in step,
            and their answers are dropped.
        max_new_tokens: Maximum number of tokens of an answer.
    """

    input_ids: "Tensor"
    attention_mask: "Tensor"
    examples: tuple[EvaluationExample, ...]
    max_new_tokens: int


Stage = Literal["validation", "test"]
"""Stage of an evaluation."""


class ReportLines(Protocol):
    """Interface of a report that is printed as a table."""

    def lines(self) -> list[tuple[str, str]]:
        """Return the report as a table of two columns: (quantity, value) of each line."""
        ...


class Description(Protocol):
    """Interface of a description of the training data that is printed as a tree."""

    def lines(self, depth: int = 3) -> list[str]:
        """Return lines of text, down to a depth: 1 for benchmarks or levels, 2 for categories, 3 for tasks."""
        ...


class HasLength(Protocol):
    """Interface of a datamodule's settings of rows."""

    @property
    def length(self) -> int:
        """Number of columns of a row."""
        ...


@runtime_checkable
class RunData(Protocol):
    """Interface of datamodules: what this package's modules and callbacks call, also of a datamodule of your own.

    A stage is ``"validation"`` or ``"test"``. The training stream is the sequence of all training batches, which
    settings and seed decide.
    """

    tokenizer_name: str

    @property
    def rows(self) -> HasLength:
        """Settings of the rows that the module reads."""
        ...

    def evaluation_examples(self, stage: Stage) -> Sequence[EvaluationExample]:
        """Return the examples that a stage evaluates, in the order of their numbers; after ``setup``."""
        ...

    def evaluation_fingerprint(self, stage: Stage) -> dict[str, str] | None:
        """Return digests of a stage's prompts and batches; None if an interrupted evaluation cannot resume.

        Answers on disk are reused only if the digests are equal.
        """
        ...

    def skip_examples(self, stage: Stage, numbers: Collection[int]) -> None:
        """Leave out the batches of a stage whose examples are all answered already, when an evaluation resumes.

        Args:
            stage: The stage.
            numbers: Numbers of the answered examples; every process must pass the same.
        """
        ...

    def evaluation_coverage(self, stage: Stage, scored: Collection[int]) -> Any:
        """Return how much of a paper's table was scored, if the benchmark is such a table (``Suite``); otherwise None.

        Args:
            stage: The stage.
            scored: Numbers of the scored examples.
        """
        ...

    def training_fingerprint(self) -> str | None:
        """Return a digest of the first training rows, equal on every process; None before ``setup("fit")``."""
        ...

    def require_same_stream(self, checkpoint: Mapping[str, Any]) -> None:
        """Reject a checkpoint of another training stream, before a run resumes from it."""
        ...

    def step_examples(self) -> Callable[[], list[tuple[str, str]]]:
        """Return a function that returns (task, example id) of every example in the current step, of all replicas."""
        ...

    def report(self) -> ReportLines:
        """Return one epoch of training in numbers; after ``setup("fit")``."""
        ...

    def describe(self, steps: int | None = None) -> Description:
        """Return how often each task is drawn in training, as a tree to print.

        Args:
            steps: Optimizer steps; None for the trainer's ``max_steps``, or for an epoch without a trainer.
        """
        ...


@runtime_checkable
class ResumableModule(Protocol):
    """Interface of a module whose interrupted evaluation can resume."""

    def answer_fingerprint(self) -> dict[str, str] | None:
        """Return a digest of the weights and the settings that decide answers; None if an evaluation cannot resume.

        Answers on disk are reused only if these are equal.
        """
        ...

    def restore_answers(self, answers: Sequence[Any]) -> None:
        """Count answers of the interrupted evaluation in the scores of this one."""
        ...
