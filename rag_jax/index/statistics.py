"""What docids are worth before anything is trained.

Collisions, use and entropy of the codes, branching, memory, and what a search
finds without training: enough to choose a scheme by.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.index import docids, ngram_ids
from rag_jax.ops import beam, docid_layout, docid_order
from rag_jax.ops import trie as tries

MODES = ('absolute', 'log_softmax', 'inner_product')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """Codes of one level of the docids."""

  used: int  # distinct codes
  dead: int  # codes of the alphabet that no docid has
  entropy: float  # of the codes, bits
  branching: float  # children a node has on average
  widest: int  # children of the widest node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
  """What a set of docids is like."""

  documents: int
  collisions: float  # share of documents whose docid needs the last level
  levels: tuple[Level, ...]  # those at which a search has a choice
  trie_memory: int  # bytes
  num_nodes: int  # rows of a node table


def describe(codes: np.ndarray, *, num_values: int | None = None) -> Statistics:
  """Counts what there is to know of docids.

  Args:
    codes: int[N, L], unique rows, the last level for uniqueness.
    num_values: size of the alphabet of all levels but the last; None takes
      what is seen.

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
) -> np.ndarray:
  """Searches with docids that nothing was trained for.

  Args:
    codes: int[N, L], unique rows.
    vectors: float32[N, D], unit length.
    queries: float32[Q, D], unit length.
    mode: 'absolute' scores a node by the unit mean of the documents below it,
      a document by itself; 'log_softmax' normalises these at every node;
      'inner_product' adds up the products with `centres`.
    centres: float32[L - 1, V, D], of residual k-means, for 'inner_product'.
    owners: int[N], where docids are keys, the document that each belongs to.
    beam_size: documents (or keys) to find.
    batch_size: queries at a time.
    scale: factor on inner products for 'log_softmax', nats.

  Returns:
    int32[Q, beam_size], rows of documents, best first; -1 where there is none.
  """
  trie = tries.build(codes)
  if mode == 'inner_product':
    if centres is None:
      raise ValueError(
        "mode 'inner_product' needs centres, got None. Take those of the "
        "scheme 'residual_kmeans'."
      )
    size = max(centres.shape[1], trie.num_values[-1])
    wider = ((0, 1), (0, size - centres.shape[1]), (0, 0))
    table = jnp.pad(jnp.asarray(centres), wider)
  else:
    sums = tries.sum_below(trie, jnp.asarray(vectors))
    norm = jnp.linalg.norm(sums, axis=1, keepdims=True)
    table = scale * sums / jnp.maximum(norm, 1e-9)

  @jax.jit
  def search(table, trie, query):
    # Nothing depends on the prefix: every node is scored once a query.
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
  return np.concatenate(found)


def _step(products, cache, frontier, *, mode):
  rows = jnp.arange(products.shape[0])[:, None, None]
  if mode == 'inner_product':
    return products[rows, frontier.level, frontier.tokens], cache
  return products[rows, frontier.children], cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One scheme, and what a search finds by it without training."""

  scheme: str
  mode: str
  seconds: float  # that naming all documents took
  statistics: Statistics
  hits: dict[int, float]  # k -> share of queries


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
) -> list[Row]:
  """Names the same documents by several schemes and searches each.

  Args:
    vectors: float32[N, D], unit length.
    queries: float32[Q, D], unit length.
    gold: int[Q, G], rows of relevant documents, -1 = none.
    configs: the schemes.
    titles: N titles, for the scheme 'title'.
    beam_size: of the search.
    depths: k of Hits@k.
    seed: of the schemes.
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
      )
      rows.append(
        Row(
          scheme=config.scheme,
          mode=mode,
          seconds=seconds,
          statistics=found,
          hits=_hits(documents, gold, depths),
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
) -> list[Row]:
  """The same for n-gram keys, of which a document has several.

  Args:
    tokens: int32[N, P], the documents.
    vectors: float32[N, D], unit length.
    queries: float32[Q, D], unit length.
    gold: int[Q, G], rows of relevant documents, -1 = none.
    length: tokens of a key, at most P.
    num_keys: keys a document, about, at even distances.
    beam_size: documents to find; a beam holds twice as many keys.
    depths: k of Hits@k.

  Returns:
    A row a mode; collisions are among keys, memory is a document's.
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
    )
    rows.append(
      Row(
        scheme='ngram_keys',
        mode=mode,
        seconds=seconds,
        statistics=found,
        hits=_hits(documents, gold, depths),
      )
    )
  return rows


def _hits(
  documents: np.ndarray, gold: np.ndarray, depths: tuple[int, ...]
) -> dict[int, float]:
  same = (documents[:, :, None] == gold[:, None]) & (gold >= 0)[:, None]
  hit = same.any(-1)
  return {k: float(hit[:, :k].any(1).mean()) for k in depths}


def table(rows: list[Row]) -> str:
  """Rows as plain text, a line a scheme and mode."""
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
