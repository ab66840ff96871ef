"""Write docs/architectures.md: a table of the architectures that read packed rows.

Every causal, encoder-decoder and sequence-classification model type of the installed transformers is built with a tiny
random configuration in float64. Documents of 5, 4 and 3 tokens, longer than a window of 3, are read in one row and each
alone; hidden states and gradients of the weights are compared. A few minutes on a CPU::

    python experiments/architecture_table.py > docs/architectures.md
    python experiments/architecture_table.py --only gemma2 falcon  # rows of these model types, as text
"""

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from crosstask.lightning_modules.attention.dense_masks import (
    MASKED,
    built_attention,
    read_documents_by_mask,
    reads_documents_by_mask,
    reads_masks,
)
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import (
    CannotPack,
    first_position,
    padded_attention,
    require_document_attention,
    require_registered_attention,
)
from crosstask.lightning_modules.attention.recurrent_layers import read_documents_alone
from crosstask.lightning_modules.models import require_causal

Kind = Literal["causal", "encoder-decoder", "classification"]
Verdict = Literal["exact", "padded", "rejected", "not walked"]

MAPPINGS: dict[Kind, Mapping[Any, Any]] = {
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING,
    "encoder-decoder": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}

OFFSETS = (0, 5, 9, 12)
TOLERANCE = 1e-4  # of the largest number: some norms and rotations are float32 in every dtype, and leaks far larger

SIZES: dict[int, str] = {
    1: "num_experts_per_tok moe_topk moe_k n_group topk_group num_nextn_predict_layers pad_token_id mamba_n_groups "
    "n_groups num_hash_layers experts_per_token first_k_dense_replace dense_layers",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers bos_token_id "
    "num_encoder_layers num_experts num_local_experts n_routed_experts moe_num_experts decoder_start_token_id "
    "num_key_value_heads num_kv_heads n_head_kv cls_token_id num_mem_blocks",
    3: "eos_token_id sep_token_id sliding_window attention_chunk_size window_size local_attention attention_window",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads rotary_dim "
    "mamba_n_heads linear_num_key_heads linear_num_value_heads mamba_d_state ssm_state_size state_size "
    "num_global_key_value_heads index_n_heads encoder_sparse_step decoder_sparse_step",
    8: "head_dim d_kv attention_head_size kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim "
    "global_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head hidden_size_per_layer_input "
    "mamba_head_dim dim_head kv_channels index_head_dim chunk_size mamba_chunk_size",
    16: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size shared_intermediate_size",
    32: "hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim decoder_hidden_size lru_width "
    "d_embed dim_model emb_dim conv_dim",
    48: "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner dim_ff intermediate_size_mlp "
    "ffn_hidden_size inner_dim dense_intermediate_size expert_hidden_size block_ff_dim dff",
    64: "vocab_size vocab_size_per_layer_input max_position_embeddings n_positions max_seq_len max_source_positions "
    "max_target_positions n_ctx max_seq_length bucket_size max_sequence_length",
}
"""Names of integer fields of configurations, by the value they get; fields that a configuration lacks are ignored."""

