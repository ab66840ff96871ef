"""Selection among responses: each method's choice, and the table, against values worked out by hand."""

import numpy as np
import pytest

from crosstask.callbacks.report.selection_table import by_size, print_table, table_remarks, unread_text
from crosstask.datamodules.scoring.samples import Sample
from crosstask.lightning_modules.scoring.selection import ScoredResponses, choices, correctness_votes, preference_votes
from crosstask.lightning_modules.scoring.selection_scores import (
    mean_calibration_error,
    quality_of_choices,
    selection_table,
)

REFERENCE = ["the red cat sat"]
SAMPLES = [  # ROUGE-L: 1 of 1 and of 4 words: 0.4; 0.4; 1.0; 0.0; 0.857...
    Sample("red", "m", "beam", 0, log_likelihood=-1.0, tokens=1),
    Sample("Red.", "m", "nucleus", 0, log_likelihood=-1.5, tokens=2),
    Sample("the red cat sat", "m", "nucleus", 1, log_likelihood=-3.0, tokens=4),
    Sample("dog", "m", "top_k", 0, log_likelihood=-2.0, tokens=1),
    Sample("the red cat", "m", "top_k", 1, log_likelihood=-2.1, tokens=3),
]
SCORES = [0.1, 0.2, 0.9, -0.3, 0.8]


def responses(task: str = "t", example: str = "1", scores: list[float] = SCORES) -> ScoredResponses:
    values = np.array(scores)
    return ScoredResponses.of(
        task, example, SAMPLES, REFERENCE, {"scorer": values}, {"scored": correctness_votes(values)}
    )


def test_every_method_chooses_as_worked_out_by_hand() -> None:
    assert choices(responses()) == {
        "beam": 0,
        "nucleus": 1,
        "top_k": 3,
        "self-consistency": 0,  # "red" twice, and the first of them is taken
        "minimum Bayes risk": 0,  # 1 + 1 + 0.4 + 0.5 = 2.9; "the red cat" has 2 * 0.5 + 6 / 7 + 1 = 2.86
        "self-score, sum": 0,
        "self-score, mean": 4,  # -0.7; the whole sentence has -0.75
        "scorer": 2,
        "self-consistency, scored": 2,  # 0.9 against 0.1 + 0.2
        "minimum Bayes risk, scored": 4,  # 0.3 * 0.5 + 0.9 * 6 / 7 + 0.8 = 1.72; the sentence has 1.71
    }


def test_what_a_choice_is_worth() -> None:
    found = quality_of_choices(responses())
    quality = [0.4, 0.4, 1.0, 0.0, 6 / 7]
    np.testing.assert_allclose(responses().quality, quality)
    assert found["oracle"] == found["scorer"] == 1.0
    assert found["random"] == pytest.approx(sum(quality) / 5)
    assert found["beam"] == pytest.approx(0.4)
    assert found["top_k"] == 0.0


def test_the_table_is_a_mean_over_tasks_and_its_gaps_are_shares() -> None:
    """Task t: scorer 1.0 twice; task u: scorer picks "dog", 0. Best single is 0.4 everywhere, the oracle 1."""
    wrong = [0.0, 0.0, 0.0, 1.0, 0.0]
    table = selection_table([responses(), responses(example="2"), responses("u", scores=wrong)])
    by_name = dict(zip(table.methods, table.mean, strict=True))
    assert table.names == ["t", "u"]
    assert table.instances == 3
    assert by_name["scorer"] == pytest.approx(0.5)  # (1 + 0) / 2, not (1 + 1 + 0) / 3
    assert table.best_single == "beam"
    assert table.recovered == {"scorer": pytest.approx((0.5 - 0.4) / (1 - 0.4))}
    assert table.gains["scorer"].mean == pytest.approx(0.1)
    np.testing.assert_allclose(table.tasks[:, table.methods.index("scorer")], [1.0, 0.0])
    assert table.low[table.methods.index("beam")] == pytest.approx(0.4)
    # ranks of SCORES 2 3 5 1 4 and of quality 2.5 2.5 5 1 4; of `wrong` 2.5 2.5 2.5 5 2.5
    first, second = (
        np.corrcoef([2, 3, 5, 1, 4], [2.5, 2.5, 5, 1, 4])[0, 1],
        np.corrcoef(wrong, [2.5, 2.5, 5, 1, 4])[0, 1],
    )
    assert table.spearman == {"scorer": pytest.approx((2 * first + second) / 3)}


