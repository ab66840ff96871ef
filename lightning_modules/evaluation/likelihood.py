"""Rank classification: log-likelihoods of a prompt's options under a language model, in one forward pass.

The tokens that a prompt's options have in common are processed once; each option attends to them and to itself
(``Documents`` with continuations). Several prompts share a row. The log-likelihoods equal those of one forward pass per
option, as in OPT-IML's evaluation and in Brown et al. (arXiv 2005.14165, section 2.4).
"""

# B rows, L columns, K kept columns, M scored tokens, C options, V vocabulary

import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.evaluation.option_batches import (
    CausalOptionBatch,
    CausalOptionRows,
    OptionBatch,
    OptionRows,
    Seq2SeqOptionBatch,
    Seq2SeqOptionRows,
)
from ...datamodules.evaluation.option_trees import OptionTree, tokenize_options, tree_columns
from ...datamodules.evaluation.options import require_options
from ...datamodules.packing.budget_batches import budget_batches
from ...datamodules.rendering.special_tokens import leading_tokens
from ...datamodules.schema import TokenizedExample
from ...datamodules.scoring.instruction_truncation import Cut, shortened_source
from ...datamodules.scoring.truncated_texts import CutTexts
from ..attention.document_attention import IMPLEMENTATIONS, Documents
from ..encoder_outputs import encoder_rows
from ..prefixes import virtual_tokens
from ..target_loss import padding_mask
from .option_scores import OptionScores, option_scores

LOGITS_AT_ONCE = 1024  # columns that one softmax covers, to bound its memory


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # rows of ever new shapes would use up the recompilations of training
def option_log_likelihoods(model: PreTrainedModel, batch: OptionBatch) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood and the number of scored tokens of every option, on the CPU.

    The log-likelihoods are in nats, float64 [C]; the numbers are int64 [C].

    Args:
        model: A causal or encoder-decoder language model. Packed rows need document attention.
        batch: Rows for the model's architecture, on its device.
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


def _kept_logits(model: PreTrainedModel, batch: OptionBatch) -> Tensor:
    """Return the logits [K, V] of the columns that predict an option's token."""
    if isinstance(batch, CausalOptionBatch):
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


def _causal_attention(model: PreTrainedModel, batch: CausalOptionBatch) -> dict[str, Any]:
    if is_packed(model):
        return {"documents": Documents(batch.offsets, continuation_offsets=batch.branch_offsets)}
    if len(batch.offsets) != len(batch.branch_offsets):
        _require_packed(model)
    return {"attention_mask": padding_mask(batch.offsets, batch.input_ids)}


def _require_packed(model: PreTrainedModel) -> None:
    """Reject a model without document attention: options in one row would see each other."""
    if not is_packed(model):
        raise ValueError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention reads one option a row: set "
            "the datamodule's packing to one_per_row, or the model's attention to document"
        )


def _read_one_encoding(model: PreTrainedModel, batch: Seq2SeqOptionBatch) -> Tensor:
    """Return the logits of an encoder-decoder model without document attention.

    Each prompt is a row that is encoded once, and each option is a row of the decoder.
    """
    mask_BL = padding_mask(batch.offsets, batch.input_ids)
    encoder: Any = model.get_encoder()
    read = encoder(input_ids=batch.input_ids, attention_mask=mask_BL)
    decoder_ids = _started(model, batch)
    return model(
        encoder_outputs=encoder_rows(read, batch.sources),
        attention_mask=mask_BL.index_select(0, batch.sources),
        decoder_input_ids=decoder_ids,
        decoder_attention_mask=torch.ones_like(
            decoder_ids
        ),  # a branch's padding comes last, and causal attention hides it
        use_cache=False,
    ).logits


def _started(model: PreTrainedModel, batch: Seq2SeqOptionBatch) -> Tensor:
    """Return the decoder's input, with the model's start token at the beginning of every option."""
    start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError(f"the configuration of {type(model).__name__} names no decoder_start_token_id")
    ids = batch.decoder_input_ids
    return ids.flatten().index_fill(0, batch.branch_offsets[:-1].long(), start).view_as(ids)


