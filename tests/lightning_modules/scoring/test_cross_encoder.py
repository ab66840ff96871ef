"""Scoring outside Lightning: the numbers of transformers, without padding, whatever a pair is scored with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from crosstask.lightning_modules.scoring import cross_encoder, pair_scores
from crosstask.lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts

LONGEST = 48
INSTRUCTIONS = ["Write the animal. list: cat 7 red", "Add one to each number. list: 3 12", "How many foods are there?"]
PAIRS = [
    (instruction, response) for instruction in INSTRUCTIONS for response in ("cat", "4 13", "", "Ann has 3 red cats.")
]


def tokenizer_like(kind: str, toybench: Path) -> Any:
    """The embedded benchmark's vocabulary, joining pairs as RoBERTa or BERT does."""
    plain = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    end = (plain.eos_token, plain.eos_token_id)
    plain.backend_tokenizer.post_processor = (
        processors.BertProcessing(end, end) if kind == "bert" else processors.RobertaProcessing(end, end)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        pad_token=plain.pad_token,
        eos_token=plain.eos_token,
        model_input_names=["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"],
    )


def tiny(kind: str, tokenizer: Any, **fields: Any) -> Any:
    return AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )


def loud(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights: scores that differ much, so that equality means something."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    return model.eval()


@pytest.fixture
def folder(toybench: Path, tmp_path: Path) -> Path:
    """A trained scorer as transformers saves it."""
    return saved("roberta", toybench, tmp_path / "scorer")


def saved(kind: str, toybench: Path, folder: Path, **fields: Any) -> Path:
    tokenizer = tokenizer_like(kind, toybench)
    torch.manual_seed(0)
    config = tiny(kind, tokenizer, num_labels=1, **fields)
    loud(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scored_by_transformers(folder: Path, pairs: list[tuple[str, str]], **truncation: Any) -> torch.Tensor:
    """Padded, through transformers' own class and attention."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt", **truncation)
    with torch.no_grad():
        return model(**inputs).logits[:, 0]


def encoder(folder: Path, **options: Any) -> CrossEncoder:
    options = {"dtype": torch.float64, "max_length": LONGEST, **options}
    return CrossEncoder.from_pretrained(str(folder), **options)


def columns(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [instruction for instruction, _ in pairs], [response for _, response in pairs]


@pytest.mark.parametrize("kind", ["roberta", "bert", "electra", "xlm-roberta", "camembert", "roberta-prelayernorm"])
def test_packed_scores_are_those_of_transformers(kind: str, toybench: Path, tmp_path: Path) -> None:
    folder = saved(kind, toybench, tmp_path / kind, **({"type_vocab_size": 2} if kind == "bert" else {}))
    expected = scored_by_transformers(folder, PAIRS)
    assert expected.std() > 0.01
    torch.testing.assert_close(encoder(folder).score(*columns(PAIRS)), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("kind", "mistake"), [("roberta", "first_position"), ("bert", "types")])
def test_positions_from_zero_and_lost_token_types_would_show(
    kind: str, mistake: str, toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard of the test above: neither mistake raises an error, and both change the scores."""
    folder = saved(kind, toybench, tmp_path / kind)
    scorer = encoder(folder)
    if mistake == "first_position":
        monkeypatch.setattr(pair_scores, "first_position", lambda config: 0)
    else:
        scorer._kind = cross_encoder.replace(scorer._kind, frame=scorer._kind.frame._replace(types=False))
    difference = (scorer.score(*columns(PAIRS)) - scored_by_transformers(folder, PAIRS)).abs()
    assert difference.max() > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_score_does_not_depend_on_what_it_is_scored_with(folder: Path, dtype: torch.dtype, tolerance: float) -> None:
    scorer = encoder(folder, dtype=dtype)
    alone = torch.cat([scorer.score([instruction], [response]) for instruction, response in PAIRS])
    assert alone.dtype == dtype
    for pairs, expected in ((PAIRS, alone), (PAIRS[::-1], alone.flip(0)), (PAIRS * 2, alone.repeat(2))):
        for tokens in (1, 60, 10_000):
            scorer.tokens_per_forward = tokens
            torch.testing.assert_close(scorer.score(*columns(pairs)), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_a_score_in_half_precision_has_more_than_eight_bits(kind: str, toybench: Path, tmp_path: Path) -> None:
    folder = saved(kind, toybench, tmp_path / kind)
    scores = encoder(folder, dtype=torch.bfloat16).score(*columns(PAIRS))
    assert scores.dtype == torch.float32
    assert (scores != scores.bfloat16().float()).any()
    torch.testing.assert_close(scores.double(), encoder(folder).score(*columns(PAIRS)), atol=0.1, rtol=0.1)


def count_scored(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the pairs of every forward."""
    seen: list[list[int]] = []
    score = cross_encoder.pair_scores

    def counted(model: Any, batch: Any) -> Any:
        assert batch.input_ids.numel() == batch.offsets[len(batch.scored)]  # nothing is padded
        seen.append(batch.offsets.diff()[: len(batch.scored)].tolist())
        return score(model, batch)

    monkeypatch.setattr(cross_encoder, "pair_scores", counted)
    return seen


def test_duplicates_are_scored_once_and_the_longest_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_scored(monkeypatch)
    scores = encoder(folder, tokens_per_forward=64).score(*columns(PAIRS * 3))
    assert torch.equal(scores[: len(PAIRS)], scores[len(PAIRS) : 2 * len(PAIRS)])
    lengths = [length for forward in seen for length in forward]
    assert len(lengths) == len(PAIRS)
    assert lengths == sorted(lengths, reverse=True)
    assert all(sum(forward) <= 64 for forward in seen)
    assert len(seen) > 2


def test_an_instruction_is_tokenized_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    tokenize = cross_encoder.tokenize_texts

    def counted(tokenizer: Any, given: Any) -> Any:
        found = tokenize(tokenizer, given)
        texts.extend(found)
        return found

    monkeypatch.setattr(cross_encoder, "tokenize_texts", counted)
    encoder(folder).score(*columns(PAIRS))
    assert sorted(texts) == sorted({text for pair in PAIRS for text in pair})


def test_rank_orders_by_score_and_equal_scores_by_place(folder: Path) -> None:
    scorer = encoder(folder)
    responses = ["cat", "red", "7", "cat", "red"]
    scores = scorer.score([INSTRUCTIONS[0]] * 5, responses).tolist()
    ranked = scorer.rank(INSTRUCTIONS[0], responses)
    assert [index for index, _ in ranked] == sorted(range(5), key=lambda i: (-scores[i], i))
    places = [index for index, _ in ranked]
    assert places.index(0) + 1 == places.index(3)  # "cat" twice, in the order given
    assert dict(ranked) == dict(enumerate(scores))
    assert scorer.rank(INSTRUCTIONS[0], ["cat"]) == [(0, pytest.approx(scores[0], abs=1e-10))]


def test_a_call_leaves_the_models_mode_as_it_was(folder: Path) -> None:
    scorer = encoder(folder)
    expected = scorer.score(*columns(PAIRS))
    scorer.model.train()
    assert torch.equal(scorer.score(*columns(PAIRS)), expected)  # nothing is dropped while scoring
    assert scorer.model.training


def test_no_pairs_have_no_scores(folder: Path) -> None:
    assert encoder(folder).score([], []).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scorer: scorer.score(["a"], ["b", "c"]), "one pair each, got 1 and 2"),
        (lambda scorer: scorer.score("abc", ["a", "b", "c"]), "got the text 'abc' and 3; rank takes one instruction"),
        (lambda scorer: scorer.rank("a", []), r"a list of at least one response, got \[\]"),
        (lambda scorer: scorer.rank("a", "cat"), "a list of at least one response, got 'cat'"),
        (lambda scorer: scorer.rank("a", ["cat", None]), "score takes texts, got NoneType None"),
    ],
)
def test_what_is_no_list_of_pairs_is_rejected(folder: Path, call: Callable[[CrossEncoder], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(encoder(folder))


def test_a_chat_reward_model_reads_pairs_in_its_template(toybench: Path, tmp_path: Path) -> None:
    """Scores are those of transformers for the ids of ``apply_chat_template``, in batches without padding id."""
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        initializer_range=0.5,
        pad_token_id=None,
    )
    model = LlamaForSequenceClassification(config).double().eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = encoder(tmp_path, chat=True).score(*columns(PAIRS))
    for (instruction, response), score in zip(PAIRS, scores, strict=True):
        turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            torch.testing.assert_close(score, model(ids).logits[0, 0], atol=1e-10, rtol=0)
    assert scores.std() > 0.01
    tokenizer.chat_template = tokenizer.chat_template.replace("\n{{ m.content", " {{ m.content")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="merges the text around a message with the message"):
        encoder(tmp_path, chat=True)


def test_a_saved_scorer_tells_sentence_transformers_to_add_no_sigmoid(folder: Path, tmp_path: Path) -> None:
    scorer = encoder(folder)
    scorer.model.save_pretrained(tmp_path)
    scorer.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    peer = pytest.importorskip("sentence_transformers").CrossEncoder(str(tmp_path), device="cpu")
    theirs = torch.from_numpy(peer.predict(PAIRS)).double()
    torch.testing.assert_close(theirs, scorer.score(*columns(PAIRS)), atol=1e-4, rtol=0)


# --- pairs that are too long ---

LONG = [(INSTRUCTIONS[0] + " dog" * 60, "the red cat"), ("Write.", " cat" * 60), *PAIRS[:2]]


def test_a_long_instruction_is_cut_and_the_response_kept(folder: Path) -> None:
    scorer = encoder(folder, cut="end")
    with pytest.warns(UserWarning, match="1 of 3 pairs are longer than 48 tokens and were cut; 0 of them lost"):
        scores = scorer.score(*columns([LONG[0], *PAIRS[:2]]))
    expected = scored_by_transformers(folder, [LONG[0], *PAIRS[:2]], truncation="only_first", max_length=LONGEST)
    torch.testing.assert_close(scores, expected, atol=1e-10, rtol=0)
    assert scorer.cuts == PairCuts(pairs=3, cut=1, response_cut=0)


def test_a_response_that_alone_is_too_long_is_cut_and_counted(folder: Path) -> None:
    scorer = encoder(folder)
    with pytest.warns(UserWarning, match="2 of 4 pairs .* 1 of them lost a part of the response"):
        scores = scorer.score(*columns(LONG))
    kept = scored_by_transformers(folder, [("", " cat" * 44)])  # 48 tokens less the 4 special ones
    torch.testing.assert_close(scores[1:2], kept, atol=1e-10, rtol=0)
    assert scorer.cuts == PairCuts(pairs=4, cut=2, response_cut=1)


def test_by_default_the_middle_is_cut(folder: Path) -> None:
    """Questions behind a passage that is too long keep different scores; with the end cut, they would be one."""
    questions = [f"Answer.{' dog' * 60} Is it {color}?" for color in ("red", "green")]
    pairs = [*((question, "yes") for question in questions), ("Answer.", "yes")]
    scorer = encoder(folder)
    with pytest.warns(UserWarning, match="2 of 3 pairs .* and 0 differ from another pair only in"):
        scores = scorer.score(*columns(pairs))
    assert abs(scores[0] - scores[1]) > 1e-6
    assert scorer.cuts == PairCuts(pairs=3, cut=2)
    scorer = encoder(folder, cut="end")
    with pytest.warns(UserWarning, match="and 2 differ from another pair only in the part that was cut"):
        scorer.score(*columns(pairs))
    assert scorer.cuts == PairCuts(pairs=3, cut=2, equal=2)
    with pytest.warns(UserWarning, match="pairs"):  # each alone: in rows of other shapes, equal pairs round differently
        one, other = (scorer.score([question], ["yes"]) for question in questions)
    assert one == other


def test_longest_first_cuts_as_the_released_program(folder: Path) -> None:
    scorer = encoder(folder, truncation="longest_first", cut="end")
    with pytest.warns(UserWarning, match="2 of 4 pairs"):
        scores = scorer.score(*columns(LONG))
    expected = scored_by_transformers(folder, LONG, truncation=True, max_length=LONGEST)
    torch.testing.assert_close(scores, expected, atol=1e-10, rtol=0)


# --- what is no scorer ---


def test_pairs_longer_than_the_models_positions_are_rejected(folder: Path) -> None:
    # 64 positions, of which RoBERTa leaves those of padding and before it unused: pad_token_id is 0 here.
    assert encoder(folder, max_length=63)
    with pytest.raises(ValueError, match="pairs of 64 tokens exceed the 63 positions of the model"):
        encoder(folder, max_length=64)


def test_pairs_are_as_long_as_the_positions_of_a_small_model(folder: Path) -> None:
    scorer = encoder(folder, max_length=None)
    with pytest.warns(UserWarning, match="pairs"):
        scores = scorer.score(*columns(LONG))
    with pytest.warns(UserWarning, match="pairs"):
        assert scores.equal(encoder(folder, max_length=63).score(*columns(LONG)))


def test_an_encoder_without_a_trained_head_scores_nothing(toybench: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_like("roberta", toybench)
    RobertaModel(tiny("roberta", tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a trained scorer but \['RobertaModel'\].*random head"):
        encoder(tmp_path)


def test_a_head_of_another_size_is_rejected(toybench: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_like("roberta", toybench)
    RobertaForSequenceClassification(tiny("roberta", tokenizer, num_labels=3)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a head of 3 outputs, and a scorer has one"):
        encoder(tmp_path)
    three = RobertaForSequenceClassification._from_config(
        RobertaConfig.from_pretrained(tmp_path), attn_implementation="document"
    )
    with pytest.raises(ValueError, match="has one output, and the head of this RobertaForSequenceClassification has 3"):
        CrossEncoder(three, tokenizer, max_length=LONGEST)


PADDED_KINDS: dict[str, dict[str, Any]] = {
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    "mpnet": {},
    "distilbert": {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 48},
    "albert": {"embedding_size": 16},
    "llama": {"num_key_value_heads": 2},  # its head reads the last token
}


@pytest.mark.parametrize("kind", PADDED_KINDS)
def test_what_cannot_read_packed_pairs_reads_them_padded(kind: str, toybench: Path, tmp_path: Path) -> None:
    folder = saved(kind, toybench, tmp_path / kind, **PADDED_KINDS[kind])
    expected = scored_by_transformers(folder, PAIRS)
    assert expected.std() > 0.01
    for tokens in (60, 10_000):
        scores = encoder(folder, tokens_per_forward=tokens).score(*columns(PAIRS))
        torch.testing.assert_close(scores, expected, atol=1e-10, rtol=0)


def test_weights_that_lack_their_head_are_rejected(folder: Path) -> None:
    model = RobertaForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(folder, state_dict={k: v for k, v in model.state_dict().items() if "out_proj" not in k})
    with pytest.raises(
        ValueError,
        match=r"lacks 2 of the \d+ weights .* classifier\.out_proj\.bias, classifier\.out_proj\.weight: they would",
    ):
        encoder(folder)


def test_scores_that_are_no_numbers_are_rejected(folder: Path) -> None:
    scorer = encoder(folder)
    torch.nn.init.constant_(scorer.model.get_parameter("classifier.out_proj.bias"), float("nan"))
    with pytest.raises(ValueError, match="12 of 12 scores are not finite: the scorer's weights diverged"):
        scorer.score(*columns(PAIRS))


def test_a_model_with_another_attention_is_rejected(folder: Path) -> None:
    model = RobertaForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match="build it with attn_implementation='document', got 'sdpa'"):
        CrossEncoder(model, AutoTokenizer.from_pretrained(folder), max_length=LONGEST)
