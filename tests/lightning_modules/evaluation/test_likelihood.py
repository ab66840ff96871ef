"""Rank classification: the log-likelihoods of one forward per option, from one forward for all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from devices import REHEARSED
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from crosstask.datamodules.evaluation.option_trees import common_prefix, tokenize_options
from crosstask.datamodules.evaluation.options import option_problem
from crosstask.datamodules.rendering.tokenization import tokenize_joint, tokenize_pair
from crosstask.datamodules.schema import Prompt
from crosstask.datamodules.scoring.truncated_texts import CutTexts
from crosstask.lightning_modules.attention import backends as attention_backends
from crosstask.lightning_modules.attention import document_attention as attention
from crosstask.lightning_modules.attention.document_attention import document_attention
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.evaluation.likelihood import score_options
from crosstask.lightning_modules.evaluation.option_scores import Choice, option_scores

SMALL: dict[str, Any] = {
    "vocab_size": 700,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # large enough for branches to hear each other when they can
}
FEED = {"intermediate_size": 48}
EXPERTS = {"num_experts": 2, "expert_capacity": 500}  # tokens above the capacity of a batch would be dropped
SPARSE = {"attention_heads": 4, "sparse_step": 2}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **FEED, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **FEED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, **FEED, num_key_value_heads=2)),
    "gptj": lambda: GPTJForCausalLM(GPTJConfig(vocab_size=700, n_embd=32, n_layer=2, n_head=4, rotary_dim=4)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=700, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            **{"vocab_size": 700, "d_model": 32, "max_position_embeddings": 64, "init_std": 0.3},
            **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))},
            **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        )
    ),
    "switch": lambda: SwitchTransformersForConditionalGeneration(
        SwitchTransformersConfig(
            **{"vocab_size": 700, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "decoder_start_token_id": 0},
            **{f"num_{stack}layers": 2 for stack in ("", "decoder_", "sparse_encoder_", "sparse_decoder_")},
            **EXPERTS,
        )
    ),
    "nllb": lambda: NllbMoeForConditionalGeneration(
        NllbMoeConfig(
            **{"vocab_size": 700, "d_model": 32, "max_position_embeddings": 64, "decoder_start_token_id": 2},
            **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))},
            **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SPARSE.items()},
            **EXPERTS,
        )
    ),
}
UNPACKED = {"gptj": "sdpa", "bart": "sdpa", "switch": "eager", "nllb": "eager"}
"""Models that read one document a row, and their attention."""

PROMPTS = [
    "Is the sky blue? Answer:",
    "Input: seven apples and nine pears\nOutput:",
    "Which animal barks?",
    "nothing to choose from",
    "one choice alone: ",
    "Is the grass green? Answer:",
]
OPTIONS = [
    ["yes", "no", "not at all"],
    ["sixteen", "sixteen apples", "16", "none of the above"],
    ["a dog", "a cat"],
    [],
    ["this one"],
    ["yes", "no", "not at all"],
]


def build(name: str, implementation: str = "document") -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 1.5
    model.set_attn_implementation(UNPACKED.get(name, implementation))
    return model.train()  # scoring must not depend on it


def one_forward_each(
    model: PreTrainedModel, tokenizer: Any, prompts: Sequence[str], options: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The definition: one forward of transformers' own attention for each option, unpadded."""
    if model.config._attn_implementation != "eager":
        model.set_attn_implementation("sdpa")
    model.eval()
    return [[_one(model, tokenizer, Prompt(p, c)) for c in group] for p, group in zip(prompts, options, strict=True)]


@torch.no_grad()
def _one(model: PreTrainedModel, tokenizer: Any, prompt: Prompt) -> float:
    pair = model.config.is_encoder_decoder
    (document,) = (tokenize_pair if pair else tokenize_joint)(tokenizer, [prompt])
    ids, n = torch.from_numpy(document.input_ids)[None], document.n_source
    if pair:
        start = torch.tensor([[model.config.decoder_start_token_id]])
        logits = model(input_ids=ids[:, :n], decoder_input_ids=torch.cat([start, ids[:, n:-1]], dim=1)).logits[0]
    else:
        logits = model(input_ids=ids).logits[0, n - 1 : -1]
    return float(logits.log_softmax(dim=-1).gather(1, ids[0, n:, None]).sum())


