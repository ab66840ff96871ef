"""Scoring outside Lightning: the numbers of transformers, without padding, whatever the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_scored_rows import word_tokenizer
