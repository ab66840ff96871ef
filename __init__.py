"""crosstask trains language models to follow instructions on tasks they never saw.

Three published systems share one house: OPT-IML instruction tuning (``instruction_tuning``), differentiable
instruction optimization (``instruction_optimization``) and the Cappy scorer (``scorer``).
"""

__version__ = "0.1.0"