@pytest.mark.parametrize("name", MODELS)
def test_options_score_as_with_one_forward_each(name: str, tokenizer: Any) -> None:
    model = build(name)
    scores = [each.sum for each in score_options(model, tokenizer, PROMPTS, OPTIONS)]
    assert model.training
    small = [each.sum for each in score_options(model, tokenizer, PROMPTS, OPTIONS, tokens_per_forward=40)]
    expected = one_forward_each(model, tokenizer, PROMPTS, OPTIONS)
    for got, again, right in zip(scores, small, expected, strict=True):
        assert list(got) == pytest.approx(right, abs=1e-10, rel=1e-10)
        assert list(again) == pytest.approx(right, abs=1e-10, rel=1e-10)
    assert len({round(score, 3) for group in expected for score in group}) > 8  # the same for all would prove nothing


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_one_forward_serves_all_prompts_and_their_tokens_are_read_once(name: str, tokenizer: Any) -> None:
    model = build(name)
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, _: shapes.append(tuple(inputs[0].shape)))
    logits: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(lambda module, _, out: logits.append(tuple(out.shape)))
    score_options(model, tokenizer, PROMPTS, OPTIONS)
    documents = tokenize_options(tokenizer, PROMPTS, OPTIONS, pair=False)
    shared = sum(group[0].n_source for group in documents if group)
    own = [len(document.input_ids) - document.n_source - 1 for group in documents for document in group]
    assert shapes == [(1, shared + sum(own))]
    # A column's logits are read once: those of a prompt's last token serve all its options.
    assert logits[0][-2] == sum(bool(group) for group in documents) + sum(own)


def test_a_long_prompt_loses_the_same_beginning_for_all_options(tokenizer: Any) -> None:
    model = build("llama")
    prompts, options = ["one two three four five six seven eight " * 4], [["nine", "nine hundred"]]
    documents = tokenize_options(tokenizer, prompts, options, pair=False)[0]
    longest = max(len(document.input_ids) for document in documents) - 9
    with pytest.warns(UserWarning, match="1 of 1 prompts are too long and lose their beginning"):
        (scores,) = score_options(model, tokenizer, prompts, options, longest=longest)
    model.set_attn_implementation("sdpa")
    for document, score in zip(documents, scores.sum, strict=True):
        ids, n = torch.from_numpy(document.input_ids[9:]), document.n_source - 9
        with torch.no_grad():
            likelihoods = model(input_ids=ids[None]).logits[0, n - 1 : -1].log_softmax(dim=-1)
        assert score == pytest.approx(float(likelihoods.gather(1, ids[n:, None]).sum()), abs=1e-10)


@pytest.mark.parametrize(("cut", "kept"), [("middle", [0, 1, -3, -2, -1]), ("end", [0, 1, 2, 3, 4])])
def test_another_part_of_a_long_prompt_can_be_cut(tokenizer: Any, cut: Any, kept: list[int]) -> None:
    model = build("llama")
    prompts, options = ["one two three four five six seven eight"], [["nine", "nine hundred"]]
    documents = tokenize_options(tokenizer, prompts, options, pair=False)[0]
    cuts = CutTexts()
    with pytest.warns(UserWarning, match=f"1 of 1 prompts are too long and lose their {cut}"):
        (scores,) = score_options(model, tokenizer, prompts, options, max_source=5, cut=cut)
    score_options(model, tokenizer, prompts, options, max_source=5, cut=cut, cuts=cuts)
    assert (cuts.added, cuts.equal()) == (1, 0)
    model.set_attn_implementation("sdpa")
    for document, score in zip(documents, scores.sum, strict=True):
        source, target = np.split(document.input_ids, [document.n_source])
        ids = torch.from_numpy(np.concatenate([source[kept], target]))
        with torch.no_grad():
            likelihoods = model(input_ids=ids[None]).logits[0, 4:-1].log_softmax(dim=-1)
        assert score == pytest.approx(float(likelihoods.gather(1, ids[5:, None]).sum()), abs=1e-10)


