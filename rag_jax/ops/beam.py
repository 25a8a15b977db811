"""Beam search under a trie, and exact scores of given documents.

The model comes in as a function, `step_fn(params, cache, frontier) -> (scores,
cache)`: it sees where the beams stand (`trie.Frontier`) and scores the edges
that leave, float32[B, K, C] in nats, any value where an edge does not exist.
A model with an output vocabulary may score all codes instead, float32[B, K, V];
the edges that it sees are then all V codes at levels where the trie has a bit
for each (`trie.expand_codes`).
A cache is a pytree whose leaves start with [B, K]; it is reordered with the
beams. Fields that all beams of a query share belong into `params`.

How the score of a docid comes from the scores of its edges is `scoring`:
`log_softmax` normalises over the valid edges of each node and adds up, so that
the scores of all documents are log-probabilities that sum to one;
`vocabulary` normalises over all codes, as an unconstrained model is trained;
`inner_product` adds raw scores up; `absolute` takes the score of the last edge
alone. The first and the last stop where a docid is told from all others; the
other two go on to its last code.

Lookahead scores say how much may still be gained below each node,
float32[B, num_nodes] from `trie.max_below`. They are added to the score of the
prefix that ends there, so that the beam keeps prefixes of a document which,
say, shares rare words with the query. A document's score is then the model's
plus its own lookahead score, under any scoring but `log_softmax`, which
normalises the sum of both over the edges of each node.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import (
  beam_arguments,
  beam_ends,
  checks,
  edge_scores,
  masking,
  reads,
  teacher_forcing,
)
from rag_jax.ops import trie as tries

SCORINGS = beam_arguments.SCORINGS
check_scoring = beam_arguments.check_scoring
take = reads.take
reorder = reads.reorder

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
  lookahead: edge_scores.Lookahead | None = None,
  scoring: str = 'log_softmax',
  logits: bool = False,
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
    lookahead: float32[B, num_nodes] in nats, added to prefixes; None adds
      nothing.
    scoring: one of `SCORINGS`.
    logits: whether `step_fn` scores all codes, float32[B, K, V], and not the
      edges.

  Returns:
    Candidates with K slots, best first.

  Raises:
    ValueError: if `beam_size` is below 1, `scoring` is unknown, an allow-list
      is empty or no mask over documents, or a lookahead has another shape.

  Example:
    >>> trie = tries.build([[0, 0], [0, 1], [1, 0]])
    >>> table = jnp.array([0.0, 2.0, 1.0, 0.0])  # three documents, one node
    >>> def step_fn(params, cache, frontier):
    ...   return params[frontier.children], cache
    >>> found = search(table, (), trie, step_fn=step_fn, batch_size=1,
    ...                beam_size=4)
    >>> found.documents.tolist(), found.where.tolist()
    ([[2, 1, 0, 0]], [[True, True, True, False]])

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022;
    with a lookahead, Zeng et al., Planning Ahead in Generative Retrieval, 2024.
  """
  beam_size = checks.number_of(beam_size, 'beam_size', least=1)
  check_scoring(scoring, logits=logits)
  lookahead = edge_scores.check_lookahead(lookahead, batch_size, trie)
  flags = beam_arguments.allow(trie, allowed, batch_size)
  beams = tries.root(batch_size)
  scores = jnp.zeros((batch_size, 1))
  history = []
  steps = edge_scores.levels(trie, scoring)
  for level in range(steps):
    alive = ~(scores <= masking.NEG_INF / 2)  # NaN shows in what is found
    # Scores of all codes need no gathering where the trie has a bit for each.
    wide = logits and flags is None and lookahead is None
    wide = wide and level < trie.depth and trie.present[level] is not None
    if wide:
      frontier = tries.expand_codes(trie, level, beams, alive=alive)
    else:
      frontier = tries.expand(trie, level, beams, allowed=flags, alive=alive)
    edges, cache = step_fn(params, cache, frontier)
    totals = edge_scores.accumulate(
      scores, edges, frontier, beams, lookahead, scoring, logits
    )
    if level >= trie.depth:  # all have ended: nothing is left to choose
      scores = totals[..., 0]
      # The next code is known, but has to wait for this score: or XLA makes the
      # logits of all tails at once, each in memory of its own. A dead beam gets
      # code 0; any would do.
      codes = jnp.where(
        scores <= masking.NEG_INF / 2, 0, frontier.tokens[..., 0]
      )
      beams = dataclasses.replace(beams, codes=codes)
      continue
    width = totals.shape[-1]
    flat = totals.reshape(batch_size, -1)  # [B, K * C]
    scores, chosen = largest(flat, min(beam_size, flat.shape[1]))
    parents, offsets = chosen // width, chosen % width
    if wide:
      codes = offsets
      beams, present, cache = reorder((beams, frontier.present, cache), parents)
      nodes = tries.child(trie, level, beams, present, codes)
    else:
      codes = reads.take(frontier.tokens.reshape(batch_size, -1), chosen)
      first, _ = tries.span(trie, level, beams)
      beams, first, cache = reorder((beams, first, cache), parents)
      nodes = first + offsets
    beams = tries.descend(trie, level, beams, nodes, codes)
    history.append((parents, codes))
  found = beam_ends.candidates(trie, beams, scores, history)
  if len(history) < steps:  # tails have changed the order
    found = reorder(found, jax.lax.top_k(found.scores, scores.shape[1])[1])
  return beam_ends.pad(found, beam_size)


