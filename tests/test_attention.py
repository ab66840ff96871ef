"""Packed rows read as if each document were alone: outputs, gradients, second derivatives, generation."""

import copy
import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LongT5Config,
    LongT5Model,
    MambaConfig,
    MambaModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from crosstask.lightning_modules.attention import backends as attention_backends
from crosstask.lightning_modules.attention import document_attention as attention
from crosstask.lightning_modules.attention import documents as document_places
from crosstask.lightning_modules.attention.document_attention import document_attention
from crosstask.lightning_modules.attention.documents import Documents, block_diagonal_mask
from crosstask.lightning_modules.attention.packable import first_position, require_document_attention

# Rows of 12 columns, the second with a padded tail; documents of 5, 4, 3, 4, 5 tokens and 3 of padding.
OFFSETS = [0, 5, 9, 12, 16, 21, 24]
PADDED = slice(21, 24)
# The same documents in decoder rows of 8 columns: 3, 2, 3, 4, 4 tokens, and a padding document of no column.
DECODER_OFFSETS = [0, 3, 5, 8, 12, 16, 16]

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # large enough for documents to hear each other when they can
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
T5_SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, init_std=0.3)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=48)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, intermediate_size=48, num_key_value_heads=2)),
    "bert": lambda: BertModel(BertConfig(**SMALL, **NO_DROPOUT, intermediate_size=48), add_pooling_layer=False),
    "roberta": lambda: RobertaModel(
        RobertaConfig(**SMALL, **NO_DROPOUT, intermediate_size=48), add_pooling_layer=False
    ),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5_SMALL)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**T5_SMALL)),
}


def build(name: str, implementation: str = "document") -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    model.set_attn_implementation(implementation)
    return model


def inputs_for(model: PreTrainedModel, seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    offsets = torch.tensor(OFFSETS, dtype=torch.int32)
    inputs: dict[str, Any] = {"input_ids": torch.randint(4, 40, (2, 12), generator=draw)}
    if model.config.is_encoder_decoder:
        decoder_offsets = torch.tensor(DECODER_OFFSETS, dtype=torch.int32)
        inputs["decoder_input_ids"] = torch.randint(4, 40, (2, 8), generator=draw)
        return inputs | {"documents": Documents(offsets, decoder_offsets), "use_cache": False}
    positions = torch.cat([torch.arange(length) for length in offsets.diff().tolist()]).view(2, 12)
    inputs |= {"position_ids": positions + first_position(model.config), "documents": Documents(offsets)}
    return inputs if isinstance(model, BertModel | RobertaModel) else inputs | {"use_cache": False}


def read_packed(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """Outputs of every document that is no padding, one after the other: [21 or 16, width]."""
    flat = model(**(inputs or inputs_for(model)))[0].flatten(0, 1)
    return flat[: 16 if model.config.is_encoder_decoder else PADDED.start]


def read_alone(model: PreTrainedModel) -> Tensor:
    """The same with one unpadded forward for each document and the library's own positions."""
    packed = inputs_for(model)
    outputs = []
    for document in range(5):
        inputs = {"input_ids": packed["input_ids"].flatten()[slice(*OFFSETS[document : document + 2])][None]}
        if "decoder_input_ids" in packed:
            span = slice(*DECODER_OFFSETS[document : document + 2])
            inputs["decoder_input_ids"] = packed["decoder_input_ids"].flatten()[span][None]
        outputs.append(model(**inputs)[0][0])
    return torch.cat(outputs)


def loss_of(outputs: Tensor) -> Tensor:
    """A sum over documents that weighs every output differently."""
    return (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs).cos()).sum()


def gradients(model: PreTrainedModel, loss: Tensor, **options: Any) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, **options)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, model.parameters(), strict=True)]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_read_as_if_alone(name: str) -> None:
    model = build(name)
    require_document_attention(model, row_length=12)
    packed = read_packed(model)
    packed_gradients = gradients(model, loss_of(packed))

    model.set_attn_implementation("sdpa")
    alone = read_alone(model)
    assert_same(packed, alone)
    assert_same(packed_gradients, gradients(model, loss_of(alone)))

    inputs = inputs_for(model)
    del inputs["documents"]
    # BERT and T5 hide nothing from a row's documents, and OPT's mask ignores positions. Where transformers itself
    # separates by position_ids, cumulative positions show the leak.
    if "position_ids" in inputs and name not in ("bert", "roberta"):
        inputs["position_ids"] = torch.arange(12).expand(2, 12)
    leaky = read_packed(model, **inputs)
    assert not torch.allclose(leaky, alone, atol=1e-2)  # so the comparison above means something


