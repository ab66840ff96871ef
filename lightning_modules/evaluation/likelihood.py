"""Rank classification: which of its options a language model finds most likely, at the cost of one forward.

What the options of a prompt share is read once, and each option reads it and itself (``documents.Documents`` with
branches); prompts share rows. The log-likelihoods are those of one forward for each option, as in OPT-IML's own
evaluation and in Brown et al. (arXiv 2005.14165, section 2.4), whose four ways to compare them are given.
"""

# B rows, L columns, K kept columns, M scored tokens, C options, V vocabulary

import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from ...datamodules.evaluation.option_batches import (
    BranchBatch,
    CausalOptions,
    DecoderBranchBatch,
    DecoderOptions,
    OptionRows,
    RankBatch,
)
from ...datamodules.evaluation.options import Tree, require_options, tokenize_options, tree_columns
from ...datamodules.packing.budget_batches import budget_batches
from ...datamodules.schema import TokenizedExample
from ..attention.document_attention import IMPLEMENTATIONS, Documents
from ..prefixes import virtual_tokens
from ..target_loss import padding_mask

Score = Literal["sum", "token_mean", "byte_mean", "pmi"]
"""How options are compared: by their log-likelihood (OPT-IML's own way), by its mean over tokens or UTF-8 bytes, or
by how much more likely the prompt makes them than an unconditional prompt does (pointwise mutual information)."""

LOGITS_AT_ONCE = 1024  # columns whose softmax is taken together


class OptionScores(NamedTuple):
    """Scores of the C options of one prompt, in their order; the higher, the likelier.

    Args:
        sum: Log-likelihoods in nats, eos included where options end in it.
        token_mean: The same, divided by tokens.
        byte_mean: The same, divided by the UTF-8 bytes of the option's text.
        pmi: ``sum`` less the log-likelihood after the unconditional prompt; None where there is no such prompt.
    """

    sum: tuple[float, ...]
    token_mean: tuple[float, ...]
    byte_mean: tuple[float, ...]
    pmi: tuple[float, ...] | None = None

    def by(self, score: Score) -> tuple[float, ...]:
        """The scores of one kind.

        Raises:
            ValueError: There are none of that kind.
        """
        if score not in get_args(Score):
            raise ValueError(f"options are scored by one of {', '.join(get_args(Score))}, got {score!r}")
        scores = getattr(self, score)
        if scores is None:
            raise ValueError("pmi compares with an unconditional prompt, and none was given, e.g. 'Answer:'")
        return scores

    def best(self, score: Score = "sum") -> "Choice":
        """The likeliest option; of equals, the first.

        Raises:
            ValueError: There is no option to choose, or a score is no number.
        """
        scores = self.by(score)
        if not scores:
            raise ValueError("there is no option to choose from")
        if any(map(math.isnan, scores)):
            raise ValueError(f"options have no likelihood, got {scores}: the model's logits are not finite")
        place = max(range(len(scores)), key=scores.__getitem__)
        return Choice(place, scores.count(scores[place]) > 1)


class Choice(NamedTuple):
    """Place of the chosen option, and whether another one has the same score."""

    place: int
    tied: bool


@torch.no_grad()
def option_log_likelihoods(model: PreTrainedModel, batch: RankBatch) -> tuple[Tensor, Tensor]:
    """Log-likelihood in nats and scored tokens of every option of a batch, float64 [C] and int64 [C], on the CPU.

    Args:
        model: A causal or seq2seq language model; it is packed where it was built with document attention.
        batch: Rows of the kind that the model reads, on its device.
    """
    targets = batch.targets
    logits_KV = _kept_logits(model, batch)
    normalizer_K = torch.cat([logits_KV.new_zeros(0, dtype=_wide(logits_KV.dtype)), *_log_sums(logits_KV)])
    scored_M = logits_KV[targets.read, targets.tokens].to(normalizer_K.dtype) - normalizer_K[targets.read]
    # Summed on the CPU, in order: a sum by atomic additions would differ from run to run.
    sums_C = torch.zeros(len(targets.lengths), dtype=torch.float64)
    sums_C.index_add_(0, targets.options.cpu(), scored_M.double().cpu())
    return sums_C, targets.lengths.cpu()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _log_sums(logits_KV: Tensor) -> Iterator[Tensor]:
    for chunk in logits_KV.split(LOGITS_AT_ONCE):
        yield chunk.to(_wide(chunk.dtype)).logsumexp(dim=-1)


