"""The generative ID decoder: scores the edges of the docid trie for a query.

The state of a prefix is h = normalise(query vector + residual). A small
transformer decoder computes the residual from the prefix and the query's token
states; its output is initialised to zero. The score of an edge to node c is
exp(log_scale[level]) * cos(h, U[c]), where U has one row per node
(`node_table`, initialised to the mean of the document vectors below the node)
or one row per level and code (`codebook`, whose memory does not grow with the
corpus). An untrained node table is a zero-shot hierarchical dense search.
`shared_rows` explains a node table with rows for some nodes only.

With vectors of any length (`query_encoder.similarity` 'dot'), nothing is
normalised: h = query vector + residual, U[c] starts as the mean of the document
vectors below c, and the score is exp(log_scale[level]) * h . U[c].

With num_layers = 0, h is the query vector: scores do not depend on the prefix,
and one product per query scores all nodes.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder, shared_rows, table_products
from rag_jax.nn import transformer
from rag_jax.ops import masking, node_slots, split_rows
from rag_jax.ops import trie as tries

OUTPUTS = ('node_table', 'codebook')


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdDecoderConfig:
  """Sizes of the ID decoder."""

  # 'node_table': a vector per trie node; 'codebook': one per level and code
  output: str = 'node_table'
  # levels of the trie whose nodes have a row in the node table; the others add
  # up rows of a shared codebook; 0 = every node has one
  table_levels: int = 0
  # so have nodes of lower levels with at least this many documents; 0 = none
  table_documents: int = 0
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
    for name in ('table_levels', 'table_documents'):
      value = getattr(self, name)
      if value < 0:
        raise ValueError(
          f'id_decoder.{name} must be at least 0, got {value}. Set '
          f'--config.id_decoder.{name}=0: every node has a row.'
        )
    if self.shares_rows and self.output == 'codebook':
      raise ValueError(
        'id_decoder.table_levels and table_documents are those of a node '
        f"table, got id_decoder.output='codebook' with {self.table_levels} and "
        f'{self.table_documents}. Set --config.id_decoder.output=node_table, '
        'or both to 0.'
      )

  @property
  def shares_rows(self) -> bool:
    """Whether some nodes have no row: they share those of a codebook."""
    return bool(self.table_levels or self.table_documents)


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
  slots: node_slots.Slots | None = None,
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
    slots: the nodes that have a row, if some share rows; see `shared_rows`.

  Returns:
    A pytree of plain dicts; `table` is float32[num_nodes, D], or for a
    codebook one float32[V, D] per level.
  """
  _check_slots(config, slots)
  width = document_vectors.shape[-1]
  network: dict[str, Any] = {}
  if config.num_layers:
    where = jnp.ones((1, 1), bool)
    step = jnp.zeros((1, 1, width))
    memory = jnp.zeros((1, 1, memory_width or width))
    cache = initial_cache(config, 1, width)
    network = _Network(config).init(rng, step, cache, memory, where)['params']
  table: Any
  more: dict[str, Any] = {}
  if slots is not None:
    levels = config.table_levels
    table, more = shared_rows.init(
      trie, slots, document_vectors, levels=levels, unit=unit
    )
  elif config.output == 'codebook':
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
    **more,
  }


def _check_slots(config: IdDecoderConfig, slots: Any) -> None:
  """Raises a ValueError if an index has not the slots of its ID decoder."""
  if config.shares_rows != (slots is not None):
    raise ValueError(
      'an index has slots if id_decoder.table_levels or table_documents is '
      f'above 0, got {config.table_levels} and {config.table_documents}. Set '
      '`Index.slots`, by corpus.with_slots.'
    )


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
  """The cache of the empty prefix, float32[B, 1, 0, D] per layer.

  Nodes that share rows add where the prefix stands, `shared_rows.Place`.
  """
  layers = (jnp.zeros((batch_size, 1, 0, width)),) * config.num_layers
  if config.shares_rows:
    return (*layers, *shared_rows.start(batch_size, width))
  return layers