@pytest.mark.parametrize("name", ["opt", "llama", "bert"])
def test_a_dense_block_diagonal_mask_says_the_same(name: str) -> None:
    model = build(name)
    inputs = inputs_for(model)
    packed = read_packed(model, **inputs)
    documents = inputs.pop("documents")
    mask = block_diagonal_mask(documents.offsets, 2, 12, causal=name != "bert")
    assert_same(read_packed(model, **inputs, attention_mask=mask), packed)


class Layer(torch.nn.Module):
    def __init__(self, is_causal: bool, is_decoder: bool = False) -> None:
        super().__init__()
        self.is_causal, self.is_decoder = is_causal, is_decoder


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_loud_key_in_the_other_document_has_no_influence(is_causal: bool, biased: bool) -> None:
    """Documents of 3 and 3 tokens; every query wants the first document's key 1, whose value is 1e6."""
    torch.manual_seed(0)
    query, key, value = torch.rand(3, 1, 2, 6, 4, dtype=torch.float64).unbind()
    bias = torch.rand(1, 2, 6, 6, dtype=torch.float64) if biased else None
    key[:, :, 1], value[:, :, 1] = 100.0, 1e6
    value.requires_grad_()

    def attend(documents: Documents | None, mask: Tensor | None) -> Tensor:
        layer = Layer(is_causal)
        out, _ = document_attention(layer, query, key, value, mask, documents=documents, position_bias=bias)
        return out[:, 3:]

    packed = attend(Documents(torch.tensor([0, 3, 6])), None)
    assert packed.max() < 1.0  # a mean of values below 1
    (influence,) = torch.autograd.grad(packed.sum(), value)
    assert influence[:, :, :3].eq(0).all()

    leaky = attend(None, torch.ones(6, 6, dtype=torch.bool).tril()[None, None])
    assert leaky.min() > 1e5


def test_a_bias_of_one_row_each_is_cut_by_row() -> None:
    torch.manual_seed(0)
    query, key, value = torch.rand(3, 2, 2, 4, 8, dtype=torch.float64).unbind()
    bias = torch.rand(2, 2, 4, 4, dtype=torch.float64)
    offsets = torch.tensor([0, 1, 4, 6, 8])
    for is_causal in (True, False):
        layer = Layer(is_causal)
        packed, _ = document_attention(layer, query, key, value, None, documents=Documents(offsets), position_bias=bias)
        mask = block_diagonal_mask(offsets, 2, 4, causal=is_causal)
        dense, _ = document_attention(layer, query, key, value, mask, position_bias=bias)
        assert_same(packed, dense)


def test_a_query_without_keys_reads_zero() -> None:
    query, key = torch.rand(1, 1, 3, 4), torch.rand(1, 1, 2, 4, requires_grad=True)
    documents = Documents(torch.tensor([0, 2, 2]), torch.tensor([0, 2, 3]))
    out, _ = document_attention(Layer(False, is_decoder=True), query, key, key, None, documents=documents)
    assert out[0, 2].eq(0).all()
    assert out[0, :2].ne(0).all()
    assert torch.autograd.grad(out.sum(), key)[0].isfinite().all()


