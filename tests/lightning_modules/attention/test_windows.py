"""Windows, chunks, capped scores and attention sinks within documents, on rows that are longer than the window."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from packed_models import OFFSETS, TINY_MODEL, assert_same, gradients, inputs_for, loss_of, read_alone, read_packed
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from crosstask.lightning_modules.attention import backends as attention_backends
from crosstask.lightning_modules.attention import document_attention as attention
from crosstask.lightning_modules.attention.document_attention import document_attention
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import padded_attention, require_document_attention
from crosstask.lightning_modules.attention.span_groups import Window

SIZE = 3  # of windows and chunks; documents have 3 to 5 tokens, in rows of 12
FIELDS: dict[str, Any] = {
    **TINY_MODEL,
    "max_position_embeddings": 64,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}
BOTH_KINDS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
MODELS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": SIZE},
    "gemma2": {"sliding_window": SIZE},  # capped scores, and a window in every second layer
    "gemma4_text": {  # the last two layers read keys of the first two
        "sliding_window": SIZE,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 40,
        "num_kv_shared_layers": 2,
        **BOTH_KINDS,
    },
    "gpt_oss": {"sliding_window": SIZE},  # attention sinks
    "llama4_text": {"attention_chunk_size": SIZE, "intermediate_size_mlp": 48, "no_rope_layers": [1, 0]},
    "qwen2_moe": {"num_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},  # window of 0
    "modernbert": {"local_attention": 2 * SIZE - 2, "global_attn_every_n_layers": 2, "cls_token_id": 2},
}
FLOAT32_PARTS = ("gemma2", "gemma4_text", "llama4_text")  # norms or rotations in float32 limit the precision


def build(name: str, implementation: str = "document") -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**FIELDS, **MODELS[name]})
    auto = AutoModel if name == "modernbert" else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation=implementation, experts_implementation="eager")
    model = model.double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # large enough for documents to hear each other, and sinks of every size
    return model


def inputs_of(model: PreTrainedModel) -> dict[str, Any]:
    inputs = inputs_for(model)
    if model.config.model_type == "modernbert":
        del inputs["use_cache"]
    return inputs


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_document_reads_as_if_alone_behind_its_window(name: str) -> None:
    model = build(name)
    require_document_attention(model)
    packed = read_packed(model, **inputs_of(model))
    packed_gradients = gradients(model, loss_of(packed))

    model.set_attn_implementation("eager")  # what transformers computes; for most models with a softmax in float32
    alone = read_alone(model)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)

    model.set_attn_implementation("document")
    masked, ids = [], inputs_of(model)["input_ids"].flatten()
    for start, end in pairwise(OFFSETS[:6]):
        masked.append(model(ids[None, start:end], attention_mask=torch.ones(1, end - start))[0][0])
    alone = torch.cat(masked)
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=1e-7 if name in FLOAT32_PARTS else 1e-12)
    for got, expected in zip(packed_gradients, gradients(model, loss_of(alone)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 if name in FLOAT32_PARTS else 1e-10)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss", "llama4_text"])
def test_windows_caps_and_sinks_change_what_is_read(name: str) -> None:
    model = build(name)
    before = read_packed(model)
    if name in ("gemma2", "gpt_oss"):
        for module in model.modules():
            if hasattr(module, "attn_logit_softcapping"):
                module.attn_logit_softcapping = 0.1
            elif hasattr(module, "sinks"):
                module.sinks.data += 1.0
        assert not torch.allclose(read_packed(model), before, atol=1e-3)
        model = build(name)
    for field in ("sliding_window", "attention_chunk_size"):
        if field in MODELS[name]:
            setattr(model.config, field, 2)
    assert not torch.allclose(read_packed(model), before, atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "gemma4_text", "gpt_oss", "llama4_text"])
def test_prompts_longer_than_the_window_are_continued_as_by_transformers(name: str) -> None:
    model = build(name)
    prompts = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    padded = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9])
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}

    def generate(implementation: str, mask: Tensor) -> list[list[int]]:
        model.set_attn_implementation(implementation)
        return model.generate(prompts, attention_mask=mask, **settings).tolist()

    for mask in (padded, torch.ones_like(padded)):
        assert generate("document", mask) == generate(padded_attention(type(model)), mask)


class Layer(torch.nn.Module):
    is_causal = True


@pytest.mark.parametrize("window", [Window(2), Window(2, chunked=True)])
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0], dtype=torch.float64)])
def test_continuations_see_their_prefix_through_the_window(window: Window, sinks: Tensor | None) -> None:
    """A prefix of 3 tokens with continuations of 1 and 3, against each continuation in a document with the prefix."""
    torch.manual_seed(0)
    query, key, value = torch.rand(3, 1, 2, 7, 4, dtype=torch.float64).unbind()
    layer = Layer()

    def attend(columns: list[int], documents: Documents) -> Tensor:
        states = (part[:, :, columns] for part in (query, key, value))
        return document_attention(layer, *states, window, documents=documents, s_aux=sinks, softcap=2.0)[0][0]

    offsets = torch.tensor([0, 3, 4, 7])
    shared = attend([*range(7)], Documents(torch.tensor([0, 7]), continuation_offsets=offsets))
    first = attend([0, 1, 2, 3], Documents(torch.tensor([0, 4])))
    second = attend([0, 1, 2, 4, 5, 6], Documents(torch.tensor([0, 6])))
    assert_same(shared, torch.cat([first, second[3:]]))


def test_document_math_differentiates_caps_and_sinks_twice() -> None:
    query, key, value = torch.rand(3, 1, 2, 5, 2, dtype=torch.float64, requires_grad=True).unbind()
    sinks = torch.rand(2, dtype=torch.float64, requires_grad=True)
    documents = Documents(torch.tensor([0, 2, 5]))

    def attend(*states: Tensor) -> Tensor:
        *states, sinks = states
        options = {"documents": documents, "softcap": 1.5, "s_aux": sinks, "math": True}
        return document_attention(Layer(), *states, Window(2), **options)[0]

    inputs = [states.detach().requires_grad_() for states in (query, key, value, sinks)]
    assert torch.autograd.gradgradcheck(attend, inputs)


@pytest.mark.parametrize(("window", "causal"), [(Window(2), True), (Window(2), False), (Window(2, True), True)])
def test_the_flash_kernel_is_called_with_the_window(
    monkeypatch: pytest.MonkeyPatch, window: Window, causal: bool
) -> None:
    """A loop over the kernel's documents in its place: a window of (left, right) tokens beside the query's own."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
               *, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:  # fmt: skip
        left, right = (10**6 if side < 0 else side for side in window_size)
        outputs = []
        for q, k, v in zip(*(s.split(cu_q.diff().tolist()) for s in (query, key, value)), strict=True):
            distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
            mask = (distance <= left) & (distance >= -right)
            out = torch.nn.functional.scaled_dot_product_attention(
                *(states.transpose(0, 1) for states in (q, k, v)), attn_mask=mask, scale=scale
            )
            outputs.append(out.transpose(0, 1))
        return torch.cat(outputs)

    torch.manual_seed(0)
    query, key, value = torch.rand(3, 2, 4, 12, 8).unbind()
    layer = Layer()
    layer.is_causal = causal

    def attend() -> Tensor:
        return document_attention(layer, query, key, value, window, documents=Documents(torch.tensor(OFFSETS)))[0]

    grouped = attend()
    monkeypatch.setattr(attention, "varlen_applies", lambda *_: True)
    monkeypatch.setattr(attention_backends, "varlen_attn", kernel)
    torch.testing.assert_close(attend(), grouped)
