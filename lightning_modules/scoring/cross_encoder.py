"""A cross-encoder reads an instruction and a response together and says how well they go together, in one number.

It is an encoder of transformers with a sequence-classification head of one output. The number is the head's raw output:
Cappy (arXiv 2311.06720) is trained by squared error on correctness in [0, 1], without a sigmoid, so that scores may
leave that range. Nothing is padded: pairs lie end to end, read under document attention, and the head sees the first
token of each.
"""

# B rows, L columns, S scored pairs, H hidden width

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...datamodules.rendering.tokenization import load_tokenizer
from ...datamodules.schema import ScoredBatch, TokenizedExample
from ...datamodules.scoring.rows import ScoredRows, Truncation, pair_frame, tokenize_texts
from ..attention.document_attention import Documents
from ..attention.packable import first_position, require_document_attention
from .first_tokens import read_first_tokens_alone

FIRST_TOKENS = "last_layer_reads_first_tokens_alone"
"""Attribute of a model whose last layer was prepared by ``first_tokens.py``."""

READ_PAIRS = "read_pairs"
"""Method of a model in shards that reads pairs; see ``gather_for_pairs``."""


def pair_scores(model: PreTrainedModel, batch: ScoredBatch) -> Tensor:
    """Scores [S] of the pairs of a batch, in the order of ``batch.scored``: raw outputs of the head.

    Args:
        model: With document attention and a head that ``require_scoring_head`` accepts.
        batch: Packed pairs; their positions are counted from the model's first one here.

    Raises:
        ValueError: A pair is longer than the model has positions for.
    """
    require_pair_positions(model.config, batch.longest)
    read: Callable[[ScoredBatch], Tensor] = getattr(model, READ_PAIRS, partial(_read_pairs, model))
    return read(batch)


def gather_for_pairs(model: PreTrainedModel) -> None:
    """Let a model that FSDP2 has cut gather its embeddings and head for pairs, which do not pass its own forward."""
    if isinstance(model, FSDPModule):
        setattr(model, READ_PAIRS, partial(_read_pairs, model))
        register_fsdp_forward_method(model, READ_PAIRS)


def _read_pairs(model: PreTrainedModel, batch: ScoredBatch) -> Tensor:
    encoder: Any = model.base_model
    types = batch.token_type_ids if getattr(model.config, "type_vocab_size", 1) > 1 else None
    # Built by build_scorer, the last layer answers for first tokens alone; padding is a document, and not scored.
    alone = {"first_tokens": True} if getattr(model, FIRST_TOKENS, False) else {}
    hidden_BLH = encoder(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids + first_position(model.config),
        token_type_ids=types,
        documents=Documents(batch.offsets),
        return_dict=True,
        **alone,
    ).last_hidden_state
    places_S = torch.searchsorted(batch.offsets, batch.scored.to(batch.offsets.dtype)) if alone else batch.scored
    first_S1H = hidden_BLH.flatten(0, 1).index_select(0, places_S).unsqueeze(1)
    return _head(model, first_S1H).squeeze(-1)


def _head(model: PreTrainedModel, first_S1H: Tensor) -> Tensor:
    """What stands behind the encoder, on rows of one column: both families read the first column alone."""
    parts: Any = model
    if _has_roberta_head(model):
        return parts.classifier(first_S1H)
    return parts.classifier(parts.dropout(parts.base_model.pooler(first_S1H)))


def _has_roberta_head(model: PreTrainedModel) -> bool:
    """``classifier`` reads the encoder's first column: dense, activation, out_proj (RoBERTa, XLM-R, ELECTRA)."""
    classifier = getattr(model, "classifier", None)
    return hasattr(classifier, "dense") and hasattr(classifier, "out_proj")


def _has_bert_head(model: PreTrainedModel) -> bool:
    """A pooler reads the encoder's first column, and a linear ``classifier`` the pooler (BERT)."""
    pooler = getattr(model.base_model, "pooler", None)
    parts = hasattr(pooler, "dense") and hasattr(pooler, "activation"), hasattr(model, "dropout")
    return all(parts) and isinstance(getattr(model, "classifier", None), nn.Linear)