def test_fewer_samples_are_those_of_one_decoding() -> None:
    one = responses().restricted(1)
    assert [sample.response for sample in one.samples] == ["Red."]
    assert quality_of_choices(one)["scorer"] == pytest.approx(0.4)
    assert len(responses().restricted(2).samples) == 2
    with pytest.raises(ValueError, match="t 1 has 2 nucleus samples, and 3 are requested"):
        responses().restricted(3)


def test_of_several_generators_each_gives_as_many() -> None:
    pooled = [sample._replace(decoding=f"{name} {sample.decoding}") for name in "ab" for sample in SAMPLES]
    two = ScoredResponses.of("t", "1", pooled, REFERENCE).restricted(1)
    assert [sample.decoding for sample in two.samples] == ["a nucleus", "b nucleus"]
    assert list(by_size([ScoredResponses.of("t", "1", pooled, REFERENCE)], [2, 3, 0, 99])) == ["2", "10"]


def test_a_black_box_has_no_likelihood_and_an_unscored_file_no_scorer() -> None:
    unknown = [sample._replace(log_likelihood=None) for sample in SAMPLES]
    methods = quality_of_choices(ScoredResponses.of("t", "1", unknown, REFERENCE))
    assert not {"scorer", "self-score, sum", "self-score, mean"} & set(methods)
    assert "minimum Bayes risk" in methods
    table = selection_table([ScoredResponses.of("t", "1", unknown, REFERENCE), responses()])
    assert "scorer" not in table.methods
    assert table.recovered == table.spearman == {}
    assert (table.left_out["scorer"], table.left_out["self-score, sum"]) == (1, 1)
    assert "self-score, sum (1 of 2)" in table_remarks(table)[0]


def test_an_empty_answer_is_never_the_most_likely() -> None:
    samples = [Sample("", "m", "beam", 0), *SAMPLES]
    assert quality_of_choices(ScoredResponses.of("t", "1", samples, REFERENCE))["self-score, sum"] == pytest.approx(0.4)


def test_references_that_rouge_l_cannot_read_are_counted_and_read_by_the_other_one() -> None:
    samples = [Sample(text, "m", "beam", n) for n, text in enumerate(["cat", "काली बिल्ली", "बिल्ली"])]
    ascii_only, unicode = (
        ScoredResponses.of("hindi", "1", samples, ["काली बिल्ली"], rouge=rouge) for rouge in ("exact", "unicode")
    )
    assert ascii_only.quality.tolist() == [0.0, 0.0, 0.0]
    assert unicode.quality.tolist() == [0.0, 1.0, pytest.approx(2 / 3)]
    assert [choices(each)["minimum Bayes risk"] for each in (ascii_only, unicode)] == [0, 1]
    table = selection_table([ascii_only, responses()], resamples=1)
    assert table.unread == {"hindi": 1}
    assert "less than half of the letters of the references of 1 of 2 instances: hindi (1)" in unread_text(table)
    assert selection_table([unicode], resamples=1).unread == {}


