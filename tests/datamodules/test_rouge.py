"""Our ROUGE-L against Google's rouge-score package, and that package as an implementation."""

import random
from collections.abc import Callable

import pytest
from rouge_score.rouge_scorer import RougeScorer

from crosstask.datamodules import rouge
from crosstask.datamodules.rouge import cannot_score, google_rouge_l, rouge_l, unicode_rouge_l

SCORER = RougeScorer(["rougeL"], use_stemmer=True)
CHARACTERS = "abc dEf ghijklmnop 12 3-'_.,é日ßİıσς \n\t$"
WORDS = "running runs ran cats cat's naive generalization generalized tasks the a 42 x y's sky skies dying ties".split()
WORDS += "was wa gas ga".split()  # too short to be stemmed


def texts(seed: int, count: int) -> list[str]:
    """Half random characters, half real words in random order."""
    rng = random.Random(seed)
    made = ["".join(rng.choices(CHARACTERS, k=rng.randint(0, 60))) for _ in range(count // 2)]
    return made + [" ".join(rng.choices(WORDS, k=rng.randint(0, 25))) for _ in range(count // 2)]


def test_scores_are_those_of_rouge_score() -> None:
    predictions, references = texts(0, 4000), texts(1, 4000)
    random.Random(2).shuffle(references)
    nonzero = 0
    for prediction, reference in zip(predictions, references, strict=True):
        expected = SCORER.score(reference, prediction)["rougeL"].fmeasure
        assert abs(rouge_l(prediction, [reference]) - expected) <= 1e-12
        assert google_rouge_l(prediction, [reference]) == expected
        nonzero += expected > 0
    assert nonzero > 1000  # the texts do overlap, so the comparison means something


def test_stems_stay_those_of_rouge_score_when_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge._STEMS, "limit", 3)
    rouge.tokenize.cache_clear()
    prediction, reference = "cats running homeward walked dogs early", "the cat runs homewards and walks a dog earlier"
    expected = SCORER.score(reference, prediction)["rougeL"].fmeasure
    assert rouge_l(prediction, [reference]) == expected > 0
    assert len(rouge._STEMS) <= 3


def test_of_several_references_the_best_counts() -> None:
    references = ["nothing alike", "the cat sat", "cats"]
    assert rouge_l("the cat sat down", references) == pytest.approx(6 / 7, abs=1e-12)
    assert google_rouge_l("the cat sat down", references) == pytest.approx(6 / 7, abs=1e-12)


@pytest.mark.parametrize("text", ["", "?", "नमस्ते", "-"])
def test_a_text_without_ascii_words_scores_zero_even_against_itself(text: str) -> None:
    assert rouge_l(text, [text]) == google_rouge_l(text, [text]) == 0.0


def test_the_unicode_implementation_equals_the_others_on_ascii_text() -> None:
    predictions, references = ([text for text in texts(seed, 4000) if text.isascii()] for seed in (3, 4))
    pairs = list(zip(predictions, references, strict=False))
    assert len(pairs) > 1000
    for prediction, reference in pairs:
        assert unicode_rouge_l(prediction, [reference]) == rouge_l(prediction, [reference])


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("我喜欢猫", "我喜欢狗", 3 / 4),  # a character is a token
        ("私は猫がすき", "猫がすき", 4 / 5),
        ("القطة على السجادة", "القطة تحت السجادة", 2 / 3),  # a word is a token
        ("बिल्ली चटाई पर है", "बिल्ली पर है", 6 / 7),  # vowel signs and viramas belong to their letter
        ("कि", "की", 0.0),  # other vowel, other word
        ("кошка спит", "Кошка Спит", 1.0),
        ("café", "cafe\u0301", 1.0),  # composed and decomposed
        ("نمی‌خواهم", "نمیخواهم", 1.0),  # with and without a joiner
        ("the 猫 runs", "the 犬 ran", 1 / 3),
        ("ＡＢＣ １２", "abc 12", 1.0),  # full width
        ("ภาษาไทย", "ภาษา", 2 * 4 / 11),
        ("한국어 문장", "한국어 글", 1 / 2),
        ("?", "?", 0.0),
    ],
)
def test_unicode_scores_by_hand(prediction: str, reference: str, f1: float) -> None:
    assert unicode_rouge_l(prediction, [reference]) == pytest.approx(f1, abs=1e-12)
    assert unicode_rouge_l(reference, [prediction]) == pytest.approx(f1, abs=1e-12)
    assert unicode_rouge_l(prediction, ["другое", reference]) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize(
    ("references", "unread", "unread_in_unicode"),
    [
        (["नमस्ते दुनिया"], True, False),
        (["2019 में"], True, False),  # the number alone would score 1
        (["[]"], True, True),
        (["한국어", "Korean"], False, False),  # one reference is read
        (["Les élèves étudient à l'école"], False, False),
        (["iPhone 手机"], False, False),
        ([" "], False, False),
        ([], False, False),
        (["3.14"], False, False),
    ],
)
def test_references_that_rouge_does_not_read_are_recognized(
    references: list[str], unread: bool, unread_in_unicode: bool
) -> None:
    assert cannot_score(references) is cannot_score(references, "rouge_score") is unread
    assert cannot_score(references, "unicode") is unread_in_unicode


@pytest.mark.parametrize("implementation", rouge.ROUGE_L.values())
def test_a_prediction_needs_a_reference(implementation: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        implementation("the cat", [])