def require_scoring_head(model: PreTrainedModel) -> None:
    """Refuse a model without a head of one output that reads the first token.

    Raises:
        ValueError: With the model's class and what was looked for.
    """
    if not (_has_roberta_head(model) or _has_bert_head(model)):
        raise ValueError(
            f"{type(model).__name__} has no head that is known to read a pair's first token alone: expected classifier "
            "with dense and out_proj (RoBERTa's family), or a pooler with dense and a linear classifier (BERT's)"
        )
    if model.config.num_labels != 1:
        raise ValueError(
            f"a scorer has one output, and the head of this {type(model).__name__} has {model.config.num_labels}"
        )


def build_scorer(
    config: PreTrainedConfig, *, weights: str | None, dtype: torch.dtype, row_length: int | None = None
) -> PreTrainedModel:
    """An encoder with a head of one output, under document attention.

    Weights of a bare encoder (RoBERTa as it was pretrained) get a new head. The layout of names is transformers' own,
    so that the saved folder loads as ``AutoModelForSequenceClassification`` with ``num_labels=1``.

    Args:
        config: Of the encoder; its head is set to one output.
        weights: Hub name or folder of the weights; None for random ones.
        dtype: Of the parameters.
        row_length: Columns of packed rows, to be compared with the model's attention window.

    Raises:
        ValueError: The weights have a head of another size, or the model cannot be packed or scored.
    """
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if weights is not None and has_head and config.num_labels != 1:
        raise ValueError(
            f"{weights} has a head of {config.num_labels} outputs, and a scorer has one: start from a checkpoint with "
            "num_labels=1, or from an encoder without a head"
        )
    config.num_labels, config.problem_type = 1, "regression"
    auto, options = AutoModelForSequenceClassification, {"attn_implementation": "document", "dtype": dtype}
    if weights is None:
        model = auto.from_config(config, **options)
    else:
        model = auto.from_pretrained(weights, config=config, **options)
    require_scoring_head(model)
    require_document_attention(model, row_length)
    setattr(model, FIRST_TOKENS, read_first_tokens_alone(model))
    return model


class PairCuts(NamedTuple):
    """How many pairs were longer than a model reads: scored, cut, and cut in the response itself."""

    pairs: int = 0
    cut: int = 0
    response_cut: int = 0


