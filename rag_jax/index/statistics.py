"""Statistics of docids, to choose a docid scheme before training.

Collisions, usage and entropy of the codes, branching, memory, and the hits of a
zero-shot search.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import host_memory
from rag_jax.index import docids, ngram_ids
from rag_jax.ops import beam, docid_layout, docid_order, grouping
from rag_jax.ops import trie as tries

MODES = ('absolute', 'log_softmax', 'inner_product')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """Codes of one level of the docids."""

  used: int  # distinct codes
  dead: int  # unused codes of the alphabet
  entropy: float  # of the codes, bits
  branching: float  # mean number of children per node
  widest: int  # maximum number of children per node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
  """Statistics of a set of docids."""

  documents: int
  collisions: float  # fraction of documents that share all but the last code
  levels: tuple[Level, ...]  # the levels of the trie with inner nodes
  trie_memory: int  # bytes
  num_nodes: int  # rows of a node table


def describe(codes: np.ndarray, *, num_values: int | None = None) -> Statistics:
  """Computes the statistics of docids.

  Args:
    codes: int[N, L], unique rows, the last level for uniqueness.
    num_values: alphabet size of all levels but the last; None takes the largest
      code of a level plus 1.

  Example:
    >>> found = describe(np.array([[0, 0], [0, 1], [1, 0], [2, 0]]))
    >>> found.collisions, [level.used for level in found.levels]
    (0.5, [3, 2])
  """
  layout = docid_layout.lay_out(codes)
  capacity = docid_layout.tight(layout)
  collisions = 0.0
  if codes.shape[1] > 1:
    order = docid_order.sort(codes[:, :-1])
    same = order.shared()[1:-1] == codes.shape[1] - 1
    tied = np.zeros(len(codes), bool)
    tied[1:] |= same
    tied[:-1] |= same
    collisions = float(tied.mean())
  levels = []
  for level, first in enumerate(layout.first):
    counts = np.bincount(codes[:, level])
    share = counts[counts > 0] / len(codes)
    children = np.diff(first)
    last = level == codes.shape[1] - 1
    size = len(counts) if last or num_values is None else num_values
    levels.append(
      Level(
        used=len(share),
        dead=max(size - len(share), 0),
        entropy=float(-(share * np.log2(share)).sum() + 0.0),
        branching=float(children.mean()),
        widest=int(children.max()),
      )
    )
  return Statistics(
    documents=len(codes),
    collisions=collisions,
    levels=tuple(levels),
    trie_memory=capacity.memory,
    num_nodes=capacity.num_nodes,
  )


def zero_shot(
  codes: np.ndarray,
  vectors: np.ndarray,
  queries: np.ndarray,
  *,
  mode: str = 'absolute',
  centres: np.ndarray | None = None,
  owners: np.ndarray | None = None,
  beam_size: int = 50,
  batch_size: int = 32,
  scale: float = 20.0,
  unit: bool = True,
) -> np.ndarray:
  """Zero-shot beam search over docids, without trained parameters.

  Args:
    codes: int[N, L], unique rows.
    vectors: float32[N, D].
    queries: float32[Q, D].
    mode: 'absolute' scores a node by the inner product with the unit mean of
      the documents below it; 'log_softmax' normalises these scores over the
      children of each node; 'inner_product' sums the inner products with
      `centres`.
    centres: float32[L - 1, V, D], centroids of residual k-means, for
      'inner_product'.
    owners: int[N], the document of each row, if rows are keys.
    beam_size: documents (or keys) to retrieve.
    batch_size: queries per batch.
    scale: inverse temperature: factor on inner products for 'log_softmax',
      nats.
    unit: whether vectors have unit length; if not, a node has the mean of the
      documents below it.

  Returns:
    int32[Q, beam_size], rows of documents, best first, -1 = padding.

  Raises:
    ValueError: if the mode needs `centres` and there are none.
  """
  trie = tries.build(codes)
  if mode == 'inner_product':
    if centres is None:
      raise ValueError(
        "mode 'inner_product' needs centres, got None. Give the quantiser's "
        "'centres' of the scheme 'residual_kmeans'."
      )
    size = max(centres.shape[1], trie.num_values[-1])
    wider = ((0, 1), (0, size - centres.shape[1]), (0, 0))
    table = jnp.pad(jnp.asarray(centres), wider)
  else:
    sums = tries.sum_below(trie, jnp.asarray(vectors))
    if unit:
      size = jnp.linalg.norm(sums, axis=1, keepdims=True)
    else:
      size = tries.sum_below(trie, jnp.ones((len(codes), 1)))
      scale /= float(np.square(vectors).sum(1).mean())
    table = scale * sums / jnp.maximum(size, 1e-9)

  @jax.jit
  def search(table, trie, query):
    # Scores do not depend on the prefix: each node is scored once per query.
    products = jnp.einsum('bd,...d->b...', query, table)
    return beam.search(
      products,
      (),
      trie,
      step_fn=functools.partial(_step, mode=mode),
      batch_size=batch_size,
      beam_size=beam_size,
      scoring=mode,
    )

  found = []
  for start in range(0, len(queries), batch_size):
    part = queries[start : start + batch_size]
    padded = np.zeros((batch_size, queries.shape[1]), np.float32)
    padded[: len(part)] = part
    result = search(table, trie, jnp.asarray(padded))
    if owners is not None:
      result = ngram_ids.by_document(result, jnp.asarray(owners))
    rows = jnp.where(result.where, result.documents, -1)
    found.append(np.asarray(rows)[: len(part)])
  host_memory.release()  # of the compilation
  return np.concatenate(found)


def _step(products, cache, frontier, *, mode):
  rows = jnp.arange(products.shape[0])[:, None, None]
  if mode == 'inner_product':
    return products[rows, frontier.level, frontier.tokens], cache
  return products[rows, frontier.children], cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """Statistics and zero-shot hits of one docid scheme."""

  scheme: str
  mode: str
  seconds: float  # time to assign all docids
  statistics: Statistics
  hits: dict[int, float]  # k -> Hits@k


def compare(
  vectors: np.ndarray,
  queries: np.ndarray,
  gold: np.ndarray,
  configs: list[docids.DocidConfig],
  *,
  titles: list[str] | None = None,
  beam_size: int = 50,
  depths: tuple[int, ...] = (1, 10, 50),
  seed: int = 0,
  groups: np.ndarray | None = None,
  unit: bool = True,
) -> list[Row]:
  """Compares docid schemes on the same documents by zero-shot search.

  Args:
    vectors: float32[N, D].
    queries: float32[Q, D].
    gold: int[Q, G], rows of gold documents, -1 = padding.
    configs: the schemes.
    titles: N titles, for the scheme 'title'.
    beam_size: of the search.
    depths: k of Hits@k.
    seed: of the schemes.
    groups: int[N], the document of each row, if rows are passages; `gold` has
      documents then.
    unit: whether vectors have unit length.

  Returns:
    One row per scheme and mode.
  """
  rows = []
  for config in configs:
    begin = time.perf_counter()
    codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
    seconds = time.perf_counter() - begin
    clusters = config.scheme not in ('atomic', 'string', 'title')
    found = describe(codes, num_values=config.num_codes if clusters else None)
    modes = list(MODES[:2])
    if config.scheme in ('residual_kmeans', 'learned'):
      modes.append('inner_product')
    for mode in modes:
      documents = zero_shot(
        codes,
        vectors,
        queries,
        mode=mode,
        centres=quantiser.get('centres'),
        beam_size=beam_size,
        unit=unit,
      )
      rows.append(
        Row(
          scheme=config.scheme,
          mode=mode,
          seconds=seconds,
          statistics=found,
          hits=_hits(documents, gold, depths, groups),
        )
      )
  return rows


def ngrams(
  tokens: np.ndarray,
  vectors: np.ndarray,
  queries: np.ndarray,
  gold: np.ndarray,
  *,
  length: int = 3,
  num_keys: int = 8,
  beam_size: int = 50,
  depths: tuple[int, ...] = (1, 10, 50),
  groups: np.ndarray | None = None,
  unit: bool = True,
) -> list[Row]:
  """Like `compare`, for n-gram keys, of which a document has several.

  Args:
    tokens: int32[N, P], the documents.
    vectors: float32[N, D].
    queries: float32[Q, D].
    gold: int[Q, G], rows of gold documents, -1 = padding.
    length: tokens per key; capped at P.
    num_keys: approximate number of evenly spaced keys per document.
    beam_size: documents to retrieve; the beam holds twice as many keys.
    depths: k of Hits@k.
    groups: as in `compare`.
    unit: whether vectors have unit length.

  Returns:
    One row per mode. Collisions are counted among keys; `documents` is the
    number of documents, so that memory is per document.
  """
  begin = time.perf_counter()
  keys, owners = ngram_ids.ngram_keys(
    tokens,
    length=min(length, tokens.shape[1]),
    stride=max(1, tokens.shape[1] // num_keys),
  )
  codes = docids.append_uniqueness(keys)
  seconds = time.perf_counter() - begin
  found = dataclasses.replace(describe(codes), documents=len(tokens))
  rows = []
  for mode in MODES[:2]:
    documents = zero_shot(
      codes,
      vectors[owners],
      queries,
      mode=mode,
      owners=owners,
      beam_size=2 * beam_size,
      unit=unit,
    )
    rows.append(
      Row(
        scheme='ngram_keys',
        mode=mode,
        seconds=seconds,
        statistics=found,
        hits=_hits(documents, gold, depths, groups),
      )
    )
  return rows


def _hits(
  documents: np.ndarray,
  gold: np.ndarray,
  depths: tuple[int, ...],
  groups: np.ndarray | None,
) -> dict[int, float]:
  if groups is not None:
    documents, _ = grouping.by_group(documents, groups)
  same = (documents[:, :, None] == gold[:, None]) & (gold >= 0)[:, None]
  hit = same.any(-1)
  return {k: float(hit[:, :k].any(1).mean()) for k in depths}


def table(rows: list[Row]) -> str:
  """Formats rows as plain text, one line per scheme and mode."""
  depths = list(rows[0].hits)
  heads = [f'Hits@{k}' for k in depths]
  lines = [
    f'{"scheme":<21}{"mode":<14}{"collide":>8}{"trie B/doc":>11}{"nodes":>8}'
    f'{"name, s":>8}' + ''.join(f'{h:>9}' for h in heads) + '  used/widest'
  ]
  for row in rows:
    found = row.statistics
    levels = ' '.join(f'{n.used}/{n.widest}' for n in found.levels)
    lines.append(
      f'{row.scheme:<21}{row.mode:<14}{found.collisions:>8.3f}'
      f'{found.trie_memory / found.documents:>11.1f}{found.num_nodes:>8}'
      f'{row.seconds:>8.1f}'
      + ''.join(f'{row.hits[k]:>9.3f}' for k in depths)
      + f'  {levels}'
    )
  return '\n'.join(lines)
