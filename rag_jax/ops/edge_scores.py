"""From the scores of edges to those of the prefixes that they end.

`beam` explains the scorings, and what a lookahead is.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, masking, reads, split_rows, trie_nodes

Lookahead = jax.Array | split_rows.Columns
READS_TAILS = ('vocabulary', 'inner_product')


def levels(trie: trie_nodes.Trie, scoring: str) -> int:
  """Steps to take: where tails do not count, no more than there are choices."""
  return trie.length if scoring in READS_TAILS else trie.depth


def check_lookahead(
  lookahead: Any, batch_size: Any, trie: trie_nodes.Trie
) -> Lookahead | None:
  """One value a query and node, or a ValueError; None stays None."""
  if lookahead is None or isinstance(lookahead, split_rows.Columns):
    return lookahead
  lookahead = checks.floats(lookahead, 'lookahead')
  if lookahead.shape != (batch_size, trie.num_nodes):
    raise ValueError(
      f'lookahead must have shape ({batch_size}, {trie.num_nodes}), a value a '
      f'query and node, got {lookahead.shape}. Make it with trie.max_below.'
    )
  return lookahead


def accumulate(
  scores: jax.Array,
  edges: jax.Array,
  frontier: trie_nodes.Frontier,
  beams: trie_nodes.Beams,
  lookahead: Lookahead | None,
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
  if lookahead is not None:
    edges = edges + _gain(lookahead, frontier, scoring).reshape(where.shape)
  if scoring == 'absolute':
    edges = jnp.where(beams.ended.reshape(-1, 1), scores, edges)
    return jnp.where(where, edges, masking.NEG_INF).reshape(shape)
  if scoring == 'log_softmax':
    edges = jax.nn.log_softmax(
      jnp.where(where, edges, masking.NEG_INF), axis=-1
    )
  return jnp.where(where, edges + scores, masking.NEG_INF).reshape(shape)


def _gain(
  lookahead: Lookahead, frontier: trie_nodes.Frontier, scoring: str
) -> jax.Array:
  """What a lookahead adds to each edge, float32[B, K, C].

  Where the scores of edges add up, the lookahead of the node before was counted
  with the edge into it, and is taken off again. `log_softmax` is the same with
  and without.
  """
  children = frontier.children
  ahead = _take(lookahead, children.reshape(len(children), -1))
  ahead = ahead.reshape(children.shape)
  if frontier.level == 0 or scoring not in READS_TAILS:
    return ahead
  return ahead - _take(lookahead, frontier.nodes)[..., None]


def _take(lookahead: Lookahead, rows: jax.Array) -> jax.Array:
  if isinstance(lookahead, split_rows.Columns):
    return lookahead.take(rows)
  return reads.take(lookahead, rows)


def _log_sum_exp(rows: jax.Array) -> jax.Array:
  """`jax.nn.logsumexp` of rows that have a finite maximum, float32[n, 1]."""
  most = jax.lax.stop_gradient(rows.max(axis=-1, keepdims=True))
  total = jnp.exp(rows - most).sum(axis=-1, keepdims=True)
  return most + jnp.log(total)