def _kept_logits(model: PreTrainedModel, batch: RankBatch) -> Tensor:
    """Logits [K, V] of the columns that predict a option's token."""
    if isinstance(batch, BranchBatch):
        return model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=batch.targets.kept,
            use_cache=False,
            **_causal_attention(model, batch),
        ).logits.flatten(0, -2)
    if len(batch.sources):
        return _read_one_encoding(model, batch)[batch.targets.kept]
    _require_packed(model)
    return model(
        input_ids=batch.input_ids,
        decoder_input_ids=_started(model, batch),
        documents=Documents(batch.offsets, batch.decoder_offsets, batch.branch_offsets),
        use_cache=False,
    ).logits[batch.targets.kept]


def _causal_attention(model: PreTrainedModel, batch: BranchBatch) -> dict[str, Any]:
    if is_packed(model):
        return {"documents": Documents(batch.offsets, branch_offsets=batch.branch_offsets)}
    if len(batch.offsets) != len(batch.branch_offsets):
        _require_packed(model)
    return {"attention_mask": padding_mask(batch.offsets, batch.input_ids)}


def _require_packed(model: PreTrainedModel) -> None:
    """Options that share a row need a model that keeps them apart."""
    if not is_packed(model):
        raise ValueError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention reads one option a row: set "
            "the datamodule's packing to one_per_row, or the model's attention to document"
        )


def _read_one_encoding(model: PreTrainedModel, batch: DecoderBranchBatch) -> Tensor:
    """Logits of a model that cannot be packed: one row for each prompt, encoded once, and one for each option."""
    mask_BL = padding_mask(batch.offsets, batch.input_ids)
    encoder: Any = model.get_encoder()
    states_BLH = encoder(input_ids=batch.input_ids, attention_mask=mask_BL).last_hidden_state
    decoder_ids = _started(model, batch)
    return model(
        encoder_outputs=BaseModelOutput(states_BLH.index_select(0, batch.sources)),
        attention_mask=mask_BL.index_select(0, batch.sources),
        decoder_input_ids=decoder_ids,
        decoder_attention_mask=torch.ones_like(decoder_ids),  # what a branch predicts stands before its padding
        use_cache=False,
    ).logits


def _started(model: PreTrainedModel, batch: DecoderBranchBatch) -> Tensor:
    """The decoder's input with the model's start token at the head of every branch."""
    start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError(f"the configuration of {type(model).__name__} names no decoder_start_token_id")
    ids = batch.decoder_input_ids
    return ids.flatten().index_fill(0, batch.branch_offsets[:-1].long(), start).view_as(ids)


def is_packed(model: PreTrainedModel) -> bool:
    """Whether a model was built with document attention, and so keeps the documents of a row apart."""
    return model.config._attn_implementation in IMPLEMENTATIONS


def option_scores(
    sums: Sequence[float], lengths: Sequence[int], texts: Sequence[str], unconditional: Sequence[float] | None = None
) -> OptionScores:
    """All scores of one prompt's options.

    Args:
        sums: Log-likelihoods.
        lengths: Scored tokens.
        texts: Of the options.
        unconditional: Log-likelihoods after the unconditional prompt.
    """
    n_bytes = [len(text.strip().encode()) for text in texts]
    return OptionScores(
        sum=tuple(sums),
        token_mean=tuple(total / length for total, length in zip(sums, lengths, strict=True)),
        byte_mean=tuple(total / length for total, length in zip(sums, n_bytes, strict=True)),
        pmi=None if unconditional is None else tuple(a - b for a, b in zip(sums, unconditional, strict=True)),
    )


def rank_batch(model: PreTrainedModel, batch: RankBatch) -> list[OptionScores]:
    """Scores of the options of every example of a batch, in its order."""
    likelihoods, lengths = option_log_likelihoods(model, batch)
    sums, counts = likelihoods.tolist(), lengths.tolist()
    scores = []
    for example, first, unconditional in batch.ranked:
        own = slice(first, first + len(example.options))
        compared = [sums[place] for place in unconditional] if unconditional else None
        scores.append(option_scores(sums[own], counts[own], example.options, compared))
    return scores


