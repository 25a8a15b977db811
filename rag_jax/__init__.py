"""Generative indexes and differentiable search for RAG, in JAX.

`rag_jax.ops` holds the operators, usable alone in any JAX code; `components`
and `readers` the parts that an experiment composes. `load` and `from_documents`
give a `System`, which answers; `launch.py` runs whole experiments.
"""

import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['from_documents', 'load']


def __getattr__(name: str) -> Any:
  """Imports the functions of `__all__` when they are first asked for."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module('rag_jax.loading'), name)
