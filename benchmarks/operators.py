"""Selection operators compared with other packages.

python -m pip install jaxopt entmax torch ott-jax   # each is skipped if absent
python benchmarks/operators.py [--quick]

Every contender runs forward and forward + backward on the same scores, in
interleaved rounds. Printed: median ms of each, and its ratio to softmax.
"""

import argparse
import functools
import importlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax import ops

SHAPES = ((32, 100), (32, 1000), (32, 10_000), (8, 100_000), (4096, 128))
TOP_K = 10


def jax_contender(operator, shape):
  """Compiled forward and forward + backward of a JAX operator."""
  scores = jnp.asarray(draw(shape))
  cotangent = jnp.asarray(draw(shape, seed=1))

  def both(scores, cotangent):
    weights, pull = jax.vjp(operator, scores)
    return weights, pull(cotangent)[0]

  forward, both = jax.jit(operator), jax.jit(both)
  return (
    lambda: jax.block_until_ready(forward(scores)),
    lambda: jax.block_until_ready(both(scores, cotangent)),
  )


def eager_contender(operator, shape):
  """A JAX operator as it is called where nothing else compiles."""
  scores = jnp.asarray(draw(shape))
  return lambda: jax.block_until_ready(operator(scores))


def eager_contenders(shape):
  """Name -> an eager call of softmax and of what is compiled by itself."""
  targets = jax.nn.softmax(jnp.asarray(draw(shape, seed=1)))
  operators = {
    'jax.nn.softmax': jax.nn.softmax,
    'ops.sparsemax': ops.sparsemax,
    'ops.entmax15': ops.entmax15,
    'ops.entmax(1.3)': functools.partial(ops.entmax, alpha=1.3),
    f'ops.capped_simplex({TOP_K})': functools.partial(
      ops.capped_simplex, k=TOP_K
    ),
    'losses.fenchel_young': functools.partial(
      ops.losses.fenchel_young, targets=targets
    ),
  }
  return {
    name: eager_contender(operator, shape)
    for name, operator in operators.items()
  }


def torch_contender(torch, operator, shape):
  """Forward and forward + backward of a PyTorch operator."""
  scores = torch.tensor(draw(shape))
  cotangent = torch.tensor(draw(shape, seed=1))

  def forward():
    with torch.no_grad():
      operator(scores)

  def both():
    leaf = scores.clone().requires_grad_()
    operator(leaf).backward(cotangent)

  return forward, both


def draw(shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return values.astype(np.float32)


def contenders(shape):
  """Name -> (forward, forward + backward) of the installed operators."""
  rows = jax.vmap
  found = {
    'jax.nn.softmax': jax_contender(jax.nn.softmax, shape),
    'ops.sparsemax': jax_contender(ops.sparsemax, shape),
    'ops.entmax15': jax_contender(ops.entmax15, shape),
    'ops.entmax(1.3)': jax_contender(
      functools.partial(ops.entmax, alpha=1.3), shape
    ),
    f'ops.capped_simplex({TOP_K})': jax_contender(
      functools.partial(ops.capped_simplex, k=TOP_K), shape
    ),
    'optax simplex': jax_contender(
      rows(optax.projections.projection_simplex), shape
    ),
  }
  if jaxopt := optional('jaxopt'):
    found['jaxopt simplex'] = jax_contender(
      rows(jaxopt.projection.projection_simplex), shape
    )
  if optional('ott') and shape[1] <= 1000:
    soft_sort = importlib.import_module('ott.tools.soft_sort')
    found[f'ott top-k({TOP_K})'] = jax_contender(
      functools.partial(soft_sort.topk_mask, k=TOP_K, axis=-1), shape
    )
  torch, entmax = optional('torch'), optional('entmax')
  if torch and entmax:
    torch.set_num_threads(2)
    for name, operator in (
      ('entmax sparsemax sort', entmax.sparsemax),
      ('entmax sparsemax k=100', functools.partial(entmax.sparsemax, k=100)),
      ('entmax entmax15 sort', entmax.entmax15),
      ('entmax entmax15 k=100', functools.partial(entmax.entmax15, k=100)),
      ('entmax bisect 1.3', functools.partial(entmax.entmax_bisect, alpha=1.3)),
    ):
      found[name] = torch_contender(torch, operator, shape)
  return found


def optional(name):
  """A module, or None where it is not installed."""
  try:
    return importlib.import_module(name)
  except ImportError:
    return None


def medians(functions, *, seconds):
  """Median ms of each function, rounds interleaved, after a warm-up."""
  for function in functions.values():
    function()
  times = {name: [] for name in functions}
  deadline = time.perf_counter() + seconds
  while time.perf_counter() < deadline or min(map(len, times.values())) < 5:
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      times[name].append(1e3 * (time.perf_counter() - start))
  return {name: statistics.median(values) for name, values in times.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='two small shapes')
  shapes = SHAPES[:2] if parser.parse_args().quick else SHAPES
  for shape in shapes:
    found = contenders(shape)
    forward = medians({n: f[0] for n, f in found.items()}, seconds=4)
    both = medians({n: f[1] for n, f in found.items()}, seconds=6)
    print(f'\n{shape[0]} x {shape[1]}   forward ms  + backward ms   / softmax')
    for name, value in both.items():
      ratio = value / both['jax.nn.softmax']
      print(f'{name:24}{forward[name]:9.3f}{value:14.3f}{ratio:13.2f}')
  shape = SHAPES[0]
  eager = medians(eager_contenders(shape), seconds=4)
  print(f'\n{shape[0]} x {shape[1]}   eager call ms   / softmax')
  for name, value in eager.items():
    ratio = value / eager['jax.nn.softmax']
    print(f'{name:24}{value:9.3f}{ratio:13.2f}')


if __name__ == '__main__':
  main()
