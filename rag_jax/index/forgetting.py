"""Continual indexing: how much an index forgets when it learns new documents.

Documents arrive in sessions. The documents of session 0 are indexed and trained
on. Those of later sessions are added to the live index, and training continues
on their questions, optionally with replayed questions about older documents.
Hits@k is measured after each session on the questions about all sessions so
far. The input are vectors, so any encoder can be used.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax.components import query_encoder
from rag_jax.index import docids, live, node_table
from rag_jax.ops import beam, masking
from rag_jax.ops import trie as tries

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
  """Questions with one gold document each."""

  vectors: np.ndarray  # float32[Q, D], unit length
  documents: np.ndarray  # int[Q], row of each question's gold document


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Training of the node table and of the query residual."""

  steps: int = 300  # of session 0
  later_steps: int = 100  # of each later session
  batch_size: int = 64
  table_rate: float = 3e-4  # Adam's learning rate for the node table
  residual_rate: float = 1e-3  # Adam's learning rate for the residual
  scale: float = 20.0  # inverse temperature: factor on inner products, nats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
  """Summary of a table of hits."""

  average: float  # hits after the last session, mean over all sessions
  forgetting: float  # mean drop of earlier sessions from their best hits
  learning: float  # hits of each later session right after it, mean


def summarise(hits: np.ndarray) -> Summary:
  r"""Average performance, forgetting and learning performance.

  $A = \frac{1}{T} \sum_o P_{T-1,o}$,
  $F = \frac{1}{T-1} \sum_{o<T-1} \max_{o \le n < T-1} P_{n,o} - P_{T-1,o}$,
  $L = \frac{1}{T-1} \sum_{o>0} P_{o,o}$.

  Args:
    hits: float[T, T], P[n, o], the hit rate after session n on the questions
      about documents of session o; values above the diagonal are ignored.

  Returns:
    A, F and L. F is negative if hits on old documents increased.

  Raises:
    ValueError: if there are fewer than two sessions.

  Example:
    >>> summary = summarise(np.array([[0.8, 0.0], [0.5, 0.7]]))
    >>> round(summary.forgetting, 2), summary.learning, summary.average
    (0.3, 0.7, 0.6)

  Reference:
    Mehta et al., DSI++: Updating Transformer Memory with New Documents, 2023.
  """
  hits = np.asarray(hits)
  if hits.ndim != 2 or hits.shape[0] != hits.shape[1] or len(hits) < 2:
    raise ValueError(
      f'hits must be [T, T] with T >= 2 sessions, got {hits.shape}. '
      'Measure before and after new documents are added.'
    )
  last = len(hits) - 1
  lost = [hits[o:last, o].max() - hits[last, o] for o in range(last)]
  return Summary(
    average=float(hits[last].mean()),
    forgetting=float(np.mean(lost)),
    learning=float(np.diagonal(hits)[1:].mean()),
  )


