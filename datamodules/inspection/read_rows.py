"""Batches decoded to text: the documents of each row as the model reads them, and which tokens are trained.

Only the tensors that a training step gets are used, so that a wrong mask or truncation is visible.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..packing.collate import RowBatch
from ..rendering.special_tokens import special_tokens
from ..schema import IGNORE_INDEX, CausalBatch, ScoredBatch, Seq2SeqBatch
from ..scoring.pair_rows import PairFrame


class Span(NamedTuple):
    """Text of adjacent tokens that are all trained or all not; a special token is a span by itself.

    Args:
        text: The text.
        trained: Whether the tokens are targets.
        special: Whether it is a special token.
    """

    text: str
    trained: bool = False
    special: bool = False


class Side(NamedTuple):
    """Decoded token sequence with a heading, e.g. what the encoder reads, or the response of a scored pair.

    Args:
        name: Heading of the sequence, e.g. ``"encoder"``.
        spans: The text in spans.
        tokens: Number of tokens.
        targets: Number of trained tokens.
    """

    name: str
    spans: tuple[Span, ...]
    tokens: int
    targets: int = 0


class ReadDocument(NamedTuple):
    """One example of a packed row, decoded to text.

    Args:
        sides: Its token sequences: one for a decoder-only model, or encoder and decoder, or instruction and response.
        column: Index of its first column in the row.
        label: Correctness of a scored pair in [0, 1]; None for other documents.
    """

    sides: tuple[Side, ...]
    column: int = 0
    label: float | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(side.tokens for side in self.sides)

    @property
    def targets(self) -> int:
        """Number of trained tokens."""
        return sum(side.targets for side in self.sides)


class ReadRow(NamedTuple):
    """Packed row of a batch, decoded to text.

    Args:
        documents: The examples that it holds, padding not included.
        columns: Number of columns, encoder and decoder together.
        padding: Number of padding columns.
    """

    documents: tuple[ReadDocument, ...]
    columns: int
    padding: int


def text_side(
    name: str, ids: Sequence[int], trained: Sequence[bool] | None, tokenizer: PreTrainedTokenizerBase
) -> Side:
    """Decode token ids to text, in spans of trained tokens, tokens that are only read, and special tokens.

    Args:
        name: Heading of the sequence.
        ids: The token ids.
        trained: Whether each token is a target; None if none is.
        tokenizer: The tokenizer.
    """
    trained = [False] * len(ids) if trained is None else trained
    vocabulary = tokenizer.get_vocab()
    special_ids = {vocabulary[text] for text in special_tokens(tokenizer) if text in vocabulary}
    # A special token is a span by itself: its place is part of the key.
    keys = [(bool(trained[i]), i if ids[i] in special_ids else -1) for i in range(len(ids))]
    spans, done = [], 0
    for (is_target, special), members in groupby(keys):
        end = done + len(list(members))
        spans.append(Span(_text_between(tokenizer, ids, done, end), is_target, special >= 0))
        done = end
    return Side(name, tuple(spans), len(ids), sum(map(bool, trained)))


def _text_between(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], begin: int, end: int) -> str:
    """Decode a part of a sequence; decoded alone, SentencePiece would drop the space before the first word."""
    before, upto = (_decoded(tokenizer, ids[:place]) for place in (begin, end))
    return upto[len(before) :] if upto.startswith(before) else _decoded(tokenizer, ids[begin:end])


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def read_batch(
    batch: RowBatch, counts: Sequence[int], tokenizer: PreTrainedTokenizerBase, frame: PairFrame | None = None
) -> list[ReadRow]:
    """Decode the rows of a training batch to text, and mark the tokens that are trained.

    Args:
        batch: Batch of a training step.
        counts: Number of documents of each row, padding not counted.
        tokenizer: The tokenizer.
        frame: Special tokens of scored pairs, which divide a pair into instruction and response; None for other
            documents.
    """
    if isinstance(batch, Seq2SeqBatch):
        return _encoder_decoder_rows(batch, counts, tokenizer)
    rows, width = [], batch.input_ids.shape[1]
    labels = iter(batch.labels.tolist()) if isinstance(batch, ScoredBatch) else None
    for row, count in enumerate(counts):
        ids, documents = batch.input_ids[row].tolist(), []
        borders = _borders(batch.offsets.tolist(), row * width, width)
        for begin, end in list(pairwise(borders))[:count]:
            if isinstance(batch, CausalBatch):
                trained = _trained(batch, row, begin, end)
                documents.append(ReadDocument((text_side("text", ids[begin:end], trained, tokenizer),), begin))
            else:
                assert labels is not None
                documents.append(ReadDocument(pair_sides(ids[begin:end], tokenizer, frame), begin, next(labels)))
        rows.append(ReadRow(tuple(documents), width, width - sum(document.tokens for document in documents)))
    return rows


def pair_sides(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, frame: PairFrame | None) -> tuple[Side, ...]:
    """Decode a scored pair into instruction and response; into one sequence if no special token divides them.

    Args:
        ids: Token ids of the pair.
        tokenizer: The tokenizer.
        frame: Special tokens of a pair; None for a pair that is not divided.
    """
    joint = list(frame.joint) if frame is not None else []
    places = [place for place in range(1, len(ids)) if joint and list(ids[place : place + len(joint)]) == joint]
    if not places:
        return (text_side("pair", ids, None, tokenizer),)
    end = places[0] + len(joint)  # texts hold no special tokens
    return text_side("instruction", ids[:end], None, tokenizer), text_side("response", ids[end:], None, tokenizer)


def _borders(offsets: Sequence[int], first: int, width: int) -> list[int]:
    """Return the columns at which the documents of a row begin, and the row's width."""
    return [*(offset - first for offset in offsets if first <= offset < first + width), width]


def _trained(batch: CausalBatch, row: int, begin: int, end: int) -> list[bool]:
    """Return whether each token of a document is trained, i.e. is the target of the column before it."""
    targets = batch.targets[row].tolist()
    return [column > begin and targets[column - 1] != IGNORE_INDEX for column in range(begin, end)]


def _encoder_decoder_rows(
    batch: Seq2SeqBatch, counts: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[ReadRow]:
    """Decode the rows of an encoder-decoder model; document d of the encoder is document d of the decoder."""
    sources, targets = batch.input_ids.flatten().tolist(), batch.targets.flatten().tolist()
    starts, target_starts = batch.offsets.tolist(), batch.target_offsets.tolist()
    width, columns = batch.input_ids.shape[1], batch.input_ids.shape[1] + batch.targets.shape[1]
    rows = []
    for row, count in enumerate(counts):
        first = starts.index(row * width)
        documents = []
        for place in range(first, first + count):
            source = sources[starts[place] : starts[place + 1]]
            target = [t for t in targets[target_starts[place] : target_starts[place + 1]] if t != IGNORE_INDEX]
            sides = (
                text_side("encoder", source, None, tokenizer),
                text_side("decoder", target, [True] * len(target), tokenizer),
            )
            documents.append(ReadDocument(sides, starts[place] - row * width))
        rows.append(ReadRow(tuple(documents), columns, columns - sum(document.tokens for document in documents)))
    return rows
