import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCAB = 40


@pytest.fixture(scope='session')
def texts():
  """Questions and passages with padding; no passage repeats a token."""
  rng = np.random.default_rng(0)
  query = rng.integers(3, VOCAB, (2, 5))
  passages = np.stack([rng.permutation(np.arange(3, VOCAB)) for _ in range(6)])
  passages = passages[:, :9].reshape(2, 3, 9)
  query[0, 3:] = 0
  passages[1, 2, 6:] = 0
  return jnp.asarray(query), jnp.asarray(passages)


@pytest.fixture(scope='session')
def losses_of_a_step():
  """Returns a loss before and after a gradient step of length `size`."""

  def run(loss, params, size):
    grad = jax.jit(jax.value_and_grad(loss))
    before, slope = grad(params)
    norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(slope)))
    after, _ = grad(
      jax.tree.map(lambda p, g: p - size * g / norm, params, slope)
    )
    assert np.isfinite(before) and norm > 0
    return float(before), float(after)

  return run