def continual(
  vectors: np.ndarray,
  sessions: np.ndarray,
  train: Questions,
  test: Questions,
  config: docids.DocidConfig,
  *,
  replays: Sequence[float | None] = (None, 0.0, 0.5),
  memory: Questions | None = None,
  training: TrainConfig = TrainConfig(),
  depths: tuple[int, ...] = (1, 10),
  beam_size: int = 50,
  seed: int = 0,
) -> list[dict[int, np.ndarray]]:
  """Indexes, trains and evaluates session by session.

  The model is the ID decoder without transformer layers. A query vector q has
  the state h = q + q W, with W initialised to 0, and a node the score
  <h, U[node]>. The loss is the sum over the levels of the cross-entropy of the
  gold document's node at a level among all nodes of that level; the last level
  are the documents.

  Args:
    vectors: float32[N, D], unit length.
    sessions: int[N], the session of each document, 0 to T - 1.
    train: training questions.
    test: test questions.
    config: the docid scheme, fitted on the documents of session 0.
    replays: fractions of each batch that replay questions about documents of
      earlier sessions, one run each; None adds documents without training.
    memory: questions that are replayed; None replays `train`.
    training: steps and learning rates.
    depths: k of Hits@k.
    beam_size: of the search.
    seed: of docids and batches.

  Returns:
    One dict per value of `replays`: k -> Hits@k float[T, T] for `summarise`,
    NaN above the diagonal.

  Raises:
    ValueError: if a session has no document or no question, or a replay is not
      between 0 and 1.
  """
  count = int(sessions.max()) + 1
  _check(sessions, count, train, test, replays)
  # Sort documents by session, so that their rows are those of the index.
  arrival = np.argsort(sessions, kind='stable')
  row_of = np.argsort(arrival)
  vectors, sessions = vectors[arrival], sessions[arrival]
  train, test, memory = (
    dataclasses.replace(q, documents=row_of[q.documents])
    for q in (train, test, train if memory is None else memory)
  )
  # Documents need distinct tokens: a number each.
  numbers = np.arange(1, len(vectors) + 1, dtype=np.int32)[:, None]
  first = int((sessions == 0).sum())
  index = live.build(
    numbers[:first], vectors[:first], config, capacity=len(vectors), seed=seed
  )
  padded = np.where((sessions == 0)[:, None], vectors, 0).astype(np.float32)
  params = {
    'table': query_encoder.normalise(
      tries.sum_below(index.index.trie, jnp.asarray(padded))
    ),
    'residual': jnp.zeros((vectors.shape[1],) * 2),
  }
  rng = np.random.default_rng(seed)
  batches = _draw(rng, train, sessions == 0, training.steps, training)
  params = _train(params, index, batches, training)
  measure = functools.partial(
    _measure, test=test, sessions=sessions, depths=depths, beam_size=beam_size
  )
  before = measure(params, index, 0)
  runs = []
  for replay in replays:
    hits = {k: np.full((count, count), np.nan) for k in depths}
    state, grown = params, index
    _record(hits, 0, before)
    for session in range(1, count):
      added = sessions == session
      grown, change = live.add(grown, numbers[added], vectors[added])
      table = node_table.update(state['table'], change, vectors[added])
      state = state | {'table': table}
      if replay is not None:
        rng = np.random.default_rng((seed, session))
        steps = training.later_steps
        batches = _draw(rng, train, added, steps, training)
        older = _draw(rng, memory, sessions < session, steps, training)
        size = round(replay * training.batch_size)
        for new, old in zip(batches, older, strict=True):
          new[:, :size] = old[:, :size]
        state = _train(state, grown, batches, training)
      _record(hits, session, measure(state, grown, session))
    runs.append(hits)
  return runs


def _check(
  sessions: np.ndarray,
  count: int,
  train: Questions,
  test: Questions,
  replays: Sequence[float | None],
) -> None:
  for name, of in (
    ('documents', sessions),
    ('training questions', sessions[train.documents]),
    ('test questions', sessions[test.documents]),
  ):
    missing = np.setdiff1d(np.arange(count), of)
    if len(missing):
      raise ValueError(
        f'every session must have {name}, got none in session {missing[0]}. '
        'Number sessions from 0, or use fewer.'
      )
  for replay in replays:
    if replay is not None and not 0 <= replay <= 1:
      raise ValueError(
        f'replays must be between 0 and 1, or None, got {replay}. Give the '
        'fraction of a batch that replays older documents.'
      )


