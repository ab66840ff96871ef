"""The last layer of an encoder, computed only at the first token of each document.

A scorer's head reads one token of a pair. In the last layer, the other tokens are only needed as keys and values. Their
queries, output projections and feed-forward networks are not needed: about five sixths of the layer's arithmetic. With
L layers that is 5 / (6 L) of a forward or backward pass: a fifth of a small encoder, 7% of RoBERTa base. The outputs
are the same numbers.
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
    """Let an encoder's last layer compute the hidden states of each document's first token only, if it is asked to.

    With the keyword ``first_tokens=True`` it returns [1, D, H]; without, the same as before. Names and weights do not
    change.

    Returns:
        Whether the layer is supported; those of BERT, RoBERTa, XLM-RoBERTa and ELECTRA are.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    last: Any = layers[-1]
    attention = getattr(getattr(last, "attention", None), "self", None)
    supported = all(isinstance(getattr(attention, name, None), nn.Linear) for name in ("query", "key", "value"))
    supported = supported and hasattr(attention, "attention_head_size") and hasattr(last, "feed_forward_chunk")
    # Post-norm layers only: the arithmetic of pre-norm ones (RoBERTa-PreLayerNorm) differs.
    outputs = getattr(last.attention, "output", None), getattr(last, "output", None)
    supported = supported and all(isinstance(getattr(output, "LayerNorm", None), nn.LayerNorm) for output in outputs)
    if not supported or getattr(last, "is_decoder", False):
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
    """Return the attention of one query per document over the tokens of its document, [D, H].

    Args:
        query_DH: Query of each document's first token.
        key_TH: Keys of all tokens.
        value_TH: Values of all tokens.
        offsets: int64 [D + 1], start of each document, and end of the last one.
        width: Width of a head. Under tensor parallelism a process has only some of the heads.
        dropout: Probability of dropping an attention weight.
    """
    starts_D, lengths_D = offsets[:-1], offsets.diff()
    columns_N = torch.arange(int(lengths_D.max()), device=offsets.device)
    inside_DN = columns_N < lengths_D[:, None]
    places_DN = torch.where(inside_DN, starts_D[:, None] + columns_N, starts_D[:, None])

    def by_document(values_TH: Tensor) -> Tensor:
        gathered = values_TH.index_select(0, places_DN.flatten())
        return gathered.view(*places_DN.shape, -1, width).transpose(1, 2)  # [D, A, N, E]

    query_DA1E = query_DH.view(len(query_DH), 1, -1, width).transpose(1, 2)
    read_DA1E = F.scaled_dot_product_attention(
        query_DA1E, by_document(key_TH), by_document(value_TH), attn_mask=inside_DN[:, None, None], dropout_p=dropout
    )
    return read_DA1E.transpose(1, 2).flatten(1)
