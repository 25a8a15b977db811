"""The generative ID decoder: scores the edges of the trie, given a query.

The state of a prefix is h = normalise(query vector + residual), the residual
made by a small decoder over the prefix and the query's tokens, its output zero
at the start. An edge to node c scores exp(log_scale) * <h, U[c]>, where U is
either a row a node (`node_table`: starts as the mean of the documents under
the node) or a row a code and level (`codebook`: memory does not grow with the
corpus). Untrained, a node table is a zero-shot hierarchical search.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder
from rag_jax.nn import transformer
from rag_jax.ops import trie as tries

OUTPUTS = ('node_table', 'codebook')


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdDecoderConfig:
  """Sizes of the ID decoder."""

  output: str = 'node_table'  # one of OUTPUTS
  num_layers: int = 1
  num_heads: int = 4
  hidden: int = 256
  scale: float = 10.0  # initial factor on the inner product, nats

  def __post_init__(self) -> None:
    """Raises a ValueError on an unknown output."""
    if self.output not in OUTPUTS:
      raise ValueError(
        f'id_decoder.output must be one of {", ".join(OUTPUTS)}, got '
        f'{self.output!r}. Set --config.id_decoder.output.'
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
        config.num_heads, config.hidden, name=f'block_{layer}'
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
  where = jnp.ones((1, 1), bool)
  step = jnp.zeros((1, 1, width))
  network = _Network(config).init(
    rng, step, initial_cache(config, 1, width), step, where
  )
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
    'network': network['params'],
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
  table = decoder['table']
  level = frontier.level
  batch_size, beams = frontier.nodes.shape
  if config.output == 'codebook':
    before, targets = table[max(level - 1, 0)], table[level]
    stand, rows = frontier.codes, frontier.tokens
  else:
    before = targets = table
    stand, rows = frontier.nodes, frontier.children
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
  state = query_encoder.normalise(encoding.vector[:, None] + residual)
  ends = query_encoder.normalise(targets[rows])  # [B, K, C, D]
  scores = jnp.einsum('bkd,bkcd->bkc', state, ends)
  return scores * jnp.exp(decoder['log_scale'][level]), cache
