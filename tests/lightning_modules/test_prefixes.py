"""A prefix is trained alone, and read by training, ranking and generation as peft's own model reads it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import losses
from recipes import SMALL, save_model
from strategy_runs import STEPS, fit, write_recipe
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from crosstask.cli import main
from crosstask.commands.export import export_checkpoint
from crosstask.commands.samples import write_samples
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.lightning_modules.cache_names import CACHE
from crosstask.lightning_modules.evaluation.likelihood import score_options
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import generate
from crosstask.lightning_modules.prefixes import Prefix, add_prefix, base_of_prefix, save_prefix, virtual_tokens
from crosstask.lightning_modules.sampling.response_sampler import load_generator
from crosstask.lightning_modules.target_loss import target_loss

TOKENS = 6
CAUSAL = ["opt", "llama", "gpt_neox"]


class Ids:
    """A tokenizer of whom only the prefix's text is asked: 7 8 9."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [7, 8, 9]}

    def save_pretrained(self, folder: Path) -> None:
        pass


def make(kind: str, vocabulary: int = 60, **options: Any) -> Any:
    shape = {"num_layers": 2} if kind == "t5" else {"num_hidden_layers": 2, "max_position_embeddings": 128}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **shape, **{**SMALL[kind], **options})
    config.initializer_range = 0.2
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="sdpa").double().eval()


def prefixed(model: PreTrainedModel, tokens: int = TOKENS, *, moved: float = 0.0) -> torch.nn.Parameter:
    """Its virtual tokens in float64, as they begin or somewhere else."""
    add_prefix(model, Prefix(tokens), Ids())  # type: ignore[arg-type]
    values: torch.nn.Parameter = model.get_submodule("prefix").double().embedding.weight  # type: ignore[assignment, union-attr]
    values.data += moved * torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return values


def documents() -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(3, 60, (length,), generator=generator).numpy() for length in (9, 4, 7)]
    return [TokenizedExample(each, n_source) for each, n_source in zip(ids, (5, 2, 6), strict=True)]


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_step_is_that_of_pefts_own_model_on_single_documents(kind: str, tmp_path: Path) -> None:
    """Padded rows of one document, positions given: sum of losses and gradient of the virtual tokens, in float64."""
    from peft import PeftModel, PrefixTuningConfig, get_peft_model

    ours, theirs = make(kind), make(kind)
    values = prefixed(ours, moved=0.3)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS)
    peft: Any = get_peft_model(theirs, config).double().eval()  # type: ignore[arg-type]
    embedding = peft.prompt_encoder["default"].embedding.weight
    embedding.data.copy_(values.data)
    batch = CausalRows(16, 1).collate([[document] for document in documents()], step_targets=7)
    found = target_loss(ours, batch, packed=False)
    expected = torch.zeros((), dtype=torch.float64)
    for document in documents():
        ids = torch.as_tensor(document.input_ids)[None]
        labels = ids.clone()
        labels[:, : document.n_source] = -100
        logits = peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        expected = expected + torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    torch.testing.assert_close(found.sum, expected, rtol=1e-12, atol=0)
    found.sum.backward()
    expected.backward()
    torch.testing.assert_close(values.grad, embedding.grad, rtol=1e-9, atol=1e-12)
    assert values.grad.abs().max() > 1e-3  # type: ignore[union-attr]
    assert [name for name, weight in ours.named_parameters() if weight.requires_grad] == ["prefix.embedding.weight"]
    assert all(weight.grad is None for name, weight in ours.named_parameters() if "prefix" not in name)

    save_prefix(ours, Ids(), tmp_path, weights="somewhere")  # type: ignore[arg-type]
    loaded = PeftModel.from_pretrained(make(kind), tmp_path).eval()
    ids = torch.as_tensor(documents()[0].input_ids)[None]
    torch.testing.assert_close(loaded(input_ids=ids).logits, peft(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [*CAUSAL, "t5"])
def test_a_new_prefix_reads_as_the_text_it_was_made_from(kind: str) -> None:
    """7 8 9 7 8 9 before each document: of a causal model its source, of T5 what the decoder reads before its start."""
    model, plain = make(kind), make(kind)
    prefixed(model)
    text = torch.tensor([[7, 8, 9, 7, 8, 9]])
    rows: Any = Seq2SeqRows(16, 16, 1) if kind == "t5" else CausalRows(16, 1)
    for document in documents():
        ids, n_source = torch.as_tensor(document.input_ids)[None], document.n_source
        batch = rows.collate([[document]], 1)
        if kind == "t5":
            start = torch.cat([text, torch.zeros(1, 1, dtype=torch.int64), ids[:, n_source:-1]], dim=1)
            # The text's own keys depend on what the encoder reads: 7 8 9 7 8 9 there, too, when they were made.
            made = plain(input_ids=text, decoder_input_ids=text, use_cache=True)[CACHE].self_attention_cache
            logits = plain_t5(plain, ids[:, :n_source], start[:, 6:], made)
        else:
            logits = plain(torch.cat([text, ids], dim=1)).logits[:, 5 + n_source : -1]
        expected = torch.nn.functional.cross_entropy(logits[0], ids[0, n_source:], reduction="sum")
        torch.testing.assert_close(target_loss(model, batch, packed=False).sum, expected, rtol=1e-6, atol=0)


def plain_t5(model: Any, source: torch.Tensor, decoder: torch.Tensor, cache: Any) -> torch.Tensor:
    from transformers import DynamicCache, EncoderDecoderCache

    past = EncoderDecoderCache(cache, DynamicCache())
    return model(input_ids=source, decoder_input_ids=decoder, **{CACHE: past}).logits


class Numbers:
    """What ``generate`` asks of a tokenizer, for ids without words."""

    eos_token_id, pad_token_id, chat_template = 2, 1, None

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, [i for i in row if i != 1])) for row in rows]


