"""Packed rows read as if each document were alone: outputs, gradients, second derivatives, generation."""

import copy
import doctest
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from devices import REHEARSED
from packed_models import (
    MODELS,
    OFFSETS,
    SMALL,
    assert_same,
    block_diagonal_mask,
    build,
    gradients,
    inputs_for,
    loss_of,
    read_alone,
    read_packed,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from crosstask.lightning_modules.attention import backends as attention_backends
from crosstask.lightning_modules.attention import document_attention as attention
from crosstask.lightning_modules.attention import document_offsets
from crosstask.lightning_modules.attention.document_attention import document_attention
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import require_document_attention


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_read_as_if_alone(name: str) -> None:
    model = build(name)
    require_document_attention(model)
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


@pytest.mark.parametrize("name", MODELS)
def test_documents_that_are_filled_up_to_similar_lengths_read_as_if_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU attends to them where it has no varlen kernel."""
    model = build(name)
    model.set_attn_implementation("sdpa")
    alone = read_alone(model)
    model.set_attn_implementation("document")
    monkeypatch.setattr(document_offsets, "pads_groups", lambda device: True)
    packed = read_packed(model)
    assert_same(packed, alone)
    assert_same(gradients(model, loss_of(packed)), gradients(model, loss_of(alone)))


def test_documents_of_many_lengths_are_attended_in_few_calls() -> None:
    """59 lengths up to 1,770 take as many calls where lengths must be equal, and 12 where they may be similar."""
    lengths = torch.arange(30, 1800, 30)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).tolist()
    spans = [document_offsets.Span(start, end, start, end) for start, end in pairwise(offsets)]
    device = torch.device("cpu")
    exact = document_offsets.make_plan(spans, device)
    padded = document_offsets.make_padded_plan(spans, 2048, device)
    assert (len(exact.groups), len(padded.groups)) == (59, 12)
    assert all(group.queries <= 1.5 * lengths[lengths <= group.queries].max() for group in padded.groups)
    for plan in (exact, padded):
        assert torch.equal(plan.query_order[plan.restore], torch.arange(offsets[-1]))
    assert len(padded.query_order) < 1.3 * offsets[-1]


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
    """Of one layer, since each takes the compiler seconds."""
    model = build(name)
    if name == "t5":
        del model.encoder.block[1:], model.decoder.block[1:]
    else:
        del model.model.decoder.layers[1:]
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


def test_the_flash_kernel_is_called_with_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
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
    make = document_offsets.make_plan
    monkeypatch.setattr(
        document_offsets, "make_plan", lambda *args, **options: plans.append(args) or make(*args, **options)
    )
    read_packed(build("t5"))
    assert len(plans) == 3  # encoder, decoder, cross


def test_documented_examples() -> None:
    assert doctest.testmod(document_offsets).failed == 0


@pytest.mark.parametrize("device", REHEARSED)
@pytest.mark.parametrize("name", ["opt", "llama", "bert"])
def test_half_precision_differs_by_its_rounding_alone(name: str, device: str) -> None:
    """On CUDA it is the flash kernel, compared with the grouped calls in float32."""
    model = build(name).to(device, torch.bfloat16)
    exact = copy.deepcopy(model).float()

    def packed(reader: PreTrainedModel, offsets: list[int] = OFFSETS) -> tuple[Tensor, list[Tensor]]:
        documents = Documents(torch.tensor(offsets, dtype=torch.int32, device=device))
        inputs = inputs_for(reader) | {"documents": documents}
        inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
        outputs = read_packed(reader, **inputs).float()
        return outputs.detach(), [gradient.float() for gradient in gradients(reader, loss_of(outputs))]

    def error(outputs: Tensor, grads: list[Tensor]) -> float:
        """The largest over all tensors, relative; some gradients are 0 in mathematics (of a key's bias)."""
        least = 0.01 * torch.stack([each.norm() for each in expected_grads]).norm()
        pairs = [(outputs, expected_outputs), *zip(grads, expected_grads, strict=True)]
        return max(float((got - each).norm() / (each.norm() + least)) for got, each in pairs)

    expected_outputs, expected_grads = packed(exact)
    assert error(*packed(model)) < 0.1  # bfloat16 keeps 8 bits: 0.05 on a CPU
    assert error(*packed(model, [0, 9, *OFFSETS[3:]])) > 0.3  # two documents that see each other
