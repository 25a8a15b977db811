"""One stand-in for minus infinity, and what is done about numbers that are not.

Scores and log-likelihoods that this package writes where nothing can be chosen
are `NEG_INF`, a finite number, so that sums and differences of two of them are
not NaN. What comes in may hold anything; `selection` says what it gives.
"""

import jax
import jax.numpy as jnp

NEG_INF = -1e9  # nats


def poison(value: jax.Array, bad: jax.Array) -> jax.Array:
  """NaN where `bad`, in value and gradient; elsewhere the value bit for bit."""
  return value * jnp.where(bad, jnp.nan, 1.0).astype(value.dtype)


def unbounded(x: jax.Array, where: jax.Array) -> jax.Array:
  """Whether a row float[..., K] holds a real NaN or +inf, bool[...]."""
  return (where & ~(x < jnp.inf)).any(-1)


def varies_with(x: jax.Array, *others: jax.Array) -> jax.Array:
  """`x`, typed as if it depended on others too.

  `jax.shard_map` tells what varies over devices from what does not, and asks
  that a loop leaves that as it was. XLA drops what is written here.
  """
  for other in others:
    x = jnp.where(jnp.any(other == other), x, x)
  return x