def is_packed(model: PreTrainedModel) -> bool:
    """Return whether a model has document attention, so that several documents may share a row."""
    return model.config._attn_implementation in IMPLEMENTATIONS


def score_option_batch(model: PreTrainedModel, batch: OptionBatch) -> list[OptionScores]:
    """Return the scores of the options of each example in a batch, from one forward pass of the model.

    Args:
        model: A causal or encoder-decoder language model. Packed rows need document attention.
        batch: Rows for the model's architecture, on its device, with the examples that they hold.
    """
    likelihoods, lengths = option_log_likelihoods(model, batch)
    sums, counts = likelihoods.tolist(), lengths.tolist()
    scores = []
    for example, first, unconditional in batch.ranked:
        options = slice(first, first + len(example.options))
        prior = [sums[place] for place in unconditional] if unconditional else None
        scores.append(option_scores(sums[options], counts[options], example.options, prior))
    return scores


def score_options(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    unconditional: str | None = None,
    bos: bool | None = None,
    eos: bool = True,
    joint: str = " ",
    end: int | None = None,
    longest: int | None = None,
    max_source: int | None = None,
    cut: Cut = "beginning",
    tokens_per_forward: int = 8192,
    cuts: CutTexts | None = None,
) -> list[OptionScores]:
    """Return the scores of every prompt's options by a language model; empty scores for an empty list of options.

    Options with the same tokens have the same score. A prompt that is too long loses its beginning, or the part that
    `cut` names; the same part for all of its options. A warning counts such prompts.

    Args:
        model: A causal or encoder-decoder language model; fastest with ``attn_implementation="document"``.
        tokenizer: Tokenizer of the model.
        prompts: The text before the options.
        options: Texts of each prompt's options, one list per prompt.
        unconditional: A prompt without content, e.g. ``"Answer:"``, which the score ``pmi`` needs; None to compute no
            pmi.
        bos: Whether a document begins with the bos token; None for the tokenizer's own behavior.
        eos: Whether an option ends with the eos token, which is then scored.
        joint: Text between prompt and option of a decoder-only model. After a chat template it is the template's white
            space.
        end: Token id at the end of a decoder-only model's option; None for the tokenizer's eos.
        longest: Largest number of tokens of prompt and option together (in an encoder-decoder model, of the prompt).
            None for the model's number of positions.
        max_source: Largest number of tokens of a prompt; None for what `longest` allows.
        cut: Part of a prompt that is cut if it is too long: "beginning", "middle" or "end". Its special tokens stay,
            except at a beginning that is cut.
        tokens_per_forward: Largest number of tokens in a forward pass. A longer prompt has a pass to itself.
        cuts: Receives every prompt that was cut, with its options, instead of the warning; None for the warning.

    Raises:
        ValueError: An option is empty, equal to another one, or longer than the model reads; or there are not as many
            lists of options as prompts.
    """
    if len(prompts) != len(options):
        raise ValueError(f"every prompt needs its options, got {len(prompts)} prompts and {len(options)} lists")
    for place, group in enumerate(options):
        require_options(group, f"prompt {place}")
    rows = option_rows(model, tokenizer, longest=longest, columns=tokens_per_forward)
    pair = bool(model.config.is_encoder_decoder)
    tokenize = partial(tokenize_options, tokenizer, pair=pair, bos=bos, eos=eos, joint=joint, end=end)
    documents = tokenize(prompts, options)
    head, tail = len(leading_tokens(tokenizer, bos)), int(pair)
    shortened = [_shortened(rows, group, max_source, cut, head=head, tail=tail) for group in documents]
    sums, lengths = _score_trees(model, rows, [rows.trees(group) for group in shortened], tokens_per_forward)
    too_long = [place for place, group in enumerate(documents) if group and _surplus(rows, group, max_source) > 0]
    if cuts is not None:
        for place in too_long:
            whole, rest = (np.concatenate([one.input_ids for one in of[place]]) for of in (documents, shortened))
            cuts.add(whole, rest)
    elif too_long:
        warnings.warn(f"{len(too_long)} of {len(documents)} prompts are too long and lose their {cut}", stacklevel=2)
    prior: dict[str, float] = {}
    if unconditional is not None:
        distinct = list(dict.fromkeys(text.strip() for group in options for text in group))
        documents = tokenize([unconditional] * len(distinct), [[text] for text in distinct])
        prior_sums, _ = _score_trees(model, rows, [rows.trees(group) for group in documents], tokens_per_forward)
        prior = {text: score for text, [score] in zip(distinct, prior_sums, strict=True)}
    return [
        option_scores(totals, counts, group, None if unconditional is None else [prior[t.strip()] for t in group])
        for totals, counts, group in zip(sums, lengths, options, strict=True)
    ]


