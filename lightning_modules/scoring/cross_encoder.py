"""Cross-encoder: a scorer that reads instruction and response together and returns how correct the response is.

It is a model of transformers with a sequence-classification head of one output. The score is the head's raw output:
Cappy (arXiv 2311.06720) is trained by squared error on correctness in [0, 1], without a sigmoid, so scores may leave
that range.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.messages import kind
from ...datamodules.packing.budget_batches import budget_batches
from ...datamodules.pretrained_weights import read_config
from ...datamodules.rendering.tokenization import load_tokenizer
from ...datamodules.schema import TokenizedExample
from ...datamodules.scoring.instruction_truncation import Cut
from ...datamodules.scoring.pair_rows import ScoredRows, Truncation, chat_frame, pair_frame, tokenize_texts
from ...datamodules.scoring.truncated_texts import CutTexts
from ..devices import scoring_dtype
from ..models import require_special_tokens
from .pair_scores import default_pair_length, keep_head_in_float32, pair_scores, require_pair_positions
from .scorer_models import build_scorer, require_scorer


class PairCuts(NamedTuple):
    """Numbers of scored pairs of instruction and response, and of those that were cut because they were too long.

    Args:
        pairs: Number of scored pairs; equal pairs of one call count once.
        cut: Number of pairs that were cut.
        response_cut: Number of pairs that lost a part of the response, included in `cut`.
        equal: Number of pairs that became equal to another pair by being cut, and so have the same score.
    """

    pairs: int = 0
    cut: int = 0
    response_cut: int = 0
    equal: int = 0


class CrossEncoder:
    """Scores and ranks responses to instructions with a trained scorer, without Lightning.

    ``CrossEncoder.from_pretrained(name)`` loads a scorer and its tokenizer. Then ``score`` returns the scores of pairs
    of instruction and response, and ``rank`` sorts the responses to one instruction.

    Distinct instructions are tokenized once, and distinct pairs are scored once. Pairs are processed longest first, in
    forward passes of at most `tokens_per_forward` tokens, without padding if the model can read packed pairs (the
    families of BERT, RoBERTa and ELECTRA). A pair's score does not depend on the other pairs. An empty response is
    allowed.

    A pair longer than `max_length` is cut, never dropped. By default the instruction loses its middle, and the response
    is kept whole. If the response alone exceeds `max_length`, only its beginning is left. Different pairs that are
    equal once they are cut have equal scores. Each call that cuts a pair warns with the numbers.

    Args:
        model: From ``build_scorer``, or a sequence-classification model of one output with
            ``attn_implementation="document"``, an attention of this project; importing
            ``crosstask.lightning_modules.attention`` registers it with transformers.
        tokenizer: Tokenizer of the model.
        max_length: Largest number of tokens of a pair, including special tokens; at most the model's number of
            positions. None for 512, or for all positions of a model that has fewer.
        truncation: What a longer pair loses. "instruction": a part of the instruction. "longest_first": tokens of
            whichever side is longer, as in Cappy's released program.
        cut: Part of a too long instruction that is cut: "middle", "beginning" or "end" (Cappy's released program).
        chat: Whether a pair is rendered by the tokenizer's chat template as a user's message and its answer, as for
            reward models of chat models.
        tokens_per_forward: Largest number of tokens in a forward pass. A longer pair has a pass to itself.

    Attributes:
        cuts: Numbers of pairs over all calls of ``score`` and ``rank`` since ``forget_cuts``: scored, cut, cut in the
            response, and equal to another pair after the cut.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        truncation: Truncation = "instruction",
        cut: Cut = "middle",
        chat: bool = False,
        tokens_per_forward: int = 8192,
    ) -> None:
        require_scorer(model)
        max_length = default_pair_length(model.config) if max_length is None else max_length
        require_pair_positions(model.config, max_length)
        if model.config.pad_token_id is None:  # decoders read their score at the last token that is no padding
            model.config.pad_token_id = tokenizer.pad_token_id
        self.model, self.tokenizer, self.tokens_per_forward = model, tokenizer, tokens_per_forward
        self.forget_cuts()
        self._kind = ScoredRows(
            max(max_length, tokens_per_forward),
            max_length,
            tokenizer.pad_token_id,
            chat_frame(tokenizer) if chat else pair_frame(tokenizer),
            truncation,
            part=cut,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        truncation: Truncation = "instruction",
        cut: Cut = "middle",
        chat: bool = False,
        tokens_per_forward: int = 8192,
    ) -> "CrossEncoder":
        """Load a scorer and its tokenizer. In half precision the head stays in float32.

        Args:
            name: Hub name or folder of the scorer.
            device: Device to score pairs on.
            dtype: Type of the weights; None for ``scoring_dtype``: bfloat16 on CUDA, else float32.
            max_length: Largest number of tokens of a pair; None for 512, or for all positions of a model with fewer.
            truncation: What a longer pair loses: "instruction", or "longest_first" for the longer side.
            cut: Part of a too long instruction that is cut: "middle", "beginning" or "end".
            chat: Whether a pair is rendered by the tokenizer's chat template.
            tokens_per_forward: Largest number of tokens in a forward pass.

        Raises:
            ValueError: There is no scorer of that name, e.g. an encoder without a trained head.
        """
        try:
            config = read_config(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no scorer {name!r}: expected a hub name or a folder with config.json, as HuggingFaceExport writes "
                f"it, or `crosstask adapt` with keep_scorers, for each task in its folder scorers ({error})"
            ) from error
        if not any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or ()):
            raise ValueError(
                f"{name} is not a trained scorer but {config.architectures}: its scores would come from a random head"
            )
        dtype = dtype or scoring_dtype(torch.device(device))
        model = build_scorer(config, weights=name, dtype=dtype)
        if dtype.itemsize == 2:
            keep_head_in_float32(model)
        tokenizer = load_tokenizer(name, eos=False)
        require_special_tokens(tokenizer, model, name)
        return cls(
            model.to(torch.device(device)),  # type: ignore[arg-type]
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            cut=cut,
            chat=chat,
            tokens_per_forward=tokens_per_forward,
        )

    def forget_cuts(self) -> None:
        """Set the counts in ``cuts`` to 0, and forget the pairs that were cut."""
        self.cuts, self.cut_pairs = PairCuts(), CutTexts()

    def score(self, instructions: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return the scores [n] of n pairs (instruction i, response i), in their order, on the CPU; higher is better.

        Raises:
            ValueError: There are not as many responses as instructions, one of them is not a text, or a score is not
                finite.
        """
        if isinstance(instructions, str) or isinstance(responses, str) or len(instructions) != len(responses):
            raise ValueError(
                "score takes as many instructions as responses, one pair each, got "
                f"{_count(instructions)} and {_count(responses)}; rank takes one instruction and its responses"
            )
        if others := [text for text in (*instructions, *responses) if not isinstance(text, str)]:
            raise ValueError(f"score takes texts, got {kind(others[0])}: an absent response is the empty text")
        places = {pair: place for place, pair in enumerate(dict.fromkeys(zip(instructions, responses, strict=True)))}
        documents = self._tokenize(list(places))
        scores = self._score(documents)
        wanted = torch.tensor([places[pair] for pair in zip(instructions, responses, strict=True)], dtype=torch.int64)
        return scores[wanted]

    def rank(self, instruction: str, responses: Sequence[str]) -> list[tuple[int, float]]:
        """Return (index in `responses`, score) of every response to an instruction, the highest score first.

        Responses with equal scores keep their order.

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
        self._count_cuts(documents, lengths, n_sources)
        sizes = self._kind.sizes(lengths, n_sources)
        parameter = next(self.model.parameters())
        scores = torch.empty(len(documents), dtype=torch.promote_types(parameter.dtype, torch.float32))
        training = self.model.training
        self.model.eval()
        try:
            for members in budget_batches(sizes, self.tokens_per_forward):
                # One row of exactly these pairs: there is nothing to pad, and none is longer than the row.
                columns = int(sizes[members].sum())
                kind = replace(self._kind, length=columns, pair_length=min(self._kind.pair_length, columns))
                batch = kind.collate([[documents[i] for i in members]], step_targets=len(members))
                on_device = move_data_to_device(batch, parameter.device)
                scores[members] = pair_scores(self.model, on_device).to("cpu", scores.dtype)
        finally:
            self.model.train(training)
        if lost := int((~scores.isfinite()).sum()):
            raise ValueError(
                f"{lost} of {len(scores)} scores are not finite: the scorer's weights diverged in training (a lower "
                f"learning rate), or its numbers overflow as {parameter.dtype}"
            )
        return scores

    def _count_cuts(self, documents: Sequence[TokenizedExample], lengths: np.ndarray, n_sources: np.ndarray) -> None:
        cuts = self._kind.cuts(lengths, n_sources)
        cut, response_cut = int(cuts.truncated.sum()), int(cuts.target_cut.sum())
        long = CutTexts()
        for place in np.flatnonzero(lengths >= self._kind.pair_length).tolist():
            long.add(documents[place].input_ids, self._kind.cut(documents[place]).input_ids)
        self.cut_pairs.remainders |= long.remainders
        before, equal = self.cuts, self.cut_pairs.equal()
        self.cuts = PairCuts(before.pairs + len(lengths), before.cut + cut, before.response_cut + response_cut, equal)
        if cut:
            warnings.warn(
                f"{cut} of {len(lengths)} pairs are longer than {self._kind.pair_length} tokens and were cut; "
                f"{response_cut} of them lost a part of the response, and {long.equal()} differ from another pair only "
                "in the part that was cut, so that their scores are equal",
                stacklevel=4,
            )


def _count(texts: Sequence[str]) -> str:
    return f"the text {texts[:40]!r}" if isinstance(texts, str) else str(len(texts))
