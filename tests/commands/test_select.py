"""Choosing among the samples of language models."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sampled_runs import TASK
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

from crosstask.commands.classify import classify_tasks
from crosstask.commands.samples import write_samples
from crosstask.commands.select import select_samples
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import ModelSamples, Sample
from crosstask.lightning_modules import CrossEncoder
from crosstask.lightning_modules.devices import scorer_type
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.scoring.sampled_responses import read_sampled_responses


def test_a_scorer_selects_among_samples(
    generators: Path,
    examples: SampledExamples,
    toybench: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decodings = {"greedy": Decoding(), "nucleus": Decoding(sampling=True, samples=4)}
    write_samples(examples, str(tmp_path), str(generators / "causal"), decodings=decodings, max_new_tokens=5)
    files = [str(path) for path in tmp_path.glob("*.jsonl")]
    config = RobertaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(toybench / "tokenizer")),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=130,
        pad_token_id=0,
        num_labels=1,
        initializer_range=0.5,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "scorer")
    AutoTokenizer.from_pretrained(toybench / "tokenizer").save_pretrained(tmp_path / "scorer")
    out = tmp_path / "selection"
    select_samples(examples, files, str(out), str(tmp_path / "scorer"), max_length=128)
    written = (out / "scores/scorer-0000-of-0001.jsonl").read_bytes()
    assert "Spearman of score and ROUGE-L" in capsys.readouterr().out
    found = json.loads((out / "selection.json").read_text())
    assert found["instances"] == 6
    assert set(found["sizes"]) == {"1", "4", "5"}
    lines = [json.loads(line) for line in (out / "choices.jsonl").read_text().splitlines()]
    encoder = CrossEncoder.from_pretrained(str(tmp_path / "scorer"), max_length=128)
    chosen = []
    for line in lines:
        ranked = encoder.rank(line["prompt"].strip(), [each["response"] for each in line["responses"]])
        assert line["choices"]["scorer"] == line["responses"][ranked[0][0]]["response"]
        chosen.append(line["responses"][ranked[0][0]]["rouge_l"])
    assert found["methods"]["scorer"]["mean"] == pytest.approx(sum(chosen) / 6)
    assert found["sizes"]["5"]["scorer"] == pytest.approx(sum(chosen) / 6)
    (out / "selection.json").unlink()  # as if it was interrupted before the table
    (out / "choices.jsonl").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(CrossEncoder, "score", None)  # resuming scores nothing
        select_samples(examples, files, str(out), str(tmp_path / "scorer"), max_length=128)
    assert json.loads((out / "selection.json").read_text()) == found
    assert (out / "scores/scorer-0000-of-0001.jsonl").read_bytes() == written
    (out / "selection.json").unlink()
    (out / "choices.jsonl").unlink()
    with pytest.raises(ValueError, match="samples of other settings"):
        select_samples(examples, files, str(out), str(tmp_path / "scorer"), max_length=64)
    with pytest.raises(ValueError, match=r"1 of 7 examples have no response in .*finish sampling"):
        read_sampled_responses(replace(examples, train_examples=7), ModelSamples(files))
    with pytest.raises(ValueError, match="there are no examples to select responses for"):
        read_sampled_responses(replace(examples, train_examples=0), ModelSamples(files))


def test_generators_are_candidates_together(examples: SampledExamples, tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    ids = [prompt.example.id for prompt in examples.prompts()]
    path.write_text(
        "".join(Sample("a", name, "beam").line(TASK, example) for example in ids for name in ("flan", "bart"))
    )
    assert [sample.decoding for sample in read_sampled_responses(examples, ModelSamples([str(path)]))[0].samples] == [
        "flan beam",
        "bart beam",
    ]


def test_a_decoding_that_is_called_as_a_method_is_named(examples: SampledExamples, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(Sample("a", "m", "oracle").line(TASK, p.example.id) for p in examples.prompts()))
    with pytest.raises(ValueError, match="the decoding 'oracle', which is the name of a method in tables: rename it"):
        read_sampled_responses(examples, ModelSamples([str(path)]))


def test_likelihoods_of_some_samples_only_are_reported(examples: SampledExamples, tmp_path: Path) -> None:
    ids = [prompt.example.id for prompt in examples.prompts()]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(Sample("a", "m", "d", 0, None if id_ == ids[0] else -1.0).line(TASK, id_) for id_ in ids))
    with pytest.warns(UserWarning, match="left out") as warned:
        read_sampled_responses(examples, ModelSamples([str(path)]))
    assert [str(warning.message) for warning in warned] == [
        "self-scoring is left out: 1 of 6 samples have no log_likelihood",
        "self-scoring by the mean over tokens is left out: 5 of 6 samples have no tokens",
    ]


def test_generators_that_cannot_be_told_apart_or_answer_in_part_are_told(
    examples: SampledExamples, tmp_path: Path
) -> None:
    ids = [prompt.example.id for prompt in examples.prompts()]
    first, second, third = (str(tmp_path / f"{n}.jsonl") for n in range(3))
    lines = [Sample("a", "flan", "nucleus", n).line(TASK, example) for example in ids for n in range(2)]
    Path(first).write_text("".join(lines))
    Path(second).write_text("".join(lines))
    Path(third).write_text(Sample("b", "bart", "nucleus", 0).line(TASK, ids[0]))
    Path(second).write_text("".join([*lines[1:], lines[0]]))
    with pytest.raises(ValueError, match=r"sample 0 of nucleus by 'flan' twice: remove the copy, or give generators"):
        read_sampled_responses(examples, ModelSamples([first, second]))
    with pytest.raises(ValueError, match=r"0\.jsonl is given twice"):
        ModelSamples([first, first])
    with pytest.warns(UserWarning, match=r"not every generator has responses to all 6 examples \(bart 1\)"):
        read_sampled_responses(examples, ModelSamples([first, third]))
    Path(third).write_text(Sample("b").line(TASK, ids[0]))
    with pytest.warns(UserWarning, match=r"responses to all 6 examples \(unnamed generator 1\)"):
        read = read_sampled_responses(examples, ModelSamples([first, third]))
    assert read[0].samples[-1].decoding == "unnamed generator unnamed decoding"


@pytest.mark.parametrize("command", [select_samples, classify_tasks])
def test_a_scorer_on_a_gpu_is_read_in_half_precision_by_default(command: Callable[..., None]) -> None:
    """Its packed kernel of attention has no float32."""
    default = inspect.signature(command).parameters["dtype"].default
    assert (scorer_type(default, "cuda:1"), scorer_type(default, "cpu")) == ("bfloat16", "float32")
