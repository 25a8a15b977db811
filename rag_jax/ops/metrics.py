"""Measures of retrieval and of calibration, one value a row.

Every measure of retrieval is `measure(scores, relevance, ideal)` and takes
what `from_ranking` gives:

  scores: float[..., K], higher is better, in any real dtype; compared as they
    are, so that no two scores tie that differ.
  relevance: bool or float[..., K], the gain of each document. What is below 0
    counts as 0; a document with more than 0 is relevant.
  ideal: bool or float[..., G], the gains of all relevant documents, of those
    that were not retrieved too; 0 where there is none. None where `relevance`
    holds all of them, as it does where every document of a corpus is scored.
  k: how many documents count, a Python int of at least 1; it may be more than
    K. None counts all.
  where: bool[..., K], True = real; all others are left out.
  ties: documents of equal score have no order: 'expected' is the mean over all
    orders, 'optimistic' and 'pessimistic' the best and the worst.

A document whose score is -inf or NaN was not retrieved: it is never found, and
still counts as relevant where `ideal` is None, so that a model that gives NaN
has no perfect result. +inf is the highest score.

Values are float32[...]; `total` sums them up for a device, so that division
happens once, over all batches. Time is O(K log K) and memory O(K) a row. All
work under jit and vmap; `dcg` and `ndcg` have gradients in the gains, and no
measure has any in the scores. A mistake in the arguments is a ValueError.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TIES = ('expected', 'optimistic', 'pessimistic')


class Ranked(NamedTuple):
  """Ranked lists as the measures take them: `ndcg(*ranked, k=10)`."""

  scores: jax.Array  # float[..., K]
  relevance: jax.Array  # bool or float32[..., K]
  ideal: jax.Array  # float32[..., G]


def from_ranking(
  documents: jax.Array,
  gold: jax.Array,
  *,
  scores: jax.Array | None = None,
  grades: jax.Array | None = None,
) -> Ranked:
  """Ranked lists as the measures take them.

  A document that comes twice keeps its places, and is relevant at the first
  alone. A gold document that comes twice is one, with its higher grade.

  Args:
    documents: int[..., K], best first; -1 where there is none.
    gold: int[..., G], -1 where there is none.
    scores: float[..., K], for measures that are fair to ties; None takes the
      order as it is, whatever it owes to luck.
    grades: float[..., G], how relevant each gold document is; None is 1.

  Returns:
    scores, float[..., K], falling where None were given, -inf where there is
    no document; relevance, bool[..., K], or the grades, float32[..., K]; and
    ideal, float32[..., G], the gains of all gold documents.

  Raises:
    ValueError: if shapes do not go together, or documents are no integers.

  Example:
    >>> ranked = from_ranking(jnp.array([4, 7, 9]), jnp.array([7, 5]))
    >>> ranked.scores.tolist(), ranked.relevance.tolist()
    ([0.0, -1.0, -2.0], [False, True, False])
    >>> reciprocal_rank(*ranked), recall(*ranked)
    (Array(0.5, dtype=float32), Array(0.5, dtype=float32))
  """
  documents, gold = _arrays(documents=documents, gold=gold)
  for name, value in (('documents', documents), ('gold', gold)):
    if not jnp.issubdtype(value.dtype, jnp.integer):
      raise ValueError(
        f'{name} must be integers, got {value.dtype}. Pass rows of a corpus.'
      )
  if documents.shape[:-1] != gold.shape[:-1]:
    raise ValueError(
      f'gold must be int[..., G] with the leading axes of documents, got '
      f'{gold.shape} for documents of {documents.shape}. Pass one row of gold '
      'documents for each ranking, -1 where there is none.'
    )
  given = jnp.ones(gold.shape) if grades is None else jnp.asarray(grades)
  _check_shape('grades', given, 'gold', gold)
  dtype = np.promote_types(documents.dtype, gold.dtype)
  documents, gold = documents.astype(dtype), gold.astype(dtype)
  # Equal gold documents side by side, the one with the highest grade last.
  gold, grade = jax.lax.sort((gold, _gains(given)), num_keys=2)
  last = jnp.concatenate(
    [gold[..., 1:] != gold[..., :-1], jnp.ones((*gold.shape[:-1], 1), bool)],
    axis=-1,
  )[..., : gold.shape[-1]]
  ideal = jnp.where(last & (gold >= 0), grade, 0.0)
  if gold.shape[-1]:
    search = jnp.vectorize(
      lambda a, v: jnp.searchsorted(a, v, side='right'),
      signature='(g),(k)->(k)',
    )
    place = jnp.maximum(search(gold, documents) - 1, 0)
    same = jnp.take_along_axis(gold, place, axis=-1) == documents
    found = jnp.take_along_axis(ideal, place, axis=-1)
    first = _first_of_equals(documents)
    relevance = jnp.where(same & first & (documents >= 0), found, 0.0)
  else:
    relevance = jnp.zeros(documents.shape)
  if scores is None:
    scores = jnp.broadcast_to(
      -jnp.arange(documents.shape[-1], dtype=jnp.float32) + 0.0,
      documents.shape,
    )
  else:
    scores = jnp.asarray(scores)
    _check_shape('scores', scores, 'documents', documents)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
      scores = scores.astype(jnp.float32)
  scores = jnp.where(documents >= 0, scores, -jnp.inf)
  return Ranked(scores, relevance > 0 if grades is None else relevance, ideal)


def total(
  values: jax.Array, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """(sum, count) of the rows that count; divide once, at the end.

  Args:
    values: float[...].
    where: bool[...]; None counts all.

  Returns:
    Two float32[].

  Raises:
    ValueError: if `where` is of another shape.

  Example:
    >>> total(jnp.array([1.0, 0.5, 9.0]), jnp.array([True, True, False]))
    (Array(1.5, dtype=float32), Array(2., dtype=float32))
  """
  values = jnp.asarray(values)
  where = _mask(where, 'values', values)
  values = jnp.where(where, values.astype(jnp.float32), 0.0)
  return values.sum(), where.sum().astype(jnp.float32)


def hits(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """1 where a relevant document is among the first k, else 0.

  trec_eval's success_k. Arguments and errors: see the top of this module.

  Returns:
    float32[...].

  Example:
    >>> hits(jnp.array([3.0, 2.0, 2.0]), jnp.array([False, True, False]), k=2)
    Array(0.5, dtype=float32)
  """
  order, k = _order(scores, relevance, ideal, k, where, ties, binary=True)
  miss, _ = _first_relevant(order)
  return 1 - jnp.where(order.places < k, miss, 1.0).prod(-1)


def reciprocal_rank(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """1 / rank of the first relevant document among the first k, or 0.

  Its mean over queries is MRR; trec_eval's recip_rank. Arguments and errors:
  see the top of this module.

  Returns:
    float32[...].

  Example:
    >>> reciprocal_rank(jnp.array([3.0, 2.0]), jnp.array([False, True]))
    Array(0.5, dtype=float32)
  """
  order, k = _order(scores, relevance, ideal, k, where, ties, binary=True)
  miss, hit = _first_relevant(order)
  until = jnp.cumprod(miss, axis=-1)  # no relevant document up to a place
  before = jnp.concatenate([jnp.ones_like(until[..., :1]), until], axis=-1)
  value = before[..., : until.shape[-1]] * hit / (order.places + 1.0)
  return jnp.where(order.places < k, value, 0.0).sum(-1)


def precision(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """Relevant documents among the first k, divided by k.

  Divided by k also where fewer documents were retrieved, as trec_eval's P_k.
  Arguments and errors: see the top of this module.

  Returns:
    float32[...].

  Example:
    >>> precision(jnp.array([3.0, 2.0]), jnp.array([False, True]), k=4)
    Array(0.25, dtype=float32)
  """
  order, k = _order(scores, relevance, ideal, k, where, ties, binary=True)
  return jnp.where(order.places < k, order.gains, 0.0).sum(-1) / k


def recall(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """Share of all relevant documents that is among the first k.

  trec_eval's recall_k. Arguments and errors: see the top of this module.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> recall(jnp.array([3.0, 2.0]), jnp.array([True, False]), jnp.ones(4))
    Array(0.25, dtype=float32)
  """
  order, k = _order(scores, relevance, ideal, k, where, ties, binary=True)
  found = jnp.where(order.places < k, order.gains, 0.0).sum(-1)
  return _share(found, _count(order.ideal))


def average_precision(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """Mean over all relevant documents of the precision at their rank.

  One that is not among the first k counts 0, and all count in the mean, as in
  trec_eval's map and map_cut_k. Its mean over queries is MAP. Arguments and
  errors: see the top of this module.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> scores, relevance = jnp.array([3.0, 2.0]), jnp.array([False, True])
    >>> average_precision(scores, relevance)
    Array(0.5, dtype=float32)

  Reference:
    McSherry and Najork, Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores, 2008.
  """
  order, k = _order(scores, relevance, ideal, k, where, ties, binary=True)
  # In a group of s documents with r relevant, the i-th (from 0) is relevant
  # with r / s, and then i (r - 1) / (s - 1) of those before it are.
  others = (order.sums - 1) / jnp.maximum(order.sizes - 1, 1.0)
  found = order.before + 1 + order.within * others
  at_rank = found / (order.places + 1.0)
  value = jnp.where(order.places < k, order.gains * at_rank, 0.0).sum(-1)
  return _share(value, _count(order.ideal))


def dcg(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """Discounted cumulative gain: sum_i gain_i / log2(rank_i + 1), i <= k.

  Gains are linear, as in trec_eval; pass 2 ** grade - 1 for exponential ones.
  Arguments and errors: see the top of this module.

  Returns:
    float32[...].

  Example:
    >>> gain = dcg(jnp.array([2.0, 1.0]), jnp.array([0.0, 3.0]))
    >>> round(float(gain), 4)  # 3 / log2(3)
    1.8928

  Reference:
    Jarvelin and Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques,
    2002.
  """
  order, k = _order(scores, relevance, ideal, k, where, ties)
  return _discounted(order.gains, k)


def ndcg(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
  ties: str = 'expected',
) -> jax.Array:
  """Normalised discounted cumulative gain of the first k.

  `dcg`, divided by that of the best order of all relevant documents; ranked
  lists leave some out, which is what `ideal` is for. trec_eval's ndcg and
  ndcg_cut_k. Arguments and errors: see the top of this module.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> gain = ndcg(jnp.array([2.0, 1.0]), jnp.array([0.0, 1.0]))
    >>> round(float(gain), 4)  # 1 / log2(3)
    0.6309
    >>> ranked = from_ranking(jnp.array([5, 8]), jnp.array([5, 6, 7]))
    >>> round(float(ndcg(*ranked)), 4)  # one of three was found
    0.4693

  Reference:
    Jarvelin and Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques,
    2002.
  """
  order, k = _order(scores, relevance, ideal, k, where, ties)
  best = -jnp.sort(-order.ideal, axis=-1)
  return _share(_discounted(order.gains, k), _discounted(best, k))


def r_precision(
  scores: jax.Array,
  relevance: jax.Array,
  ideal: jax.Array | None = None,
  *,
  where: jax.Array | None = None,
  ties: str = 'expected',
  num_relevant: jax.Array | None = None,
) -> jax.Array:
  """Share of the relevant documents among the first R, R their number.

  trec_eval's Rprec. Arguments and errors: see the top of this module.

  Args:
    scores: float[..., K].
    relevance: bool or float[..., K].
    ideal: float[..., G].
    where: bool[..., K].
    ties: one of `TIES`.
    num_relevant: int[...], R, in place of `ideal`.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> r_precision(jnp.array([3.0, 2.0, 1.0]), jnp.array([True, False, True]))
    Array(0.5, dtype=float32)
  """
  order, _ = _order(scores, relevance, ideal, None, where, ties, binary=True)
  if num_relevant is None:
    count = _count(order.ideal)
  else:
    count = jnp.asarray(num_relevant)
    if count.shape != order.gains.shape[:-1]:
      raise ValueError(
        f'num_relevant must be int{list(order.gains.shape[:-1])}, got '
        f'{count.shape}. Pass one number for each row of scores.'
      )
    count = count.astype(jnp.float32)
  within = order.places < count[..., None]
  return _share(jnp.where(within, order.gains, 0.0).sum(-1), count)


def token_exact_match(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """1 where the tokens are those of one of the answers, else 0.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none. Leading
      axes broadcast with those of `prediction`.

  Returns:
    float32[...].

  Raises:
    ValueError: if shapes do not go together.

  Example:
    >>> token_exact_match(jnp.array([7, 8, 0]), jnp.array([[7, 8], [9, 0]]))
    Array(1., dtype=float32)
  """
  prediction, answers = _answers(prediction, answers)
  size = max(prediction.shape[-1], answers.shape[-1])

  def pad(x):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])

  same = (pad(prediction)[..., None, :] == pad(answers)).all(-1)
  return (same & (answers != 0).any(-1)).any(-1).astype(jnp.float32)


def token_f1(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """2 * overlap / (length + length'), tokens as multisets; the best answer's.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none. Leading
      axes broadcast with those of `prediction`.

  Returns:
    float32[...], from 0 to 1.

  Raises:
    ValueError: if shapes do not go together.

  Example:
    >>> token_f1(jnp.array([7, 8, 0]), jnp.array([[7, 9], [5, 0]]))
    Array(0.5, dtype=float32)
  """
  prediction, answers = _answers(prediction, answers)
  prediction = jnp.broadcast_to(
    prediction[..., None, :], (*answers.shape[:-1], prediction.shape[-1])
  )
  tokens = jnp.concatenate([prediction, answers], axis=-1)
  own = jnp.arange(tokens.shape[-1]) < prediction.shape[-1]
  own = jnp.broadcast_to(own, tokens.shape)
  tokens, own = jax.lax.sort((tokens, own), num_keys=1)
  # Of a token that comes a times here and b times there, min(a, b) are shared.
  groups = _groups(tokens[..., 1:] != tokens[..., :-1])
  real = tokens != 0
  ours = _group_sums(groups, (own & real).astype(jnp.float32))[0]
  theirs = _group_sums(groups, (~own & real).astype(jnp.float32))[0]
  shared = jnp.where(groups.within == 0, jnp.minimum(ours, theirs), 0.0).sum(-1)
  lengths = real.sum(-1).astype(jnp.float32)
  value = _share(2 * shared, lengths)
  return jnp.where((answers != 0).any(-1), value, 0.0).max(-1, initial=0.0)


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
    where: bool[n], True = real.

  Returns:
    float32[]; NaN where a real confidence is NaN or nothing is real.

  Raises:
    ValueError: if shapes differ or `bins` is below 1.

  Example:
    >>> sure = jnp.array([0.75, 0.75])
    >>> expected_calibration_error(sure, jnp.array([True, False]))
    Array(0.25, dtype=float32)

  Reference:
    Guo et al., On Calibration of Modern Neural Networks, 2017.
  """
  confidence, correct = _predictions(confidence, correct)
  bins = _positive('bins', bins)
  where = _mask(where, 'confidence', confidence)
  kept = jnp.where(where, confidence, 0.0)
  place = jnp.ceil(jnp.nan_to_num(kept) * bins).astype(jnp.int32) - 1
  place = jnp.clip(place, 0, bins - 1)
  gap = jnp.where(where, kept - correct, 0.0)
  gaps = jax.ops.segment_sum(gap, place, bins)
  return jnp.abs(gaps).sum() / where.sum().astype(jnp.float32)


def risk_coverage(
  confidence: jax.Array, correct: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Error among the surest answers, for every share that is answered.

  Args:
    confidence: float[n].
    correct: bool[n], or float[n] from 0 to 1.

  Returns:
    float32[n] risks, entry i over the surest i + 1 answers (those of equal
    confidence have their mean error), and float32[], the area under them. A
    confidence of NaN comes last, and is a risk of NaN: so is the area.

  Raises:
    ValueError: if shapes differ.

  Example:
    >>> risks, area = risk_coverage(jnp.array([0.9, 0.2]),
    ...                             jnp.array([True, False]))
    >>> risks.tolist(), float(area)
    ([0.0, 0.5], 0.25)

  Reference:
    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks,
    2017.
  """
  given = jnp.asarray(confidence)
  _, correct = _predictions(given, correct)
  known = ~jnp.isnan(given)
  order, groups = _sorted(given, known)
  wrong = jnp.take_along_axis(1 - correct, order, axis=-1)
  sums, before = _group_sums(groups, wrong)
  places = jnp.arange(len(given), dtype=jnp.float32)
  within = (groups.within + 1) * sums / groups.sizes
  risks = (before + within) / (places + 1)
  risks = jnp.where(places < _count(known.astype(jnp.float32)), risks, jnp.nan)
  return risks, risks.mean()


class _Groups(NamedTuple):
  """Runs of equals in a sorted row, for each place of the row."""

  starts: jax.Array  # int32[..., K], the first place of its group
  ends: jax.Array  # int32[..., K], the place behind its last
  sizes: jax.Array  # float32[..., K]
  within: jax.Array  # float32[..., K], how many of its group are before it


class _Order(NamedTuple):
  """A list by rank; places of equal score are a group and have its mean."""

  gains: jax.Array  # float32[..., K], the mean gain at each place
  places: jax.Array  # float32[K], from 0
  starts: jax.Array  # float32[..., K], the first place of its group
  sizes: jax.Array  # float32[..., K], documents of its group
  within: jax.Array  # float32[..., K], how many of its group are before it
  sums: jax.Array  # float32[..., K], gains of its group
  before: jax.Array  # float32[..., K], gains of all groups before
  ideal: jax.Array  # float32[..., G]


def _order(
  scores, relevance, ideal, k, where, ties, *, binary=False
) -> tuple[_Order, int]:
  """Checks the arguments, sorts by score, and finds groups of equals."""
  scores, relevance = _arrays(scores=scores, relevance=relevance)
  _check_shape('relevance', relevance, 'scores', scores)
  if ties not in TIES:
    raise ValueError(
      f'ties must be one of {", ".join(TIES)}, got {ties!r}. Pass one of them.'
    )
  where = _mask(where, 'scores', scores)
  scores = jax.lax.stop_gradient(scores)
  gains = jnp.where(where, _gains(relevance), 0.0)
  best = gains if ideal is None else _gains(jnp.asarray(ideal))
  if best.shape[:-1] != scores.shape[:-1] or best.ndim != scores.ndim:
    raise ValueError(
      f'ideal must be float[..., G] with the leading axes of scores, got '
      f'{best.shape} for scores of {scores.shape}. Pass one row of gains for '
      'each row of scores, 0 where there is none.'
    )
  # None is all ranks: those of the list, and those that an ideal list has.
  most = max(scores.shape[-1], best.shape[-1], 1)
  k = most if k is None else _positive('k', k)
  if binary:
    gains, best = (_positive_part(gains), _positive_part(best))
  retrieved = where & ~(jnp.isnan(scores) | jnp.isneginf(scores))
  gains = jnp.where(retrieved, gains, 0.0)
  key = None
  if ties != 'expected':
    own = jax.lax.stop_gradient(gains)
    key = own if ties == 'optimistic' else -own
  order, groups = _sorted(scores, retrieved, key)
  gains = jnp.take_along_axis(gains, order, axis=-1)
  sums, before = _group_sums(groups, gains)
  return _Order(
    gains=sums / groups.sizes,
    places=jnp.arange(scores.shape[-1], dtype=jnp.float32),
    starts=groups.starts.astype(jnp.float32),
    sizes=groups.sizes,
    within=groups.within,
    sums=sums,
    before=before,
    ideal=best,
  ), k


def _sorted(scores, real, key=None) -> tuple[jax.Array, _Groups]:
  """Places of a row, best first, what is not real last; and groups of equals.

  With a key, a higher one goes before a lower, and nobody ties.
  """
  kept = jnp.where(real, scores, jnp.zeros((), scores.dtype))
  place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  keys = (real, kept) if key is None else (real, kept, key)
  *by_rank, order = (
    jnp.flip(x, axis=-1)
    for x in jax.lax.sort((*keys, place), num_keys=len(keys))
  )
  if key is None:
    differs = [x[..., 1:] != x[..., :-1] for x in by_rank]
    return order, _groups(differs[0] | differs[1])
  return order, _groups(jnp.ones_like(order[..., 1:], bool))


def _groups(differs: jax.Array) -> _Groups:
  """Groups of a sorted row, of where each differs from the one before it."""
  shape = (*differs.shape[:-1], differs.shape[-1] + 1)
  place = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
  edge = jnp.ones((*differs.shape[:-1], 1), bool)
  size = jnp.int32(shape[-1])
  first = jnp.concatenate([edge, differs], axis=-1)
  last = jnp.concatenate([differs, edge], axis=-1)
  axis = len(shape) - 1
  starts = jax.lax.cummax(jnp.where(first, place, 0), axis=axis)
  ends = jax.lax.cummin(
    jnp.where(last, place + 1, size), axis=axis, reverse=True
  )
  sizes, within = ends - starts, place - starts
  return _Groups(
    starts, ends, sizes.astype(jnp.float32), within.astype(jnp.float32)
  )


def _group_sums(groups, values):
  """Sum over the group of each place, and over all groups before it."""
  until = jnp.cumsum(values, axis=-1)
  until = jnp.concatenate([jnp.zeros_like(until[..., :1]), until], axis=-1)
  before = jnp.take_along_axis(until, groups.starts, axis=-1)
  return jnp.take_along_axis(until, groups.ends, axis=-1) - before, before


def _first_relevant(order):
  """Chances of no relevant document, and of one, given none before.

  At each place of the first group with a relevant one; 1 and 0 elsewhere.
  """
  size = order.gains.shape[-1]
  first = jnp.where(order.sums > 0, order.starts, size).min(
    -1, keepdims=True, initial=size
  )
  left = order.sizes - order.within  # places to come, with it
  own = order.starts == first
  miss = jnp.where(own, jnp.maximum(left - order.sums, 0.0) / left, 1.0)
  hit = jnp.where(own, jnp.minimum(order.sums / left, 1.0), 0.0)
  return miss, hit


def _discounted(gains, k):
  """Sum of the first k gains of a row, each by the log of its rank."""
  places = jnp.arange(gains.shape[-1], dtype=jnp.float32)
  return jnp.where(places < k, gains / jnp.log2(places + 2.0), 0.0).sum(-1)


def _first_of_equals(documents):
  """Where a document comes for the first time in its row."""
  place = jax.lax.broadcasted_iota(
    jnp.int32, documents.shape, documents.ndim - 1
  )
  # Two keys: of equal documents the earlier place comes first.
  ordered, order = jax.lax.sort((documents, place), num_keys=2)
  new = jnp.concatenate(
    [
      jnp.ones((*documents.shape[:-1], 1), bool),
      ordered[..., 1:] != ordered[..., :-1],
    ],
    axis=-1,
  )[..., : documents.shape[-1]]
  return jax.lax.sort((order, new), num_keys=1)[1]


def _gains(relevance):
  """Gains in float32: what is below 0, or NaN, is 0."""
  gains = relevance.astype(jnp.float32)
  return jnp.where(gains >= 0, gains, 0.0)


def _positive_part(gains):
  return (gains > 0).astype(jnp.float32)


def _count(ideal):
  """How many are relevant, float32[...]."""
  return (ideal > 0).sum(-1).astype(jnp.float32)


def _share(part, whole):
  """The quotient, 0 where the whole is 0; no gradient is NaN."""
  some = whole > 0
  return jnp.where(some, part / jnp.where(some, whole, 1.0), 0.0)


def _answers(prediction, answers):
  """Both as arrays whose leading axes go together."""
  prediction, answers = _arrays(prediction=prediction, answers=answers)
  leading = answers.shape[:-2]
  try:
    if answers.ndim < 2:
      raise ValueError
    leading = np.broadcast_shapes(prediction.shape[:-1], leading)
  except ValueError:
    raise ValueError(
      f"answers must be int[..., M, A'], M answers for each prediction, got "
      f'{answers.shape} for a prediction of {prediction.shape}. Add an axis of '
      'size 1 where there is one answer.'
    ) from None
  dtype = np.promote_types(prediction.dtype, answers.dtype)
  answers = jnp.broadcast_to(answers, (*leading, *answers.shape[-2:]))
  prediction = jnp.broadcast_to(prediction, (*leading, prediction.shape[-1]))
  return prediction.astype(dtype), answers.astype(dtype)


def _predictions(confidence, correct):
  """Both as float32[n]."""
  confidence, correct = _arrays(confidence=confidence, correct=correct)
  if confidence.ndim != 1:
    raise ValueError(
      f'confidence must be float[n], got {confidence.shape}. Flatten it, or '
      'use jax.vmap for a value a row.'
    )
  _check_shape('correct', correct, 'confidence', confidence)
  return confidence.astype(jnp.float32), correct.astype(jnp.float32)


def _arrays(**arrays: Any) -> list[jax.Array]:
  """All as arrays of at least one axis."""
  made = []
  for name, value in arrays.items():
    try:
      value = jnp.asarray(value)
    except TypeError as error:
      raise ValueError(
        f'{name} must be an array of numbers, got a {type(value).__name__} '
        'that is none. Pass numbers, such as rows of a corpus for its ids.'
      ) from error
    if not value.ndim:
      raise ValueError(
        f'{name} must have at least one axis, got a single {value.dtype}. '
        'Pass an array of the values of a list.'
      )
    made.append(value)
  return made


def _mask(where, name, values):
  """`where`, checked, or all True."""
  if where is None:
    return jnp.ones(values.shape, bool)
  where = jnp.asarray(where)
  _check_shape('where', where, name, values)
  return where.astype(bool)


def _check_shape(name, value, other_name, other):
  if value.shape != other.shape:
    raise ValueError(
      f'{name} must have the shape of {other_name}, {other.shape}, got '
      f'{value.shape}. Use jnp.broadcast_to to repeat it.'
    )


def _positive(name: str, value: Any) -> int:
  """A Python int of at least 1."""
  try:
    number = operator.index(value)
  except Exception as error:  # jax has several of its own for a traced value
    raise ValueError(
      f'{name} must be a Python int of at least 1, got {value!r}. Under jit '
      f'bind it with functools.partial or static_argnames.'
    ) from error
  if number < 1 or isinstance(value, bool):
    raise ValueError(
      f'{name} must be at least 1, got {value!r}. Pass how many count.'
    )
  return number
