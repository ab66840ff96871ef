"""Zero-shot classification: accuracy by template and pooled, by a scorer and by a language model."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from crosstask.callbacks.report.classification_report import Classified, classification_report, print_classification
from crosstask.commands.classify import classify_tasks
from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.schema import Example, Task
from crosstask.lightning_modules.evaluation.significance import bootstrap
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.sampling.response_sampler import load_generator
from crosstask.lightning_modules.scoring.classification import (
    Question,
    accuracies,
    accuracies_by_chance,
    read_questions,
)
from crosstask.lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts
from crosstask.lightning_modules.scoring.score_files import ITEMS_AT_ONCE, ItemScores, ScoreFiles


class Templated(Benchmark):
    """Two tasks: one of two templates of 3 and 1 examples, and one without options."""

    def task_names(self, split: Split) -> list[str]:
        return ["choice", "free"] if split == "train" else []

    def task(self, name: str) -> Task:
        return Task("templated", name, "c", instruction_level="instance")

    def examples(self, name: str) -> Iterator[Example]:
        for place, template in enumerate("xxxy"):
            options = ("cat", "dog") if name == "choice" else ()
            answer = place % 2 if options else None
            yield Example(name, f"{place}", place, f"list: {place} Answer:", ("dog",), template, options, answer)

    def fingerprint(self, name: str) -> str:
        return name


def test_the_papers_text_and_its_program_count_differently() -> None:
    """Template x is right 3 times of 4, y 0 of 1: 3/8 as a mean over templates, 3/5 pooled."""
    sampled = [Question("t", template, "?", ("a", "b"), 1) for template in "xxxxy"]
    found = accuracies([*sampled, Question("u", "z", "?", ("a",), 0)], [1, 1, 1, 0, 0, 1])
    assert found["t"] == (0.375, 0.6, 2, 5)
    assert found["u"] == (1.0, 1.0, 1, 1)
    three = Question("t", "x", "?", ("a", "b", "c"), 1)
    assert accuracies_by_chance([three, sampled[0], sampled[-1]])["t"] == (
        pytest.approx(11 / 24),
        pytest.approx(4 / 9),
        2,
        3,
    )


def test_so_many_rows_are_asked_in_all_their_templates() -> None:
    class Rows(Templated):
        def examples(self, name: str) -> Iterator[Example]:
            for row in range(3):
                for template in "xy":
                    options = ("cat", "cat") if row == 1 else ("cat", "dog")
                    yield Example(name, f"{row}{template}", row, f"{row}?", ("dog",), template, options, 1)

    skipped: Counter[str] = Counter()
    sampled = list(read_questions(Rows(), "choice", None, 0, skipped, rows=2))
    assert [(question.instruction, question.template) for question in sampled] == [("0?", "x"), ("0?", "y")]
    assert skipped == {"duplicate options": 2}  # of row 1


def test_names_of_tasks_are_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Four of SuperGLUE's tasks differ only at the end of their names."""
    names = [f"promptsource/super_glue_wsc.fixed_{end}" for end in "ab"]
    score = {"template_mean": 0.5, "pooled": 0.5, "low": 0.25, "high": 0.75}
    model = {"tasks": {names[0]: score}, "mean": score, "cuts": {"cut": 0}}
    report = {
        "models": dict.fromkeys(("one", "two", "three"), model),
        "chance": {"tasks": {names[0]: {**score, "templates": 2, "questions": 6}}, "mean": score},
        "missing": {names[1]: "no file"},
        "mean_of": "mean of 1 of 2 tasks",
        "differences": {},
        "skipped": {},
    }
    print_classification(report)
    lines = capsys.readouterr().out.splitlines()
    assert [sum(name in line for line in lines) for name in names] == [1, 2]  # missing ones have a reason, too
    assert sum("50.0 [25.0, 75.0] (50.0)" in line for line in lines) == 2  # no cell is wrapped


