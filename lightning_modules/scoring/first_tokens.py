"""The last layer of an encoder, computed only where a head reads it: at the first token of each document.

A scorer's head reads one token of a pair. In the last layer every other token is needed as key and value alone: its
query, its output projection and its feed-forward network, some five sixths of the layer's arithmetic, go unread. With L
layers that is 5 / (6 L) of a forward or backward pass: a fifth of a small encoder, 7% of RoBERTa base. The numbers stay
those of the whole layer.
"""

# T tokens of all rows, D documents, N tokens of the longest, H hidden width, A heads, E width of a head

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..attention.document_attention import Documents


def read_first_tokens_alone(model: PreTrainedModel) -> bool:
    """Make an encoder's last layer answer ``first_tokens=True`` with the first token of each document, [1, D, H].

    Names and weights stay as they are; without that argument, so does the layer.

    Returns:
        Whether the layer is one that is known: those of BERT, RoBERTa, XLM-RoBERTa and ELECTRA are.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    last: Any = layers[-1]
    attention = getattr(getattr(last, "attention", None), "self", None)
    known = all(isinstance(getattr(attention, name, None), nn.Linear) for name in ("query", "key", "value"))
    known = known and hasattr(attention, "attention_head_size") and hasattr(last, "feed_forward_chunk")
    # Norms stand behind both sums; where they stand before them (RoBERTa-PreLayerNorm), the arithmetic is another one.
    outputs = getattr(last.attention, "output", None), getattr(last, "output", None)
    known = known and all(isinstance(getattr(output, "LayerNorm", None), nn.LayerNorm) for output in outputs)
    if not known or getattr(last, "is_decoder", False):
        return False
    last.forward = partial(_last_layer, last, type(last).forward)
    return True


def _last_layer(
    layer: Any, whole: Any, hidden_BLH: Tensor, *args: Any, first_tokens: bool = False, **kwargs: Any
) -> Any:
    if not first_tokens:
        return whole(layer, hidden_BLH, *args, **kwargs)
    documents: Documents = kwargs["documents"]
    attention = layer.attention.self
    hidden_TH = hidden_BLH.flatten(0, 1)
    starts_D = documents.offsets[:-1].long()
    first_DH = hidden_TH.index_select(0, starts_D)
    read_DH = first_token_attention(
        attention.query(first_DH),
        attention.key(hidden_TH),
        attention.value(hidden_TH),
        documents.offsets.long(),
        width=attention.attention_head_size,
        dropout=attention.dropout.p if layer.training else 0.0,
    )
    return layer.feed_forward_chunk(layer.attention.output(read_DH, first_DH)).unsqueeze(0)


def first_token_attention(
    query_DH: Tensor, key_TH: Tensor, value_TH: Tensor, offsets: Tensor, *, width: int, dropout: float = 0.0
) -> Tensor:
    """What one query of each document reads of its document, [D, H].

    Args:
        query_DH: Of each document.
        key_TH: Of all tokens.
        value_TH: Of all tokens.
        offsets: int64 [D + 1], where documents start, and the end of the last.
        width: Of a head; under tensor parallelism a process holds some of the heads.
        dropout: Probability of dropping an attention weight.
    """
    starts_D, lengths_D = offsets[:-1], offsets.diff()
    columns_N = torch.arange(int(lengths_D.max()), device=offsets.device)
    own_DN = columns_N < lengths_D[:, None]
    places_DN = torch.where(own_DN, starts_D[:, None] + columns_N, starts_D[:, None])

    def by_document(values_TH: Tensor) -> Tensor:
        gathered = values_TH.index_select(0, places_DN.flatten())
        return gathered.view(*places_DN.shape, -1, width).transpose(1, 2)  # [D, A, N, E]

    query_DA1E = query_DH.view(len(query_DH), 1, -1, width).transpose(1, 2)
    read_DA1E = F.scaled_dot_product_attention(
        query_DA1E, by_document(key_TH), by_document(value_TH), attn_mask=own_DN[:, None, None], dropout_p=dropout
    )
    return read_DA1E.transpose(1, 2).flatten(1)