def test_several_scorers_stand_side_by_side() -> None:
    """The second scorer likes "the red cat"; what it weighs is a softmax, in which exp(2) beats 4 exp(0)."""
    reward = np.array([0.0, 0.0, 0.0, 0.0, 2.0])
    votes = {"scored": correctness_votes(np.array(SCORES)), "reward": preference_votes(reward)}
    np.testing.assert_allclose(votes["reward"], np.array([1, 1, 1, 1, np.e**2]) / (4 + np.e**2))
    found = ScoredResponses.of("t", "1", SAMPLES, REFERENCE, {"scorer": np.array(SCORES), "reward": reward}, votes)
    chosen = choices(found)
    assert {name: chosen[name] for name in ("scorer", "reward", "self-consistency, reward")} == {
        "scorer": 2,
        "reward": 4,
        "self-consistency, reward": 4,
    }
    table = selection_table([found])
    assert table.recovered == {"scorer": 1.0, "reward": pytest.approx((6 / 7 - 0.4) / 0.6)}
    assert list(table.spearman) == ["scorer", "reward"]
    for name in ("beam", "oracle", "self-consistency"):
        with pytest.raises(ValueError, match=f"cannot be called '{name}', the name of another row"):
            ScoredResponses.of("t", "1", SAMPLES, REFERENCE, {name: reward})


def test_the_calibration_error_of_tasks_is_a_mean_over_tasks() -> None:
    """Quality 0.4 0.4 1 0 6/7, of which the bins 0.0 to 0.1 and 0.9 to 1.0 hold what is expected to be 0 and 1."""
    expected = np.array([0.0, 0.0, 1.0, 0.0, 1.0])
    one = ScoredResponses.of("t", "1", SAMPLES, REFERENCE, votes={"scored": expected})
    perfect = one._replace(task="u", votes={"scored": one.quality})
    error = (0.8 + 1 / 7) / 5
    assert mean_calibration_error([one, one], "scored") == pytest.approx(error)
    assert mean_calibration_error([one, one, perfect], "scored") == pytest.approx(error / 2)


def test_scores_that_give_nothing_a_chance_leave_all_responses_equal() -> None:
    below = responses(scores=[-1.0] * 5)
    assert choices(below)["self-consistency, scored"] == choices(below)["self-consistency"]


def test_one_response_is_everyones_choice() -> None:
    assert set(choices(ScoredResponses.of("t", "1", SAMPLES[:1], REFERENCE, {"scorer": np.array([0.5])})).values()) == {
        0
    }


def test_a_rank_correlation_without_different_responses_is_undefined(capsys: pytest.CaptureFixture[str]) -> None:
    equal = ScoredResponses.of("t", "1", [Sample("a"), Sample("a")], ["b"], {"scorer": np.zeros(2)})
    print_table(selection_table([equal]), {})
    printed = " ".join(capsys.readouterr().out.split())
    assert "Spearman of score and ROUGE-L undefined, as no example has responses that differ in it" in printed


def test_bad_responses_are_rejected() -> None:
    with pytest.raises(ValueError, match="t 1 has no responses"):
        ScoredResponses.of("t", "1", [], REFERENCE)
    with pytest.raises(ValueError, match="t 1 has 5 responses and 1 scores"):
        ScoredResponses.of("t", "1", SAMPLES, REFERENCE, {"scorer": np.array([0.5])})
    with pytest.raises(ValueError, match="no examples to select responses for"):
        selection_table([])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_equal_scores_are_worth_a_random_choice_in_every_order(order: list[int]) -> None:
    """As in rerankers' tables, where a constant scorer was perfect if the right response came first."""
    texts = ("red cat", "cat", "", "x", "red")
    samples = [Sample(text, "m", str(place), 0, log_likelihood=-1.0, tokens=2) for place, text in enumerate(texts)]
    shuffled = [samples[place] for place in order]
    constant = ScoredResponses.of("t", "1", shuffled, ["red cat"], {"scorer": np.zeros(5)})
    worth = quality_of_choices(constant)
    assert worth["random"] == pytest.approx((1 + 2 / 3 + 0 + 0 + 2 / 3) / 5)
    for name in ("scorer", "self-score, sum", "self-score, mean"):
        assert worth[name] == pytest.approx(worth["random"]), name
    best_two = np.array([float(sample.response in ("cat", "x")) for sample in shuffled])
    tied = ScoredResponses.of("t", "1", shuffled, ["red cat"], {"scorer": best_two})
    assert quality_of_choices(tied)["scorer"] == pytest.approx(1 / 3)
