"""The generative ID decoder: scores the edges of the docid trie for a query.

The state of a prefix is h = normalise(query vector + residual). A small
transformer decoder computes the residual from the prefix and the query's token
states; its output is initialised to zero. The score of an edge to node c is
exp(log_scale[level]) * cos(h, U[c]), where U has one row per node
(`node_table`, initialised to the mean of the document vectors below the node)
or one row per level and code (`codebook`, whose memory does not grow with the
corpus). An untrained node table is a zero-shot hierarchical dense search.

With vectors of any length (`query_encoder.similarity` 'dot'), nothing is
normalised: h = query vector + residual, U[c] starts as the mean of the document
vectors below c, and the score is exp(log_scale[level]) * h . U[c].

With num_layers = 0, h is the query vector: scores do not depend on the prefix,
and one product per query scores all nodes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder
from rag_jax.nn import transformer
from rag_jax.ops import beam, masking, split_rows
from rag_jax.ops import trie as tries

OUTPUTS = ('node_table', 'codebook')
# Up to about this ratio of table rows to requested rows, a product with the
# whole table takes less time and memory than gathering the rows, forward and
# backward. For 32 x 10 states of width 384 on two CPU cores, product and gather
# take 0.8 and 3.5 ms at ratio 9, and 4.4 and 3.9 ms at ratio 68.
MAX_PRODUCT_RATIO = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdDecoderConfig:
  """Sizes of the ID decoder."""

  # 'node_table': a vector per trie node; 'codebook': one per level and code
  output: str = 'node_table'
  # transformer layers over the prefix; 0 = the output table alone
  num_layers: int = 1
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  scale: float = 10.0  # initial scale of cosines, nats

  def __post_init__(self) -> None:
    """Raises a ValueError on an unknown output."""
    if self.output not in OUTPUTS:
      raise ValueError(
        f'id_decoder.output must be one of {", ".join(OUTPUTS)}, got '
        f'{self.output!r}. Set --config.id_decoder.output.'
      )
    if self.num_layers == 0 and self.output == 'codebook':
      raise ValueError(
        'id_decoder.num_layers must be at least 1 with a codebook (its scores '
        'depend on the prefix only through the layers), got 0. Set '
        '--config.id_decoder.output=node_table.'
      )


class _Network(nn.Module):
  """One decoding step for every beam."""

  config: IdDecoderConfig

  @nn.compact
  def __call__(self, x, prefixes, memory, where):
    config = self.config
    appended = []
    for layer in range(config.num_layers):
      x, prefix = transformer.PrefixBlock(
        config.num_heads, config.mlp_dim, name=f'block_{layer}'
      )(x, prefixes[layer], memory, where)
      appended.append(prefix)
    x = nn.RMSNorm(name='norm')(x)
    residual = nn.Dense(
      x.shape[-1],
      use_bias=False,
      kernel_init=nn.initializers.zeros,
      name='residual',
    )(x)
    return residual, tuple(appended)


def init(
  rng: jax.Array,
  config: IdDecoderConfig,
  *,
  trie: tries.Trie,
  codes: jax.Array,
  document_vectors: jax.Array,
  memory_width: int | None = None,
  unit: bool = True,
) -> dict[str, Any]:
  """Initialises the parameters for one trie.

  Args:
    rng: PRNG key.
    config: sizes.
    trie: the docids.
    codes: int[N, L], the docid of each document.
    document_vectors: float32[N, D]; the output table is initialised to their
      sums, normalised, or to their means if `unit` is False.
    memory_width: W, width of the token states of a query; default D.
    unit: whether the vectors have unit length.

  Returns:
    A pytree of plain dicts; `table` is float32[num_nodes, D], or for a
    codebook one float32[V, D] per level.
  """
  width = document_vectors.shape[-1]
  network: dict[str, Any] = {}
  if config.num_layers:
    where = jnp.ones((1, 1), bool)
    step = jnp.zeros((1, 1, width))
    memory = jnp.zeros((1, 1, memory_width or width))
    cache = initial_cache(config, 1, width)
    network = _Network(config).init(rng, step, cache, memory, where)['params']
  table: Any
  if config.output == 'codebook':
    table = tuple(
      query_encoder.normalise(
        jax.ops.segment_sum(document_vectors, codes[:, level], size)
      )
      for level, size in enumerate(trie.num_values)
    )
  else:
    table = tries.sum_below(trie, document_vectors)
    if unit:
      table = query_encoder.normalise(table)
    else:
      ones = jnp.ones(len(document_vectors))
      table /= jnp.maximum(tries.sum_below(trie, ones), 1)[:, None]
  scale = jnp.log(config.scale)
  if not unit:
    scale -= jnp.log(mean_square(document_vectors))
  return {
    'network': network,
    'table': table,
    'log_scale': jnp.full(trie.length, scale, jnp.float32),
    'start': jnp.zeros(width),
  }


def mean_square(vectors: jax.Array) -> jax.Array:
  """Mean squared length of the vectors float[N, D] that are not zero.

  It takes the place of 1 as the scale of a dot product, so that scores are as
  large as with cosines.
  """
  square = jnp.square(vectors).sum(-1)
  total = square.sum() / jnp.maximum((square > 0).sum(), 1)
  return jnp.maximum(total, 1e-12)


def initial_cache(
  config: IdDecoderConfig, batch_size: int, width: int
) -> tuple[jax.Array, ...]:
  """The cache of the empty prefix, float32[B, 1, 0, D] per layer."""
  return (jnp.zeros((batch_size, 1, 0, width)),) * config.num_layers


def apply(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Scores edges; with `config` bound, this is the `step_fn` of `ops.beam`.

  Args:
    params: (parameters from `init`, encoding of the queries).
    cache: cache from `initial_cache` or from the previous step.
    frontier: the node of each beam and its children.
    config: sizes, as given to `init`.

  Returns:
    float32[B, K, C] scores in nats, and the cache after this step.
  """
  decoder, encoding = params
  level = frontier.level
  scale = jnp.exp(decoder['log_scale'][level])
  if not config.num_layers:
    # Equal at all levels, so that XLA computes the product once.
    products = _all_products(encoding.vector, decoder['table'], encoding.unit)
    rows = frontier.children.reshape(len(products), -1)
    edges = _take(products, rows, decoder['table'])
    edges = edges.reshape(frontier.children.shape)
    return edges * scale, cache
  state, cache = states(params, cache, frontier, config=config)
  if config.output == 'codebook':
    table, rows = decoder['table'][level], frontier.tokens
  else:
    table, rows = decoder['table'], frontier.children
  return _products(state, table, rows, encoding.unit) * scale, cache