def test_a_scorer_answers_with_its_best_option(toybench: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    fields: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), num_attention_heads=2, max_position_embeddings=66, num_labels=1, **fields
    )
    model = RobertaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    classify_tasks(Templated(), str(tmp_path / "out"), scorer=str(tmp_path / "scorer"), max_length=64)
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = report["models"]["scorer"]
    encoder = CrossEncoder.from_pretrained(str(tmp_path / "scorer"), max_length=64)
    right = [encoder.rank(f"list: {n} Answer:", ["cat", "dog"])[0][0] == n % 2 for n in range(4)]
    assert found["tasks"]["choice"]["pooled"] == sum(right) / 4
    assert found["tasks"]["choice"]["template_mean"] == (sum(right[:3]) / 3 + right[3]) / 2
    assert report["missing"] == {"free": "no options to choose from (4)"}
    assert report["mean_of"] == "mean of 1 of 2 tasks"
    lines = [json.loads(line) for line in (tmp_path / "out/questions.jsonl").read_text().splitlines()]
    assert [line["choices"]["scorer"] == line["answer"] for line in lines] == right
    scores = encoder.score(["list: 0 Answer:"] * 2, ["cat", "dog"]).tolist()
    assert lines[0]["scores"]["scorer"] == pytest.approx(scores, abs=1e-6)
    assert report["skipped"] == {"no options to choose from": 4}
    assert found["parameters"] == model.num_parameters()
    assert report["chance"]["mean"] == {"template_mean": 0.5, "pooled": 0.5}

    torch.nn.init.zeros_(model.classifier.out_proj.bias)
    torch.nn.init.zeros_(model.classifier.dense.bias)
    model.classifier.out_proj.weight.data.neg_()  # likes best what the other likes least
    model.save_pretrained(tmp_path / "contrary")
    tokenizer.save_pretrained(tmp_path / "contrary")
    both = {"cappy": str(tmp_path / "scorer"), "contrary": str(tmp_path / "contrary")}
    classify_tasks(Templated(), str(tmp_path / "both"), scorer=both, max_length=64)
    models = json.loads((tmp_path / "both/report.json").read_text())["models"]
    assert models["cappy"] == found
    assert models["contrary"]["mean"]["pooled"] == 1 - found["mean"]["pooled"]
    assert all(0 <= model["mean"]["low"] <= model["mean"]["high"] <= 1 for model in models.values())
    gain = json.loads((tmp_path / "both/report.json").read_text())["differences"]["contrary over cappy"]
    expected = models["contrary"]["mean"]["template_mean"] - found["mean"]["template_mean"]
    assert gain["mean"] == gain["tasks"]["choice"]["mean"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="a scorer and a generator are both called cappy"):
        classify_tasks(Templated(), "out", scorer=both, generator={"cappy": "model"})
    with pytest.raises(ValueError, match="none of 1 tasks has an example with options"):
        classify_tasks(Templated(), str(tmp_path / "free"), scorer=str(tmp_path / "scorer"), tasks=["free"])