def score(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  codes: jax.Array,
  *,
  step_fn: StepFn,
  allowed: jax.Array | None = None,
  lookahead: edge_scores.Lookahead | None = None,
  scoring: str = 'log_softmax',
  logits: bool = False,
) -> jax.Array:
  """Scores given docids by teacher forcing; differentiable.

  Gives what `search` gives for the same documents, whatever its beam.

  Args:
    params: as for `search`.
    cache: pytree of [B, 1, ...] arrays.
    trie: the docids.
    codes: int[B, K, L], docids.
    step_fn: the model.
    allowed: bool[N] or bool[B, N].
    lookahead: as for `search`.
    scoring: one of `SCORINGS`.
    logits: as for `search`.

  Returns:
    float32[B, K] in nats; -1e9 for what is not in the trie or not allowed.

  Raises:
    ValueError: as for `search`, or if codes are no docids of the trie's length.
  """
  check_scoring(scoring, logits=logits)
  codes = tries.check_codes(trie, codes)
  plain = allowed is None and lookahead is None and not logits
  if scoring == 'absolute' and plain:
    return _score_last(params, cache, trie, codes, step_fn)
  batch_size = len(codes)
  lookahead = edge_scores.check_lookahead(lookahead, batch_size, trie)
  flags = beam_arguments.allow(trie, allowed, batch_size)
  *_, last = teacher_forcing.steps(
    params, cache, trie, codes, step_fn, flags, lookahead, scoring, logits
  )
  return jnp.where(last.exists, last.scores, masking.NEG_INF)


def _score_last(
  params: Any, cache: Any, trie: tries.Trie, codes: jax.Array, step_fn: StepFn
) -> jax.Array:
  """Scores docids by their last edge: no need to look at its neighbours."""
  cache = reorder(cache, jnp.zeros(codes.shape[:2], jnp.int32))
  scores = jnp.zeros(codes.shape[:2])
  ended = jnp.zeros(codes.shape[:2], bool)
  for frontier in tries.walk(trie, codes):
    edges, cache = step_fn(params, cache, frontier)
    scores = jnp.where(ended, scores, edges[..., 0].astype(jnp.float32))
    scores = jnp.where(frontier.where[..., 0], scores, masking.NEG_INF)
    ended = frontier.children[..., 0] < trie.num_documents  # rows of leaves
  return scores


def score_all(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  codes: jax.Array,
  *,
  step_fn: StepFn,
  batch_size: int,
  chunk: int = 1024,
  **options: Any,
) -> jax.Array:
  """Scores every document: exact, for small corpora and as a yardstick.

  Args:
    params: as for `search`.
    cache: pytree of [B, 1, ...] arrays.
    trie: the docids.
    codes: int[N, L], the docids that it was built from.
    step_fn: the model; where nothing else compiles, it is compiled once for
      each function that is given here.
    batch_size: B.
    chunk: documents that are scored at a time; bounds the memory.
    **options: of `score`.

  Returns:
    float32[B, N] in nats.
  """
  codes = tries.check_codes(trie, codes, axes=2)
  chunk = checks.number_of(chunk, 'chunk', least=1)
  arrays: dict[str, Any] = {
    name: options.pop(name)
    for name in ('allowed', 'lookahead')
    if name in options
  }
  check_scoring(
    options.get('scoring', 'log_softmax'), logits=options.get('logits', False)
  )
  if arrays.get('allowed') is not None:
    arrays['allowed'] = beam_arguments.check_allowed(
      trie, arrays['allowed'], batch_size
    )
  static = (step_fn, batch_size, chunk, tuple(sorted(options.items())))
  inputs: tuple[Any, ...] = (params, cache, trie, codes, arrays)
  # Compiled here only where the caller does not compile: inside a program, a
  # function that reads what is traced may not be kept as a key.
  traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(inputs))
  run: Any = _score_all_compiled
  if traced or not _hashable(static):
    run = _score_all
  return run(*inputs, *static)


