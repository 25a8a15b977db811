"""Pseudo-queries: random crops of the documents, or questions about them.

A model that generates docids must be trained on every document as a target;
documents that are never gold are otherwise hardly retrieved. Crops are drawn
on the device, inside the compiled step, from the document tokens in the index:
contiguous spans of the text, or keywords from the whole document. Questions
that a model has written are drawn from a table in the index (DSI-QG).
"""

import dataclasses

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import token_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoQueryConfig:
  """Number and form of the crops."""

  batch_size: int = 64  # crops per step, for the loss 'indexing'
  min_tokens: int = 3  # minimum tokens per crop
  max_tokens: int = 24  # maximum tokens per crop, without special tokens
  title_rate: float = 0.5  # probability that a crop starts at the title
  drop_rate: float = 0.2  # probability that a token of a crop is dropped
  # probability that a crop is keywords from the whole document
  keyword_rate: float = 0.0
  # probability that a generated question takes the place of a crop; 0 = crops,
  # 1 = generated questions, for each document that has any
  generated_rate: float = 0.0

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if not 1 <= self.min_tokens <= self.max_tokens:
      raise ValueError(
        'pseudo_queries.min_tokens must be from 1 to pseudo_queries.max_tokens '
        f'({self.max_tokens}), got {self.min_tokens}. '
        f'Set --config.pseudo_queries.min_tokens={max(self.max_tokens, 1)}.'
      )
    for name in ('title_rate', 'drop_rate', 'keyword_rate', 'generated_rate'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(
          f'pseudo_queries.{name} must be between 0 and 1, got {value}. '
          f'Set --config.pseudo_queries.{name}.'
        )


def draw(
  rng: jax.Array,
  config: PseudoQueryConfig,
  tokens: token_table.Table,
  positions: jax.Array,
  *,
  around: tuple[jax.Array, jax.Array] | None = None,
  log_token_weight: jax.Array | None = None,
  generated: tuple[jax.Array, jax.Array] | None = None,
  rows: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws crops.

  Keywords are distinct tokens, kept in the order of the document. They are
  drawn without replacement: a token of weight w is drawn next with probability
  w / (sum of the weights not drawn yet).

  A crop depends only on the key and on its position in the global batch, so the
  number of devices does not change it.

  Args:
    rng: PRNG key of the step.
    config: number and form of the crops.
    tokens: int32[N, P], the documents.
    positions: int32[B], positions of the crops in the global batch.
    around: int32[b] and int32[a], tokens added before and after a crop; None
      adds none.
    log_token_weight: float32[V], log w of each token as a keyword, for example
      of its inverse document frequency; None is uniform.
    generated: int32[N, S, T] and int32[N], questions about each document, 0 =
      padding, and how many there are. One takes the place of a crop with
      probability `config.generated_rate`; each question of a document is as
      likely. None if there are none.
    rows: int32[B], the document of each query; None draws them.

  Returns:
    Queries int32[B, Q], Q = the larger of `config.max_tokens` and T, and those
    of `around`; and the row of each query's document, int32[B].

  Example:
    >>> tokens = jnp.array([[5, 7, 5, 6, 0]])
    >>> config = PseudoQueryConfig(keyword_rate=1.0, max_tokens=4)
    >>> rng, positions = jax.random.key(0), jnp.arange(1)
    >>> draw(rng, config, tokens, positions)[0]
    Array([[5, 7, 6, 0]], dtype=int32)

  Reference:
    Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006;
    here as the top-k of log weights plus Gumbel noise. Zhuang et al., Bridging
    the Gap Between Indexing and Retrieval for Differentiable Search Index with
    Query Generation, 2022.
  """
  before, after = around or (jnp.zeros(0, jnp.int32),) * 2
  max_tokens = config.max_tokens

  def keywords(rng, document, size):
    real = document != types.PAD
    same = document[:, None] == document
    first = same.argmax(axis=1) == jnp.arange(len(document))
    real &= first  # repeated tokens count once
    scores = jax.random.gumbel(rng, document.shape)
    if log_token_weight is not None:
      scores += log_token_weight[document]
    count = min(max_tokens, len(document))
    order = jax.lax.top_k(jnp.where(real, scores, -jnp.inf), count)[1]
    kept = (jnp.arange(count) < size) & real[order]
    places = jnp.sort(jnp.where(kept, order, len(document)))
    chosen = document.at[places].get(mode='fill', fill_value=types.PAD)
    return jnp.pad(chosen, (0, max_tokens - count))

  def question(rng, row, crop):
    questions, counts = (part[row] for part in generated)
    choice_rng, place_rng = jax.random.split(rng)
    place = jax.random.randint(place_rng, (), 0, jnp.maximum(counts, 1))
    chosen, width = questions[place], max(max_tokens, questions.shape[1])
    use = jax.random.bernoulli(choice_rng, config.generated_rate) & (counts > 0)
    chosen, crop = (jnp.pad(x, (0, width - len(x))) for x in (chosen, crop))
    return jnp.where(use, chosen, crop)

  def draw_one(position, row):
    crop_rng = jax.random.fold_in(rng, position)
    keys = jax.random.split(crop_rng, 5)
    row = _row(keys[0], tokens) if row is None else row
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
      # Separate keys: the spans are the same as without keywords.
      choice_rng, keyword_rng = jax.random.split(
        jax.random.fold_in(crop_rng, 1)
      )
      use_keywords = jax.random.bernoulli(choice_rng, config.keyword_rate)
      crop = jnp.where(
        use_keywords, keywords(keyword_rng, document, size), crop
      )
    if generated is not None and config.generated_rate:
      crop = question(jax.random.fold_in(crop_rng, 2), row, crop)
    return jnp.concatenate([before, crop, after]), row

  return jax.vmap(draw_one)(positions, rows)


def _row(rng: jax.Array, tokens: token_table.Table) -> jax.Array:
  """A random document."""
  return jax.random.randint(rng, (), 0, tokens.shape[0])