@pytest.mark.parametrize("name", ["opt", "llama", "t5"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    model = build(name).train()
    plain = gradients(model, loss_of(read_packed(model)))
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_same(gradients(model, loss_of(read_packed(model))), plain)


@pytest.mark.parametrize("name", ["opt", "llama", "t5"])
def test_padded_generation_with_a_cache_equals_stock_sdpa(name: str) -> None:
    model = build(name)
    input_ids = torch.randint(4, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
    if model.config.is_encoder_decoder:
        attention_mask = attention_mask.flip(1)
        for weight in model.parameters():
            weight.data *= 5.0  # else T5 repeats its start token, whatever it reads
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}

    def generate(implementation: str, mask: Tensor) -> list[list[int]]:
        model.set_attn_implementation(implementation)
        return model.generate(input_ids, attention_mask=mask, **settings).tolist()

    stock = generate("sdpa", attention_mask)
    assert generate("document", attention_mask) == stock
    assert generate("document_math", attention_mask) == stock
    unpadded = torch.ones_like(attention_mask)  # transformers drops such a mask before the forward
    assert generate("document", unpadded) == generate("sdpa", unpadded) != stock


@pytest.mark.parametrize("name", ["opt", "llama", "t5"])
def test_document_math_has_second_derivatives(name: str) -> None:
    """Hessian-vector products of packed rows, against lone documents and against central differences."""
    model = build(name, "document_math")
    weights = list(model.parameters())
    draw = torch.Generator().manual_seed(2)
    direction = [torch.randn(w.shape, generator=draw, dtype=w.dtype) for w in weights]

    def slope(read: Callable[[PreTrainedModel], Tensor], **options: Any) -> Tensor:
        loss = loss_of(torch.tanh(read(model)))
        return sum((g * d).sum() for g, d in zip(gradients(model, loss, **options), direction, strict=True))

    packed = gradients(model, slope(read_packed, create_graph=True))

    if name == "opt":  # the norms of the others round to float32, too coarse for differences
        step = 1e-5
        with torch.no_grad():
            curvature = sum((h * d).sum() for h, d in zip(packed, direction, strict=True))
        slopes = []
        for sign in (1, -1):
            torch._foreach_add_([w.data for w in weights], direction, alpha=sign * step)
            slopes.append(slope(read_packed).detach())
            torch._foreach_add_([w.data for w in weights], direction, alpha=-sign * step)
        torch.testing.assert_close((slopes[0] - slopes[1]) / (2 * step), curvature, rtol=1e-5, atol=1e-5)

    model.set_attn_implementation("sdpa")
    with sdpa_kernel(SDPBackend.MATH):
        alone = gradients(model, slope(read_alone, create_graph=True))
    scale = max(h.abs().max().item() for h in alone)
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * scale)


def test_document_math_meets_finite_differences_with_a_bias() -> None:
    query, key, value = torch.rand(3, 1, 2, 5, 2, dtype=torch.float64, requires_grad=True).unbind()
    bias = torch.rand(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    documents = Documents(torch.tensor([0, 2, 5]))

    def attend(*states: Tensor) -> Tensor:
        *states, bias = states
        return document_attention(Layer(True), *states, None, documents=documents, position_bias=bias, math=True)[0]

    inputs = [states.detach().requires_grad_() for states in (query, key, value, bias)]
    assert torch.autograd.gradgradcheck(attend, inputs)


@pytest.mark.parametrize(("name", "backend"), [("opt", "aot_eager"), ("t5", "eager")])
def test_a_compiled_model_equals_eager_and_compiles_for_no_batch_anew(name: str, backend: str) -> None:
    model = build(name)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter)
    compilations = []
    for cut in (2, 3, 6):  # other documents in every batch
        inputs = inputs_for(model, seed=cut)
        offsets = torch.tensor([0, cut, 9, 12, 16, 21, 24], dtype=torch.int32)
        inputs["documents"] = Documents(offsets, inputs["documents"].decoder_offsets)
        outputs, expected = compiled(**inputs)[0], model(**inputs)[0]
        assert_same(outputs, expected)
        assert_same(gradients(model, loss_of(outputs)), gradients(model, loss_of(expected)))
        compilations.append(counter.frame_count)
    assert compilations[0] > 0
    assert compilations == compilations[:1] * 3
    torch._dynamo.reset()


def test_attention_dropout_is_random_in_training_and_absent_in_evaluation() -> None:
    config = RobertaConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    model = RobertaModel(config, add_pooling_layer=False).double()
    model.set_attn_implementation("document")
    model.train()
    assert not torch.allclose(read_packed(model), read_packed(model))
    model.eval()
    packed = read_packed(model)
    model.set_attn_implementation("sdpa")
    assert_same(packed, read_alone(model))


def test_the_flash_kernel_is_asked_for_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any device: with a loop over documents in the kernel's place, its arguments give the exact result."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
               *, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:  # fmt: skip
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert cu_q.diff().max() <= max_q
        assert cu_k.diff().max() <= max_k
        outputs = []
        for q, k, v in zip(
            *(s.split(cu.diff().tolist()) for s, cu in ((query, cu_q), (key, cu_k), (value, cu_k))), strict=True
        ):
            out = torch.nn.functional.scaled_dot_product_attention(
                *(states.transpose(0, 1) for states in (q, k, v)),
                scale=scale,
                is_causal=window_size == (-1, 0),
                enable_gqa=enable_gqa,
            )
            outputs.append(out.transpose(0, 1))
        return torch.cat(outputs)

    torch.manual_seed(0)
    query, key, value = torch.rand(2, 4, 8, 8), torch.rand(2, 2, 12, 8), torch.rand(2, 2, 12, 8)
    documents = Documents(torch.tensor([0, 5, 9, 12, 16, 21, 24]), torch.tensor([0, 3, 5, 8, 12, 14, 16]))

    def attend() -> list[Tensor]:
        return [
            document_attention(Layer(False), key, key, value, None, documents=documents)[0],
            document_attention(Layer(True), query, query, query, None, documents=documents)[0],
            document_attention(Layer(False, is_decoder=True), query, key, value, None, documents=documents)[0],
        ]

    grouped = attend()
    monkeypatch.setattr(attention, "varlen_applies", lambda *_: True)
    monkeypatch.setattr(attention_backends, "varlen_attn", kernel)
    torch.testing.assert_close(attend(), grouped)


def test_autocast_rounds_as_it_rounds_sdpa() -> None:
    """Rotary positions leave float32 queries beside bfloat16 values."""
    torch.manual_seed(0)
    query, key, value = torch.rand(1, 2, 5, 8), torch.rand(1, 2, 5, 8), torch.rand(1, 2, 5, 8).bfloat16()
    offsets = torch.tensor([0, 2, 5])
    with torch.autocast("cpu", torch.bfloat16):
        packed, _ = document_attention(Layer(True), query, key, value, None, documents=Documents(offsets))
        mask = block_diagonal_mask(offsets, 1, 5, causal=True)
        dense, _ = document_attention(Layer(True), query, key, value, mask)
    assert packed.dtype == dense.dtype == torch.bfloat16
    torch.testing.assert_close(packed, dense, atol=1e-2, rtol=1e-2)  # bfloat16 keeps 8 bits


def test_the_plan_is_made_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Any] = []
    make = document_places.make_plan
    monkeypatch.setattr(document_places, "make_plan", lambda *args: plans.append(args) or make(*args))
    read_packed(build("t5"))
    assert len(plans) == 3  # encoder, decoder, cross


