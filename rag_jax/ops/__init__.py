"""Operators, trie, beam search, losses and measures: arrays in, arrays out.

Usable alone in any JAX code:

  >>> import jax.numpy as jnp
  >>> from rag_jax import ops
  >>> ops.sparsemax(jnp.array([1.0, 0.5, -1.0]))
  Array([0.75, 0.25, 0.  ], dtype=float32)
"""

from rag_jax.ops import (
  answer_metrics,
  beam,
  distillation,
  estimators,
  lexical,
  losses,
  metrics,
  sampling,
  selection,
  text_metrics,
  trie,
)
from rag_jax.ops.sampling import (
  gumbel_top_k,
  perturbed_top_k,
  relaxed_top_k,
  straight_through,
  top_k,
)
from rag_jax.ops.selection import (
  capped_simplex,
  entmax,
  entmax15,
  select,
  softmax,
  sparsemax,
)

budget = capped_simplex  # its name until version 0.1

__all__ = [
  'answer_metrics',
  'beam',
  'budget',
  'capped_simplex',
  'distillation',
  'entmax',
  'entmax15',
  'estimators',
  'gumbel_top_k',
  'lexical',
  'losses',
  'metrics',
  'perturbed_top_k',
  'relaxed_top_k',
  'sampling',
  'select',
  'selection',
  'softmax',
  'sparsemax',
  'straight_through',
  'text_metrics',
  'top_k',
  'trie',
]
