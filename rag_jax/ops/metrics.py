"""Measures of retrieval and of calibration, one value a row.

A measure of retrieval takes `scores` float[..., K], higher is better, and
`relevance`, bool or float[..., K]; `where` is bool[..., K], True = real.
Documents of equal score have no order, so `ties` says what to report:
'expected' is the mean over all orders, 'optimistic' and 'pessimistic' the best
and the worst. `from_ranking` turns ranked lists into scores and relevance.

Values are float32[...]; `total` sums them up for a device, so that division
happens once, over all batches.
"""

import jax
import jax.numpy as jnp

TIES = ('expected', 'optimistic', 'pessimistic')


def from_ranking(
  documents: jax.Array, gold: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Scores and relevance of ranked lists.

  Args:
    documents: int[..., K], best first.
    gold: int[..., G], -1 where there is none.

  Returns:
    float32[..., K] falling scores and bool[..., K] relevance.

  Example:
    >>> scores, relevance = from_ranking(jnp.array([4, 7, 9]), jnp.array([7]))
    >>> scores.tolist(), relevance.tolist()
    ([0.0, -1.0, -2.0], [False, True, False])
  """
  same = documents[..., :, None] == gold[..., None, :]
  relevance = (same & (gold >= 0)[..., None, :]).any(axis=-1)
  ranks = 0.0 - jnp.arange(documents.shape[-1])
  return jnp.broadcast_to(ranks, documents.shape), relevance


def total(
  values: jax.Array, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """(sum, count) of the rows that count; divide once, at the end.

  Args:
    values: float[...].
    where: bool[...]; None counts all.

  Example:
    >>> total(jnp.array([1.0, 0.5, 9.0]), jnp.array([True, True, False]))
    (Array(1.5, dtype=float32), Array(2., dtype=float32))
  """
  if where is None:
    where = jnp.ones(values.shape, bool)
  values = jnp.where(where, values.astype(jnp.float32), 0.0)
  return values.sum(), where.sum().astype(jnp.float32)


def hits(
  scores: jax.Array,
  relevance: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """1 where a relevant document is among the first k, else 0.

  Example:
    >>> hits(jnp.array([3.0, 2.0, 2.0]), jnp.array([False, True, False]), k=2)
    Array(0.5, dtype=float32)
  """
  return _hit_curve(scores, relevance, where, ties, k)[..., -1]


def reciprocal_rank(
  scores: jax.Array,
  relevance: jax.Array,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """1 / rank of the first relevant document among the first k, or 0.

  Example:
    >>> reciprocal_rank(jnp.array([3.0, 2.0]), jnp.array([False, True]))
    Array(0.5, dtype=float32)
  """
  curve = _hit_curve(scores, relevance, where, ties, k or scores.shape[-1])
  at_rank = jnp.diff(curve, axis=-1, prepend=0)
  return (at_rank / jnp.arange(1, curve.shape[-1] + 1)).sum(-1)


def ndcg(
  scores: jax.Array,
  relevance: jax.Array,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
  ideal: jax.Array | None = None,
) -> jax.Array:
  """Normalised discounted cumulative gain of the first k.

  sum_i gain_i / log2(rank_i + 1), divided by its best value. Gains are linear;
  pass 2 ** grade - 1 for exponential ones.

  Args:
    scores: float[..., K].
    relevance: bool or float[..., K], gains of at least 0.
    k: documents that count; None counts all.
    where: bool[..., K].
    ties: one of `TIES`.
    ideal: float[..., G], gains of all relevant documents, the ones that were
      not retrieved too; None takes those in `relevance`.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> gain = ndcg(jnp.array([2.0, 1.0]), jnp.array([0.0, 1.0]))
    >>> round(float(gain), 4)  # 1 / log2(3)
    0.6309

  Reference:
    Jarvelin and Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques,
    2002.
  """
  gains, where = _real(relevance, where)
  size = scores.shape[-1]
  cut = size if k is None else k
  places = jnp.arange(size)
  discounts = jnp.where(places < cut, 1 / jnp.log2(places + 2.0), 0)
  if ties == 'expected':
    better, equal = _groups(scores, where)
    before = jnp.pad(jnp.cumsum(discounts), (1, 0))
    share = (before[better + equal] - before[better]) / jnp.maximum(equal, 1)
  else:
    share = discounts[_ranks(scores, gains, where, ties)]
  gained = jnp.where(where, gains * share, 0).sum(-1)
  best = gains if ideal is None else ideal.astype(jnp.float32)
  best = jnp.sort(best, axis=-1)[..., ::-1][..., :k]
  most = (best / jnp.log2(jnp.arange(best.shape[-1]) + 2.0)).sum(-1)
  return jnp.where(most > 0, gained / jnp.where(most > 0, most, 1), 0)


def r_precision(
  scores: jax.Array,
  relevance: jax.Array,
  *,
  where: jax.Array | None = None,
  ties: str = 'expected',
  num_relevant: jax.Array | None = None,
) -> jax.Array:
  """Share of the relevant documents among the first R, R their number.

  Args:
    scores: float[..., K].
    relevance: bool[..., K].
    where: bool[..., K].
    ties: one of `TIES`.
    num_relevant: int[...], R; None counts those in `relevance`.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> r_precision(jnp.array([3.0, 2.0, 1.0]), jnp.array([True, False, True]))
    Array(0.5, dtype=float32)
  """
  gains, where = _real(relevance > 0, where)
  if num_relevant is None:
    num_relevant = gains.sum(-1).astype(jnp.int32)
  cut = num_relevant[..., None]
  if ties == 'expected':
    better, equal = _groups(scores, where)
    share = jnp.clip(cut - better, 0, equal) / jnp.maximum(equal, 1)
  else:
    share = (_ranks(scores, gains, where, ties) < cut).astype(jnp.float32)
  found = (gains * share).sum(-1)
  return found / jnp.maximum(num_relevant, 1)


def token_exact_match(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """1 where the tokens are those of one of the answers, else 0.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none.

  Returns:
    float32[...].

  Example:
    >>> token_exact_match(jnp.array([7, 8, 0]), jnp.array([[7, 8], [9, 0]]))
    Array(1., dtype=float32)
  """
  prediction, answers = _same_length(prediction, answers)
  same = (prediction[..., None, :] == answers).all(-1)
  return (same & (answers != 0).any(-1)).any(-1).astype(jnp.float32)


def token_f1(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """2 * overlap / (length + length'), tokens as multisets; the best answer's.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none.

  Returns:
    float32[...], from 0 to 1.

  Example:
    >>> token_f1(jnp.array([7, 8, 0]), jnp.array([[7, 9], [5, 0]]))
    Array(0.5, dtype=float32)
  """
  prediction, answers = _same_length(prediction, answers)
  own = prediction[..., None, :]  # [..., 1, A]
  equal = own[..., :, None] == own[..., None, :]
  earlier = jnp.tril(equal, -1).sum(-1)  # how often a token has come before
  count = (own[..., :, None] == answers[..., None, :]).sum(-1)
  shared = ((earlier < count) & (own != 0)).sum(-1)
  lengths = (own != 0).sum(-1) + (answers != 0).sum(-1)
  value = 2 * shared / jnp.maximum(lengths, 1)
  return jnp.where((answers != 0).any(-1), value, 0.0).max(-1)


def _same_length(prediction, answers):
  """Both padded to the longer of the two."""
  size = max(prediction.shape[-1], answers.shape[-1])

  def pad(x):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])

  return pad(prediction), pad(answers)


def expected_calibration_error(
  confidence: jax.Array,
  correct: jax.Array,
  *,
  bins: int = 15,
  where: jax.Array | None = None,
) -> jax.Array:
  """How far stated chances are from the share that comes true.

  sum over bins of (share of predictions in it) * |mean confidence - accuracy|,
  with bins of equal width.

  Args:
    confidence: float[n], from 0 to 1.
    correct: bool[n].
    bins: at least 1.
    where: bool[n].

  Returns:
    float32[].

  Example:
    >>> sure = jnp.array([0.75, 0.75])
    >>> expected_calibration_error(sure, jnp.array([True, False]))
    Array(0.25, dtype=float32)

  Reference:
    Guo et al., On Calibration of Modern Neural Networks, 2017.
  """
  where = jnp.ones(confidence.shape, bool) if where is None else where
  kept = jnp.where(where, confidence, 0)
  place = jnp.clip(jnp.ceil(kept * bins).astype(int) - 1, 0, bins - 1)
  gap = jnp.where(where, kept - correct.astype(jnp.float32), 0)
  gaps = jax.ops.segment_sum(gap, place, bins)
  return jnp.abs(gaps).sum() / jnp.maximum(where.sum(), 1)


def risk_coverage(
  confidence: jax.Array, correct: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Error among the surest answers, for every share that is answered.

  Args:
    confidence: float[n].
    correct: bool[n].

  Returns:
    float32[n] risks, entry i over the surest i + 1 answers (those of equal
    confidence have their mean error), and float32[], the area under them.

  Example:
    >>> risks, area = risk_coverage(jnp.array([0.9, 0.2]),
    ...                             jnp.array([True, False]))
    >>> risks.tolist(), float(area)
    ([0.0, 0.5], 0.25)

  Reference:
    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks,
    2017.
  """
  wrong = 1 - correct.astype(jnp.float32)
  tied = (confidence[:, None] == confidence[None]).astype(jnp.float32)
  wrong = (tied @ wrong) / tied.sum(axis=1)
  order = jnp.argsort(-confidence)
  risks = jnp.cumsum(wrong[order]) / jnp.arange(1, len(confidence) + 1)
  return risks, risks.mean()


def _hit_curve(scores, relevance, where, ties, k):
  """Chance of a relevant document among the first 1 to k, float32[..., k]."""
  gains, where = _real(relevance > 0, where)
  cuts = jnp.arange(1, k + 1)
  if ties != 'expected':
    ranks = _ranks(scores, gains, where, ties)
    first = jnp.where(gains > 0, ranks, ranks.shape[-1] + k).min(-1)
    return (first[..., None] < cuts).astype(jnp.float32)
  better, equal = _groups(scores, where)
  far = scores.shape[-1] + k
  first = jnp.where(gains > 0, better, far)
  at = first.argmin(-1, keepdims=True)
  before = first.min(-1, keepdims=True)  # [..., 1]
  size = jnp.take_along_axis(equal, at, axis=-1)
  relevant = ((gains > 0) & (first == before)).sum(-1, keepdims=True)
  # Of `size` documents in any order the first m hold none of the relevant.
  m = jnp.clip(cuts - before, 0, size)[..., None]  # [..., k, 1]
  i = jnp.arange(scores.shape[-1])
  none = (size[..., None] - m - i) / jnp.maximum(size[..., None] - i, 1)
  none = jnp.where(i < relevant[..., None], jnp.maximum(none, 0), 1).prod(-1)
  return jnp.where(before < far, 1 - none, 0).astype(jnp.float32)


def _real(relevance, where):
  """Gains, 0 where nothing is real, and the mask."""
  where = jnp.ones(relevance.shape, bool) if where is None else where
  return jnp.where(where, relevance, 0).astype(jnp.float32), where


def _groups(scores, where):
  """How many documents are better, and how many equal, itself included."""
  low = jnp.where(where, scores.astype(jnp.float32), -jnp.inf)
  ordered = jnp.sort(low, axis=-1)
  find = jnp.vectorize(
    lambda a, v, side: jnp.searchsorted(a, v, side=side),
    signature='(n),(n)->(n)',
    excluded={'side'},
  )
  left = find(ordered, low, side='left')
  right = find(ordered, low, side='right')
  return scores.shape[-1] - right, right - left


def _ranks(scores, gains, where, ties):
  """Rank of each document from 0, ties broken for or against the system."""
  if ties not in TIES:
    raise ValueError(
      f'ties must be one of {", ".join(TIES)}, got {ties!r}. Pass one of them.'
    )
  low = jnp.where(where, scores.astype(jnp.float32), -jnp.inf)
  second = -gains if ties == 'optimistic' else gains
  order = jnp.lexsort((second, -low), axis=-1)
  return jnp.argsort(order, axis=-1)
