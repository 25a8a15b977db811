"""What an index forgets when it learns new documents.

Documents arrive in sessions. Those of the first are indexed and trained on;
those of later ones are added to the live index, and training goes on with
their questions, alone or with a share of questions about older documents. After
every session the questions about the documents of all sessions so far are
asked. Vectors in, hits out: any encoder will do.
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
  """Questions and the document that each is about."""

  vectors: np.ndarray  # float32[Q, D], unit length
  documents: np.ndarray  # int[Q], rows of the documents


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """How the node table and the query residual are trained in a session."""

  steps: int = 300  # of the first session
  later_steps: int = 100  # of each later one
  batch_size: int = 64
  table_rate: float = 3e-4  # learning rate of Adam
  residual_rate: float = 1e-3
  scale: float = 20.0  # factor on inner products, nats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
  """A table of hits in three numbers."""

  average: float  # over all sessions, after the last
  forgetting: float  # hits that old sessions lost since they were best
  learning: float  # of each later session, right after it


def summarise(hits: np.ndarray) -> Summary:
  r"""Average performance, forgetting and learning performance.

  $A = \frac{1}{T} \sum_o P_{T-1,o}$,
  $F = \frac{1}{T-1} \sum_{o<T-1} \max_{o \le n < T-1} P_{n,o} - P_{T-1,o}$,
  $L = \frac{1}{T-1} \sum_{o>0} P_{o,o}$.

  Args:
    hits: float[T, T], P[n, o], the share of hits after session n on questions
      about documents of session o; what is above the diagonal is not looked
      at.

  Returns:
    The three. Forgetting is negative where old documents gained.

  Raises:
    ValueError: if there are no two sessions.

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
      f'hits must be [T, T] with two sessions or more, got {hits.shape}. '
      'Measure before and after new documents.'
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
  """Indexes and trains session after session, and measures after each.

  The model is the ID decoder without its network: a vector q is searched for
  by h = q + q W, W = 0 at first, and a node has the score <h, U[node]>. A step
  lowers the cross-entropy of a document among all documents, and of the nodes
  above it among all nodes of their level.

  Args:
    vectors: float32[N, D], unit length.
    sessions: int[N], the session that a document comes in, 0 to T - 1.
    train: questions to learn from.
    test: questions to be measured by.
    config: the docid scheme, fitted on the documents of session 0.
    replays: a run for each. The share of every batch that is about documents of
      older sessions; None adds documents without training on them.
    memory: questions that older documents are replayed by; None takes `train`.
    training: steps and rates.
    depths: k of Hits@k.
    beam_size: of the search.
    seed: of docids and batches.

  Returns:
    For each of `replays` k -> float[T, T], as `summarise` takes it; NaN above
    the diagonal.

  Raises:
    ValueError: if a session has no document or no question, or a replay is not
      a share.
  """
  count = int(sessions.max()) + 1
  _check(sessions, count, train, test, replays)
  # Rows of documents in the index are theirs here, in the order of arrival.
  arrival = np.argsort(sessions, kind='stable')
  row_of = np.argsort(arrival)
  vectors, sessions = vectors[arrival], sessions[arrival]
  train, test, memory = (
    dataclasses.replace(q, documents=row_of[q.documents])
    for q in (train, test, train if memory is None else memory)
  )
  numbers = np.arange(1, len(vectors) + 1, dtype=np.int32)[:, None]  # as tokens
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
    _note(hits, 0, before)
    for session in range(1, count):
      own = sessions == session
      grown, change = live.add(grown, numbers[own], vectors[own])
      table = node_table.update(state['table'], change, vectors[own])
      state = state | {'table': table}
      if replay is not None:
        rng = np.random.default_rng((seed, session))
        steps = training.later_steps
        batches = _draw(rng, train, own, steps, training)
        older = _draw(rng, memory, sessions < session, steps, training)
        size = round(replay * training.batch_size)
        for new, old in zip(batches, older, strict=True):
          new[:, :size] = old[:, :size]
        state = _train(state, grown, batches, training)
      _note(hits, session, measure(state, grown, session))
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
        'Number sessions from 0, or make fewer.'
      )
  for replay in replays:
    if replay is not None and not 0 <= replay <= 1:
      raise ValueError(
        f'replays must be shares from 0 to 1, or None, got {replay}. '
        'Give the share of a batch that is about older documents.'
      )


def _draw(
  rng: np.random.Generator,
  questions: Questions,
  documents: np.ndarray,
  steps: int,
  training: TrainConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """Questions about some documents: float32[S, B, D] and int32[S, B]."""
  among = np.flatnonzero(documents[questions.documents])
  chosen = rng.choice(among, (steps, training.batch_size))
  owners = questions.documents[chosen].astype(np.int32)
  return questions.vectors[chosen].astype(np.float32), owners


def _train(
  params: Params,
  index: live.LiveIndex,
  batches: tuple[np.ndarray, np.ndarray],
  training: TrainConfig,
) -> Params:
  optimiser = _optimiser(training.table_rate, training.residual_rate)
  state = optimiser.init(params)
  paths, levels = (jnp.asarray(x) for x in _nodes_above(index))
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


def _nodes_above(index: live.LiveIndex) -> tuple[np.ndarray, np.ndarray]:
  """A document's row at each level, and the level of each row of the table.

  Returns:
    int32[N, L], the rows of the inner nodes above and then its own, -1 = none;
    and int32[num_nodes], which of the L each row belongs to, -1 = to none.
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
    among = jnp.where(levels == level, logits, masking.NEG_INF)
    own = jnp.take_along_axis(logits, jnp.maximum(row, 0), axis=1)
    loss = jax.nn.logsumexp(among, axis=1, keepdims=True) - own
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
  """Shares of hits of the sessions so far, k -> float[session + 1]."""
  of = sessions[test.documents]
  asked = np.flatnonzero(of <= session)
  batch, found = 64, []
  for start in range(0, len(asked), batch):
    rows = np.resize(asked[start : start + batch], batch)  # one shape
    result = _search(
      params, index.index.trie, test.vectors[rows], beam_size=beam_size
    )
    found.append(np.where(result.where, result.documents, -1))
  documents = np.concatenate(found)[: len(asked)]
  hit = documents == test.documents[asked, None]
  return {
    k: np.array(
      [
        hit[of[asked] == session, :k].any(axis=1).mean()
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


def _note(
  hits: dict[int, np.ndarray], session: int, found: dict[int, np.ndarray]
) -> None:
  for k, values in found.items():
    hits[k][session, : session + 1] = values


def _state(params: Params, query: jax.Array) -> jax.Array:
  """What is compared with the nodes, float32[B, D]."""
  return query_encoder.normalise(query + query @ params['residual'])
