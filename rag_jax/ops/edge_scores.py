"""From the scores of edges to those of the prefixes that they end.

`beam` explains the scorings, and what a plan is.
"""

import jax
import jax.numpy as jnp

from rag_jax.ops import masking, reads, trie_nodes

READS_TAILS = ('vocabulary', 'inner_product')


def levels(trie: trie_nodes.Trie, scoring: str) -> int:
  """Steps to take: where tails do not count, no more than there are choices."""
  return trie.length if scoring in READS_TAILS else trie.depth


def check_plan(
  plan: jax.Array | None, batch_size: int, trie: trie_nodes.Trie
) -> None:
  """Raises a ValueError if a plan is not one value a query and node."""
  if plan is not None and plan.shape != (batch_size, trie.num_nodes):
    raise ValueError(
      f'plan must have shape ({batch_size}, {trie.num_nodes}), a value a query '
      f'and node, got {plan.shape}. Make it with trie.max_below.'
    )


def accumulate(
  scores: jax.Array,
  edges: jax.Array,
  frontier: trie_nodes.Frontier,
  beams: trie_nodes.Beams,
  plan: jax.Array | None,
  scoring: str,
  logits: bool,
) -> jax.Array:
  """float32[B, K, C] scores of the prefixes one edge longer.

  Worked out over rows, one a beam, as the product of a model is made: on a CPU,
  XLA is slower where there are more axes, and would not write over the product.
  """
  shape = frontier.where.shape
  where = frontier.where.reshape(-1, shape[-1])
  edges = edges.astype(jnp.float32).reshape(-1, edges.shape[-1])
  scores = scores.reshape(-1, 1)
  if logits:
    if scoring == 'vocabulary':  # off the beam's score, not each of its edges
      scores = scores - _log_sum_exp(edges)
    if frontier.all_codes:  # of the trie, which may have more than the model
      more = max(shape[-1] - edges.shape[-1], 0)
      edges = jnp.pad(
        edges[:, : shape[-1]],
        ((0, 0), (0, more)),
        constant_values=masking.NEG_INF,
      )
    else:
      edges = reads.take(edges, frontier.tokens.reshape(where.shape))
  if plan is not None:
    edges = edges + _gain(plan, frontier, scoring).reshape(where.shape)
  if scoring == 'absolute':
    edges = jnp.where(beams.ended.reshape(-1, 1), scores, edges)
    return jnp.where(where, edges, masking.NEG_INF).reshape(shape)
  if scoring == 'log_softmax':
    edges = jax.nn.log_softmax(
      jnp.where(where, edges, masking.NEG_INF), axis=-1
    )
  return jnp.where(where, edges + scores, masking.NEG_INF).reshape(shape)


def _gain(
  plan: jax.Array, frontier: trie_nodes.Frontier, scoring: str
) -> jax.Array:
  """What a plan adds to each edge, float32[B, K, C].

  Where the scores of edges add up, the plan of the node before was counted
  with the edge into it, and is taken off again. `log_softmax` is the same with
  and without.
  """
  children = frontier.children
  ahead = reads.take(plan, children.reshape(len(plan), -1)).reshape(
    children.shape
  )
  if frontier.level == 0 or scoring not in READS_TAILS:
    return ahead
  return ahead - reads.take(plan, frontier.nodes)[..., None]


def _log_sum_exp(rows: jax.Array) -> jax.Array:
  """`jax.nn.logsumexp` of rows that have a finite maximum, float32[n, 1]."""
  most = jax.lax.stop_gradient(rows.max(axis=-1, keepdims=True))
  total = jnp.exp(rows - most).sum(axis=-1, keepdims=True)
  return most + jnp.log(total)