def _score_all(
  params: Any,
  cache: Any,
  trie: tries.Trie,
  codes: jax.Array,
  arrays: dict[str, Any],
  step_fn: StepFn,
  batch_size: int,
  chunk: int,
  options: tuple[tuple[str, Any], ...],
) -> jax.Array:
  count = len(codes)
  chunk = min(chunk, count)
  padded = jnp.pad(codes, ((0, -count % chunk), (0, 0)))
  parts = padded.reshape(-1, 1, chunk, codes.shape[1])

  def one(part):
    part = jnp.broadcast_to(part, (batch_size, *part.shape[1:]))
    return score(
      params, cache, trie, part, step_fn=step_fn, **arrays, **dict(options)
    )

  scores = jax.lax.map(one, parts)  # [N / chunk, B, chunk]
  return jnp.moveaxis(scores, 0, 1).reshape(batch_size, -1)[:, :count]


_score_all_compiled = jax.jit(_score_all, static_argnums=(5, 6, 7, 8))


def _hashable(x: Any) -> bool:
  try:
    hash(x)
  except TypeError:
    return False
  return True


def regret(
  candidates: types.Candidates, scores: jax.Array, *, k: int
) -> jax.Array:
  """Share of the exact top k that the beam missed, float32[B].

  Args:
    candidates: what `search` found.
    scores: float32[B, N], what `score_all` gave.
    k: how many count; at most N.
  """
  scores = checks.floats(scores)
  k = checks.k_of(k, scores.shape[-1])
  best, rows = jax.lax.top_k(scores, k)
  same = rows[:, :, None] == candidates.documents[:, None]
  hit = (same & candidates.where[:, None]).any(-1)
  real = ~(best <= masking.NEG_INF / 2)
  missed = (real & ~hit).sum(1).astype(scores.dtype)
  share = missed / jnp.maximum(real.sum(1), 1).astype(scores.dtype)
  return masking.poison(share, jnp.isnan(best).any(1))


def beam_mass(candidates: types.Candidates) -> jax.Array:
  """Log of the corpus probability that the candidates hold, float32[B].

  A certificate for `log_softmax` scores: near 0, nothing that matters was
  left out of the beam. In nats.
  """
  return jax.nn.logsumexp(candidates.scores, axis=-1)


def largest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`lax.top_k` of float32[B, n], in two steps where n is large.

  Columns are dealt into groups; the k groups with the largest maxima hold the
  k largest, which are then looked for among k groups only. Among equal values
  it may take other columns than `lax.top_k`.
  """
  batch_size, count = x.shape
  size = 32
  if count < 1 << 14 or count < 16 * size * k:
    return jax.lax.top_k(x, k)
  groups = -(-count // size)
  room = ((0, 0), (0, groups * size - count))
  dealt = jnp.pad(x, room, constant_values=-jnp.inf)
  best = dealt.reshape(batch_size, size, groups).max(axis=1)
  kept = jnp.sort(jax.lax.top_k(best, k)[1], axis=1)  # [B, k]
  firsts = groups * jnp.arange(size)[None, :, None]
  members = firsts + kept[:, None]  # [B, size, k]
  members = members.reshape(batch_size, -1)
  # From x: from `dealt`, XLA would pad a second time. Padding is in the last of
  # the rows alone, so that k real columns come before it.
  values = reads.take(x, jnp.minimum(members, count - 1))
  values = jnp.where(members < count, values, -jnp.inf)
  values, chosen = jax.lax.top_k(values, k)
  return values, reads.take(members, chosen)