def _draw(
  rng: np.random.Generator,
  questions: Questions,
  documents: np.ndarray,
  steps: int,
  training: TrainConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """Samples batches of questions about the documents of a mask.

  Args:
    rng: random generator.
    questions: the questions.
    documents: bool[N], True = may be the gold document.
    steps: S.
    training: gives the batch size B.

  Returns:
    Question vectors float32[S, B, D] and gold documents int32[S, B].
  """
  eligible = np.flatnonzero(documents[questions.documents])
  chosen = rng.choice(eligible, (steps, training.batch_size))
  gold = questions.documents[chosen].astype(np.int32)
  return questions.vectors[chosen].astype(np.float32), gold


def _train(
  params: Params,
  index: live.LiveIndex,
  batches: tuple[np.ndarray, np.ndarray],
  training: TrainConfig,
) -> Params:
  optimiser = _optimiser(training.table_rate, training.residual_rate)
  state = optimiser.init(params)
  paths, levels = (jnp.asarray(x) for x in _ancestors(index))
  for query, document in zip(*batches, strict=True):
    params, state = _step(
      params, state, query, paths[document], levels, training=training
    )
  return params


def _optimiser(table: float, residual: float) -> optax.GradientTransformation:
  return optax.multi_transform(
    {'table': optax.adam(table), 'residual': optax.adam(residual)},
    {'table': 'table', 'residual': 'residual'},
  )


def _ancestors(index: live.LiveIndex) -> tuple[np.ndarray, np.ndarray]:
  """Ancestors of each document, and the level of each row of the node table.

  Returns:
    int32[N, L], rows of a document's ancestors from the top and, last, its own
    row, -1 = no node; and int32[num_nodes], level of each row, -1 = unused.
  """
  length = index.codes.shape[1]
  paths = np.full((len(index.codes), length), -1, np.int32)
  levels = np.full(index.capacity.num_nodes, -1, np.int32)
  places = np.arange(index.count)
  for level, (spans, rows) in enumerate(
    zip(index.spans, index.rows, strict=True)
  ):
    node = node_table.above(spans, places)
    inside = node >= 0
    paths[index.order.rows[inside], level] = rows[node[inside]]
    levels[rows] = level
  living = index.order.rows
  paths[living, -1] = living
  levels[living] = length - 1
  return paths, levels


def _loss(params, query, path, levels, scale):
  logits = (
    scale * _state(params, query) @ query_encoder.normalise(params['table']).T
  )
  total = 0.0
  for level in range(path.shape[1]):
    row = path[:, level, None]
    of_level = jnp.where(levels == level, logits, masking.NEG_INF)
    gold = jnp.take_along_axis(logits, jnp.maximum(row, 0), axis=1)
    loss = jax.nn.logsumexp(of_level, axis=1, keepdims=True) - gold
    total += jnp.where(row >= 0, loss, 0).mean()
  return total


@functools.partial(jax.jit, static_argnames='training', donate_argnums=1)
def _step(params, state, query, path, levels, *, training):
  grads = jax.grad(_loss)(params, query, path, levels, training.scale)
  optimiser = _optimiser(training.table_rate, training.residual_rate)
  updates, state = optimiser.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def _measure(
  params: Params,
  index: live.LiveIndex,
  session: int,
  *,
  test: Questions,
  sessions: np.ndarray,
  depths: tuple[int, ...],
  beam_size: int,
) -> dict[int, np.ndarray]:
  """Hits@k on the questions of each session so far, k -> float[session + 1]."""
  session_of = sessions[test.documents]
  chosen = np.flatnonzero(session_of <= session)
  batch, found = 64, []
  for start in range(0, len(chosen), batch):
    rows = np.resize(
      chosen[start : start + batch], batch
    )  # pads the last batch
    result = _search(
      params, index.index.trie, test.vectors[rows], beam_size=beam_size
    )
    found.append(np.where(result.where, result.documents, -1))
  documents = np.concatenate(found)[: len(chosen)]
  hit = documents == test.documents[chosen, None]
  return {
    k: np.array(
      [
        hit[session_of[chosen] == session, :k].any(axis=1).mean()
        for session in range(session + 1)
      ]
    )
    for k in depths
  }


@functools.partial(jax.jit, static_argnames='beam_size')
def _search(params, trie, query, *, beam_size):
  products = _state(params, query) @ query_encoder.normalise(params['table']).T

  def step_fn(products, cache, frontier):
    rows = jnp.arange(products.shape[0])[:, None, None]
    return products[rows, frontier.children], cache

  return beam.search(
    products,
    (),
    trie,
    step_fn=step_fn,
    batch_size=query.shape[0],
    beam_size=beam_size,
    scoring='absolute',
  )


def _record(
  hits: dict[int, np.ndarray], session: int, found: dict[int, np.ndarray]
) -> None:
  for k, values in found.items():
    hits[k][session, : session + 1] = values


def _state(params: Params, query: jax.Array) -> jax.Array:
  """Query state for the inner product with nodes, float32[B, D]."""
  return query_encoder.normalise(query + query @ params['residual'])
