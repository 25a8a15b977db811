"""The likelihood of a ranking, for `losses.list_mle`."""

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, masking


@checks.compiled
def list_mle(scores, gains, where):
  """Minus the Plackett-Luce log-likelihood of checked arguments."""
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