def apply(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
  slots: node_slots.Slots | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Scores edges; with `config` bound, this is the `step_fn` of `ops.beam`.

  Args:
    params: (parameters from `init`, encoding of the queries).
    cache: cache from `initial_cache` or from the previous step.
    frontier: the node of each beam and its children.
    config: sizes, as given to `init`.
    slots: as given to `init`.

  Returns:
    float32[B, K, C] scores in nats, and the cache after this step.
  """
  decoder, encoding = params
  level = frontier.level
  scale = jnp.exp(decoder['log_scale'][level])
  state, cache = states(params, cache, frontier, config=config, slots=slots)
  if config.output == 'codebook':
    table = decoder['table'][level]
    edges = table_products.of_rows(state, table, frontier.tokens, encoding.unit)
    return edges * scale, cache
  own = functools.partial(_own_products, params, state, config)
  if slots is None:
    return own(frontier.children) * scale, cache
  edges = shared_rows.edge_products(
    state,
    decoder,
    slots,
    frontier,
    (cache[-2], cache[-1]),
    own,
    table_has_more=config.table_documents > 0,
  )
  return edges * scale, cache


def _own_products(params, state, config, rows):
  """Products of states float32[B, K, D] with rows of the table [B, K, C]."""
  decoder, encoding = params
  if config.num_layers:
    return table_products.of_rows(state, decoder['table'], rows, encoding.unit)
  # Equal at all levels, so that XLA computes the product once.
  products = table_products.of_all(
    encoding.vector, decoder['table'], encoding.unit
  )
  found = table_products.take(
    products, rows.reshape(len(rows), -1), decoder['table']
  )
  return found.reshape(rows.shape)


def states(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
  slots: node_slots.Slots | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """States h of the prefixes, see the module docstring.

  Args:
    params: (parameters from `init`, encoding of the queries).
    cache: cache from `initial_cache` or from the previous step.
    frontier: the node of each beam and its children.
    config: sizes, as given to `init`.
    slots: as given to `init`.

  Returns:
    float32[B, K, D], of unit length if the query vectors are, and the cache
    after this step.
  """
  decoder, encoding = params
  table = decoder['table']
  level = frontier.level
  batch_size, beams = frontier.nodes.shape
  place: tuple[jax.Array, ...] = ()
  if slots is not None:
    place = shared_rows.follow(
      decoder,
      slots,
      (cache[-2], cache[-1]),
      frontier.nodes,
      frontier.codes,
      level,
      unit=encoding.unit,
    )
    cache = cache[:-2]
  if not config.num_layers:
    shape = (batch_size, beams, encoding.vector.shape[-1])
    state = jnp.broadcast_to(encoding.vector[:, None], shape)
    return state, (*cache, *place)
  if config.output == 'codebook':
    vectors, rows = table[max(level - 1, 0)], frontier.codes
  else:
    vectors, rows = table, frontier.nodes
  if level == 0:
    x = jnp.broadcast_to(
      decoder['start'] + encoding.vector[:, None],
      (batch_size, beams, encoding.vector.shape[-1]),
    )
  elif place:
    x = place[1][:, :, 0]
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
  state = query_encoder.normalise(state) if encoding.unit else state
  return state, (*cache, *place)


def level_log_likelihood(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  trie: tries.Trie,
  codes: jax.Array,
  *,
  config: IdDecoderConfig,
  where: jax.Array | None = None,
  slots: node_slots.Slots | None = None,
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
    slots: as given to `init`.

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
    state, cache = states(params, cache, frontier, config=config, slots=slots)
    scale = jnp.exp(decoder['log_scale'][frontier.level])
    if not config.num_layers:  # one state per query, equal at all levels
      state = state[:, :1]
    scores = table_products.of_all(state, decoder['table'], encoding.unit)
    if isinstance(decoder['table'], split_rows.Rows):
      scores = split_rows.whole(scores)[..., : len(decoder['table'])]
    if slots is not None:
      scores = shared_rows.all_products(state, scores, decoder, trie, slots)
    scores = scale * scores
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
