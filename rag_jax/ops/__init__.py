"""Operators, trie, beam search, losses and measures: arrays in, arrays out.

Usable alone in any JAX code:

  >>> import jax.numpy as jnp
  >>> from rag_jax import ops
  >>> ops.sparsemax(jnp.array([1.0, 0.5, -1.0]))
  Array([0.75, 0.25, 0.  ], dtype=float32)
"""

from rag_jax.ops import beam, losses, metrics, selection, trie
from rag_jax.ops.selection import entmax15, select, softmax, sparsemax

__all__ = [
  'beam',
  'entmax15',
  'losses',
  'metrics',
  'select',
  'selection',
  'softmax',
  'sparsemax',
  'trie',
]
