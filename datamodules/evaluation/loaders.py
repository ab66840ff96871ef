"""Dataloaders of an evaluation set, joined: options to rank, prompts to answer, and packed rows for the loss.

Every example is evaluated exactly once over all replicas. All replicas have the same number of batches, since sharded
strategies need every replica in every forward. A replica that runs out of examples gets filler batches, whose results
are ignored.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from lightning.pytorch.utilities import rank_zero_info

from ..packing.best_fit import Packing, one_per_row
from ..packing.collate import CausalRows, Seq2SeqRows
from ..packing.replicas import Replicas
from ..rendering.special_tokens import leading_tokens
from ..rendering.tokenization import tokenizer_fingerprint
from ..schema import TokenizedExample
from ..storage.preparation import Preparation
from .batch_loaders import ChainedLoader, OptionLoader, PromptLoader, RowLoader
from .evaluation_set import EvaluationSet
from .evaluation_settings import Evaluation
from .option_batches import CausalOptionRows, OptionRows, Seq2SeqOptionRows
from .option_trees import tokenize_options
from .options import OptionRanking
from .tokenized_prompts import option_documents, prompt_tokens


@dataclass(frozen=True)
class EvaluationLoaders:
    """Builds the dataloaders of validation and test: prompts to generate from, options to rank, rows for the loss.

    Args:
        preparation: Settings of rendering and tokenization, with the tokenizer.
        packing: Function that packs documents into rows; ``one_per_row`` for models without document attention.
        row_length: Tokens of a row; for an encoder-decoder model, of an encoder row.
        target_length: Tokens of a decoder row; None for a decoder-only model.
        evaluation: Settings of evaluation.
    """

    preparation: Preparation
    packing: Packing
    row_length: int
    target_length: int | None
    evaluation: Evaluation

    @property
    def longest_source(self) -> int:
        """Maximum number of tokens of a prompt, demonstrations included."""
        return longest_source(self.row_length, self.target_length, self.evaluation.max_new_tokens)

    @property
    def row_kind(self) -> CausalRows | Seq2SeqRows:
        """Builder of packed rows for training and for the validation loss, by the kind of model."""
        pad = self.preparation.tokenizer.pad_token_id
        if self.target_length is None:
            return CausalRows(self.row_length, pad)
        return Seq2SeqRows(self.row_length, self.target_length, pad)

    @property
    def option_rows(self) -> OptionRows:
        """Builder of rows with options to rank, by the kind of model."""
        pad, packed = self.preparation.tokenizer.pad_token_id, self.packing is not one_per_row
        if self.target_length is None:
            return CausalOptionRows(pad, self.row_length, self.row_length, packed)
        return Seq2SeqOptionRows(pad, self.row_length, self.target_length, packed)

    def loader(self, examples: EvaluationSet, replicas: Replicas, skip: Collection[int]) -> ChainedLoader:
        """Return one replica's batches: options to rank, if they are ranked, then prompts to generate from.

        Args:
            examples: The stage's examples.
            replicas: This process's replica.
            skip: Numbers of examples that need no evaluation; the collection is read whenever iteration begins.
        """
        ranking = self.evaluation.ranking
        if ranking is None:
            return ChainedLoader(self._prompt_loader(examples, replicas, skip))
        ranked = self._option_loader(examples.select(options=True), ranking, replicas, skip)
        return ChainedLoader(ranked, self._prompt_loader(examples.select(options=False), replicas, skip))

    def loss_loader(self, examples: EvaluationSet, replicas: Replicas) -> RowLoader:
        """Return one replica's batches of packed rows with prompts and targets, for the validation loss.

        Args:
            examples: The examples of the stage (validation or test), and their prompts.
            replicas: This process's replica.
        """
        documents = self.preparation.tokenize(examples.prompts)
        budget = self.evaluation.batch_tokens
        return RowLoader(documents, kind=self.row_kind, packing=self.packing, budget=budget, replicas=replicas)

    def fingerprint(self, examples: EvaluationSet) -> dict[str, str]:
        """Return digests of prompts, tokenizer and batches; an evaluation resumes only if they are unchanged."""
        evaluation = self.evaluation
        leading = leading_tokens(self.preparation.tokenizer, self.preparation.bos)
        lengths = (evaluation.max_new_tokens, evaluation.batch_tokens, self.row_length, self.target_length)
        prompts = hashlib.sha256()
        for example in examples.examples:
            prompts.update(f"{example!r}\n".encode())
        return {
            "prompts": prompts.hexdigest(),
            "tokenizer": tokenizer_fingerprint(self.preparation.tokenizer),
            "batches": repr((*lengths, self.packing.__name__, leading, evaluation.ranking)),
        }

    def _option_loader(
        self, examples: EvaluationSet, ranking: OptionRanking, replicas: Replicas, skip: Collection[int]
    ) -> "OptionLoader":
        tokenizer, pair = self.preparation.tokenizer, self.target_length is not None
        tokenize = partial(tokenize_options, tokenizer, pair=pair, bos=self.preparation.bos, eos=ranking.eos)
        options = [example.options for example in examples.examples]
        unconditional: dict[str, TokenizedExample] = {}
        if ranking.unconditional is not None:
            texts = list(dict.fromkeys(option.strip() for group in options for option in group))
            tokenized = tokenize([ranking.unconditional] * len(texts), [[text] for text in texts])
            unconditional = {text: document for text, [document] in zip(texts, tokenized, strict=True)}
        loader = OptionLoader(
            examples.examples,
            option_documents(tokenizer, examples.prompts, options, tokenize),
            rows=self.option_rows,
            budget=self.evaluation.batch_tokens,
            replicas=replicas,
            unconditional=unconditional,
            skip=skip,
        )
        if loader.cut:
            rank_zero_info(f"{loader.cut} of {len(options)} prompts to rank lose their beginning")
        return loader

    def _prompt_loader(self, examples: EvaluationSet, replicas: Replicas, skip: Collection[int]) -> PromptLoader:
        tokenizer = self.preparation.tokenizer
        longest = self.longest_source
        sources, cut = prompt_tokens(self.preparation, examples.prompts, longest)
        if cut:
            rank_zero_info(f"{cut} of {len(sources)} prompts lose their beginning to {longest} tokens")
        return PromptLoader(
            sources,
            examples.examples,
            pad_token_id=tokenizer.pad_token_id,
            pad_left=self.target_length is None,
            max_new_tokens=self.evaluation.max_new_tokens,
            budget=self.evaluation.batch_tokens,
            replicas=replicas,
            skip=skip,
        )


def longest_source(row_length: int, target_length: int | None, max_new_tokens: int) -> int:
    """Return the maximum number of tokens of a prompt.

    A decoder-only model reads the prompt and writes the answer in one row, so the answer's tokens are subtracted.

    Args:
        row_length: Tokens of a row; for an encoder-decoder model, of an encoder row.
        target_length: Tokens of a decoder row; None for a decoder-only model. Its number does not matter here: any
            number means that answers are in other rows than prompts.
        max_new_tokens: Maximum number of tokens of a generated answer.

    Raises:
        ValueError: No token is left for the prompt.
    """
    room = row_length if target_length else row_length - max_new_tokens
    if room < 1:
        raise ValueError(
            f"rows.length = {row_length} leaves no room for a prompt beside evaluation.max_new_tokens = "
            f"{max_new_tokens}"
        )
    return room