def test_scores_are_those_of_their_definitions(tokenizer: Any) -> None:
    scores = option_scores([-6.0, -4.0], [3, 1], ["né!", " of 10 byte"], [-1.0, -7.5])
    assert scores.token_mean == (-2.0, -4.0)
    assert scores.byte_mean == (-1.5, -0.4)  # é is two bytes, the space before a option none
    assert scores.pmi == (-5.0, 3.5)
    assert [scores.best(kind).place for kind in ("sum", "token_mean", "byte_mean", "pmi")] == [1, 0, 1, 1]  # type: ignore[arg-type]

    model = build("opt")
    pmi = [each.pmi for each in score_options(model, tokenizer, PROMPTS, OPTIONS, unconditional="Answer:")]
    given = one_forward_each(model, tokenizer, PROMPTS, OPTIONS)
    alone = one_forward_each(model, tokenizer, ["Answer:"] * len(PROMPTS), OPTIONS)
    for got, a, b in zip(pmi, given, alone, strict=True):
        assert got is not None
        assert list(got) == pytest.approx([x - y for x, y in zip(a, b, strict=True)], abs=1e-10)
    with pytest.raises(ValueError, match="pmi needs an unconditional prompt"):
        option_scores([-1.0], [1], ["a"]).best("pmi")


def test_of_equal_scores_the_first_is_chosen_and_the_tie_is_reported() -> None:
    assert option_scores([-2.0, -1.0, -1.0], [1, 1, 1], ["a", "b", "c"]).best() == Choice(1, True)
    assert option_scores([-1.0], [1], ["a"]).best() == Choice(0, False)
    with pytest.raises(ValueError, match="no options to choose from"):
        option_scores([], [], []).best()


def test_without_eos_an_option_is_not_penalized_for_a_longer_continuation(tokenizer: Any) -> None:
    """What another harness scores: the option's own tokens."""
    model = build("gpt2")
    (with_eos,) = score_options(model, tokenizer, ["2 and 3 is"], [["5", "five"]])
    (without,) = score_options(model, tokenizer, ["2 and 3 is"], [["5", "five"]], eos=False)
    assert all(a < b for a, b in zip(with_eos.sum, without.sum, strict=True))


def joint_tokenizer() -> PreTrainedTokenizerFast:
    """Merges over spaces: "xa b" is "x", "a ", "b", but "xa c" is "x", "a", " c"."""
    tokens = ["</s>", "x", "a", " ", "b", "c", "a ", " c"]
    bpe = Tokenizer(BPE({token: place for place, token in enumerate(tokens)}, [(" ", "c"), ("a", " ")]))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="</s>")


