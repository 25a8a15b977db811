"""The chance of a set of documents that are drawn without replacement."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks

MAX_SET = 6  # documents of a set whose chance is computed exactly


def set_chance(chances: jax.Array, outside: jax.Array) -> jax.Array:
  """Chance that a set is what is drawn first, in any order.

  Args:
    chances: float[..., k], of the documents of the set; k at most `MAX_SET`.
    outside: float[...], of all documents outside, together.

  Returns:
    float[...]. Only sums and products of positive numbers are formed.

  Example:
    >>> chance = set_chance(jnp.array([0.5, 0.25]), jnp.float32(0.25))
    >>> round(float(chance), 3)  # .5 * .25 / .5 + .25 * .5 / .75
    0.417
  """
  chances = checks.floats(chances, 'chances')
  outside = checks.floats(outside, 'outside')
  k = chances.shape[-1]
  if not k <= MAX_SET:
    raise ValueError(
      f'a set may have at most {MAX_SET} documents, got {k}. Draw smaller sets.'
    )
  return _set_chance(chances, outside)


@checks.compiled
def _set_chance(chances, outside):
  dtype = checks.compute_dtype(chances, outside)
  logs = jnp.log(chances.astype(dtype))
  outside = jnp.broadcast_to(outside.astype(dtype), chances.shape[:-1])
  there = jnp.ones(chances.shape, bool)
  gone = np.zeros(chances.shape[-1], bool)
  return relative_chance(logs, jnp.log(outside), there, gone)


def relative_chance(logs, outside, there, removed):
  """Chance that a set less some of its documents, which are gone, comes first.

  Only ratios of chances are formed, so that sets far below the best of the
  corpus have one too.

  Args:
    logs: float[..., k], log chances of the documents of the set.
    outside: float[...], of all outside.
    there: bool[..., k], False = no document at all.
    removed: bool[..., k], one leading axis for each that the result has beyond
      those of `outside`.
  """
  k = logs.shape[-1]
  orders = np.array(list(itertools.permutations(range(k))))  # [k!, k]
  more = removed.ndim - 1
  shape = logs.shape[:-1]
  spare = (*shape, *(1,) * more)
  # How many times as likely each is as another; [..., j, i] for j over i.
  times = jnp.exp(logs[..., :, None] - logs[..., None, :])
  times = jnp.where(
    np.eye(k, dtype=bool).reshape((1,) * len(shape) + (k, k)), 1, times
  )
  rest = jnp.exp(outside[..., None] - logs)
  rest = jnp.where(outside[..., None] == -jnp.inf, 0, rest)
  kept = there.reshape(*spare, k) & ~removed.reshape(
    (1,) * len(shape) + removed.shape
  )
  chance = jnp.ones((), logs.dtype)
  for turn in range(k):
    own = orders[:, turn]  # [k!]
    left = rest[..., own].reshape(*spare, -1)
    for later in range(turn, k):
      other = orders[:, later]
      ratio = times[..., other, own].reshape(*spare, -1)
      left = left + jnp.where(kept[..., other], ratio, 0)
    chance = chance * jnp.where(kept[..., own], 1 / left, 1)
  # Each order of what stays was met once for every place of what is gone.
  factorials = jnp.asarray(
    [math.factorial(n) for n in range(k + 1)], logs.dtype
  )
  met = math.factorial(k) / factorials[kept.sum(-1)]
  return chance.sum(-1) / met