@pytest.mark.parametrize("kind", CAUSAL)
def test_answers_are_those_after_the_text_a_prefix_was_made_from(kind: str) -> None:
    """Greedy, sampled and by beam, prompts of several lengths in one batch."""
    model, plain, numbers = make(kind), make(kind), Numbers()
    values = prefixed(model)
    prompts: Sequence[list[int]] = [[11, 12, 13, 14], [15, 16], [17, 18, 19]]
    decodings = [Decoding(), Decoding(sampling=True, samples=3), Decoding(beams=3, samples=2)]
    options: dict[str, Any] = {"seeds": [0, 1, 2], "max_new_tokens": 5}
    ours, theirs = (
        dict(generate(each, numbers, read, decodings, **options))  # type: ignore[arg-type]
        for each, read in ((model, prompts), (plain, [[7, 8, 9, 7, 8, 9, *prompt] for prompt in prompts]))
    )
    assert ours == theirs
    values.data.add_(torch.randn(values.shape, dtype=torch.float64))
    assert dict(generate(model, numbers, prompts, decodings, **options)) != theirs  # type: ignore[arg-type]


def test_an_encoder_decoder_answers_behind_its_prefix() -> None:
    """The greedy answer of each prompt, written token by token without a cache that lasts."""
    model, numbers = make("t5", initializer_factor=4.0), Numbers()
    prefixed(model, moved=1.0)
    prompts, expected = [[11, 12, 13, 14], [15, 16], [17, 18, 19]], []
    for prompt in prompts:
        ids = [0]
        for _ in range(5):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == numbers.eos_token_id:
                break
        expected.append(numbers.batch_decode([[i for i in ids[1:] if i != numbers.eos_token_id]])[0])
    decodings = [Decoding(), Decoding(sampling=True, samples=2)]
    found = dict(generate(model, numbers, prompts, decodings, seeds=[0, 1, 2], max_new_tokens=5))  # type: ignore[arg-type]
    assert [found[place][0][0] for place in range(3)] == expected
    assert len(set(expected)) > 1


def test_candidates_are_scored_behind_the_prefix(toybench: Path) -> None:
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    model, plain = (make("opt", vocabulary=len(tokenizer)) for _ in range(2))
    add_prefix(model, Prefix(4, "red dog"), tokenizer)
    text = (tokenizer("red dog", add_special_tokens=False)["input_ids"] * 4)[:4]
    prompts, options = ["list: one", "two"], [["cat", "a dog"], ["blue"]]
    found = score_options(model, tokenizer, prompts, options)
    for prompt, texts, scores in zip(prompts, options, found, strict=True):
        assert scores.sum == pytest.approx(
            [log_likelihood(plain, tokenizer, text, prompt, option) for option in texts], rel=1e-6
        )


