"""The differentiable ranker: which candidates count, and how much.

Three signals, each with a learned positive weight, add up to one score in
nats: the docid's log-probability, the inner product of the query's and the
document's vectors (both made in the step, so that both sides learn), and a
lexical match computed on the device from token ids, in the form of BM25. A
selection operator turns scores into weights; sparsemax gives most documents
exactly none, so that a reader need not look at them.
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
  """What the ranker looks at, and how it selects."""

  operator: str = 'sparsemax'  # operator from scores to weights
  alpha: float = 1.5  # of the operator 'entmax', above 1
  # documents that 'capped_simplex', 'relaxed_top_k' and 'perturbed_top_k' take
  k: int = 2
  temperature: float = 1.0  # of 'relaxed_top_k' and 'perturbed_top_k', nats
  # initial weight of the docid's log-probability; 0 leaves it out
  docid_weight: float = 0.1
  # initial weight of the inner product of vectors; 0 leaves it out
  vector_weight: float = 5.0
  lexical_weight: float = 0.3  # initial weight of BM25; 0 leaves it out
  # k1 of the ranker's BM25 over tokens, without `data.max_query_words`
  saturation: float = 1.2
  length_norm: float = 0.5  # b of the same

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
  config: RankerConfig, *, token_weights: jax.Array
) -> dict[str, jax.Array]:
  """Makes parameters.

  Args:
    config: what the ranker looks at.
    token_weights: float32[vocab_size], positive; what a matching token is
      worth at the start, usually the inverse document frequency.

  Returns:
    A pytree of plain dicts.
  """
  return {
    'log_token_weight': jnp.log(jnp.maximum(token_weights, 1e-3)),
    'log_signal_weight': jnp.log(
      jnp.array([max(getattr(config, f'{n}_weight'), 1e-9) for n in SIGNALS])
    ),
  }


def lexical(
  params: dict[str, jax.Array],
  config: RankerConfig,
  query: jax.Array,
  passages: jax.Array,
  *,
  mean_length: jax.Array,
) -> jax.Array:
  """BM25 of query tokens in passages, with learned token weights.

  Args:
    params: what `init` made.
    config: saturation and length normalisation.
    query: int32[B, Q], 0 = padding.
    passages: int32[B, K, P], 0 = padding.
    mean_length: float[], tokens a document on average.

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
  return jnp.einsum('bkq,bq->bk', count, weights)


def apply(
  params: dict[str, jax.Array],
  config: RankerConfig,
  *,
  docid: jax.Array,
  vector: jax.Array,
  lexical: jax.Array,
) -> jax.Array:
  """Joins the signals.

  Args:
    params: what `init` made.
    config: which signals count.
    docid: float32[B, K], log-probabilities of the docids, nats.
    vector: float32[B, K], inner products of unit vectors.
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
  signals = {'docid': docid, 'vector': vector, 'lexical': lexical}
  weights = jnp.exp(params['log_signal_weight'])
  total = jnp.zeros_like(docid)
  for weight, name in zip(weights, SIGNALS, strict=True):
    if getattr(config, f'{name}_weight') > 0:
      total = total + weight * signals[name]
  return total


def lexical_growth(
  params: dict[str, jax.Array], config: RankerConfig
) -> jax.Array:
  """How much more the lexical signal counts beside vectors than at the start.

  Args:
    params: of a ranker with weights above 0 for both.
    config: what they started from.

  Returns:
    float32[], a factor; 1 before training.

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
  """Weights of the candidates.

  Args:
    config: the operator and its options.
    scores: float32[B, K], nats.
    where: bool[B, K], True = real.
    operator: one of `OPERATORS`; '' takes the configuration's.
    rng: PRNG key of 'perturbed_top_k'; None always draws the same noise.

  Returns:
    float32[B, K]; rows sum to 1, or are empty where nothing is real.

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
  """`select` with everything bound but scores and mask."""
  return lambda scores, where: select(
    config, scores, where=where, operator=operator, rng=rng
  )


def options(config: RankerConfig, operator: str) -> dict[str, float]:
  """What a Fenchel-Young loss of an operator needs to know beside its name."""
  return {'alpha': config.alpha} if operator == 'entmax' else {}


def check_operator(operator: str, *, field: str) -> None:
  """Raises a ValueError that lists the operators, if this is none of them."""
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


def _of_k(name, config, scores, where, rng):
  """Operators whose weights sum to k, divided by what they sum to."""
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
  OPERATORS[_name] = functools.partial(_of_k, _name)
