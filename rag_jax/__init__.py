"""Generative indexes and differentiable search for RAG, in JAX.

`rag_jax.ops` holds operators that work alone in any JAX code. `components` and
`readers` hold the trainable parts of an experiment. `load` and `from_documents`
return a `System`, which searches and answers. The command `rag-jax` trains and
evaluates experiments.
"""

import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['from_documents', 'load']


def __getattr__(name: str) -> Any:
  """Imports the functions of `__all__` on first use."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module('rag_jax.loading'), name)