def score_options(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    unconditional: str | None = None,
    bos: bool = False,
    eos: bool = True,
    joint: str = " ",
    longest: int | None = None,
    tokens_per_forward: int = 8192,
) -> list[OptionScores]:
    """Scores of every prompt's options; an empty list of options has empty scores.

    A prompt that is too long loses its beginning, the same for all its options, and a warning counts such prompts.

    Args:
        model: A causal or seq2seq language model, fastest with ``attn_implementation="document"``.
        tokenizer: Its tokenizer.
        prompts: What is read before a option.
        options: Texts of each prompt's options.
        unconditional: A prompt that says nothing, e.g. ``"Answer:"``, for the scores ``pmi``.
        bos: Whether a decoder-only document begins with the tokenizer's bos token.
        eos: Whether a option ends in the eos token.
        joint: What stands between a decoder-only model's prompt and a option; nothing after a chat template.
        longest: Most tokens of prompt and option together (an encoder-decoder model: of the prompt); by default the
            model's positions.
        tokens_per_forward: Most tokens read at once; a longer prompt stands alone.

    Raises:
        ValueError: Options are empty, the same, or longer than the model reads; or there are not as many lists of
            options as prompts.
    """
    if len(prompts) != len(options):
        raise ValueError(f"every prompt needs its options, got {len(prompts)} prompts and {len(options)} lists")
    for place, texts in enumerate(options):
        require_options(texts, None, f"prompt {place}")
    rows = option_rows(model, tokenizer, longest=longest, columns=tokens_per_forward)
    pair = bool(model.config.is_encoder_decoder)
    documents = tokenize_options(tokenizer, prompts, options, pair=pair, bos=bos, eos=eos, joint=joint)
    sums, lengths = _score_trees(model, rows, [rows.trees(each) for each in documents], tokens_per_forward)
    _warn_of_cuts(rows, documents)
    compared: dict[str, float] = {}
    if unconditional is not None:
        texts = list(dict.fromkeys(text.strip() for group in options for text in group))
        alone = tokenize_options(
            tokenizer, [unconditional] * len(texts), [[t] for t in texts], pair=pair, bos=bos, eos=eos, joint=joint
        )
        found, _ = _score_trees(model, rows, [rows.trees(each) for each in alone], tokens_per_forward)
        compared = {text: score for text, [score] in zip(texts, found, strict=True)}
    return [
        option_scores(own, counts, texts, None if unconditional is None else [compared[t.strip()] for t in texts])
        for own, counts, texts in zip(sums, lengths, options, strict=True)
    ]


def option_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, longest: int | None, columns: int
) -> OptionRows:
    """The rows that a model reads options in; arguments as those of ``score_options``."""
    config, packed, pad = model.config, is_packed(model), tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None)
    if not config.is_encoder_decoder:
        longest = longest or (positions and positions - virtual_tokens(model))
        return CausalOptions(pad, columns, longest or sys.maxsize, packed)
    return DecoderOptions(pad, longest or positions, positions, packed)


def _score_trees(
    model: PreTrainedModel, rows: OptionRows, prompts: Sequence[Sequence[Tree]], budget: int
) -> tuple[list[list[float]], list[list[int]]]:
    """Log-likelihoods and scored tokens of every prompt's options."""
    sums: list[list[float]] = [[] for _ in prompts]
    lengths: list[list[int]] = [[] for _ in prompts]
    asked = [place for place, trees in enumerate(prompts) if trees]
    training = model.training
    model.eval()
    try:
        for members in budget_batches([tree_columns(prompts[place]) for place in asked], budget):
            places = [asked[member] for member in members]
            batch = move_data_to_device(rows.collate([prompts[place] for place in places]), model.device)
            scores, counts = (each.tolist() for each in option_log_likelihoods(model, batch))
            first = 0
            for place in places:
                own = slice(first, first := first + sum(len(tree.targets) for tree in prompts[place]))
                sums[place], lengths[place] = scores[own], counts[own]
    finally:
        model.train(training)
    return sums, lengths


def _warn_of_cuts(rows: OptionRows, documents: Sequence[Sequence[TokenizedExample]]) -> None:
    if cut := sum(rows.cuts(group) for group in documents if group):
        warnings.warn(f"{cut} of {len(documents)} prompts are too long and lose their beginning", stacklevel=3)
