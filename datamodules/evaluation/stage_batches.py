"""The batches of an evaluation stage: options to rank, prompts to answer in writing, and rows for the loss."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lightning.pytorch.utilities import rank_zero_info

from ..benchmarks import Benchmark, Split
from ..benchmarks.suite import Suite
from ..packing.best_fit import Packing, one_per_row
from ..packing.collate import CausalRows, Seq2SeqRows
from ..packing.replicas import Replicas
from ..rendering.tokenization import tokenize_sources, tokenizer_fingerprint
from ..schema import EvaluationExample, Task, TokenizedExample
from ..storage.preparation import Preparation
from .coverage import Coverage, suite_coverage
from .evaluation_set import EvaluationSet, read_evaluation
from .evaluation_settings import Evaluation
from .few_shot import ShotPreparation, with_shots
from .option_batches import CausalOptions, DecoderOptions, OptionRows
from .option_loader import RankLoader
from .options import OptionRanking, tokenize_options
from .prompt_loader import Chain, PromptLoader, RowLoader


def longest_source(row_length: int, target_length: int | None, max_new_tokens: int) -> int:
    """Tokens of the longest prompt: prompt and answer share a row unless a decoder has rows for the answer.

    Raises:
        ValueError: Nothing is left for the prompt.
    """
    room = row_length if target_length else row_length - max_new_tokens
    if room < 1:
        raise ValueError(
            f"rows.length = {row_length} leaves no room for a prompt beside evaluation.max_new_tokens = "
            f"{max_new_tokens}"
        )
    return room


@dataclass(frozen=True)
class StageBatches:
    """What turns a stage's examples into batches; the same for every stage.

    Args:
        preparation: How an example becomes a document, with its tokenizer.
        packing: How documents share rows.
        row_length: Columns of a row; for an encoder-decoder model, of its encoder's rows.
        target_length: Columns of a decoder row, None for a decoder-only model.
        evaluation: How prompts are evaluated.
    """

    preparation: Preparation
    packing: Packing
    row_length: int
    target_length: int | None
    evaluation: Evaluation

    @property
    def longest_source(self) -> int:
        """Tokens of the longest prompt."""
        return longest_source(self.row_length, self.target_length, self.evaluation.max_new_tokens)

    @property
    def row_kind(self) -> CausalRows | Seq2SeqRows:
        """What a row of the model holds."""
        pad = self.preparation.tokenizer.pad_token_id
        if self.target_length is None:
            return CausalRows(self.row_length, pad)
        return Seq2SeqRows(self.row_length, self.target_length, pad)

    @property
    def option_rows(self) -> OptionRows:
        """How options are read; ``one_per_row`` is for models that cannot keep them apart."""
        pad, packed = self.preparation.tokenizer.pad_token_id, self.packing is not one_per_row
        if self.target_length is None:
            return CausalOptions(pad, self.row_length, self.row_length, packed)
        return DecoderOptions(pad, self.row_length, self.target_length, packed)

    def asked(self, found: EvaluationSet, here: Replicas, answered: Collection[int]) -> Chain:
        """Options to rank where that is wanted, then prompts to answer; the longest first.

        Args:
            found: The stage's examples.
            here: This replica.
            answered: Numbers of examples that are answered already, read whenever iteration begins.
        """
        if self.evaluation.ranking is None:
            return Chain(self._prompts(found, here, answered))
        ranked = self._ranked(found.part(options=True), self.evaluation.ranking, here, answered)
        return Chain(ranked, self._prompts(found.part(options=False), here, answered))

    def rows(self, found: EvaluationSet, here: Replicas) -> RowLoader:
        """The documents of the stage in packed rows, for the loss on their targets."""
        documents = self.preparation.tokenize(found.prompts)
        return RowLoader(
            documents, kind=self.row_kind, packing=self.packing, budget=self.evaluation.batch_tokens, replicas=here
        )

    def identity(self, found: EvaluationSet) -> dict[str, str]:
        """What decides the prompts of a stage and their batches, beside the model."""
        lengths = (self.evaluation.max_new_tokens, self.evaluation.batch_tokens, self.row_length, self.target_length)
        return {
            "prompts": hashlib.sha256(repr(found.examples).encode()).hexdigest(),
            "tokenizer": tokenizer_fingerprint(self.preparation.tokenizer),
            "batches": repr((*lengths, self.packing.__name__, self.preparation.bos, self.evaluation.ranking)),
        }

    def read(self, stage: Split, names: Mapping[Split, Sequence[str]], trained: Sequence[Task]) -> EvaluationSet:
        """The examples of a stage and their prompts; how many demonstrations they have is reported.

        Args:
            stage: "validation" or "test".
            names: The tasks of each split.
            trained: The tasks that are trained, which decide the level of each example.
        """
        preparation, shots = self.preparation, self.evaluation.shot_numbers
        if most := max(shots):
            separator = self.evaluation.shot_separator
            preparation = with_shots(
                preparation, shots=most, separator=separator, room=self.longest_source, names=names
            )
        evaluated = read_evaluation(preparation, names, stage, trained, self.evaluation.ranking, shots)
        if isinstance(preparation, ShotPreparation):
            for wanted in filter(None, shots):
                prompts = {number: count for (k, number), count in sorted(preparation.shown.items()) if k == wanted}
                counts = ", ".join(f"{count} have {number}" for number, count in prompts.items())
                rank_zero_info(f"demonstrations of {stage} prompts at {wanted} shots: {counts}")
        return evaluated

    def _ranked(
        self, found: EvaluationSet, ranking: OptionRanking, here: Replicas, answered: Collection[int]
    ) -> RankLoader:
        tokenizer, pair = self.preparation.tokenizer, self.target_length is not None
        tokenize = partial(tokenize_options, tokenizer, pair=pair, bos=self.preparation.bos, eos=ranking.eos)
        options = [example.options for example in found.examples]
        documents = tokenize([prompt.source for prompt in found.prompts], options)
        alone: dict[str, TokenizedExample] = {}
        if ranking.unconditional is not None:
            texts = list(dict.fromkeys(option.strip() for group in options for option in group))
            each = tokenize([ranking.unconditional] * len(texts), [[text] for text in texts])
            alone = {text: document for text, [document] in zip(texts, each, strict=True)}
        if cut := sum(self.option_rows.cuts(group) for group in documents):
            rank_zero_info(f"{cut} of {len(documents)} prompts to rank lose their beginning")
        return RankLoader(
            found.examples,
            documents,
            rows=self.option_rows,
            budget=self.evaluation.batch_tokens,
            replicas=here,
            unconditional=alone,
            answered=answered,
        )

    def _prompts(self, found: EvaluationSet, here: Replicas, answered: Collection[int]) -> PromptLoader:
        tokenizer = self.preparation.tokenizer
        longest = self.longest_source
        texts = [prompt.source for prompt in found.prompts]
        sources = tokenize_sources(tokenizer, texts, pair=bool(self.target_length), bos=self.preparation.bos)
        if cut := sum(len(source) > longest for source in sources):
            rank_zero_info(f"{cut} of {len(sources)} prompts lose their beginning to {longest} tokens")
        return PromptLoader(
            [source[-longest:] for source in sources],
            found.examples,
            pad_token_id=tokenizer.pad_token_id,
            pad_left=self.target_length is None,
            max_new_tokens=self.evaluation.max_new_tokens,
            budget=self.evaluation.batch_tokens,
            replicas=here,
            answered=answered,
        )


@dataclass(frozen=True)
class PromptStage:
    """A stage that is evaluated by prompts.

    Args:
        batches: What turns its examples into batches.
        evaluated: Its examples and their prompts.
    """

    batches: StageBatches
    evaluated: EvaluationSet

    @property
    def examples(self) -> Sequence[EvaluationExample]:
        """The evaluated examples, by number."""
        return self.evaluated.examples

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many examples are not evaluated, by reason."""
        return self.evaluated.skipped

    def loader(self, here: Replicas, answered: Collection[int]) -> Chain:
        """Options to rank, then prompts to answer; without the batches whose examples are all `answered`."""
        return self.batches.asked(self.evaluated, here, answered)

    def validation_loader(self, here: Replicas, answered: Collection[int]) -> Chain:
        """Packed rows for the loss, then what ``loader`` yields."""
        return Chain(self.batches.rows(self.evaluated, here), self.loader(here, answered))

    def fingerprint(self) -> dict[str, str]:
        """What decides the prompts and their batches, beside the model."""
        return self.batches.identity(self.evaluated)

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> Coverage | None:
        """Which of a ``Suite``'s listed tasks were run; None for other benchmarks."""
        if not isinstance(benchmark, Suite):
            return None
        of = self.evaluated
        return suite_coverage(benchmark, of.examples, of.rows, of.available or {}, scored)