def option_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, longest: int | None, columns: int
) -> OptionRows:
    """Return an object that assembles prompts with their options into rows, as a model's architecture reads them.

    Args:
        model: A causal or encoder-decoder language model.
        tokenizer: Tokenizer of the model.
        longest: Largest number of tokens of prompt and option together (in an encoder-decoder model, of the prompt).
            None for the model's number of positions.
        columns: Number of tokens of a decoder-only model's row.
    """
    config, packed, pad = model.config, is_packed(model), tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None)
    if not config.is_encoder_decoder:
        longest = longest or (positions and positions - virtual_tokens(model))
        return CausalOptionRows(pad, columns, longest or sys.maxsize, packed)
    return Seq2SeqOptionRows(pad, longest or positions, positions, packed)


def _score_trees(
    model: PreTrainedModel, rows: OptionRows, prompts: Sequence[Sequence[OptionTree]], budget: int
) -> tuple[list[list[float]], list[list[int]]]:
    """Return log-likelihoods and numbers of scored tokens of every prompt's options."""
    sums: list[list[float]] = [[] for _ in prompts]
    lengths: list[list[int]] = [[] for _ in prompts]
    nonempty = [place for place, trees in enumerate(prompts) if trees]
    training = model.training
    model.eval()
    try:
        for members in budget_batches([tree_columns(prompts[place]) for place in nonempty], budget):
            places = [nonempty[member] for member in members]
            batch = move_data_to_device(rows.collate([prompts[place] for place in places]), model.device)
            scores, counts = (values.tolist() for values in option_log_likelihoods(model, batch))
            first = 0
            for place in places:
                options = slice(first, first := first + sum(len(tree.targets) for tree in prompts[place]))
                sums[place], lengths[place] = scores[options], counts[options]
    finally:
        model.train(training)
    return sums, lengths


def _surplus(rows: OptionRows, documents: Sequence[TokenizedExample], max_source: int | None) -> int:
    """Return by how many tokens the prompt of some options is too long; at most 0 if it fits."""
    source = max(document.n_source for document in documents)
    surplus = [] if max_source is None else [source - max_source]
    if isinstance(rows, CausalOptionRows):
        surplus.append(max(len(document.input_ids) for document in documents) - rows.longest)
    elif isinstance(rows, Seq2SeqOptionRows) and rows.longest_source is not None:
        surplus.append(source - rows.longest_source)
    return max(surplus, default=0)


def _shortened(
    rows: OptionRows, documents: Sequence[TokenizedExample], max_source: int | None, cut: Cut, *, head: int, tail: int
) -> list[TokenizedExample]:
    """Return the documents of one prompt's options, with the prompt shortened to fit.

    If no room is left for it, the documents do not change, and the rows reject them.
    """
    surplus = _surplus(rows, documents, max_source) if documents else 0
    if surplus <= 0 or any(document.n_source <= surplus for document in documents):
        return list(documents)
    return [_with_source_of(document, document.n_source - surplus, cut, head, tail) for document in documents]


def _with_source_of(document: TokenizedExample, count: int, cut: Cut, head: int, tail: int) -> TokenizedExample:
    """Return a document whose source is shortened to `count` tokens."""
    ids, n_source = document.input_ids, document.n_source
    source = shortened_source(ids[:n_source].tolist(), count, cut, head=0 if cut == "beginning" else head, tail=tail)
    return document._replace(input_ids=np.concatenate([source, ids[n_source:]]).astype(ids.dtype), n_source=count)