REFUSED = {
    "bart": (
        lambda: BartForConditionalGeneration(
            BartConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=1)
        ),
        "BartForConditionalGeneration.*positions cannot restart",
    ),
    "mbart": (
        lambda: MBartForConditionalGeneration(
            MBartConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=1)
        ),
        "MBartForConditionalGeneration.*positions cannot restart",
    ),
    "pegasus": (
        lambda: PegasusForConditionalGeneration(
            PegasusConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=0)
        ),
        "PegasusForConditionalGeneration.*positions cannot restart",
    ),
    "gptj": (
        lambda: GPTJForCausalLM(GPTJConfig(vocab_size=40, n_embd=32, n_layer=1, n_head=4, rotary_dim=4)),
        "GPTJForCausalLM.*AttentionInterface",
    ),
    "bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4)),
        "BloomForCausalLM.*AttentionInterface",
    ),
    "gemma2": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, intermediate_size=48, head_dim=8)),
        "Gemma2ForCausalLM.*attn_logit_softcapping=50",
    ),
    "mistral": (
        lambda: MistralForCausalLM(
            MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=8)
        ),
        "MistralForCausalLM.*sliding_window of 8 tokens is shorter than a row of 12",
    ),
    "mamba": (
        lambda: MambaModel(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1)),
        "MambaModel.*recurrent state",
    ),
    # Only measuring tells: LongT5 registers for one half of its attention.
    "longt5": (lambda: LongT5Model(LongT5Config(**T5_SMALL)), "LongT5Model cannot read packed rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_separated_are_refused(name: str) -> None:
    make, message = REFUSED[name]
    model = make()
    model.set_attn_implementation("document")
    with pytest.raises(ValueError, match=message):
        require_document_attention(model, row_length=12)


def test_a_leak_that_no_configuration_shows_is_measured() -> None:
    model = build("llama").train()
    require_document_attention(model)
    assert model.training
    roll = lambda module, args, output: output + output.roll(1, dims=1)  # noqa: E731, as a convolution would
    handle = model.model.layers[0].mlp.register_forward_hook(roll)
    with pytest.raises(ValueError, match="changed with the document before it"):
        require_document_attention(model)
    handle.remove()
    roberta = build("roberta")
    roberta.config.model_type = "bert"  # positions would be counted from 0
    with pytest.raises(ValueError, match="differ from those of the document alone"):
        require_document_attention(roberta)


def test_a_model_without_document_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attn_implementation='document', got 'sdpa'"):
        require_document_attention(build("opt", "sdpa"))


def test_a_model_without_weights_is_judged_by_its_configuration() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="document")
    require_document_attention(model)


