"""The levels of given docids: scores of their codes and of the other codes.

`beam` explains scorings, lookahead scores and `step_fn`. `beam.score` takes the
score of the last level; `paths` shows every level.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import checks, edge_scores, masking, reads
from rag_jax.ops import trie as tries


@types.struct
class Step:
  """One level of given docids; C is the widest branching of the level."""

  totals: jax.Array  # float32[B, K, C], prefix scores with each next code, nats
  tokens: jax.Array  # int32[B, K, C], the next codes
  where: jax.Array  # bool[B, K, C], True = the code exists there
  offset: jax.Array  # int32[B, K], place of the docid's own code among these
  scores: jax.Array  # float32[B, K], prefix score with it
  exists: jax.Array  # bool[B, K], whether the docid is in the trie so far
  chooses: jax.Array  # bool[B, K], False after the end of the docid


@types.struct
class Paths:
  """The way of given docids through the trie, S levels of it.

  A score is that of the prefix which ends with the code, as in the beam search.
  """

  codes: jax.Array  # int32[B, K, S, A], the best codes at each level
  scores: jax.Array  # float32[B, K, S, A], nats, best first
  where: jax.Array  # bool[B, K, S, A], True = a code that exists
  own: jax.Array  # float32[B, K, S], score with the docid's own code, nats
  rank: jax.Array  # int32[B, K, S], number of codes with a higher score
  chooses: jax.Array  # bool[B, K, S], False after the end of the docid
  total: (
    jax.Array
  )  # float32[B, K], score of the whole docid, as of `beam.score`


def steps(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  codes: jax.Array,
  step_fn: Callable[..., Any],
  flags: tuple[jax.Array, ...] | None,
  lookahead: edge_scores.Lookahead | None,
  scoring: str,
  logits: bool,
) -> Iterator[Step]:
  """Yields the levels of docids int[B, K, L]; arguments as for `beam.score`.

  `flags` is what `trie.allow` returns.
  """
  batch_size, count, _ = codes.shape
  codes = codes.astype(jnp.int32)
  beams = tries.root(batch_size)
  scores = jnp.zeros((batch_size, 1))
  exists = jnp.ones((batch_size, count), bool)
  for level in range(edge_scores.levels(trie, scoring)):
    frontier = tries.expand(trie, level, beams, allowed=flags)
    edges, cache = step_fn(params, cache, frontier)
    totals = edge_scores.accumulate(
      scores, edges, frontier, beams, lookahead, scoring, logits
    )
    first, _ = tries.span(trie, level, beams)
    everything = (totals, frontier.tokens, frontier.where, first, beams, cache)
    if level == 0:  # the root is scored once and shared by all documents
      everything = reads.reorder(
        everything, jnp.zeros((batch_size, count), jnp.int32)
      )
    totals, tokens, where, first, beams, cache = everything
    own = codes[..., level]
    same = (tokens == own[..., None]) & where
    same = same | (beams.ended[..., None] & where)
    offset = jnp.argmax(same, axis=-1)
    exists = exists & same.any(-1)
    scores = reads.take(totals, offset[..., None])[..., 0]
    yield Step(totals, tokens, where, offset, scores, exists, ~beams.ended)
    if level < trie.depth:
      beams = tries.descend(trie, level, beams, first + offset, own)
    else:
      beams = dataclasses.replace(beams, codes=own)


def paths(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  codes: jax.Array,
  *,
  step_fn: Callable[..., Any],
  best: int,
  lookahead: edge_scores.Lookahead | None = None,
  scoring: str = 'log_softmax',
) -> Paths:
  """The score of each code of given docids, and of the best codes beside it.

  Args:
    params: as for `beam.search`.
    cache: pytree of [B, 1, ...] arrays.
    trie: the docids.
    codes: int[B, K, L], docids.
    step_fn: the model; it scores edges.
    best: A, codes to return at each level.
    lookahead: as for `beam.search`.
    scoring: one of `beam.SCORINGS`.

  Returns:
    The `Paths`; S is the depth of the trie, below which nothing is chosen.

  Example:
    >>> trie = tries.build([[0, 0], [0, 1], [1, 0]])
    >>> table = jnp.array([0.0, 2.0, 1.0, 0.0])  # three documents, one node
    >>> def step_fn(params, cache, frontier):
    ...   return params[frontier.children], cache
    >>> found = paths(table, (), trie, jnp.array([[[0, 0]]]), best=2,
    ...               step_fn=step_fn, scoring='inner_product')
    >>> found.codes[0, 0].tolist(), found.scores[0, 0].tolist()
    ([[1, 0], [1, 0]], [[1.0, 0.0], [2.0, 0.0]])
    >>> found.own[0, 0].tolist(), found.rank[0, 0].tolist()
    ([0.0, 0.0], [1, 1])
  """
  codes = tries.check_codes(trie, codes)
  best = checks.number_of(best, 'best', least=1)
  lookahead = edge_scores.check_lookahead(lookahead, len(codes), trie)
  found: list[tuple[jax.Array, ...]] = []
  for step in steps(
    params, cache, trie, codes, step_fn, None, lookahead, scoring, False
  ):
    if len(found) < trie.depth:
      found.append(_ranked(step, best))
  codes, scores, where, own, rank, chooses = (
    jnp.stack(parts, axis=2) for parts in zip(*found, strict=True)
  )
  total = jnp.where(step.exists, step.scores, masking.NEG_INF)
  return Paths(codes, scores, where, own, rank, chooses, total)


def _ranked(step: Step, best: int) -> tuple[jax.Array, ...]:
  """The fields of `Paths` at one level."""
  count = min(best, step.totals.shape[-1])
  order = jnp.where(step.where, step.totals, -jnp.inf)
  scores, places = jax.lax.top_k(order, count)
  codes = reads.take(step.tokens, places)
  where = reads.take(step.where, places)
  higher = step.where & (step.totals > step.scores[..., None])

  def widen(x):
    return jnp.pad(x, ((0, 0), (0, 0), (0, best - count)))

  return (
    widen(codes),
    widen(jnp.where(where, scores, 0.0)),
    widen(where),
    step.scores,
    higher.sum(axis=-1),
    step.chooses,
  )
