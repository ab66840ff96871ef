"""Responses of other programs: their prompts and requests are written, and their answers are checked and imported."""

import json
from pathlib import Path
from typing import Any

import pytest
from sampled_runs import TASK

from crosstask.commands.samples import write_samples
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import ModelSamples, Sample, read_samples
from crosstask.lightning_modules.generation.decoding import Decoding


def test_answers_of_another_program_are_checked_and_reused(examples: SampledExamples, tmp_path: Path) -> None:
    sampled = [prompt.example.id for prompt in examples.prompts()]
    answers = tmp_path / "api.jsonl"
    records = [{"task": TASK, "id": sampled[0], "response": text, "model": "x"} for text in (" a", "b")]
    answers.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_samples(examples, str(tmp_path / "out"), answers=[str(answers)], name="api")
    found = list(read_samples((tmp_path / "out").glob("*.jsonl")))
    assert found == [((TASK, sampled[0]), Sample(text, "api", "", n)) for n, text in enumerate("ab")]
    numbered = [{**record, "sample": 3, "decoding": "api"} for record in records]
    answers.write_text("".join(json.dumps(record) + "\n" for record in numbered))
    with pytest.raises(ValueError, match="has sample 3 of api twice: remove the copy, or leave `sample` out"):
        write_samples(examples, str(tmp_path / "twice"), answers=[str(answers)])
    answers.write_text(json.dumps({"task": TASK, "id": "absent", "response": "a"}) + "\n")
    with pytest.raises(ValueError, match=f"a response to {TASK} absent, which is none of the 6 examples"):
        write_samples(examples, str(tmp_path / "absent"), answers=[str(answers)])
    with pytest.raises(ValueError, match="give either a generator or files of answers"):
        write_samples(examples, str(tmp_path / "out"))