def _products(
  states: jax.Array,
  table: jax.Array | split_rows.Rows,
  rows: jax.Array,
  unit: bool,
) -> jax.Array:
  """Products of states with the requested rows of a table.

  Args:
    states: float32[B, K, D].
    table: float32[n, D], rows of any length.
    rows: int32[B, K, C], the requested rows.
    unit: whether states have unit length; then the products are cosines.

  Returns:
    float32[B, K, C].
  """
  if len(table) <= MAX_PRODUCT_RATIO * rows.shape[-1]:
    return _take(_all_products(states, table, unit), rows, table)
  if isinstance(table, split_rows.Rows):
    scale = query_encoder.inverse_norm if unit else None
    return split_rows.products(table.array, states, rows, scale=scale)
  vectors = table[rows]  # [B, K, C, D]
  products = jnp.einsum('bkd,bkcd->bkc', states, vectors)
  return products * query_encoder.inverse_norm(vectors) if unit else products


def _all_products(
  states: jax.Array, table: jax.Array | split_rows.Rows, unit: bool
) -> jax.Array:
  """Products of states float32[..., D] with all rows [n, D]: [..., n].

  Normalising the products instead of the rows avoids a copy of the table and of
  its gradient.
  """
  if isinstance(table, split_rows.Rows):
    table = table.array
    products = split_rows.all_products(table, states)
  else:
    products = split_rows.dot(states, table)
  return products * query_encoder.inverse_norm(table) if unit else products


