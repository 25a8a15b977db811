"""Beam search under a trie, and exact scores of given documents.

The model comes in as a function, `step_fn(params, cache, frontier) -> (scores,
cache)`: it sees where the beams stand (`trie.Frontier`) and scores the edges
that leave, float32[B, K, C] in nats, any value where an edge does not exist.
A cache is a pytree whose leaves start with [B, K]; it is reordered with the
beams. Fields that all beams of a query share belong into `params`.

How the score of a docid comes from the scores of its edges is `scoring`:
`log_softmax` normalises over the valid edges of each node and adds up, so that
the scores of all documents are log-probabilities that sum to one; `absolute`
takes the score of the last edge alone; `inner_product` adds raw scores up.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import trie as tries

DEAD = -1e9  # score of a beam that holds no document
SCORINGS = ('log_softmax', 'inner_product', 'absolute')

StepFn = Callable[[Any, Any, tries.Frontier], tuple[jax.Array, Any]]


def search(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  *,
  step_fn: StepFn,
  batch_size: int,
  beam_size: int,
  allowed: jax.Array | None = None,
  scoring: str = 'log_softmax',
) -> types.Candidates:
  """Decodes the best documents of each query.

  Exact when no level has more live prefixes than `beam_size`. A slot that
  holds no document (the corpus or the allow-list is smaller than the beam) has
  `where` False and is never a document.

  Args:
    params: whatever `step_fn` needs, batch axis included.
    cache: pytree of [B, 1, ...] arrays, the state of the model at the root.
    trie: the docids.
    step_fn: the model, see the module's docstring.
    batch_size: B.
    beam_size: K, documents to return.
    allowed: bool[N] or bool[B, N], documents that may be returned.
    scoring: one of `SCORINGS`.

  Returns:
    Candidates with K slots, best first.

  Raises:
    ValueError: if `beam_size` is below 1 or `scoring` is unknown.

  Example:
    >>> import numpy as np
    >>> trie = tries.build(np.array([[0, 0], [0, 1], [1, 0]]))
    >>> table = [jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0, 0.0])]
    >>> def step_fn(params, cache, frontier):
    ...   return params[frontier.level][frontier.children], cache
    >>> found = search(table, (), trie, step_fn=step_fn, batch_size=1,
    ...                beam_size=4)
    >>> found.documents.tolist(), found.where.tolist()
    ([[2, 1, 0, 0]], [[True, True, True, False]])

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  if beam_size < 1:
    raise ValueError(
      f'beam_size must be at least 1, got {beam_size}. '
      'Set --config.search.beam_size.'
    )
  check_scoring(scoring)
  if allowed is not None:
    allowed = tries.allowed_leaves(trie, allowed)
  nodes = jnp.zeros((batch_size, 1), jnp.int32)
  scores = jnp.zeros((batch_size, 1))
  for level in range(trie.depth):
    frontier = tries.expand(trie, level, nodes, allowed=allowed)
    frontier = dataclasses.replace(
      frontier, where=frontier.where & (scores > DEAD / 2)[..., None]
    )
    edges, cache = step_fn(params, cache, frontier)
    totals = _accumulate(scores, edges, frontier.where, scoring)
    width = frontier.children.shape[-1]
    flat = totals.reshape(batch_size, -1)  # [B, K * C]
    scores, chosen = jax.lax.top_k(flat, min(beam_size, flat.shape[1]))
    parents = chosen // width
    nodes = jnp.take_along_axis(
      frontier.children.reshape(batch_size, -1), chosen, axis=1
    )
    cache = reorder(cache, parents)
  where = scores > DEAD / 2
  documents = jnp.where(where, trie.documents[nodes], 0)
  pad = ((0, 0), (0, beam_size - documents.shape[1]))
  documents = jnp.pad(documents, pad)
  return types.Candidates(
    documents=documents,
    codes=docids(trie, documents),
    scores=jnp.pad(scores, pad, constant_values=DEAD),
    where=jnp.pad(where, pad),
  )


def score(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  documents: jax.Array,
  *,
  step_fn: StepFn,
  allowed: jax.Array | None = None,
  scoring: str = 'log_softmax',
) -> jax.Array:
  """Scores given documents by teacher forcing; differentiable.

  Gives what `search` gives for the same documents, whatever its beam.

  Args:
    params: as for `search`.
    cache: pytree of [B, 1, ...] arrays.
    trie: the docids.
    documents: int32[B, K], rows of documents.
    step_fn: the model.
    allowed: bool[N] or bool[B, N]; forbidden documents score -1e9.
    scoring: one of `SCORINGS`.

  Returns:
    float32[B, K] in nats.
  """
  check_scoring(scoring)
  if allowed is not None:
    allowed = tries.allowed_leaves(trie, allowed)
  batch_size, count = documents.shape
  paths = trie.paths[documents]  # [B, K, L]
  nodes = jnp.zeros((batch_size, 1), jnp.int32)
  scores = jnp.zeros((batch_size, 1))
  for level in range(trie.depth):
    frontier = tries.expand(trie, level, nodes, allowed=allowed)
    edges, cache = step_fn(params, cache, frontier)
    if level == 0:  # the root is scored once and shared by all documents
      cache = reorder(cache, jnp.zeros((batch_size, count), jnp.int32))
    totals = _accumulate(scores, edges, frontier.where, scoring)
    totals = jnp.broadcast_to(totals, (batch_size, count, totals.shape[-1]))
    offset = paths[:, :, level] - trie.children[level][nodes]
    scores = jnp.take_along_axis(totals, offset[..., None], axis=2)[..., 0]
    nodes = paths[:, :, level]
  return scores


def docids(trie: tries.Trie, documents: jax.Array) -> jax.Array:
  """The codes of documents, int32[..., L]."""
  paths = trie.paths[documents]
  return jnp.stack(
    [t[paths[..., i]] for i, t in enumerate(trie.tokens)], axis=-1
  )


def beam_mass(candidates: types.Candidates) -> jax.Array:
  """Log of the corpus probability that the candidates hold, float32[B].

  A certificate for `log_softmax` scores: near 0, nothing that matters was
  left out of the beam. In nats.
  """
  return jax.nn.logsumexp(candidates.scores, axis=-1)


def check_scoring(scoring: str) -> None:
  """Raises a ValueError that lists the scorings, if this is none of them."""
  if scoring not in SCORINGS:
    raise ValueError(
      f'scoring must be one of {", ".join(SCORINGS)}, got {scoring!r}. '
      'Set --config.search.scoring.'
    )


def reorder(cache: Any, parents: jax.Array) -> Any:
  """Gathers the beams of a cache by int32[B, K] parents."""
  rows = jnp.arange(parents.shape[0])[:, None]
  return jax.tree.map(lambda x: x[rows, parents], cache)


def _accumulate(
  scores: jax.Array, edges: jax.Array, where: jax.Array, scoring: str
) -> jax.Array:
  """float32[B, K, C] scores of the prefixes one edge longer."""
  edges = jnp.where(where, edges.astype(jnp.float32), DEAD)
  if scoring == 'absolute':
    return edges
  if scoring == 'log_softmax':
    edges = jax.nn.log_softmax(edges, axis=-1)
  return jnp.where(where, scores[..., None] + edges, DEAD)
