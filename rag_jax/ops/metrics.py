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

import jax
import jax.numpy as jnp

from rag_jax.ops import tie_order

TIES = tie_order.TIES
Ranked = tie_order.Ranked
from_ranking = tie_order.from_ranking


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
  where = tie_order.check_mask(where, 'values', values)
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
  order, k = tie_order.rank(
    scores, relevance, ideal, k, where, ties, binary=True
  )
  miss, _ = tie_order.first_relevant(order)
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
  order, k = tie_order.rank(
    scores, relevance, ideal, k, where, ties, binary=True
  )
  miss, hit = tie_order.first_relevant(order)
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
  order, k = tie_order.rank(
    scores, relevance, ideal, k, where, ties, binary=True
  )
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
  order, k = tie_order.rank(
    scores, relevance, ideal, k, where, ties, binary=True
  )
  found = jnp.where(order.places < k, order.gains, 0.0).sum(-1)
  return tie_order.ratio(found, tie_order.count_relevant(order.ideal))


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
  order, k = tie_order.rank(
    scores, relevance, ideal, k, where, ties, binary=True
  )
  # In a group of s documents with r relevant, the i-th (from 0) is relevant
  # with r / s, and then i (r - 1) / (s - 1) of those before it are.
  others = (order.sums - 1) / jnp.maximum(order.sizes - 1, 1.0)
  found = order.before + 1 + order.within * others
  at_rank = found / (order.places + 1.0)
  value = jnp.where(order.places < k, order.gains * at_rank, 0.0).sum(-1)
  return tie_order.ratio(value, tie_order.count_relevant(order.ideal))


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
  order, k = tie_order.rank(scores, relevance, ideal, k, where, ties)
  return tie_order.discounted(order.gains, k)


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
  order, k = tie_order.rank(scores, relevance, ideal, k, where, ties)
  best = -jnp.sort(-order.ideal, axis=-1)
  return tie_order.ratio(
    tie_order.discounted(order.gains, k), tie_order.discounted(best, k)
  )


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
    ties: one of `tie_order.TIES`.
    num_relevant: int[...], R, in place of `ideal`.

  Returns:
    float32[...]; 0 where nothing is relevant.

  Example:
    >>> r_precision(jnp.array([3.0, 2.0, 1.0]), jnp.array([True, False, True]))
    Array(0.5, dtype=float32)
  """
  order, _ = tie_order.rank(
    scores, relevance, ideal, None, where, ties, binary=True
  )
  if num_relevant is None:
    count = tie_order.count_relevant(order.ideal)
  else:
    count = jnp.asarray(num_relevant)
    if count.shape != order.gains.shape[:-1]:
      raise ValueError(
        f'num_relevant must be int{list(order.gains.shape[:-1])}, got '
        f'{count.shape}. Pass one number for each row of scores.'
      )
    count = count.astype(jnp.float32)
  within = order.places < count[..., None]
  return tie_order.ratio(jnp.where(within, order.gains, 0.0).sum(-1), count)