SPECIAL: dict[str, dict[str, Any]] = {
    "llama4_text": {"no_rope_layers": [1, 0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mt5": {"num_decoder_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
    "modernbert-decoder": {"local_attention": 6, "global_attn_every_n_layers": 2},
    "phi3": {"sliding_window": 3},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen4_exp_text": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "nemotron": {"num_key_value_heads": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "esm": {"vocab_size": 64, "mask_token_id": 5},
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "led": {"attention_window": 4},
    "longformer": {"attention_window": 4},
}
"""Fields of single model types, so that every kind of their layers is tried."""


class Row(NamedTuple):
    """Line of the table: a model type, its kind, the verdict on its rows, and the reason if they are not packed."""

    model_type: str
    kind: Kind
    verdict: Verdict
    reason: str = ""


def small_config(model_type: str) -> PreTrainedConfig:
    """Return a tiny configuration of a model type, with the sizes above in place of its defaults."""
    sizes = {name: size for size, names in SIZES.items() for name in names.split()}

    def small(config_class: type[PreTrainedConfig], special: Mapping[str, Any]) -> PreTrainedConfig:
        default = config_class()
        stored = default.to_dict()
        fields = {name: size for name, size in sizes.items() if type(stored.get(name)) is int}
        if "kv_lora_rank" in stored:  # latent attention has a key for each head, whose width is that of its rotation
            fields |= {"num_key_value_heads": 4, "head_dim": 8}
        for name, part in (config_class.sub_configs or {}).items():
            inner = part if part.__name__ != "AutoConfig" else type(getattr(default, name))
            fields[name] = small(inner, SPECIAL.get(inner.model_type, {})).to_dict()
        return config_class(**{**fields, **special})

    return small(CONFIG_MAPPING[model_type], SPECIAL.get(model_type, {}))


def require_small(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> None:
    """Reject a configuration with large fields that the sizes above do not name."""
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in model_class._from_config(config).parameters())
    if parameters > 5_000_000:
        raise OverflowError(f"its smallest configuration here has {parameters:,} parameters")


def built(model_class: type[PreTrainedModel], config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """Return a random model in float64, whose weights are so large that attention between documents shows."""
    torch.manual_seed(0)
    # Grouped kernels of experts have no float64.
    implementation = built_attention(config, attention)
    model = model_class._from_config(config, attn_implementation=implementation, experts_implementation="eager")
    model = model.double().eval()
    if attention == "document":
        read_documents_alone(model)
        read_documents_by_mask(model)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def table(only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Yield the rows of all model types of the installed transformers, or of those in `only`."""
    for kind, mapping in MAPPINGS.items():
        for config_class in mapping:
            if not only or config_class.model_type in only:
                yield walked(config_class.model_type, kind)


def walked(model_type: str, kind: Kind) -> Row:
    """Return the row of a model type: packed if that is exact, else padded if that is exact."""
    try:
        config = small_config(model_type)
        config.num_labels = config.get_text_config().num_labels = 1
        config.pad_token_id = config.get_text_config().pad_token_id = 1
        classes = MAPPINGS[kind][type(config)]
        model_class = classes[0] if isinstance(classes, tuple) else classes
        if model_class.config_class is (config.sub_configs or {}).get("text_config"):
            config = config.get_text_config()
        require_small(model_class, config)
    except Exception as error:
        return Row(model_type, kind, "not walked", f"no tiny configuration was found: {_line(error)}")
    try:
        if kind != "causal" or not reads_masks(config):
            require_registered_attention(model_class)
        model = built(model_class, config, "document")
        require_document_attention(model)
    except CannotPack as error:
        obstacle = error.reason
    except Exception as error:
        obstacle = _line(error)
    else:
        return packed_row(model, model_type, kind)
    try:
        model = built(model_class, config, padded_attention(model_class)).float()
    except Exception as error:
        return Row(model_type, kind, "not walked", f"no tiny configuration was found: {_line(error)}")
    if kind == "causal" and not reads_forward(model):
        return Row(model_type, kind, "rejected", "it reads text in both directions")
    try:
        error = padded_error(model, kind)
    except Exception as failure:
        return Row(model_type, kind, "not walked", f"its tiny configuration cannot be read: {_line(failure)}")
    return Row(model_type, kind, "rejected", error) if error else Row(model_type, kind, "padded", obstacle)


def packed_row(model: PreTrainedModel, model_type: str, kind: Kind) -> Row:
    """Return the row of a model type that passes the check for packed rows."""
    if kind == "causal" and not reads_forward(model):
        return Row(model_type, kind, "rejected", "it reads text in both directions")
    try:
        error = largest_error(model)
    except Exception as failure:
        return Row(model_type, kind, "not walked", f"the check passes, and its rows fail: {_line(failure)}")
    if error is None:
        return Row(model_type, kind, "exact")
    return Row(model_type, kind, "rejected", f"the check passes, and its rows are wrong: {error}")


def reads_forward(model: PreTrainedModel) -> bool:
    """Return whether a causal model does not attend to the tokens that it predicts."""
    try:
        require_causal(model)
    except ValueError:
        return False
    return True


def largest_error(model: PreTrainedModel) -> str | None:
    """Describe how packed documents differ from the same documents alone, in states or gradients; None if equal."""
    reader: Any = model.base_model
    ids = torch.arange(OFFSETS[-1])[None] * 7 % 50 + 8
    positions = torch.cat([torch.arange(end - start) for start, end in pairwise(OFFSETS)])[None]
    offsets = torch.tensor(OFFSETS, dtype=torch.int32)
    pair = reader.config.is_encoder_decoder

    def read(ids: Tensor, **inputs: Any) -> Tensor:
        decoder = {"decoder_input_ids": ids} if pair else {}
        return reader(input_ids=ids, **decoder, **inputs, return_dict=True)[0][0]

    if pair:
        packed = read(ids, documents=Documents(offsets, offsets))
    else:
        packed = read(ids, documents=Documents(offsets), position_ids=positions + first_position(reader.config))
    packed_gradients = gradients(reader, packed)
    if not reads_documents_by_mask(model):
        reader.set_attn_implementation(padded_attention(type(model)))
    alone = torch.cat([read(ids[:, start:end]) for start, end in pairwise(OFFSETS)])
    pairs = zip((packed, *packed_gradients), (alone, *gradients(reader, alone)), strict=True)
    error = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in pairs)
    return None if error < TOLERANCE else f"relative error {error:.0e}"


def gradients(model: PreTrainedModel, outputs: Tensor) -> list[Tensor]:
    """Return the gradients of all weights, of a sum that weights every output differently."""
    weighted = outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs).cos()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(weighted.sum(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, slopes, strict=True)]


@torch.no_grad()
def padded_error(model: PreTrainedModel, kind: Kind) -> str | None:
    """Describe the difference of a document in a padded row from the same document alone; None if equal."""
    pad = model.config.pad_token_id if isinstance(model.config.pad_token_id, int) else 1
    ids = torch.tensor([[9, 17, 31, 3]])  # some heads read the eos token
    pair = model.config.is_encoder_decoder and kind != "classification"

    def read(ids: Tensor, mask: Tensor, length: int) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, **({"decoder_input_ids": ids} if pair else {})}
        logits = model(**inputs).logits
        return logits[0] if kind == "classification" else logits[0, :length]

    if "attention_mask" not in inspect.signature(model.forward).parameters:
        return "its forward takes no attention_mask"
    whole = torch.ones(1, 4, dtype=torch.long)
    alone = read(ids, whole, 4)
    padded = read(torch.nn.functional.pad(ids, (0, 3), value=pad), torch.nn.functional.pad(whole, (0, 3)), 4)
    error = float((padded - alone).abs().max() / alone.abs().max().clamp(min=1e-3))
    return None if error < 1e-4 else f"in a padded row its outputs have a relative error of {error:.0e}"


def _line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
    return text if len(text) <= 120 else f"{text[:117]}..."


def page(rows: list[Row]) -> str:
    """Return docs/architectures.md."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("exact", "padded", "rejected")}
    masked = ", ".join(f"`{model_type}`" for model_type in sorted(MASKED))
    lines = [
        "# Architectures",
        "",
        "<!-- written by experiments/architecture_table.py (make architectures) -->",
        "Every causal, encoder-decoder and sequence-classification model type of transformers "
        + transformers.__version__,
        "with a tiny random configuration in float64:",
        "",
        f"- **exact** ({counts['exact']}): documents in a packed row, longer than the model's window, have",
        "  the hidden states and gradients that they have alone. " + masked,
        "  compute attention by themselves, under a mask over all pairs of a row's columns.",
        f"- **padded** ({counts['padded']}): the model cannot be packed, for the reason given. It reads one",
        "  document a row, with `rows.packing: one_per_row` and `network.attention: sdpa` (or `eager`), which a",
        "  run that leaves both open [chooses](first_run.md). A scorer chooses by itself.",
        f"- **rejected** ({counts['rejected']}): padding changes the outputs, too, or the model reads more than",
        "  tokens, or in both directions.",
        "",
        "Not walked are model types of which the script found no tiny configuration. A scorer packs its pairs only",
        "if its head reads the first token alone (the families of BERT, RoBERTa and ELECTRA).",
    ]
    for kind in MAPPINGS:
        lines += ["", f"## {kind.capitalize()}", "", "| model type | rows | reason |", "|---|---|---|"]
        members = sorted(row for row in rows if row.kind == kind)
        lines += [f"| `{row.model_type}` | {row.verdict} | {row.reason} |" for row in members]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="model types; prints their rows as text")
    only = frozenset(parser.parse_args().only)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if only:
        for row in table(only):
            print("\t".join(row), flush=True)
    else:
        rows = []
        for row in table():
            print("\t".join(row), file=sys.stderr, flush=True)
            rows.append(row)
        print(page(rows))


if __name__ == "__main__":
    main()
