"""Document attention: packed rows whose documents read as if each were alone. Importing it registers ``"document"``."""

from .document_attention import Documents

__all__ = ["Documents"]
