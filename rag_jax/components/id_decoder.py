"""The generative ID decoder: scores the edges of the trie, given a query.

The state of a prefix is h = normalise(query vector + residual), the residual
made by a small decoder over the prefix and the query's tokens, its output zero
at the start. An edge to node c scores exp(log_scale) * <h, U[c]>, where U is
either a row a node (`node_table`: starts as the mean of the documents under
the node) or a row a code and level (`codebook`: memory does not grow with the
corpus). Untrained, a node table is a zero-shot hierarchical search.

Without layers nothing depends on the prefix: all nodes are scored once a query,
in one product, and what is learned is the table and the query encoder.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder
from rag_jax.nn import transformer
from rag_jax.ops import beam, masking
from rag_jax.ops import trie as tries

OUTPUTS = ('node_table', 'codebook')
# A product with all rows of a table takes less time and memory than to gather
# some, its gradient too, up to about so many rows for each that is asked for.
# On two CPU cores, 32 x 10 states of width 384: .8 instead of 3.5 ms with 9
# rows for each, 4.4 instead of 3.9 with 68.
WHOLE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdDecoderConfig:
  """Sizes of the ID decoder."""

  # 'node_table': a vector for each node of the trie; 'codebook': one for each
  # code of a level
  output: str = 'node_table'
  # transformer layers over the prefix; 0 = the output table alone
  num_layers: int = 1
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  scale: float = 10.0  # initial factor on cosines, nats

  def __post_init__(self) -> None:
    """Raises a ValueError on an unknown output."""
    if self.output not in OUTPUTS:
      raise ValueError(
        f'id_decoder.output must be one of {", ".join(OUTPUTS)}, got '
        f'{self.output!r}. Set --config.id_decoder.output.'
      )
    if self.num_layers == 0 and self.output == 'codebook':
      raise ValueError(
        'id_decoder.num_layers must be at least 1 with a codebook, which knows '
        'a prefix by its layers alone, got 0. Set --config.id_decoder.output='
        'node_table.'
      )


class _Network(nn.Module):
  """One decoding step over the prefix of every beam."""

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
) -> dict[str, Any]:
  """Makes parameters for one trie.

  Args:
    rng: PRNG key.
    config: sizes.
    trie: the docids.
    codes: int[N, L], the docid of each document.
    document_vectors: float32[N, D], unit length, what the rows of the output
      start from.

  Returns:
    A pytree of plain dicts; `table` is float32[num_nodes, D], or for a
    codebook float32[V, D] a level.
  """
  width = document_vectors.shape[-1]
  network: dict[str, Any] = {}
  if config.num_layers:
    where = jnp.ones((1, 1), bool)
    step = jnp.zeros((1, 1, width))
    cache = initial_cache(config, 1, width)
    network = _Network(config).init(rng, step, cache, step, where)['params']
  table: Any
  if config.output == 'codebook':
    table = tuple(
      query_encoder.normalise(
        jax.ops.segment_sum(document_vectors, codes[:, level], size)
      )
      for level, size in enumerate(trie.num_values)
    )
  else:
    table = query_encoder.normalise(tries.sum_below(trie, document_vectors))
  return {
    'network': network,
    'table': table,
    'log_scale': jnp.full(trie.length, jnp.log(config.scale), jnp.float32),
    'start': jnp.zeros(width),
  }


def initial_cache(
  config: IdDecoderConfig, batch_size: int, width: int
) -> tuple[jax.Array, ...]:
  """The cache at the root: no prefix yet, [B, 1, 0, D] a layer."""
  return (jnp.zeros((batch_size, 1, 0, width)),) * config.num_layers


def apply(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Scores edges: the `step_fn` of `ops.beam`, once `config` is bound.

  Args:
    params: (what `init` made, the encoding of the queries).
    cache: what `initial_cache` or the last step returned.
    frontier: where the beams stand.
    config: the same sizes.

  Returns:
    float32[B, K, C] scores in nats, and the cache one step on.
  """
  decoder, encoding = params
  level = frontier.level
  scale = jnp.exp(decoder['log_scale'][level])
  if not config.num_layers:
    # The same at every level, so that XLA makes the product once.
    cosines = _all_cosines(encoding.vector, decoder['table'])  # [B, num_nodes]
    rows = frontier.children.reshape(len(cosines), -1)
    edges = beam.take(cosines, rows).reshape(frontier.children.shape)
    return edges * scale, cache
  state, cache = states(params, cache, frontier, config=config)
  if config.output == 'codebook':
    cosines = _cosines(state, decoder['table'][level], frontier.tokens)
  else:
    cosines = _cosines(state, decoder['table'], frontier.children)
  return cosines * scale, cache


