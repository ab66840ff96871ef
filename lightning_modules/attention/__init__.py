"""Document attention: documents of a packed row do not see each other. Importing it registers ``"document"``."""

from .document_attention import Documents

__all__ = ["Documents"]
