"""Losses of selection and retrieval, one value a row and no reduction.

Arguments that recur: `scores` and `weights` are float[..., K], in nats and on
the simplex; `where` is bool[..., K], True = real. A row where everything is
masked loses 0 and has no gradient. Results have the dtype of the arguments.
Derivatives of any order are exact. For infinities and NaN see `selection`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, masking, plackett_luce, regularisers, selection


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
  if operator not in regularisers.FAMILIES:
    raise ValueError(
      f'operator must be one of {", ".join(regularisers.FAMILIES)}, got '
      f'{operator!r}. A Fenchel-Young loss needs a regulariser.'
    )
  scores = checks.floats(scores)
  targets = checks.floats(targets, 'targets')
  where = checks.mask(where, scores.shape)
  if targets.shape[-1:] != scores.shape[-1:] or (
    checks.together(scores=scores, targets=targets) != scores.shape
  ):
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
    names = ', '.join(options)
    raise ValueError(f'{operator} has no option {names}. Leave it out.')
  fixed = alpha if isinstance(alpha, float) else None
  alpha = alpha if fixed is None else None
  return regularisers.fenchel_young(
    scores, targets, where, alpha, operator, fixed, k
  )


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
  return plackett_luce.list_mle(scores, gains, where)


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