def _cosines(states: jax.Array, table: jax.Array, rows: jax.Array) -> jax.Array:
  """Cosines of unit vectors float32[B, K, D] and rows of a table [n, D].

  Args:
    states: the unit vectors.
    table: rows of any length.
    rows: int32[B, K, C], those to compare with.

  Returns:
    float32[B, K, C].
  """
  if len(table) <= WHOLE * rows.shape[-1]:
    return beam.take(_all_cosines(states, table), rows)
  ends = table[rows]  # [B, K, C, D]
  products = jnp.einsum('bkd,bkcd->bkc', states, ends)
  return products * query_encoder.inverse_norm(ends)


def _all_cosines(states: jax.Array, table: jax.Array) -> jax.Array:
  """Cosines of unit vectors float32[..., D] and all rows [n, D], [..., n].

  Products are divided by the length of the rows, and not the rows: they and
  their gradient would have to be written to memory once more.
  """
  return (states @ table.T) * query_encoder.inverse_norm(table)


def states(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  cache: tuple[jax.Array, ...],
  frontier: tries.Frontier,
  *,
  config: IdDecoderConfig,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """What edges are compared with: unit vectors float32[B, K, D], and the cache.

  Args:
    params: (what `init` made, the encoding of the queries).
    cache: what `initial_cache` or the last step returned.
    frontier: where the beams stand.
    config: the same sizes.
  """
  decoder, encoding = params
  table = decoder['table']
  level = frontier.level
  batch_size, beams = frontier.nodes.shape
  if not config.num_layers:
    shape = (batch_size, beams, encoding.vector.shape[-1])
    return jnp.broadcast_to(encoding.vector[:, None], shape), cache
  if config.output == 'codebook':
    before, stand = table[max(level - 1, 0)], frontier.codes
  else:
    before, stand = table, frontier.nodes
  if level == 0:
    x = jnp.broadcast_to(
      decoder['start'] + encoding.vector[:, None],
      (batch_size, beams, encoding.vector.shape[-1]),
    )
  else:
    x = before[stand]
  residual, cache = transformer.apply(
    _Network(config),
    decoder['network'],
    x,
    cache,
    encoding.memory,
    encoding.where,
  )
  return query_encoder.normalise(encoding.vector[:, None] + residual), cache


def level_log_likelihood(
  params: tuple[dict[str, Any], query_encoder.Encoding],
  trie: tries.Trie,
  codes: jax.Array,
  *,
  config: IdDecoderConfig,
  where: jax.Array | None = None,
) -> jax.Array:
  """Trains what `absolute` scoring asks of a node table.

  At each level, the log-probability of the docid's node among all nodes of
  that depth and the leaves above it; the mean over the levels. One product
  with the whole table a level, one for all without layers: for corpora whose
  table a step can afford.

  Args:
    params: (what `init` made, the encoding of the queries).
    trie: the docids.
    codes: int[B, K, L], docids.
    config: sizes, with the output `node_table`.
    where: bool[num_nodes], nodes to compare with; None takes all. Documents
      that no question asks for are pushed away by all others: leave them out.

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
    if not config.num_layers:  # one state a query, the same at every level
      state = state[:, :1]
    scores = scale * _all_cosines(state, decoder['table'])
    scores = jnp.broadcast_to(scores, (*codes.shape[:2], trie.num_nodes))
    level = frontier.level + 1
    rivals = (depth == level) | (is_leaf & (depth > 0) & (depth < level))
    if where is not None:
      rivals = rivals & where
    own = jnp.take_along_axis(scores, frontier.children, axis=-1)[..., 0]
    # The node itself always counts, whatever `where` says.
    rivals = rivals & (jnp.arange(trie.num_nodes) != frontier.children)
    scores = jnp.where(rivals, scores, masking.NEG_INF)
    total += own - jnp.logaddexp(own, jax.nn.logsumexp(scores, axis=-1))
  return total / trie.depth