def log_likelihood(model: Any, tokenizer: Any, text: list[int], prompt: str, answer: str) -> float:
    """Of an answer and its end after a text and a prompt, in one plain forward."""
    source = [*text, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    target = torch.tensor([*tokenizer(f" {answer}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    with torch.no_grad():
        logs = model(torch.cat([torch.tensor(source), target])[None]).logits[0].log_softmax(-1)
    return float(logs[len(source) - 1 : -1].gather(1, target[:, None]).sum())


def test_a_prefix_that_would_be_read_wrongly_is_rejected() -> None:
    packed = AutoModelForCausalLM.from_config(make("opt").config, attn_implementation="document")
    with pytest.raises(
        ValueError, match="set the model's attention to sdpa and the datamodule's packing to one_per_row"
    ):
        prefixed(packed)
    window = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mistral", vocab_size=60, num_hidden_layers=1, sliding_window=8, **SMALL["llama"])
    )
    with pytest.raises(ValueError, match="attends within a window"):
        prefixed(window)
    model = make("llama")
    prefixed(model)
    rows = CausalRows(32, 1).collate([documents()], 1)
    with pytest.raises(ValueError, match="padded attention reads one document a row"):
        target_loss(model, rows, packed=False)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"set network\.gradient_checkpointing to false"):
        model.train()(torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="at least one virtual token"):
        Prefix(0)


# --- through the command line ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> Path:
    folder = tmp_path_factory.mktemp("prefixes")
    save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    load_tokenizer(str(toybench / "tokenizer")).save_pretrained(folder / "opt")
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path, toybench: Path) -> Path:
    arguments = {
        "pretrained": str(folder / "opt"),
        "prefix": {"virtual_tokens": 5},
        "network": {"attention": "sdpa"},
        "optimizer": {"learning_rate": 0.1, "warmup": 1},
    }
    module = {"class_path": "InstructionTuningModule", "init_args": arguments}
    return write_recipe(folder / "prefix.yaml", toybench, module, {"rows": {"packing": "one_per_row"}})


def test_a_prefix_alone_is_trained_saved_and_drawn_from(
    recipe: Path, folder: Path, toybench: Path, tmp_path: Path
) -> None:
    words = ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={folder / 'at_end'}"]
    module: Any = run_trainer([*fit(recipe, "whole"), *words]).model
    trained = module.language_model.eval()
    base = AutoModelForCausalLM.from_pretrained(folder / "opt").state_dict()
    assert all(torch.equal(value, base[name]) for name, value in trained.state_dict().items() if "prefix" not in name)
    checkpoint = torch.load(folder / f"whole/step={STEPS}.ckpt", weights_only=False)
    assert list(checkpoint["state_dict"]) == ["model.prefix.embedding.weight"]

    main(fit(recipe, "half", f"--ckpt_path={folder / f'whole/step={STEPS // 2}.ckpt'}"))
    assert losses(folder / "run/half") == pytest.approx(losses(folder / "run/whole")[STEPS // 2 :], rel=1e-5)

    export_checkpoint([str(folder / f"whole/step={STEPS}.ckpt"), str(tmp_path / "exported")])
    assert {path.name for path in (tmp_path / "exported").iterdir()} >= {"adapter_config.json", "tokenizer.json"}
    assert base_of_prefix(str(tmp_path / "exported")) == str(folder / "opt")
    ids = torch.arange(5, 90, 11)[None]
    for name in (folder / "at_end", tmp_path / "exported"):
        loaded, _ = load_generator(str(name))
        assert virtual_tokens(loaded) == 5
        torch.testing.assert_close(loaded(ids).logits, trained(ids).logits)
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(folder / "opt")(ids).logits, trained(ids).logits)

    benchmark = NaturalInstructions(str(toybench))
    asked = SampledExamples(benchmark, parts=["test"], tasks=["task001_toy_copy_animals"], test_examples=2)
    write_samples(asked, str(tmp_path / "samples"), str(tmp_path / "exported"), max_new_tokens=4, name="prefixed")
    lines = (tmp_path / "samples" / "prefixed-0000-of-0001.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 17
    sample = json.loads(lines[0])
    [source] = [each.source for each in asked.prompts() if each.example.id == sample["id"]]
    tokenizer = load_tokenizer(str(folder / "opt"))
    total = log_likelihood(trained, tokenizer, [], source, sample["response"])
    assert sample["log_likelihood"] == pytest.approx(total, rel=1e-4)


def test_a_prefix_and_its_settings_must_agree(recipe: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="set the model's attention to sdpa"):
        main(fit(recipe, "no", "--model.init_args.network.attention=document"))
    with pytest.raises(ValueError, match=r"set network\.gradient_checkpointing to false"):
        main(fit(recipe, "no", "--model.init_args.network.gradient_checkpointing=true"))
    with pytest.raises(ValueError, match="give either lora or a prefix"):
        main(fit(recipe, "no", "--model.init_args.lora.r=2"))
