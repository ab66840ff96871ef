"""Rows to tensors: the arrays of the data contract, written out by hand."""

import numpy as np

from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.datamodules.schema import IGNORE_INDEX, TokenizedExample

PAD, EOS, __ = 0, 9, IGNORE_INDEX


def document(ids: list[int], n_source: int) -> TokenizedExample:
    return TokenizedExample(np.array(ids), n_source)


def test_a_causal_row_is_drawn_as_the_contract_draws_it() -> None:
    rows = [[document([1, 2, 3, EOS], 2), document([4, 5, EOS], 1)]]
    batch = CausalRows(8, PAD).collate(rows, step_targets=4)
    assert batch.input_ids.tolist() == [[1, 2, 3, EOS, 4, 5, EOS, PAD]]
    assert batch.targets.tolist() == [[__, 3, EOS, __, 5, EOS, __, __]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert batch.offsets.tolist() == [0, 4, 7, 8]
    assert (batch.step_targets, batch.n_documents, batch.n_tokens) == (4, 2, 7)


def test_a_full_row_has_no_padding_document_and_rows_have_their_own_offsets() -> None:
    rows = [[document([1, 2, 3, EOS], 2)], [document([4, EOS], 1)], []]
    batch = CausalRows(4, PAD).collate(rows, step_targets=3)
    assert batch.offsets.tolist() == [0, 4, 6, 8, 12]
    assert batch.targets.tolist() == [[__, 3, EOS, __], [EOS, __, __, __], [__] * 4]


def test_no_column_is_trained_to_predict_across_a_boundary() -> None:
    generator = np.random.default_rng(0)
    rows = [
        [document(generator.integers(1, 9, n).tolist(), int(generator.integers(0, n))) for n in (5, 3, 7)]
        for _ in range(20)
    ]
    batch = CausalRows(16, PAD).collate(rows, step_targets=1)
    last_columns = batch.offsets[1:].long() - 1
    assert (batch.targets.flatten()[last_columns] == IGNORE_INDEX).all()


def test_a_long_document_keeps_its_end_and_what_is_cut_is_known() -> None:
    kind = CausalRows(4, PAD)
    batch = kind.collate([[document([1, 2, 3, 4, 5, EOS], 3)]], step_targets=3)
    assert batch.input_ids.tolist() == [[3, 4, 5, EOS]]
    assert batch.targets.tolist() == [[4, 5, EOS, __]]
    lengths, n_sources = np.array([6, 6, 4]), np.array([3, 1, 2])
    assert kind.cuts(lengths, n_sources).truncated.tolist() == [True, True, False]
    assert kind.cuts(lengths, n_sources).target_cut.tolist() == [False, True, False]


def test_a_text_without_a_source_trains_all_but_its_first_token() -> None:
    batch = CausalRows(4, PAD).collate([[document([1, 2, EOS], 0)]], step_targets=2)
    assert batch.targets.tolist() == [[2, EOS, __, __]]


def test_counted_targets_are_the_targets_of_the_row() -> None:
    """The plan knows the targets of a step from lengths alone; the loss divides by them."""
    generator = np.random.default_rng(0)
    for kind in (CausalRows(12, PAD), Seq2SeqRows(12, 4, PAD)):
        for _ in range(200):
            length = int(generator.integers(2, 20))
            n_source = int(generator.integers(isinstance(kind, Seq2SeqRows), length))
            one = document(generator.integers(1, 9, length).tolist(), n_source)
            counted = kind.target_counts(np.array([length]), np.array([n_source]))[0]
            batch = kind.collate([[one]], step_targets=1)
            assert int((batch.targets != IGNORE_INDEX).sum()) == counted
            assert batch.n_tokens == kind.real_tokens(np.array([length]), np.array([n_source]))[0]


def test_a_seq2seq_row_has_the_same_documents_on_both_sides() -> None:
    rows = [[document([1, 2, EOS, 3, EOS], 3), document([4, EOS, 5, 6, EOS], 2)], [document([7, EOS, 8, EOS], 2)]]
    batch = Seq2SeqRows(6, 5, PAD).collate(rows, step_targets=7)
    assert batch.input_ids.tolist() == [[1, 2, EOS, 4, EOS, PAD], [7, EOS, PAD, PAD, PAD, PAD]]
    assert batch.targets.tolist() == [[3, EOS, 5, 6, EOS], [8, EOS, __, __, __]]
    assert batch.offsets.tolist() == [0, 3, 5, 6, 8, 12]
    assert batch.target_offsets.tolist() == [0, 2, 5, 5, 7, 10]


def test_decoder_padding_of_a_full_encoder_row_stays_with_its_last_document() -> None:
    batch = Seq2SeqRows(4, 4, PAD).collate([[document([1, 2, 3, EOS, 5, EOS], 4)]], step_targets=2)
    assert batch.offsets.tolist() == [0, 4]
    assert batch.target_offsets.tolist() == [0, 4]


def test_a_seq2seq_document_is_measured_by_what_it_uses_up_first() -> None:
    kind = Seq2SeqRows(source_length=100, target_length=10, pad_token_id=PAD)
    lengths, n_sources = np.array([52, 12, 300]), np.array([50, 2, 290])
    assert kind.sizes(lengths, n_sources).tolist() == [50, 100, 100]
    assert kind.cuts(lengths, n_sources).truncated.tolist() == [False, False, True]
