"""What an encoder has read, for the decoder of its model."""

from typing import Any

from torch import Tensor


def encoder_rows(output: Any, rows_R: Tensor) -> Any:
    """Return an encoder's output for some rows of its batch, as its model's forward takes it (``encoder_outputs``).

    Args:
        output: Output of the encoder of a transformers model, with last_hidden_state [B, L, D].
        rows_R: Indices of rows, int64 [R], in any order and also several times.

    Returns:
        An output of the same class, which decoders of mixtures of experts (Switch Transformers) read, with
        last_hidden_state [R, L, D] and no other values.
    """
    return type(output)(last_hidden_state=output.last_hidden_state.index_select(0, rows_R))
