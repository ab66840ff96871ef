"""The command that samples responses of language models."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import store_of
from safetensors.torch import load_file, save_file
from sampled_runs import TASK
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstask.cli import main
from crosstask.commands.samples import write_samples
from crosstask.datamodules import NaturalInstructions, ScorerDataModule
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import Sample, read_samples
from crosstask.datamodules.scoring.scorer_settings import Augmentation, PairRows
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import generate
from crosstask.lightning_modules.sampling import response_sampler as sampling
from crosstask.lightning_modules.sampling.response_sampler import load_generator, with_likelihoods

DECODINGS = {"greedy": Decoding(), "nucleus": Decoding(sampling=True, samples=2, top_p=0.9)}


def lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.* differ from another one only in the part")
@pytest.mark.parametrize("kind", ["causal", "pair"])
def test_faithful_samples_read_the_beginning_of_a_prompt_and_write_63_tokens(
    kind: str, generators: Path, examples: SampledExamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = []

    def recorded(model: Any, tokenizer: Any, sources: Any, *args: Any, **options: Any) -> Any:
        prompts.extend(sources)
        assert (options["min_new_tokens"], options["max_new_tokens"]) == (3, 63)
        return iter((place, [["a"], ["a"] * 4, ["a"] * 4, ["a"] * 4, ["a"] * 4]) for place in range(len(sources)))

    monkeypatch.setattr(sampling, "generate", recorded)
    short = {"max_source": 8, "faithful": True}
    write_samples(replace(examples, train_examples=2), str(tmp_path), str(generators / kind), **short)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(generators / kind)
    for source, prompt in zip(prompts, replace(examples, train_examples=2).prompts(), strict=True):
        whole = tokenizer(prompt.source, add_special_tokens=False)["input_ids"]
        eos = [tokenizer.eos_token_id] * (kind == "pair")
        assert list(source) == whole[: 8 - len(eos)] + eos


@pytest.mark.parametrize("kind", ["causal", "pair"])
def test_samples_do_not_depend_on_processes_or_restarts(
    kind: str, generators: Path, examples: SampledExamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, **options: Any) -> None:
        write_samples(
            examples, str(tmp_path / folder), str(generators / kind), decodings=DECODINGS, max_new_tokens=5, **options
        )

    run("alone")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        run("two")
    monkeypatch.undo()
    alone = lines(tmp_path / "alone")
    assert [len(path.read_text().splitlines()) for path in (tmp_path / "two").glob("*.jsonl")] == [9, 9]
    assert sorted(lines(tmp_path / "two")) == sorted(alone)
    assert len(alone) == 6 * 3
    records = [json.loads(line) for line in alone]
    assert len({record["prompt"] for record in records}) == 6
    assert {(record["decoding"], record["sample"]) for record in records} == {
        ("greedy", 0),
        ("nucleus", 0),
        ("nucleus", 1),
    }
    assert all(record["log_likelihood"] < 0 < record["tokens"] for record in records if record["response"])

    [path] = (tmp_path / "alone").glob("*.jsonl")
    path.write_text("".join(f"{line}\n" for line in alone[:8]))
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(len(args[2]))
        return generate(*args, **options)

    monkeypatch.setattr(sampling, "generate", counted)
    run("alone")
    assert calls == [4]
    assert sorted(lines(tmp_path / "alone")) == sorted(alone)
    run("alone")
    assert calls == [4]  # nothing is left
    with pytest.raises(ValueError, match="holds samples of other settings"):
        run("alone", seed=1)


def test_other_weights_under_the_same_path_do_not_resume(
    generators: Path, examples: SampledExamples, tmp_path: Path
) -> None:
    """The same weights under another path do."""

    def run(folder: Path, **options: Any) -> None:
        write_samples(examples, str(tmp_path / "out"), str(folder), name="m", decodings=DECODINGS, max_new_tokens=5)

    shutil.copytree(generators / "causal", tmp_path / "model")
    run(tmp_path / "model")
    [path] = (tmp_path / "out").glob("*.jsonl")
    before = path.read_bytes()
    (tmp_path / "model").rename(tmp_path / "moved")
    run(tmp_path / "moved")
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, tmp_path / "moved" / "model.safetensors")
    with pytest.raises(ValueError, match=r'holds samples of other settings: +"weights": .*; name another output'):
        run(tmp_path / "moved")
    assert path.read_bytes() == before


def test_samples_of_other_prompts_do_not_resume(
    generators: Path, examples: SampledExamples, toybench: Path, tmp_path: Path
) -> None:
    """The ids of the examples stay equal when somebody corrects a definition or an input."""
    for number, (old, new) in enumerate([("Definition", "Write "), ("input", "the ")]):
        shutil.copytree(toybench, tmp_path / f"bench{number}")
        task = tmp_path / f"bench{number}" / "tasks" / f"{TASK}.json"
        mine = replace(examples, benchmark=NaturalInstructions(str(tmp_path / f"bench{number}")))
        options: dict[str, Any] = {"decodings": {"greedy": Decoding()}, "max_new_tokens": 2}
        write_samples(mine, str(tmp_path / f"out{number}"), str(generators / "causal"), **options)
        record = json.loads(task.read_text())
        if old == "Definition":
            record["Definition"] = [new + record["Definition"][0]]
        else:
            record["Instances"] = [{**one, "input": new + one["input"]} for one in record["Instances"]]
        task.write_text(json.dumps(record))
        changed = replace(examples, benchmark=NaturalInstructions(str(tmp_path / f"bench{number}")))
        with pytest.raises(ValueError, match=r"holds responses to another prompt of task001.*name another output"):
            write_samples(changed, str(tmp_path / f"out{number}"), str(generators / "causal"), **options)


def test_a_command_of_the_same_name_leaves_responses_alone(
    generators: Path, examples: SampledExamples, tmp_path: Path
) -> None:
    sampled = [prompt.example.id for prompt in examples.prompts()]
    answers = tmp_path / "paid.jsonl"
    answers.write_text(json.dumps({"task": TASK, "id": sampled[0], "response": "paid for"}) + "\n")
    options: dict[str, Any] = {"name": "m", "decodings": {"greedy": Decoding()}, "max_new_tokens": 2}
    write_samples(examples, str(tmp_path / "a"), answers=[str(answers)], name="m")
    write_samples(examples, str(tmp_path / "a"), answers=[str(answers)], name="m")
    write_samples(examples, str(tmp_path / "b"), str(generators / "causal"), **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    with pytest.raises(ValueError, match="holds samples of other settings"):
        write_samples(examples, str(tmp_path / "a"), str(generators / "causal"), **options)
    with pytest.raises(ValueError, match="holds samples of other settings"):
        write_samples(examples, str(tmp_path / "b"), answers=[str(answers)], name="m")
    for settings in (tmp_path / "a").glob("*.about.json"):
        settings.unlink()
    with pytest.raises(ValueError, match="holds responses of unknown settings"):
        write_samples(examples, str(tmp_path / "a"), str(generators / "causal"), **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == before


def test_the_scorer_learns_from_what_the_command_writes(
    generators: Path, toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "examples.benchmark": "NaturalInstructions",
        "examples.benchmark.folder": str(toybench),
        "examples.parts": '["train"]',
        "examples.tasks": f'["{TASK}"]',
        "examples.train_examples": "6",
        "output": str(tmp_path / "samples"),
        "generator": str(generators / "causal"),
        "max_new_tokens": "5",
    }
    main(["samples", *(f"--{name}={value}" for name, value in options.items())])
    [path] = (tmp_path / "samples").glob("*.jsonl")
    found = Counter(json.loads(line)["decoding"] for line in path.read_text().splitlines())
    assert found == {"beam": 6, "sampling": 24, "temperature": 24, "top_k": 24, "nucleus": 24}

    def stored(**samples: Any) -> int:
        data = ScorerDataModule(
            NaturalInstructions(str(toybench)),
            str(toybench / "tokenizer"),
            rows=PairRows(length=256, pair_length=128),
            instances=Instances(train=6, held_out_share=None),
            cache=str(store_of(toybench)),
            **samples,
        )
        data.prepare_data()
        data.setup("fit")
        return dict(zip(data.plan.mixture.names, data.plan.mixture.sizes, strict=True))[TASK]  # type: ignore[union-attr]

    assert stored(augmentation=Augmentation(samples=[str(path)])) > stored() + 12


def test_log_likelihoods_are_those_of_transformers(generators: Path) -> None:
    model, tokenizer = load_generator(str(generators / "causal"))
    [[sample, empty]] = with_likelihoods(model, tokenizer, ["list: cat"], [[Sample("cat dog"), Sample("")]])
    theirs = AutoModelForCausalLM.from_pretrained(generators / "causal").eval()
    source = tokenizer("list: cat")["input_ids"]
    ids = torch.tensor([[*source, *tokenizer(" cat dog")["input_ids"], tokenizer.eos_token_id]])
    with torch.no_grad():
        logs = theirs(ids).logits.log_softmax(-1)[0, len(source) - 1 : -1].gather(1, ids[0, len(source) :, None])
    assert sample.log_likelihood == pytest.approx(float(logs.sum()), abs=1e-4)
    assert sample.tokens == len(logs)
    assert (empty.log_likelihood, empty.tokens) == (None, None)


@pytest.mark.filterwarnings("ignore:.* differ from another one only in the part")
@pytest.mark.parametrize(
    ("cut", "kept"), [("middle", [0, 1, -2, -1]), ("end", [0, 1, 2, 3]), ("beginning", [-4, -3, -2, -1])]
)
def test_a_long_prompt_is_cut_where_the_user_says(
    generators: Path, examples: SampledExamples, tmp_path: Path, cut: Any, kept: list[int]
) -> None:
    """Responses and likelihoods are those of transformers behind the tokens that remain; the middle is the default."""
    settings: dict[str, Any] = {"decodings": {"greedy": Decoding()}, "max_new_tokens": 4, "max_source": 4}
    given = {} if cut == "middle" else {"cut": cut}
    write_samples(examples, str(tmp_path / "out"), str(generators / "causal"), **settings, **given)
    found = {key[1]: sample for key, sample in read_samples((tmp_path / "out").glob("*.jsonl"))}
    model, tokenizer = load_generator(str(generators / "causal"))
    model = AutoModelForCausalLM.from_pretrained(generators / "causal").eval()
    for prompt in examples.prompts():
        source = tokenizer(prompt.source.strip())["input_ids"]
        assert len(source) > 4
        ids, sample = torch.tensor([[source[place] for place in kept]]), found[prompt.example.id]
        greedy = model.generate(ids, do_sample=False, max_new_tokens=4, pad_token_id=tokenizer.pad_token_id)
        assert sample.response == tokenizer.decode(greedy[0, 4:], skip_special_tokens=True).strip()
        target = torch.tensor([*tokenizer(f" {sample.response}")["input_ids"], tokenizer.eos_token_id])
        with torch.no_grad():
            logs = model(torch.cat([ids, target[None]], dim=1)).logits.log_softmax(-1)[0, 3:-1]
        assert sample.log_likelihood == pytest.approx(float(logs.gather(1, target[:, None]).sum()), abs=1e-3)


def test_a_type_that_torch_does_not_have_is_named(generators: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype must be a type of torch, .* got 'fp16'"):
        load_generator(str(generators / "causal"), dtype="fp16")


def test_a_model_that_is_not_there_is_named(examples: SampledExamples, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model .*absent.*expected a hub name or a folder"):
        write_samples(examples, str(tmp_path / "out"), str(tmp_path / "absent"))
