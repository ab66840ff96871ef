"""Document attention: a token attends only to tokens of its own document, although a row holds several documents.

Importing this package registers the attention implementation ``"document"`` with transformers.
"""

from .document_attention import Documents

__all__ = ["Documents"]