def test_a_token_across_the_joint_is_divided_so_that_options_share_their_prompt() -> None:
    tokenizer = joint_tokenizer()
    (documents,) = tokenize_options(tokenizer, ["xa"], [["b", "c"]], pair=False)
    assert [document.input_ids.tolist() for document in documents] == [[1, 2, 3, 4, 0], [1, 2, 7, 0]]
    assert [document.n_source for document in documents] == [2, 2]
    assert common_prefix(documents) == 2
    model = build("llama")
    (scores,) = score_options(model, tokenizer, ["xa  "], [["b", "c "]])  # spaces at the joint do not count
    assert list(scores.sum) == pytest.approx(one_forward_each(model, tokenizer, ["xa"], [["b", "c"]])[0], abs=1e-10)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a"], [["yes", "no", " yes"]], r"prompt 0: duplicate options: \['yes', 'no', ' yes'\]"),
        (["a"], [["yes", " "]], "prompt 0: an empty option"),
        (["a", "b"], [["yes"]], "2 prompts and 1 lists"),
        (["  "], [["yes"]], "nothing precedes option 'yes'"),
        (["a"], [["yes", "one two three four five six seven " * 4]], "an option of .* leaves no room for its prompt"),
    ],
)
def test_what_cannot_be_ranked_is_rejected(
    tokenizer: Any, prompts: list[str], options: list[list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_options(build("opt"), tokenizer, prompts, options)


def test_an_answer_that_is_no_option_is_named() -> None:
    assert option_problem(["a", "b"], 2) == "the gold answer is missing among the options"
    assert option_problem(["a", "b"], 1) is None


def test_options_of_the_same_tokens_have_the_same_score() -> None:
    """Responses of a language model may differ in what the tokenizer does not tell apart, and each is scored."""
    tokenizer = joint_tokenizer()
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    (scores,) = score_options(build("llama"), tokenizer, ["xa"], [["c", "C", "b"]])
    assert scores.sum[0] == scores.sum[1] != scores.sum[2]


# --- attention ---

# Rows of 9 columns: a prefix of 3 with continuations of 1 and 2, and a document of 3 without any; a prefix of 4 with
# continuations of 2 and 2, and a padding column.
OFFSETS, CONTINUATIONS = torch.tensor([0, 6, 9, 17, 18]), torch.tensor([0, 3, 4, 6, 9, 13, 15, 17, 18])


class Layer(torch.nn.Module):
    is_causal = True


def dense_mask() -> Tensor:
    """Which key each query reads, by the definition: bool [2, 1, 9, 9]."""
    mask = torch.zeros(18, 18, dtype=torch.bool)
    for start, end in ((0, 3), (3, 4), (4, 6), (6, 9), (9, 13), (13, 15), (15, 17), (17, 18)):
        mask[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    mask[3:6, :3] = mask[13:17, 9:13] = True
    return torch.stack([mask[:9, :9], mask[9:, 9:]])[:, None]


def test_continuations_equal_a_dense_mask_in_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    states = torch.rand(3, 2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    documents = Documents(OFFSETS, continuation_offsets=CONTINUATIONS)
    continued, _ = document_attention(Layer(), *states.unbind(), None, documents=documents)
    dense, _ = document_attention(Layer(), *states.unbind(), dense_mask())
    torch.testing.assert_close(continued, dense, atol=1e-12, rtol=1e-12)
    weights = torch.rand_like(dense)
    for got, expected in zip(
        torch.autograd.grad((continued * weights).sum(), states),
        torch.autograd.grad((dense * weights).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def varlen_by_definition(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
                         *, return_aux: Any, scale: float, window_size: tuple[int, int],
                         enable_gqa: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Any device's varlen kernel with its log-sum-exps [H, T]."""
    assert return_aux.lse
    assert cu_q.dtype == cu_k.dtype == torch.int32
    outputs, sums = [], []
    repeats = query.shape[1] // key.shape[1]
    for q, k, v in zip(
        *(s.split(cu.diff().tolist()) for s, cu in ((query, cu_q), (key, cu_k), (value, cu_k))), strict=True
    ):
        k, v = (states.repeat_interleave(repeats, dim=1) for states in (k, v))
        scores = torch.einsum("qhe,khe->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
        if window_size == (-1, 0):
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), float("-inf"))
        outputs.append(torch.einsum("hqk,khe->qhe", scores.softmax(-1), v))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs), torch.cat(sums, dim=1)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_two_softmaxes_are_merged_into_one(monkeypatch: pytest.MonkeyPatch, key_heads: int) -> None:
    """The route of the flash kernel on any device, with a definition in the kernel's place: no mask anywhere."""
    torch.manual_seed(0)
    query = torch.rand(2, 4, 9, 8, dtype=torch.float64) * 4
    key, value = torch.rand(2, 2, key_heads, 9, 8, dtype=torch.float64).unbind()
    documents = Documents(OFFSETS, continuation_offsets=CONTINUATIONS)
    grouped, _ = document_attention(Layer(), query, key, value, None, documents=documents)
    monkeypatch.setattr(attention, "varlen_applies", lambda *_: True)
    monkeypatch.setattr(attention_backends, "varlen_attn", varlen_by_definition)
    with torch.no_grad():
        merged, _ = document_attention(Layer(), query, key, value, None, documents=documents)
    torch.testing.assert_close(merged, grouped, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0, 3, 4, 9, 13, 18], r"continuation_offsets lack the documents' starts \[6, 17\]"),
        ([0, 3, 3, 4, 6, 9, 13, 15, 17, 18], "prefixes and continuations must not be empty"),
    ],
)
def test_continuations_that_do_not_fit_their_documents_are_rejected(starts: list[int], message: str) -> None:
    states = torch.rand(2, 4, 9, 8)
    documents = Documents(OFFSETS, continuation_offsets=torch.tensor(starts))
    with pytest.raises(ValueError, match=message):
        document_attention(Layer(), states, states, states, None, documents=documents)


@pytest.mark.parametrize("device", REHEARSED)
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_options_rank_in_half_precision_as_in_float32(name: str, device: str, tokenizer: Any) -> None:
    """On CUDA two flash calls are merged by their log-sum-exps, compared with the grouped calls in float32."""
    model = build(name).to(device, torch.bfloat16)
    fast = score_options(model, tokenizer, PROMPTS, OPTIONS)
    exact = score_options(model.float(), tokenizer, PROMPTS, OPTIONS)
    for got, expected in zip(fast, exact, strict=True):
        assert list(got.sum) == pytest.approx(expected.sum, rel=0.05, abs=0.5)  # bfloat16 keeps 8 bits
