"""Devices of tests that only a GPU can decide, rehearsed on the CPU with the same dtypes and tolerances."""

import pytest
import torch

ON_CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
"""Marks of a test that needs a GPU."""

REHEARSED = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
"""Values of a parameter `device`: a tolerance that rounding on a CPU exceeds would be exceeded on a GPU, too."""
