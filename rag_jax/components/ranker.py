"""The differentiable ranker: weights of the retrieved documents.

The score of a document, in nats, is a weighted sum of three signals with
learned positive weights: the log-probability of its docid, the inner product of
the query vector and the document vector, and a lexical score (BM25). A
selection operator maps scores to weights. Sparsemax gives most documents weight
exactly 0, so that the reader can skip them.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import sampling, selection

SIGNALS = ('docid', 'vector', 'lexical')
TOP_K = ('capped_simplex', 'relaxed_top_k', 'perturbed_top_k')
Select = Callable[[jax.Array, jax.Array], jax.Array]  # scores, where -> weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerConfig:
  """Signals and selection operator of the ranker."""

  operator: str = 'sparsemax'  # operator from scores to weights
  alpha: float = 1.5  # alpha of 'entmax', above 1
  # k of 'capped_simplex', 'relaxed_top_k' and 'perturbed_top_k'
  k: int = 2
  # temperature of 'relaxed_top_k' and 'perturbed_top_k', nats
  temperature: float = 1.0
  # initial weight of the docid's log-probability; 0 = off
  docid_weight: float = 0.1
  # initial weight of the inner product of vectors; 0 = off
  vector_weight: float = 5.0
  lexical_weight: float = 0.3  # initial weight of BM25; 0 = off
  # k1 of the token BM25, used if `data.lexicon` is False
  saturation: float = 1.2
  length_norm: float = 0.5  # b of the token BM25

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    check_operator(self.operator, field='ranker.operator')
    for name, least in (('alpha', 1), ('k', 0), ('temperature', 0)):
      if not getattr(self, name) > least:
        raise ValueError(
          f'ranker.{name} must be above {least}, got {getattr(self, name)}. '
          f'Set --config.ranker.{name}.'
        )
    for name in SIGNALS:
      value = getattr(self, f'{name}_weight')
      if value < 0:
        raise ValueError(
          f'ranker.{name}_weight must be at least 0, got {value}. '
          f'Set --config.ranker.{name}_weight.'
        )


def init(
  config: RankerConfig,
  *,
  token_weights: jax.Array,
  vector_scale: jax.Array | float = 1.0,
) -> dict[str, jax.Array]:
  """Initialises the parameters.

  Args:
    config: initial weights of the signals.
    token_weights: float32[vocab_size], positive; initial token weights of BM25,
      usually the inverse document frequency.
    vector_scale: float[], size of a large inner product of vectors, by which
      the weight of that signal is divided; 1 = vectors of unit length.

  Returns:
    A pytree of plain dicts.
  """
  weights = jnp.log(
    jnp.array([max(getattr(config, f'{n}_weight'), 1e-9) for n in SIGNALS])
  )
  is_vector = jnp.array([name == 'vector' for name in SIGNALS])
  return {
    'log_token_weight': jnp.log(jnp.maximum(token_weights, 1e-3)),
    'log_signal_weight': weights - is_vector * jnp.log(vector_scale),
  }


def lexical(
  params: dict[str, jax.Array],
  config: RankerConfig,
  query: jax.Array,
  passages: jax.Array,
  *,
  mean_length: jax.Array,
  gates: jax.Array | None = None,
) -> jax.Array:
  """BM25 of query tokens in passages, with learned token weights.

  Args:
    params: parameters from `init`.
    config: k1 (`saturation`) and b (`length_norm`).
    query: int32[B, Q], 0 = padding.
    passages: int32[B, K, P], 0 = padding.
    mean_length: float[], mean number of tokens per document.
    gates: float32[B, Q], multiplied with the token weights; None = 1.

  Returns:
    float32[B, K].

  Reference:
    Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and
    Beyond, 2009.
  """
  match = query[:, None, :, None] == passages[:, :, None, :]
  count = match.sum(axis=-1).astype(jnp.float32)  # [B, K, Q]
  length = (passages != types.PAD).sum(axis=-1) / mean_length
  base = 1 - config.length_norm + config.length_norm * length
  count = count / (count + config.saturation * base[..., None])
  weights = jnp.exp(params['log_token_weight'])[query]
  weights = jnp.where(query != types.PAD, weights, 0.0)
  if gates is not None:
    weights = weights * gates
  return jnp.einsum('bkq,bq->bk', count, weights)


def apply(
  params: dict[str, jax.Array],
  config: RankerConfig,
  *,
  docid: jax.Array,
  vector: jax.Array,
  lexical: jax.Array,
) -> jax.Array:
  """Weighted sum of the signals.

  Args:
    params: parameters from `init`.
    config: signals whose initial weight is 0 are off.
    docid: float32[B, K], log-probabilities of the docids, nats.
    vector: float32[B, K], inner products of vectors.
    lexical: float32[B, K], from `lexical`.

  Returns:
    float32[B, K] scores in nats, for `select`.

  Example:
    >>> config = RankerConfig(docid_weight=0.0, lexical_weight=0.0)
    >>> params = init(config, token_weights=jnp.ones(3))
    >>> zero = jnp.zeros((1, 2))
    >>> vector = jnp.array([[0.5, 0.25]])
    >>> apply(params, config, docid=zero, vector=vector, lexical=zero).round(3)
    Array([[2.5 , 1.25]], dtype=float32)
  """
  total = jnp.zeros_like(docid)
  for part in parts(
    params, config, docid=docid, vector=vector, lexical=lexical
  ).values():
    total = total + part
  return total


def parts(
  params: dict[str, jax.Array],
  config: RankerConfig,
  *,
  docid: jax.Array,
  vector: jax.Array,
  lexical: jax.Array,
) -> dict[str, jax.Array]:
  """What each signal that is on adds to the score: float32[B, K], nats.

  Arguments as for `apply`, which returns their sum.
  """
  signals = {'docid': docid, 'vector': vector, 'lexical': lexical}
  weights = jnp.exp(params['log_signal_weight'])
  return {
    name: weight * signals[name]
    for weight, name in zip(weights, SIGNALS, strict=True)
    if getattr(config, f'{name}_weight') > 0
  }


def lexical_growth(
  params: dict[str, jax.Array], config: RankerConfig
) -> jax.Array:
  """Learned ratio of lexical to vector weight, relative to the initial ratio.

  Args:
    params: parameters of a ranker with both signals on.
    config: the initial weights.

  Returns:
    float32[], positive; 1 before training.

  Example:
    >>> config = RankerConfig()
    >>> params = init(config, token_weights=jnp.ones(3))
    >>> weights = jnp.array([0.0, 0.0, jnp.log(2.0)])
    >>> params['log_signal_weight'] += weights
    >>> lexical_growth(params, config).round(3)
    Array(2., dtype=float32)
  """
  logs = dict(zip(SIGNALS, params['log_signal_weight'], strict=True))
  start = config.lexical_weight / config.vector_weight
  return jnp.exp(logs['lexical'] - logs['vector']) / start


def select(
  config: RankerConfig,
  scores: jax.Array,
  *,
  where: jax.Array,
  operator: str = '',
  rng: jax.Array | None = None,
) -> jax.Array:
  """Applies the selection operator to scores.

  Args:
    config: the operator and its options.
    scores: float32[B, K], nats.
    where: bool[B, K], True = real.
    operator: one of `OPERATORS`; '' = `config.operator`.
    rng: PRNG key of 'perturbed_top_k'; None = a fixed key.

  Returns:
    float32[B, K] weights; rows sum to 1, or to 0 if no candidate is real.

  Example:
    >>> scores, where = jnp.array([[3.0, 1.0, 0.75]]), jnp.ones((1, 3), bool)
    >>> config = RankerConfig(operator='capped_simplex', k=2)
    >>> select(config, scores, where=where)
    Array([[0.5   , 0.3125, 0.1875]], dtype=float32)
  """
  rng = jax.random.key(0) if rng is None else rng
  return OPERATORS[operator or config.operator](config, scores, where, rng)


def selector(
  config: RankerConfig, *, operator: str = '', rng: jax.Array | None = None
) -> Select:
  """`select` as a function (scores, where) -> weights."""
  return lambda scores, where: select(
    config, scores, where=where, operator=operator, rng=rng
  )


def options(config: RankerConfig, operator: str) -> dict[str, float]:
  """Keyword arguments of the Fenchel-Young loss of an operator."""
  return {'alpha': config.alpha} if operator == 'entmax' else {}


def check_operator(operator: str, *, field: str) -> None:
  """Raises a ValueError if the operator is unknown."""
  if operator not in OPERATORS:
    raise ValueError(
      f'{field} must be one of {", ".join(OPERATORS)}, got {operator!r}. '
      f'Set --config.{field}.'
    )


def _closed_form(name, config, scores, where, rng):
  del config, rng
  return selection.select(scores, operator=name, where=where)


def _entmax(config, scores, where, rng):
  del rng
  return selection.entmax(scores, alpha=config.alpha, where=where)


def _top_k(name, config, scores, where, rng):
  """Top-k operators, whose weights sum to k, rescaled to sum to 1."""
  k = min(config.k, scores.shape[-1])
  if name == 'capped_simplex':
    weights = selection.capped_simplex(scores, k=k, where=where)
  elif name == 'relaxed_top_k':
    weights = sampling.relaxed_top_k(
      scores, k=k, temperature=config.temperature, where=where
    )
  else:
    weights = sampling.perturbed_top_k(
      rng, scores, k=k, temperature=config.temperature, where=where
    )
  total = weights.sum(-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


OPERATORS: dict[str, Callable[..., jax.Array]] = {
  name: functools.partial(_closed_form, name) for name in selection.OPERATORS
}
OPERATORS['entmax'] = _entmax
for _name in TOP_K:
  OPERATORS[_name] = functools.partial(_top_k, _name)