def test_a_batch_api_samples_from_the_requests_that_are_written(
    examples: SampledExamples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    decodings = {"greedy": Decoding(), "top-p": Decoding(sampling=True, samples=2, top_p=0.9)}
    write_samples(examples, out, batch_model="gpt", decodings=decodings, max_new_tokens=9, seed=3)
    requests = [json.loads(line) for line in (tmp_path / "out/requests.jsonl").read_text().splitlines()]
    prompts = list(examples.prompts())
    assert len({request["custom_id"] for request in requests}) == len(requests) == 2 * len(prompts)
    expected = {"model": "gpt", "max_completion_tokens": 9, "seed": 3, "logprobs": True}
    assert requests[1]["body"] == {
        **expected,
        "messages": [{"role": "user", "content": prompts[0].source}],
        "n": 2,
        "temperature": 1.0,
        "top_p": 0.9,
    }
    assert (requests[0]["body"]["n"], requests[0]["body"]["temperature"]) == (1, 0.0)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        logprobs = {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}
        choices = [{"message": {"content": f" {n} "}, "logprobs": logprobs} for n in range(request["body"]["n"])]
        body = {"model": "gpt-1", "choices": choices}
        return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    answers = [answer(request) for request in requests[::-1]]  # a batch's output has any order
    failed = {"status_code": 429, "body": {"error": {"code": "rate_limit"}}}
    answers[0] = {"custom_id": answers[0]["custom_id"], "response": failed}
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    write_samples(examples, out, answers=[str(tmp_path / "batch.jsonl")])
    assert "failed requests: {'rate_limit': 1}" in " ".join(capsys.readouterr().out.split())
    samples = ModelSamples([str(path) for path in (tmp_path / "out").glob("batch-*.jsonl")]).samples(TASK)
    of_first = [(one.response, one.generator, one.decoding, one.sample) for one in samples[prompts[0].example.id]]
    assert sorted(of_first) == [("0", "gpt-1", "greedy", 0), ("0", "gpt-1", "top-p", 0), ("1", "gpt-1", "top-p", 1)]
    assert {(one.log_likelihood, one.tokens) for own in samples.values() for one in own} == {(-0.75, 2)}

    # What vLLM's run-batch writes of a prompt that is too long, and of an exception; the other lines are as above.
    too_long = {"error": {"message": "longer than 2048 tokens", "type": "BadRequestError", "param": None, "code": 400}}
    failed = {"status_code": 400, "request_id": "vllm-batch-1", "body": None}
    for line, error in zip(answers, (too_long, "an exception"), strict=False):
        line.update(id="vllm-1", response=failed, error=error)
    (tmp_path / "vllm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    write_samples(examples, out, answers=[str(tmp_path / "vllm.jsonl")])
    assert "failed requests: {'400': 2}" in " ".join(capsys.readouterr().out.split())

    answers[0].update(response=answers[2]["response"], error="an exception")
    answers[1].update(response=answers[2]["response"] | {"status_code": "200"}, error=None)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    write_samples(examples, out, answers=[str(tmp_path / "texts.jsonl")])
    assert "failed requests: {'an exception': 1}" in " ".join(capsys.readouterr().out.split())

    (tmp_path / "other.jsonl").write_text(json.dumps({**answers[2], "custom_id": "greedy-0"}) + "\n")
    with pytest.raises(ValueError, match=r"other\.jsonl:1: an answer to none of the requests of these 6 examples"):
        write_samples(examples, str(tmp_path / "other"), answers=[str(tmp_path / "other.jsonl")])
    write_samples(examples, str(tmp_path / "short"), batch_model="gpt", stop=["\n"])
    body = json.loads((tmp_path / "short/requests.jsonl").read_text().splitlines()[0])["body"]
    assert (body["max_completion_tokens"], body["stop"]) == (64, ["\n"])  # 64 new tokens, as of a local model
    with pytest.raises(ValueError, match="has no beams and no top_k"):
        write_samples(examples, str(tmp_path / "beam"), batch_model="gpt", decodings={"b": Decoding(beams=4)})


def test_missing_and_empty_answers_are_counted_and_damaged_ones_rejected(
    examples: SampledExamples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decodings = {"greedy": Decoding(), "nucleus": Decoding(sampling=True, samples=2, top_p=0.9)}
    write_samples(examples, str(tmp_path), batch_model="gpt", decodings=decodings)
    requests = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]

    def imported(name: str, first: dict[str, Any]) -> str:
        """Import answers of which the first request has one choice `first`, and the last request none at all."""
        file = tmp_path / f"{name}.jsonl"
        with open(file, "w") as out:
            for place, request in enumerate(requests[:-1]):
                choice = {"message": {"content": "a"}} if place else first
                body = {"choices": [choice] * request["body"]["n"]}
                out.write(json.dumps({"custom_id": request["custom_id"], "response": {"body": body}}) + "\n")
        capsys.readouterr()
        write_samples(examples, str(tmp_path / "out"), answers=[str(file)])
        return " ".join(capsys.readouterr().out.split())

    line = "imported responses to 6 of 6 examples; 1 of them have fewer responses than others; "
    assert line + "not sampled" in imported("missing", {"message": {"content": "a"}})
    assert line + "1 response is empty; not sampled" in imported("refused", {"message": {"content": None}})
    for name, logprob in (("low", -1e30), ("text", "x")):
        choice = {"message": {"content": "a"}, "logprobs": {"content": [{"logprob": logprob}]}}
        expected = rf"{name}\.jsonl:1: expected response\.body\.choices .*remove it to import"
        with pytest.raises(ValueError, match=expected):
            imported(name, choice)


def test_prompts_are_written_for_another_program(examples: SampledExamples, tmp_path: Path) -> None:
    write_samples(examples, str(tmp_path), prompts_only=True)
    sampled = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert sampled == [{"task": TASK, "id": p.example.id, "prompt": p.source} for p in examples.prompts()]
    answers = tmp_path / "api.jsonl"
    lines = [json.dumps({**line, "response": "a"}) for line in sampled]
    answers.write_text("\n".join(lines), encoding="utf-8-sig")  # as some editors save it
    write_samples(examples, str(tmp_path / "out"), answers=[str(answers)])
    assert len(list(read_samples((tmp_path / "out").glob("*.jsonl")))) == len(sampled)
    answers.write_bytes('{"task": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"api\.jsonl:1: not UTF-8"):
        write_samples(examples, str(tmp_path / "latin"), answers=[str(answers)])
