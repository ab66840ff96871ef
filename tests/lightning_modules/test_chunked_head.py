"""The loss in chunks of the vocabulary: that of whole logits, with their gradients, in less memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_descent import LargestTensor
from small_runs import SmallRuns, small_trainer
from target_models import PAD, VOCABULARY, causal_model, documents, t5_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.lightning_modules import chunked_cross_entropy as chunked
from crosstask.lightning_modules.chunked_cross_entropy import LogitRule, chunked_cross_entropy
from crosstask.lightning_modules.chunked_head import ChunkedHead, has_plain_head
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.target_loss import target_loss


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "SMALLEST_PART", 8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("rule", [LogitRule(), LogitRule(0.25, 2.0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_loss_and_its_gradients_are_those_of_whole_logits(
    dtype: torch.dtype, tolerance: float, rule: LogitRule, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(9, 16), (101, 16), (101,)]
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes[: 2 + with_bias]]
    targets = torch.tensor([0, 100, 7, 8, 8, 50, 63, 64, 99])  # both ends of parts of 8 tokens
    gradients = []
    for compute in (chunked_cross_entropy, whole_cross_entropy):
        hidden, weight, *bias = (tensor.clone().requires_grad_() for tensor in drawn)
        loss = compute(hidden, weight, bias[0] if bias else None, targets, rule=rule, chunk=1)
        (3 * loss).backward()
        gradients.append([loss.detach(), hidden.grad, weight.grad, *(each.grad for each in bias)])
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm()


def whole_cross_entropy(
    hidden: Any, weight: Any, bias: Any, targets: Any, *, rule: LogitRule, chunk: int
) -> torch.Tensor:
    logits = F.linear(hidden, weight, bias) * rule.scale
    logits = logits if rule.cap is None else rule.cap * torch.tanh(logits / rule.cap)
    return F.cross_entropy(logits, targets, reduction="sum")


def bart_model() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": PAD, "eos_token_id": 1}
    config = AutoConfig.for_model("bart", vocab_size=VOCABULARY, decoder_start_token_id=1, **sizes, **heads)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="sdpa").double().eval()
    model.final_logits_bias.normal_()
    return model


def mpt_model() -> Any:
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 64, "logit_scale": "inv_sqrt_d_model"}
    config = AutoConfig.for_model("mpt", vocab_size=VOCABULARY, **shape)
    return AutoModelForCausalLM.from_config(config).double().eval()


MODELS = {
    "opt, tied": causal_model,
    "llama, untied": lambda: causal_model("llama", tie_word_embeddings=False),
    "gemma2, capped": lambda: causal_model("gemma2", "eager", head_dim=8, final_logit_softcapping=0.5),
    "cohere, multiplied": lambda: causal_model("cohere", "sdpa", logit_scale=0.25),
    "granite, divided": lambda: causal_model("granite", "sdpa", logits_scaling=8.0),
    "hyperclovax, multiplied": lambda: causal_model("hyperclovax", "sdpa", logits_scaling=8.0),
    "minicpm3, its inputs divided": lambda: causal_model("minicpm3", "sdpa", dim_model_base=4, kv_lora_rank=4),
    "mpt, a scale that is not read": mpt_model,
    "phi, bias": lambda: causal_model("phi", "sdpa"),
    "t5, tied and scaled": t5_model,
    "bart, bias in a buffer": bart_model,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_loss_is_that_of_its_logits(name: str) -> None:
    made, model = documents(4), MODELS[name]()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases that start at 0 would hide their absence
    packed = model.config._attn_implementation == "document"
    rows = [made[:2], made[2:]] if packed else [[document] for document in made]
    kind = Seq2SeqRows(24, 16, PAD) if model.config.is_encoder_decoder else CausalRows(32, PAD)
    batch = kind.collate(rows, step_targets=1)
    assert has_plain_head(model)
    results = []
    for head in (None, ChunkedHead(model, chunk=1)):
        model.zero_grad()
        loss = target_loss(model, batch, packed=packed, head=head)
        loss.sum.backward()
        results.append((loss, {name: weight.grad for name, weight in model.named_parameters()}))
    (whole, expected), (chunks, gradients) = results
    torch.testing.assert_close(chunks, whole, rtol=1e-12, atol=0)
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-9, atol=1e-12, msg=key)
    assert "forward" not in vars(model.get_output_embeddings())


def test_no_more_logits_than_a_part_are_held() -> None:
    targets, vocabulary, width = 64, 4096, 8
    for compute, expected in ((whole_cross_entropy, targets * vocabulary), (chunked_cross_entropy, width * vocabulary)):
        hidden, weight = torch.ones(targets, width, requires_grad=True), torch.ones(vocabulary, width).requires_grad_()
        with LargestTensor() as seen:
            compute(hidden, weight, None, torch.zeros(targets, dtype=torch.long), rule=LogitRule(), chunk=1).backward()
        assert seen.largest == expected  # the gradient of the matrix, where logits are not held


def test_logits_of_another_rule_are_rejected() -> None:
    model = causal_model("granite", "sdpa", logits_scaling=8.0)
    batch = CausalRows(32, PAD).collate([[document] for document in documents(2)], step_targets=1)
    head = ChunkedHead(model, chunk=1)
    head.rule = LogitRule()
    with pytest.raises(ValueError, match=r"GraniteForCausalLM are not .* set network.logits to whole"):
        target_loss(model, batch, packed=False, head=head)


@pytest.mark.parametrize(("logits", "passes"), [(None, 2), ("whole", 0)])
def test_a_run_takes_its_loss_in_chunks_unless_told_otherwise(
    logits: str | None, passes: int, small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default, at a chunk that the targets of a small step exceed."""
    summed: list[int] = []
    loss_sum = ChunkedHead.loss_sum
    monkeypatch.setattr(
        ChunkedHead, "loss_sum", lambda *words, **named: (summed.append(1), loss_sum(*words, **named))[1]
    )
    module, data = small_runs("tuning", network=Network() if logits is None else Network(logits=logits))
    module.configure_model()
    if module._head is not None:
        module._head.chunk = 1
    small_trainer(2).fit(module, datamodule=data)
    assert len(summed) == passes