def test_a_row_longer_than_the_window_is_refused_in_the_forward() -> None:
    config = MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=8)
    model = MistralForCausalLM(config)
    model.set_attn_implementation("document")
    require_document_attention(model)
    with pytest.raises(ValueError, match=r"8 tokens cannot be given to packed rows of 12"):
        read_packed(model)


def test_neither_documents_nor_mask_is_refused() -> None:
    for name in ("opt", "bert", "t5"):
        model = build(name)
        inputs = inputs_for(model)
        del inputs["documents"]
        with pytest.raises(ValueError, match="needs documents or an attention mask, got neither"):
            model(**inputs)


def test_forgotten_documents_are_refused_without_gradients_too() -> None:
    """Where ``generate`` may come without a mask, positions that restart give packed rows away."""
    model = build("opt")
    inputs = inputs_for(model)
    del inputs["documents"]
    with torch.no_grad():
        with pytest.raises(ValueError, match="needs documents or an attention mask, got neither"):
            model(**inputs)
        plain = inputs | {"position_ids": torch.arange(12).expand(2, 12)}
        unmasked = model(**plain)[0]
        assert_same(unmasked, model(**plain, attention_mask=torch.ones(2, 12))[0])


def test_documents_and_a_mask_together_are_refused() -> None:
    model = build("opt")
    inputs = inputs_for(model)
    with pytest.raises(ValueError, match="got documents and an attention mask"):
        model(**inputs, attention_mask=torch.ones(2, 12))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 5, 9, 16, 24], r"cannot cross rows: offsets lack the row starts \[12\]"),
        ([0, 5, 12, 20], r"rise from 0 to 2 rows \* 12 columns = 24"),
        ([0, 5, 3, 12, 24], "rise from 0 to 2 rows"),
    ],
)
def test_offsets_that_do_not_fit_the_rows_are_refused(offsets: list[int], message: str) -> None:
    model = build("opt")
    inputs = inputs_for(model) | {"documents": Documents(torch.tensor(offsets))}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_an_encoder_decoder_needs_offsets_on_both_sides() -> None:
    model = build("t5")
    inputs = inputs_for(model)
    inputs["decoder_input_ids"] = inputs["input_ids"]
    with pytest.raises(ValueError, match="needs Documents"):
        model(**inputs | {"documents": Documents(inputs["documents"].offsets)})
    with pytest.raises(ValueError, match="got 6 in the encoder and 5 in the decoder"):
        Documents(torch.tensor(OFFSETS), torch.tensor(DECODER_OFFSETS[:-1]))


def test_positions_begin_after_the_padding_index_in_roberta() -> None:
    assert first_position(build("roberta").config) == 2
    assert {first_position(build(name).config) for name in MODELS if name != "roberta"} == {0}


def test_documented_examples() -> None:
    assert doctest.testmod(document_places).failed == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["opt", "llama", "bert"])
def test_the_flash_kernel_equals_the_grouped_calls(name: str) -> None:
    model = build(name).to("cuda", torch.bfloat16)
    exact = copy.deepcopy(model).float()

    def packed(reader: PreTrainedModel) -> tuple[Tensor, list[Tensor]]:
        inputs = inputs_for(reader)
        documents = Documents(inputs.pop("documents").offsets.cuda())
        inputs = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in inputs.items()}
        outputs = read_packed(reader, **inputs, documents=documents)
        return outputs.float(), [g.float() for g in gradients(reader, outputs.float().square().mean())]

    outputs, grads = packed(model)
    expected_outputs, expected_grads = packed(exact)
    for got, expected in zip([outputs, *grads], [expected_outputs, *expected_grads], strict=True):
        # bfloat16 keeps 8 bits: two layers of it stay within a few percent of the whole tensor.
        assert (got - expected).norm() <= 0.05 * expected.norm() + 1e-6
