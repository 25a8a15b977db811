"""Ranked lists, and their groups of equal scores, for measures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks

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
    >>> from rag_jax.ops import metrics
    >>> metrics.reciprocal_rank(*ranked), metrics.recall(*ranked)
    (Array(0.5, dtype=float32), Array(0.5, dtype=float32))
  """
  documents, gold = arrays(documents=documents, gold=gold)
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
  check_shape('grades', given, 'gold', gold)
  dtype = np.promote_types(documents.dtype, gold.dtype)
  documents, gold = documents.astype(dtype), gold.astype(dtype)
  # Equal gold documents side by side, the one with the highest grade last.
  gold, grade = jax.lax.sort((gold, to_gains(given)), num_keys=2)
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
    first = first_of_equals(documents)
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
    check_shape('scores', scores, 'documents', documents)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
      scores = scores.astype(jnp.float32)
  scores = jnp.where(documents >= 0, scores, -jnp.inf)
  return Ranked(scores, relevance > 0 if grades is None else relevance, ideal)


class Groups(NamedTuple):
  """Runs of equals in a sorted row, for each place of the row."""

  starts: jax.Array  # int32[..., K], the first place of its group
  ends: jax.Array  # int32[..., K], the place behind its last
  sizes: jax.Array  # float32[..., K]
  within: jax.Array  # float32[..., K], how many of its group are before it


class Order(NamedTuple):
  """A list by rank; places of equal score are a group and have its mean."""

  gains: jax.Array  # float32[..., K], the mean gain at each place
  places: jax.Array  # float32[K], from 0
  starts: jax.Array  # float32[..., K], the first place of its group
  sizes: jax.Array  # float32[..., K], documents of its group
  within: jax.Array  # float32[..., K], how many of its group are before it
  sums: jax.Array  # float32[..., K], gains of its group
  before: jax.Array  # float32[..., K], gains of all groups before
  ideal: jax.Array  # float32[..., G]


def rank(
  scores, relevance, ideal, k, where, ties, *, binary=False
) -> tuple[Order, int]:
  """Checks the arguments, sorts by score, and finds groups of equals."""
  scores, relevance = arrays(scores=scores, relevance=relevance)
  check_shape('relevance', relevance, 'scores', scores)
  if ties not in TIES:
    raise ValueError(
      f'ties must be one of {", ".join(TIES)}, got {ties!r}. Pass one of them.'
    )
  where = check_mask(where, 'scores', scores)
  scores = jax.lax.stop_gradient(scores)
  gains = jnp.where(where, to_gains(relevance), 0.0)
  best = gains if ideal is None else to_gains(jnp.asarray(ideal))
  if best.shape[:-1] != scores.shape[:-1] or best.ndim != scores.ndim:
    raise ValueError(
      f'ideal must be float[..., G] with the leading axes of scores, got '
      f'{best.shape} for scores of {scores.shape}. Pass one row of gains for '
      'each row of scores, 0 where there is none.'
    )
  # None is all ranks: those of the list, and those that an ideal list has.
  most = max(scores.shape[-1], best.shape[-1], 1)
  k = most if k is None else checks.number_of(k, 'k', least=1)
  if binary:
    gains, best = (as_binary(gains), as_binary(best))
  retrieved = where & ~(jnp.isnan(scores) | jnp.isneginf(scores))
  gains = jnp.where(retrieved, gains, 0.0)
  key = None
  if ties != 'expected':
    own = jax.lax.stop_gradient(gains)
    key = own if ties == 'optimistic' else -own
  order, groups = sort(scores, retrieved, key)
  gains = jnp.take_along_axis(gains, order, axis=-1)
  sums, before = group_sums(groups, gains)
  return Order(
    gains=sums / groups.sizes,
    places=jnp.arange(scores.shape[-1], dtype=jnp.float32),
    starts=groups.starts.astype(jnp.float32),
    sizes=groups.sizes,
    within=groups.within,
    sums=sums,
    before=before,
    ideal=best,
  ), k


def sort(scores, real, key=None) -> tuple[jax.Array, Groups]:
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
    return order, groups_of(differs[0] | differs[1])
  return order, groups_of(jnp.ones_like(order[..., 1:], bool))


def groups_of(differs: jax.Array) -> Groups:
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
  return Groups(
    starts, ends, sizes.astype(jnp.float32), within.astype(jnp.float32)
  )


def group_sums(groups, values):
  """Sum over the group of each place, and over all groups before it."""
  until = jnp.cumsum(values, axis=-1)
  until = jnp.concatenate([jnp.zeros_like(until[..., :1]), until], axis=-1)
  before = jnp.take_along_axis(until, groups.starts, axis=-1)
  return jnp.take_along_axis(until, groups.ends, axis=-1) - before, before


def first_relevant(order):
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


def discounted(gains, k):
  """Sum of the first k gains of a row, each by the log of its rank."""
  places = jnp.arange(gains.shape[-1], dtype=jnp.float32)
  return jnp.where(places < k, gains / jnp.log2(places + 2.0), 0.0).sum(-1)


def first_of_equals(documents):
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


def to_gains(relevance):
  """Gains in float32: what is below 0, or NaN, is 0."""
  gains = relevance.astype(jnp.float32)
  return jnp.where(gains >= 0, gains, 0.0)


def as_binary(gains):
  """1.0 where a gain is positive, else 0."""
  return (gains > 0).astype(jnp.float32)


def count_relevant(ideal):
  """How many are relevant, float32[...]."""
  return (ideal > 0).sum(-1).astype(jnp.float32)


def ratio(part, whole):
  """The quotient, 0 where the whole is 0; no gradient is NaN."""
  some = whole > 0
  return jnp.where(some, part / jnp.where(some, whole, 1.0), 0.0)


def arrays(**arrays: Any) -> list[jax.Array]:
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


def check_mask(where, name, values):
  """`where`, checked, or all True."""
  if where is None:
    return jnp.ones(values.shape, bool)
  where = jnp.asarray(where)
  check_shape('where', where, name, values)
  return where.astype(bool)


def check_shape(name, value, other_name, other):
  """Raises a ValueError unless two arrays have one shape."""
  if value.shape != other.shape:
    raise ValueError(
      f'{name} must have the shape of {other_name}, {other.shape}, got '
      f'{value.shape}. Use jnp.broadcast_to to repeat it.'
    )