def _take(products, rows, table):
  """Reads columns of `_all_products`."""
  if isinstance(table, split_rows.Rows):
    return split_rows.take(products, rows)
  return beam.take(products, rows)


def states(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """States h of the prefixes, see the module docstring.

  Args:
    params: (parameters from `init`, encoding of the queries).
    cache: cache from `initial_cache` or from the previous step.
    frontier: the node of each beam and its children.
    config: sizes, as given to `init`.

  Returns:
    float32[B, K, D], of unit length if the query vectors are, and the cache
    after this step.
  """
  decoder, encoding = params
  table = decoder['table']
  level = frontier.level
  batch_size, beams = frontier.nodes.shape
  if not config.num_layers:
    shape = (batch_size, beams, encoding.vector.shape[-1])
    return jnp.broadcast_to(encoding.vector[:, None], shape), cache
  if config.output == 'codebook':
    vectors, rows = table[max(level - 1, 0)], frontier.codes
  else:
    vectors, rows = table, frontier.nodes
  if level == 0:
    x = jnp.broadcast_to(
      decoder['start'] + encoding.vector[:, None],
      (batch_size, beams, encoding.vector.shape[-1]),
    )
  else:
    x = vectors[rows].astype(jnp.float32)
  residual, cache = transformer.apply(
    _Network(config),
    decoder['network'],
    x,
    cache,
    encoding.memory,
    encoding.where,
  )
  state = encoding.vector[:, None] + residual
  return query_encoder.normalise(state) if encoding.unit else state, cache


def level_log_likelihood(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  trie: tries.Trie,
  codes: jax.Array,
  *,
  config: IdDecoderConfig,
  where: jax.Array | None = None,
) -> jax.Array:
  """Log-likelihood of docids by level, for search with `absolute` scoring.

  At each level, the log-softmax score of the docid's node against all nodes of
  that depth and all leaves above it; averaged over the levels. Each level needs
  a product with the whole table (a single product if num_layers = 0), so the
  cost of a training step grows with the corpus.

  Args:
    params: (parameters from `init`, encoding of the queries).
    trie: the docids.
    codes: int[B, K, L], docids.
    config: sizes, with the output `node_table`.
    where: bool[num_nodes], nodes that count as negatives; None = all. Exclude
      the nodes of documents that are never gold: as permanent negatives they
      would be pushed away from all queries.

  Returns:
    float32[B, K], nats.
  """
  decoder, encoding = params
  count = codes.shape[1]
  cache = tuple(
    jnp.repeat(x, count, axis=1)
    for x in initial_cache(config, *encoding.vector.shape)
  )
  depth = tries.depths(trie)
  is_leaf = jnp.arange(trie.num_nodes) < trie.num_documents
  total = jnp.zeros(codes.shape[:2])
  for frontier in tries.walk(trie, codes):
    state, cache = states(params, cache, frontier, config=config)
    scale = jnp.exp(decoder['log_scale'][frontier.level])
    if not config.num_layers:  # one state per query, equal at all levels
      state = state[:, :1]
    scores = scale * _all_products(state, decoder['table'], encoding.unit)
    if isinstance(decoder['table'], split_rows.Rows):
      scores = split_rows.whole(scores)[..., : trie.num_nodes]
    scores = jnp.broadcast_to(scores, (*codes.shape[:2], trie.num_nodes))
    level = frontier.level + 1
    negatives = (depth == level) | (is_leaf & (depth > 0) & (depth < level))
    if where is not None:
      negatives = negatives & where
    gold = jnp.take_along_axis(scores, frontier.children, axis=-1)[..., 0]
    # The docid's node is in the softmax even if `where` excludes it.
    negatives = negatives & (jnp.arange(trie.num_nodes) != frontier.children)
    scores = jnp.where(negatives, scores, masking.NEG_INF)
    total += gold - jnp.logaddexp(gold, jax.nn.logsumexp(scores, axis=-1))
  return total / trie.depth
