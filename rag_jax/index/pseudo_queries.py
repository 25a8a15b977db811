"""Questions that documents ask about themselves: crops of their own tokens.

A model that generates docids must have seen every document as a target, or its
softmax forgets those that no question is about. Crops are drawn on the device,
inside the compiled step, from the document tokens that the index holds: pieces
of the text, or keywords from all over it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rag_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoQueryConfig:
  """How crops are drawn."""

  batch_size: int = 64  # crops a step, for the loss 'indexing'
  min_tokens: int = 3  # tokens of a crop at least
  title_rate: float = 0.5  # share of crops that start at the title
  drop_rate: float = 0.2  # share of a crop's tokens that are dropped
  # share of crops that are keywords from the whole document
  keyword_rate: float = 0.0

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    for name in ('title_rate', 'drop_rate', 'keyword_rate'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(
          f'pseudo_queries.{name} must be between 0 and 1, got {value}. '
          f'Set --config.pseudo_queries.{name}.'
        )


def draw(
  rng: jax.Array,
  config: PseudoQueryConfig,
  tokens: jax.Array,
  positions: jax.Array,
  *,
  max_tokens: int,
  special_tokens: jax.Array | None = None,
  log_token_weight: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws crops.

  Keywords are tokens that differ, in the order of the document; one of weight
  w is drawn with probability w / (weights not drawn yet).

  Each depends on the key and its own position in the global batch alone, so
  that any split of the batch over devices draws the same.

  Args:
    rng: PRNG key of the step.
    config: how to draw.
    tokens: int32[N, P], the documents.
    positions: int32[B], numbers of the examples in the global batch.
    max_tokens: Q, longest crop.
    special_tokens: int32[2], before and after a crop; None adds none.
    log_token_weight: float32[V], log w of each token as a keyword, such as its
      inverse document frequency; None weighs all alike.

  Returns:
    int32[B, Q] queries and int32[B] rows of their documents.

  Example:
    >>> tokens = jnp.array([[5, 7, 5, 6, 0]])
    >>> config = PseudoQueryConfig(keyword_rate=1.0)
    >>> rng, positions = jax.random.key(0), jnp.arange(1)
    >>> draw(rng, config, tokens, positions, max_tokens=4)[0]
    Array([[5, 7, 6, 0]], dtype=int32)

  Reference:
    Drawing by weight without replacement: Efraimidis and Spirakis, Weighted
    Random Sampling with a Reservoir, 2006, here as the largest of log weights
    with Gumbel noise.
  """
  if special_tokens is not None:
    max_tokens -= 2

  def keywords(rng, document, size):
    real = document != types.PAD
    same = document[:, None] == document
    real &= same.argmax(axis=1) == jnp.arange(len(document))  # the first of it
    scores = jax.random.gumbel(rng, document.shape)
    if log_token_weight is not None:
      scores += log_token_weight[document]
    count = min(max_tokens, len(document))
    order = jax.lax.top_k(jnp.where(real, scores, -jnp.inf), count)[1]
    kept = (jnp.arange(count) < size) & real[order]
    places = jnp.sort(jnp.where(kept, order, len(document)))
    chosen = document.at[places].get(mode='fill', fill_value=types.PAD)
    return jnp.pad(chosen, (0, max_tokens - count))

  def one(position):
    own = jax.random.fold_in(rng, position)
    keys = jax.random.split(own, 5)
    row = jax.random.randint(keys[0], (), 0, tokens.shape[0])
    document = tokens[row]
    length = (document != types.PAD).sum()
    size = jax.random.randint(keys[1], (), config.min_tokens, max_tokens + 1)
    start = jax.random.randint(
      keys[2], (), 0, jnp.maximum(length - size, 0) + 1
    )
    start = jnp.where(
      jax.random.bernoulli(keys[3], config.title_rate), 0, start
    )
    offsets = jnp.arange(max_tokens)
    crop = document[jnp.minimum(start + offsets, document.shape[0] - 1)]
    keep = (offsets < size) & (start + offsets < length)
    keep &= jax.random.bernoulli(keys[4], 1 - config.drop_rate, (max_tokens,))
    keep |= offsets == 0  # a crop is never empty
    crop = jnp.where(keep, crop, types.PAD)
    if config.keyword_rate:
      # Keys of their own, so that pieces are what they are without keywords.
      which, what = jax.random.split(jax.random.fold_in(own, 1))
      instead = jax.random.bernoulli(which, config.keyword_rate)
      crop = jnp.where(instead, keywords(what, document, size), crop)
    if special_tokens is not None:
      crop = jnp.concatenate([special_tokens[:1], crop, special_tokens[1:]])
    return crop, row

  return jax.vmap(one)(positions)
