"""Losses of selection and retrieval, one value a row and no reduction.

Arguments that recur: `scores` and `weights` are float[..., K], in nats and on
the simplex; `where` is bool[..., K], True = real. A row where everything is
masked loses 0 and has no gradient. Everything is computed in float32, or in
float64 where an argument is float64, and comes in the dtype of the arguments.
Derivatives of any order are those of the formula. What is not finite gives what
`selection` says.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, masking, selection, thresholds


def fenchel_young(
  scores: jax.Array,
  targets: jax.Array,
  *,
  operator: str = 'sparsemax',
  where: jax.Array | None = None,
  **options: Any,
) -> jax.Array:
  """The loss whose gradient is operator(scores) - targets.

  <p - q, z> + Omega(q) - Omega(p), with p = operator(z) and Omega the
  operator's regulariser. It is 0 only where p = q, and gives a gradient to
  targets outside the support, where a likelihood gives none.

  Args:
    scores: float[..., K].
    targets: float[..., K], where the weights should be; no gradient flows
      into them.
    operator: a name in `selection.OPERATORS`, 'entmax' or 'capped_simplex'.
    where: bool[..., K].
    **options: of the operator: `alpha` for 'entmax', a number or a scalar
      array, with a gradient; `k` for 'capped_simplex', whose targets sum to k.

  Returns:
    float[...].

  Raises:
    ValueError: if there is no operator of that name, it lacks an option, or
      the targets are labels and not weights.

  Example:
    >>> z, q = jnp.array([1.0, 0.5]), jnp.array([1.0, 0.0])
    >>> jax.grad(fenchel_young)(z, q)
    Array([-0.25,  0.25], dtype=float32)

  Reference:
    Blondel et al., Learning with Fenchel-Young Losses, 2020.
  """
  if operator not in _FAMILIES:
    raise ValueError(
      f'operator must be one of {", ".join(_FAMILIES)}, got {operator!r}. '
      'A Fenchel-Young loss needs an operator with a regulariser.'
    )
  scores = checks.floats(scores)
  targets = checks.floats(targets, 'targets')
  where = checks.mask(where, scores.shape)
  if checks.together(scores=scores, targets=targets) != scores.shape:
    raise ValueError(
      f'targets must be weights of the shape of scores {scores.shape}, got '
      f'{targets.shape}. Turn labels into weights with jax.nn.one_hot.'
    )
  alpha: Any = None
  k = None
  if operator == 'entmax':
    alpha = selection.alpha_of(options.pop('alpha', 1.5))
    if isinstance(alpha, jax.Array) and alpha.ndim:
      raise ValueError(
        f'alpha must be one number, got shape {alpha.shape}. '
        'Map the loss over rows with jax.vmap.'
      )
    if alpha == 1.0 and isinstance(alpha, float):
      operator, alpha = 'softmax', None
  elif operator == 'capped_simplex':
    axis = checks.axis_of(-1, scores.ndim)
    k = checks.k_of(options.pop('k', None), scores.shape[axis])
  if options:
    raise ValueError(
      f'{operator} has no option {", ".join(options)}. Leave it out.'
    )
  fixed = alpha if isinstance(alpha, float) else None
  if fixed is not None:
    alpha = None
  return _fenchel_young(scores, targets, where, alpha, operator, fixed, k)


@functools.partial(checks.compiled, static_argnums=(4, 5, 6))
def _fenchel_young(scores, targets, where, alpha, operator, fixed, k):
  dtype = checks.result_dtype(scores, targets)
  scores, targets, where = checks.spread(scores, targets, where=where)
  if scores.shape[-1] == 0:
    return jnp.zeros(scores.shape[:-1], dtype)
  clean = jnp.where(where, scores, 0)
  targets = jax.lax.stop_gradient(jnp.where(where, targets, 0))
  best = jnp.max(clean, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  shifted = jnp.where(where, clean - jax.lax.stop_gradient(best), 0)
  if alpha is not None:
    alpha = jnp.maximum(alpha.astype(scores.dtype), thresholds.NEAR_SOFTMAX)
  family = _Family(operator, fixed, k)
  loss = _distance(family, clean, shifted, targets, where, alpha)
  loss = masking.poison(loss, jnp.isnan(targets).any(-1))
  real = where.any(-1) & ~(targets.sum(-1) <= 0)
  return jnp.where(real, loss, 0).astype(dtype)


class _Family(NamedTuple):
  """An operator with its options, and the regulariser that it comes from."""

  operator: str
  alpha: float | None
  k: int | None

  def select(self, scores, where, alpha):
    options = {'k': self.k} if self.k is not None else {}
    if self.operator == 'entmax':
      options['alpha'] = self.alpha if alpha is None else alpha
    return _FAMILIES[self.operator][0](scores, where=where, **options)

  def omega(self, p, alpha):
    if self.operator == 'entmax':
      return _tsallis(p, self.alpha if alpha is None else alpha)
    return _FAMILIES[self.operator][1](p)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _distance(family, scores, shifted, targets, where, alpha):
  """<p - q, z> + Omega(q) - Omega(p), z = `shifted`, p that of `scores`."""
  weights = family.select(scores, where, alpha)
  gap = weights - targets
  # A score of -inf that has no weight and is to have none costs nothing.
  product = jnp.where(gap == 0, 0, gap * shifted)
  return (
    product.sum(-1)
    + family.omega(targets, alpha)
    - family.omega(weights, alpha)
  )


@_distance.defjvp
def _distance_jvp(family, primals, tangents):
  # By Danskin's theorem the derivative through p vanishes at the optimum, in
  # the first derivative; those above it are derivatives of p.
  scores, _, targets, where, alpha = primals
  weights = family.select(scores, where, alpha)
  slope = ((weights - targets) * tangents[1]).sum(-1)
  if alpha is not None:
    _, by_alpha = jax.jvp(
      lambda alpha: family.omega(targets, alpha) - family.omega(weights, alpha),
      (alpha,),
      (tangents[4],),
    )
    slope += by_alpha
  return _distance(family, *primals), slope


def sequence_marginal(
  weights: jax.Array,
  log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """-log sum_k w_k exp(l_k), in a form that never takes log 0.

  Args:
    weights: float[..., K], from a selection operator.
    log_likelihoods: float[..., K], of the answer given each document, nats.
    where: bool[..., K]; False also where a document lacks the answer.

  Returns:
    float[...], nats; 0 where no real document has weight, +inf where none of
    those that have it can have led to the answer. Documents without weight
    are not read: their likelihoods may be anything.

  Example:
    >>> w, l = jnp.array([0.5, 0.5, 0.0]), jnp.log(jnp.array([0.5, 0.25, 0.1]))
    >>> jnp.exp(-sequence_marginal(w, l)).round(4)
    Array(0.375, dtype=float32)

  Reference:
    Lewis et al., Retrieval-Augmented Generation for Knowledge-Intensive NLP
    Tasks, 2020.
  """
  weights = checks.floats(weights, 'weights')
  log_likelihoods = checks.floats(log_likelihoods, 'log_likelihoods')
  where = checks.mask(where)
  checks.together(weights=weights, log_likelihoods=log_likelihoods, where=where)
  return _sequence_marginal(weights, log_likelihoods, where)


@checks.compiled
def _sequence_marginal(weights, log_likelihoods, where):
  dtype = checks.result_dtype(weights, log_likelihoods)
  weights, log_likelihoods, where = checks.spread(
    weights, log_likelihoods, where=where
  )
  support = where & ~(weights <= 0)
  likelihoods = jnp.where(support, log_likelihoods, -jnp.inf)
  best = jax.lax.stop_gradient(
    likelihoods.max(-1, keepdims=True, initial=-jnp.inf)
  )
  best = jnp.where(best == -jnp.inf, 0, best)  # no difference may be NaN
  share = jnp.where(support, weights, 0) * jnp.exp(likelihoods - best)
  real = support.any(-1)
  total = jnp.where(real, share.sum(-1), 1)
  marginal = best[..., 0] + jnp.log(total)
  return jnp.where(real, -marginal, 0).astype(dtype)


def token_marginal(
  weights: jax.Array,
  token_log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  token_where: jax.Array | None = None,
) -> jax.Array:
  """-sum_t log sum_k w_k exp(l_kt): each token may come from another document.

  Args:
    weights: float[..., K].
    token_log_likelihoods: float[..., K, A], nats.
    where: bool[..., K].
    token_where: bool[..., A], the tokens of the answer.

  Returns:
    float[...], nats.
  """
  weights = checks.floats(weights, 'weights')
  logs = checks.floats(token_log_likelihoods, 'token_log_likelihoods')
  where = checks.mask(where)
  if not logs.ndim:
    raise ValueError(
      'token_log_likelihoods must have an axis of tokens, got a number. '
      'Give one number a document and token.'
    )
  token_where = checks.mask(token_where, name='token_where')
  shape = logs.shape[:-1]
  for name, x in {'weights': weights, 'where': where}.items():
    if x is not None:
      checks.together(
        **{name: x, 'token_log_likelihoods[..., 0]': _like(shape)}
      )
  if token_where is not None:
    tokens = _like((*shape[:-1], logs.shape[-1]))
    checks.together(token_where=token_where, tokens=tokens)
  return _token_marginal(weights, logs, where, token_where)


@checks.compiled
def _token_marginal(weights, logs, where, token_where):
  by_token = jnp.swapaxes(logs, -1, -2)  # [..., A, K]
  if token_where is not None:  # what is masked may be anything
    token_where = jnp.broadcast_to(token_where, by_token.shape[:-1])
    by_token = jnp.where(token_where[..., None], by_token, 0)
  if where is not None:
    where = jnp.broadcast_to(where[..., None, :], by_token.shape)
  weights = jnp.broadcast_to(weights[..., None, :], by_token.shape)
  nll = _sequence_marginal(weights, by_token, where)
  if token_where is not None:
    nll = jnp.where(token_where, nll, 0)
  return nll.sum(-1)


def _like(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def log_weights(
  weights: jax.Array, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Log w on the support, for the attention of a fusion-in-decoder reader.

  Added to the scores of the tokens of a document, it makes attention
  proportional to the document's weight, and the answer's loss reaches the
  ranker. A document without weight must be masked: that is what is returned
  beside it.

  Args:
    weights: float[..., K].
    where: bool[..., K].

  Returns:
    float[..., K] biases, 0 off the support, and bool[..., K], the support.

  Example:
    >>> bias, support = log_weights(jnp.array([1.0, 0.0]))
    >>> bias.tolist(), support.tolist()
    ([0.0, 0.0], [True, False])
  """
  weights = checks.floats(weights, 'weights')
  return _log_weights(weights, checks.mask(where, weights.shape))