def test_a_language_model_answers_with_its_likeliest_option(
    toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    config = model_config({**tiny_model, "initializer_range": 0.5}, vocabulary=len(tokenizer), dropout=None)
    model = build_model(config, weights=None, vocabulary=len(tokenizer), attention="sdpa", dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    classify_tasks(Templated(), str(tmp_path / "out"), generator=str(tmp_path / "model"), max_length=64)
    models = json.loads((tmp_path / "out/report.json").read_text())["models"]
    found = models["generator"]["tasks"]["choice"]
    loaded, _ = load_generator(str(tmp_path / "model"))
    right = []
    for n in range(4):
        totals = []
        for option in ("cat", "dog"):
            source = tokenizer(f"list: {n} Answer:")["input_ids"]
            ids = torch.tensor([[*source, *tokenizer(f" {option}")["input_ids"], tokenizer.eos_token_id]])
            with torch.no_grad():
                logs = loaded(ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)
            totals.append(float(logs[0, len(source) - 1 : -1].gather(1, ids[0, len(source) :, None]).sum()))
        right.append(totals.index(max(totals)) == n % 2)
    assert found["pooled"] == sum(right) / 4


def test_models_of_chats_read_prompts_in_their_templates(
    toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    """Likelihoods and scores are transformers' for the ids of ``apply_chat_template``; other models are as before."""
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(**tiny_model, vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, initializer_range=0.5)
    models = {"flan": LlamaForCausalLM(config).eval(), "reward": LlamaForSequenceClassification(config).eval()}
    paths = {name: str(tmp_path / name) for name in (*models, "plain")}
    for name, model in {**models, "plain": models["reward"]}.items():
        model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    scorers, generator = {name: paths[name] for name in ("plain", "reward")}, {"flan": paths["flan"]}
    short: dict[str, Any] = {"max_length": 64}
    classify_tasks(
        Templated(), str(tmp_path / "out"), scorer=scorers, generator=generator, chat=["flan", "reward"], **short
    )
    lines = [json.loads(line) for line in (tmp_path / "out/questions.jsonl").read_text().splitlines()]
    plain = CrossEncoder.from_pretrained(paths["plain"], **short)
    for n, line in enumerate(lines):
        for place, option in enumerate(("cat", "dog")):
            question = [{"role": "user", "content": f"list: {n} Answer:"}]
            prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
            whole = [*question, {"role": "assistant", "content": option}]
            ids = torch.tensor([tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]])
            answered = torch.tensor([[*prompt, *tokenizer(option)["input_ids"], tokenizer.eos_token_id]])
            with torch.no_grad():
                logs = models["flan"](answered).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
                reward = float(models["reward"](ids, attention_mask=torch.ones_like(ids)).logits)
            likelihood = float(logs.gather(1, answered[0, len(prompt) :, None]).sum())
            assert line["scores"]["flan"][place] == pytest.approx(likelihood, abs=1e-4)
            assert line["scores"]["reward"][place] == pytest.approx(reward, abs=1e-5)
        expected = plain.score([f"list: {n} Answer:"] * 2, ["cat", "dog"]).tolist()
        assert line["scores"]["plain"] == pytest.approx(expected, abs=1e-5)
        assert line["scores"]["plain"] != pytest.approx(line["scores"]["reward"], abs=1e-3)
    with pytest.raises(ValueError, match=r"chat names \['cappy'\], and the models are called plain, reward, flan"):
        classify_tasks(Templated(), "other", scorer=scorers, generator=generator, chat=["cappy"])
    without = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    without.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain/chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="plain' has no chat template"):
        classify_tasks(Templated(), str(tmp_path / "none"), scorer=paths["plain"], chat=True, **short)


def test_somebody_answers() -> None:
    with pytest.raises(ValueError, match="give --scorer or --generator, or both"):
        classify_tasks(Templated(), "out")
    with pytest.raises(ValueError, match="lists no task in this split: set split to train, validation or test"):
        classify_tasks(Templated(), "out", scorer="m", split="test")


@pytest.mark.parametrize("names", [["a/b", "a-b"], [""], ["a", " "]])
def test_names_of_models_are_different_names_of_files(names: list[str]) -> None:
    with pytest.raises(ValueError, match="need names that files can have, all different"):
        classify_tasks(Templated(), "out", scorer=dict.fromkeys(names, "m"))


def test_intervals_resample_rows_with_all_their_templates() -> None:
    """Ten rows in four templates, right in all or in none: the interval is that of ten rows, not of forty questions."""
    questions = [Question("t", template, "?", ("a", "b"), row % 2, row) for row in range(10) for template in "wxyz"]
    scores = ItemScores([[1.0, 0.0]] * 40, PairCuts(80))
    report = classification_report(Classified(questions, {"m": scores}, {"m": 1}, ["t", "u"], {"u": "no file"}, {}))
    task = report["models"]["m"]["tasks"]["t"]
    assert (task["template_mean"], task["rows"]) == (0.5, 10)
    of_rows = bootstrap(np.array([1.0, 0.0] * 5), seed=0)
    assert task["high"] - task["low"] == pytest.approx(of_rows.high - of_rows.low, abs=0.11)
    of_questions = bootstrap(np.array([1.0, 0.0] * 20), seed=0)
    assert task["high"] - task["low"] > 1.5 * (of_questions.high - of_questions.low)
    assert report["over_chance"]["m"]["mean"] == 0
    assert report["mean_of"] == "mean of 1 of 2 tasks"


def row_scores(batch: Sequence[Question]) -> ItemScores:
    """Scores that tell which question was scored; one pair of each is cut."""
    return ItemScores([[float(question.row), 0.5] for question in batch], PairCuts(2 * len(batch), len(batch)))


def test_texts_that_are_equal_once_cut_are_counted_over_batches(tmp_path: Path) -> None:
    """The first texts of both batches have one remainder; the second text of the first batch has another."""
    questions = [Question("t", "x", f"{n}?", ("a", "b"), 0, n) for n in range(ITEMS_AT_ONCE + 1)]

    def score(batch: Sequence[Question]) -> ItemScores:
        first = batch[0].row
        remainders = {f"whole {first}": "same", f"whole {first + 1}": f"other {first}"}
        return row_scores(batch)._replace(remainders=remainders)

    files = ScoreFiles(tmp_path, "m", {}, questions)
    files.write(score, lambda done: None)
    scores = files.scores()
    assert scores is not None
    assert scores.cuts == PairCuts(2 * len(questions), len(questions), 0, 2)


def test_interrupted_scoring_resumes_at_a_batch(tmp_path: Path) -> None:
    questions = [Question("t", "x", f"{n}?", ("a", "b"), 0, n) for n in range(ITEMS_AT_ONCE + 3)]
    scored: list[int] = []

    def score(batch: Sequence[Question]) -> ItemScores:
        if scored and len(batch) < 10:
            raise KeyboardInterrupt
        scored.append(len(batch))
        return row_scores(batch)

    about = {"weights": "w"}
    with pytest.raises(KeyboardInterrupt):
        ScoreFiles(tmp_path, "m", about, questions).write(score, lambda done: None)
    with open(tmp_path / "m-0000-of-0001.jsonl", "ab") as file:
        file.write(b'{"scores": [[1.0, ')  # torn
    scored.clear()
    files = ScoreFiles(tmp_path, "m", about, questions)
    assert files.scores() is None
    files.write(score, lambda done: None)
    assert scored == [3]
    assert files.scores() == row_scores(questions)
    for changed, others in (({"weights": "v"}, questions), (about, questions[1:])):
        with pytest.raises(ValueError, match="samples of other settings"):
            ScoreFiles(tmp_path, "m", changed, others)


def test_processes_share_batches_and_other_numbers_of_processes_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [Question("t", "x", f"{n}?", ("a", "b"), 0, n) for n in range(4 * ITEMS_AT_ONCE + 3)]
    scored: list[int] = []

    def score(batch: Sequence[Question]) -> ItemScores:
        scored.append(batch[0].row // ITEMS_AT_ONCE)
        return row_scores(batch)

    def files(rank: int, size: int) -> ScoreFiles[Question]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        return ScoreFiles(tmp_path, "m", {}, questions)

    files(1, 3).write(score, lambda done: None)
    assert scored == [1, 4]
    scored.clear()
    for rank in range(2):  # the job is started again with two processes
        own = files(rank, 2)
        assert own.scores() is None
        done: list[int] = []
        own.write(score, done.append)
        assert done[-1] == own.share()
    assert scored == [0, 2, 3]
    assert own.scores() == row_scores(questions)