class CrossEncoder:
    """Scores and ranks responses to instructions with a trained scorer.

    A distinct instruction is tokenized once, a distinct pair is scored once, and pairs are read longest first in
    forwards of at most `tokens_per_forward` tokens without padding. A pair's score does not depend on what it is
    scored with. An empty response is a response like any other.

    A pair longer than `max_length` is cut, never dropped: by default the instruction loses its end, and the response
    is kept whole, unless it alone exceeds `max_length`; then nothing is left of the instruction, and the response keeps
    what fits. ``cuts`` counts both since the encoder was made, and a warning tells of each call that cut.

    Args:
        model: A sequence-classification model of one output, built with ``attn_implementation="document"``.
        tokenizer: Its tokenizer.
        max_length: Most tokens of a pair, special ones included; bounded by the model's positions.
        truncation: ``"longest_first"`` cuts whichever side is longer, as Cappy's released program does.
        tokens_per_forward: Most tokens read at once; a longer pair stands alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 512,
        truncation: Truncation = "instruction",
        tokens_per_forward: int = 8192,
    ) -> None:
        require_scoring_head(model)
        require_document_attention(model)
        require_pair_positions(model.config, max_length)
        self.model, self.tokenizer, self.tokens_per_forward = model, tokenizer, tokens_per_forward
        self.cuts = PairCuts()
        self._kind = ScoredRows(
            max(max_length, tokens_per_forward),
            max_length,
            tokenizer.pad_token_id,
            pair_frame(tokenizer),
            truncation,
            keep_end=tokenizer.truncation_side == "left",
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_length: int = 512,
        truncation: Truncation = "instruction",
        tokens_per_forward: int = 8192,
    ) -> "CrossEncoder":
        """Load model and tokenizer from a hub name or a folder.

        Raises:
            ValueError: There is no scorer, e.g. an encoder without a trained head.
        """
        config = AutoConfig.from_pretrained(name)
        if not any(each.endswith("ForSequenceClassification") for each in config.architectures or ()):
            raise ValueError(
                f"{name} is no trained scorer but {config.architectures}: its scores would come from a random head"
            )
        model = build_scorer(config, weights=name, dtype=dtype)
        return cls(
            model.to(torch.device(device)),  # type: ignore[arg-type]
            load_tokenizer(name, eos=False),
            max_length=max_length,
            truncation=truncation,
            tokens_per_forward=tokens_per_forward,
        )

    def score(self, instructions: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Scores [n] of n pairs, in their order, on the CPU; none for no pairs.

        Raises:
            ValueError: There are not as many responses as instructions.
        """
        if isinstance(instructions, str) or isinstance(responses, str) or len(instructions) != len(responses):
            raise ValueError(
                "score takes as many instructions as responses, one pair each, got "
                f"{_count(instructions)} and {_count(responses)}; rank takes one instruction and its responses"
            )
        places = {pair: place for place, pair in enumerate(dict.fromkeys(zip(instructions, responses, strict=True)))}
        documents = self._tokenize(list(places))
        scores = self._score(documents)
        wanted = torch.tensor([places[pair] for pair in zip(instructions, responses, strict=True)], dtype=torch.int64)
        return scores[wanted]

    def rank(self, instruction: str, responses: Sequence[str]) -> list[tuple[int, float]]:
        """(index, score) of every response, the best first; equal scores keep the order of the responses.

        One response is ranked first of one.

        Raises:
            ValueError: There is no response to rank.
        """
        if isinstance(responses, str) or not len(responses):
            raise ValueError(f"rank takes a list of at least one response, got {responses!r}")
        scores = self.score([instruction] * len(responses), responses).tolist()
        return sorted(enumerate(scores), key=lambda item: (-item[1], item[0]))

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedExample]:
        ids = tokenize_texts(self.tokenizer, [text for pair in pairs for text in pair])
        return [self._kind.frame.join(ids[instruction], ids[response]) for instruction, response in pairs]

    @torch.inference_mode()
    def _score(self, documents: Sequence[TokenizedExample]) -> Tensor:
        lengths = np.array([len(document.input_ids) for document in documents], dtype=np.int64)
        n_sources = np.array([document.n_source for document in documents], dtype=np.int64)
        self._count_cuts(lengths, n_sources)
        sizes = self._kind.sizes(lengths, n_sources)
        parameter = next(self.model.parameters())
        scores = torch.empty(len(documents), dtype=torch.promote_types(parameter.dtype, torch.float32))
        training = self.model.training
        self.model.eval()
        try:
            for members in _by_budget(sizes, self.tokens_per_forward):
                # One row of exactly these pairs: there is nothing to pad, and none is longer than the row.
                columns = int(sizes[members].sum())
                kind = replace(self._kind, length=columns, pair_length=min(self._kind.pair_length, columns))
                batch = kind.collate([[documents[i] for i in members]], step_targets=len(members))
                on_device = move_data_to_device(batch, parameter.device)
                scores[members] = pair_scores(self.model, on_device).to("cpu", scores.dtype)
        finally:
            self.model.train(training)
        return scores

    def _count_cuts(self, lengths: np.ndarray, n_sources: np.ndarray) -> None:
        cuts = self._kind.cuts(lengths, n_sources)
        cut, response_cut = int(cuts.truncated.sum()), int(cuts.target_cut.sum())
        self.cuts = PairCuts(self.cuts.pairs + len(lengths), self.cuts.cut + cut, self.cuts.response_cut + response_cut)
        if cut:
            warnings.warn(
                f"{cut} of {len(lengths)} pairs are longer than {self._kind.pair_length} tokens and were cut; "
                f"{response_cut} of them lost a part of the response",
                stacklevel=4,
            )


def require_pair_positions(config: PreTrainedConfig, pair_length: int) -> None:
    """Refuse pairs that are longer than the encoder has positions for.

    Raises:
        ValueError: With both numbers.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and pair_length > positions - first_position(config):
        raise ValueError(
            f"pairs of {pair_length} tokens exceed the {positions - first_position(config)} positions of the model "
            f"({config.model_type}): shorten them (max_length, or the datamodule's pair_length)"
        )


def _by_budget(sizes: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Places of items, the largest first, in groups whose sizes sum to at most `budget`.

    >>> [group.tolist() for group in _by_budget(np.array([2, 9, 3, 8]), 12)]
    [[1], [3, 2], [0]]
    """
    order = np.argsort(-sizes, kind="stable")
    start = 0
    ends = np.cumsum(sizes[order])
    while start < len(order):
        used = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, used + budget, side="right")), start + 1)
        yield order[start:end]
        start = end


def _count(texts: Sequence[str]) -> str:
    return f"the text {texts[:40]!r}" if isinstance(texts, str) else str(len(texts))