@checks.compiled
def _log_weights(weights, where):
  support = ~(weights <= 0)
  if where is not None:
    support &= jnp.broadcast_to(where, weights.shape)
  return jnp.where(support, jnp.log(jnp.where(support, weights, 1)), 0), support


def docid_nll(
  log_probabilities: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """-log P(docid | query), the mean over the gold documents of a query.

  Args:
    log_probabilities: float[..., G], nats, from `beam.score`.
    where: bool[..., G], the gold documents that exist.

  Returns:
    float[...], nats; 0 for a query without a gold document.

  Example:
    >>> docid_nll(jnp.array([-2.0, -9.0]), where=jnp.array([True, False]))
    Array(2., dtype=float32)

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  log_probabilities = checks.floats(log_probabilities, 'log_probabilities')
  return _docid_nll(
    log_probabilities, checks.mask(where, log_probabilities.shape)
  )


@checks.compiled
def _docid_nll(log_probabilities, where):
  logs, where = checks.spread(log_probabilities, where=where)
  total = jnp.where(where, logs, 0).sum(-1)
  count = jnp.maximum(where.sum(-1), 1).astype(logs.dtype)
  bad = masking.unbounded(logs, where)
  return masking.poison(-total / count, bad).astype(log_probabilities.dtype)


def list_mle(
  scores: jax.Array, gains: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """-log P(the order of the gains), under Plackett-Luce with these scores.

  Args:
    scores: float[..., K], nats.
    gains: float[..., K]; documents are to come in falling order of gain, those
      of equal gain in the order in which they are given.
    where: bool[..., K].

  Returns:
    float[...], nats.

  Example:
    >>> loss = list_mle(jnp.zeros(3), jnp.array([3.0, 2.0, 1.0]))
    >>> jnp.exp(loss).round().astype(int)  # 3! orders
    Array(6, dtype=int32)

  Reference:
    Xia et al., Listwise Approach to Learning to Rank, 2008.
  """
  scores, gains = checks.floats(scores), checks.numbers(gains, 'gains')
  where = checks.mask(where)
  checks.together(scores=scores, gains=gains, where=where)
  return _list_mle(scores, gains, where)


@checks.compiled
def _list_mle(scores, gains, where):
  dtype = scores.dtype
  scores, gains, where = checks.spread(scores, gains, where=where)
  gains = jax.lax.stop_gradient(gains)
  order = jnp.argsort(jnp.where(where, -gains, jnp.inf), axis=-1, stable=True)
  bad = masking.unbounded(scores, where) | (where & jnp.isnan(gains)).any(-1)
  where = jnp.take_along_axis(where, order, axis=-1)
  scores = jnp.take_along_axis(scores, order, axis=-1)
  never = where & (scores == -jnp.inf)
  scores, first, second = _fill(scores, where & ~never)
  scores = jnp.where(where, jnp.where(never, first, scores), second)
  left = _log_sum_of_rest(scores)
  # The last that is left is chosen for sure, whatever its score; one that never
  # is chosen cannot come before one that may be.
  places = jnp.broadcast_to(jnp.arange(scores.shape[-1]), scores.shape)
  each = jnp.where(where & (places < _last(places, where)), left - scores, 0)
  impossible = never & (places < _last(places, where & ~never))
  each = jnp.where(impossible, jnp.inf, each)
  return masking.poison(each.sum(-1), bad).astype(dtype)


def _log_sum_of_rest(scores):
  """Log of sum_{j >= i} exp(z_j) of each i."""
  count = scores.shape[-1]
  if isinstance(count, int):
    return jax.lax.cumlogsumexp(scores, axis=scores.ndim - 1, reverse=True)
  # Exported for rows of any length, over which JAX does not scan.
  places = jnp.arange(count)
  later = places[None, :] >= places[:, None]
  pairs = jnp.broadcast_to(scores[..., None, :], (*scores.shape, count))
  later = jnp.broadcast_to(later, pairs.shape)
  return jax.nn.logsumexp(pairs, axis=-1, where=later)


def _fill(scores, where):
  """Scores as they are, and two falling numbers below that count as nothing.

  Infinities would have no gradient here. Scores that leave no room below are
  moved up.
  """
  scores = jnp.where(where, scores, 0)
  best = jnp.max(scores, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  best = jax.lax.stop_gradient(best)
  scores = scores - jnp.where(jnp.isfinite(best) & (best < -1e6), best, 0)
  low = jax.lax.stop_gradient(scores.min(-1, keepdims=True, initial=0))
  step = 1e3 - low / 100
  floor = jnp.finfo(scores.dtype).min
  return (
    scores,
    jnp.maximum(low - step, floor),
    jnp.maximum(low - 2 * step, floor),
  )


def _last(places, where):
  """The last place of a row where `where` holds; -1 where it nowhere does."""
  return jnp.where(where, places, -1).max(-1, keepdims=True, initial=-1)


def margin_ranking(
  positive: jax.Array,
  negative: jax.Array,
  *,
  margin: float = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """sum_k max(0, margin - s(positive) + s(negative_k)) over whole docids.

  Args:
    positive: float[...], the score of a gold docid, nats.
    negative: float[..., K], scores of other docids of the beam, nats.
    margin: nats.
    where: bool[..., K], the negatives that are real.

  Returns:
    float[...].

  Example:
    >>> margin_ranking(jnp.float32(2.0), jnp.array([1.5, 0.0]))
    Array(0.5, dtype=float32)

  Reference:
    Li et al., Learning to Rank in Generative Retrieval (LTRGR), 2023.
  """
  positive = checks.floats(positive, 'positive')
  negative = checks.floats(negative, 'negative')
  where = checks.mask(where, negative.shape)
  checks.together(
    **{'positive[..., None]': _like((*positive.shape, 1)), 'negative': negative}
  )
  return _margin_ranking(positive, negative, margin, where)


@checks.compiled
def _margin_ranking(positive, negative, margin, where):
  dtype = checks.result_dtype(positive, negative)
  positive, negative, where = checks.spread(
    positive[..., None], negative, where=where
  )
  margin = jnp.asarray(margin, negative.dtype)
  over = margin - positive + jnp.where(where, negative, 0)
  loss = jnp.where(where, jnp.maximum(over, 0), 0).sum(-1)
  bad = masking.unbounded(negative, where) | masking.unbounded(positive, where)
  return masking.poison(loss, bad).astype(dtype)


def prefix_margin(
  positive: jax.Array,
  negative: jax.Array,
  teacher_margin: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """sum_i (s_i(positive) - s_i(negative) - T_i)^2 over prefixes of docids.

  s_i is the sum of the scores of the first i codes, so that a gold document is
  already ahead at the prefixes where a beam would lose it.

  Args:
    positive: float[..., L], scores of the codes of the gold docid, nats.
    negative: float[..., L], of another docid.
    teacher_margin: float[..., L], what a teacher's scores differ by at each
      prefix; the teacher's score of a prefix is the best of its documents.
    where: bool[..., L], the prefixes that count; None counts all.

  Returns:
    float[...], nats squared.

  Example:
    >>> zero = jnp.zeros(2)
    >>> prefix_margin(jnp.array([1.0, 1.0]), zero, jnp.array([1.0, 3.0]))
    Array(1., dtype=float32)

  Reference:
    Zeng et al., Scalable and Effective Generative Information Retrieval
    (RIPOR), 2023.
  """
  positive = checks.floats(positive, 'positive')
  negative = checks.floats(negative, 'negative')
  teacher_margin = checks.floats(teacher_margin, 'teacher_margin')
  where = checks.mask(where)
  checks.together(
    positive=positive,
    negative=negative,
    teacher_margin=teacher_margin,
    where=where,
  )
  return _prefix_margin(positive, negative, teacher_margin, where)


@checks.compiled
def _prefix_margin(positive, negative, teacher_margin, where):
  dtype = checks.result_dtype(positive, negative, teacher_margin)
  positive, negative, teacher_margin, where = checks.spread(
    positive, negative, teacher_margin, where=where
  )
  gap = jnp.cumsum(positive - negative, axis=-1)
  miss = gap - jax.lax.stop_gradient(teacher_margin)
  return (jnp.where(where, miss, 0) ** 2).sum(-1).astype(dtype)


def _half_square(p: jax.Array) -> jax.Array:
  return (p * p).sum(-1) / 2


def _negentropy(p: jax.Array) -> jax.Array:
  return (p * jnp.log(jnp.where(p == 0, 1, p))).sum(-1)


def _tsallis15(p: jax.Array) -> jax.Array:
  return ((p**1.5).sum(-1) - p.sum(-1)) / 0.75


def _tsallis(p: jax.Array, alpha: float | jax.Array) -> jax.Array:
  if isinstance(alpha, float) and alpha < thresholds.NEAR_SOFTMAX:
    # p^alpha - p, without the loss of taking one from the other.
    log_p = jnp.log(jnp.where(p == 0, 1, p))
    less = p * jnp.expm1(jnp.asarray(alpha - 1, p.dtype) * log_p)
    return less.sum(-1) / (alpha - 1) / alpha
  return ((p**alpha).sum(-1) - p.sum(-1)) / (alpha * (alpha - 1))


_FAMILIES: dict[str, tuple[Callable, Callable | None]] = {
  'softmax': (selection.softmax, _negentropy),
  'sparsemax': (selection.sparsemax, _half_square),
  'entmax15': (selection.entmax15, _tsallis15),
  'entmax': (selection.entmax, None),
  'capped_simplex': (selection.capped_simplex, _half_square),
}
