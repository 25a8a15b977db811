"""Bias and standard deviation of gradient estimators against enumeration.

python benchmarks/estimators.py [--picture=docs/estimators.png]

The search is over 30 documents with random costs and random scores, peaked or
flat. Most estimators use about 4 documents. Bias is the distance of the mean
gradient over 20,000 draws from the exact gradient; spread is the root mean
square distance of a draw from that mean; both are divided by the norm of the
exact gradient. The floor is the bias expected of an unbiased estimator with
this number of draws.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import estimators

NUM_DOCUMENTS, DRAWS, LOOKS = 30, 20_000, 4


def contenders(costs):
  """Name -> loss(rng, scores)."""
  bind = functools.partial
  found = {
    f'rescore, best {LOOKS}': lambda rng, z: estimators.rescore(
      z, costs, k=LOOKS
    ),
    'rescore, best 16': lambda rng, z: estimators.rescore(z, costs, k=16),
  }
  for temperature in (0.3, 1.0, 3.0):
    found[f'straight_through, t {temperature}'] = bind(
      estimators.straight_through, costs=costs, temperature=temperature
    )
  found[f'leave_one_out, {LOOKS} draws'] = bind(
    estimators.leave_one_out, costs=costs, num_samples=LOOKS
  )
  found[f'leave_one_out_set, {LOOKS} documents'] = bind(
    estimators.leave_one_out_set, costs=costs, k=LOOKS
  )
  found[f'expected_utility, {LOOKS} documents'] = bind(
    estimators.expected_utility, utilities=-costs, k=LOOKS
  )
  return found


def measure(estimate, scores, exact):
  """Bias, spread and floor of the bias, relative to the exact gradient."""
  keys = jax.random.split(jax.random.key(1), DRAWS)
  slopes = jax.jit(jax.vmap(jax.grad(estimate, argnums=1), (0, None)))
  drawn = np.asarray(slopes(keys, scores), np.float64)
  size = np.linalg.norm(exact)
  bias = np.linalg.norm(drawn.mean(0) - exact) / size
  spread = np.sqrt(((drawn - drawn.mean(0)) ** 2).sum(1).mean()) / size
  return bias, spread, spread / DRAWS**0.5


def run():
  """Returns {(kind of scores, estimator): (bias, spread, floor)}."""
  rng = np.random.default_rng(0)
  costs = jnp.asarray(rng.exponential(size=NUM_DOCUMENTS), jnp.float32)
  noise = rng.normal(size=NUM_DOCUMENTS)
  table = {}
  for kind, scale in (('flat', 0.5), ('peaked', 2.5)):
    scores = jnp.asarray(scale * noise, jnp.float32)
    exact = np.asarray(jax.grad(estimators.enumerate_all)(scores, costs))
    for name, estimate in contenders(costs).items():
      table[kind, name] = measure(estimate, scores, exact)
  return table


def draw_picture(table, path):
  """Plots bias against spread, one panel per kind of scores."""
  import matplotlib.pyplot as plt

  figure, panels = plt.subplots(
    1, 2, figsize=(9.5, 4.2), sharey=True, layout='constrained'
  )
  names = list(dict.fromkeys(name for _, name in table))
  colours = plt.get_cmap('tab10').colors
  for axes, kind in zip(panels, ('flat', 'peaked'), strict=True):
    for name, colour in zip(names, colours, strict=False):
      bias, spread, _ = table[kind, name]
      axes.scatter(
        max(spread, 0.003), max(bias, 0.003), color=colour, label=name, s=45
      )
    axes.set(xscale='log', yscale='log', title=f'{kind} scores')
    axes.set_xlabel('spread of a draw / exact gradient')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
  panels[0].set_ylabel('bias / exact gradient')
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc='outside right',
    frameon=False,
    fontsize=8,
  )
  figure.savefig(path, dpi=160)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--picture', help='output file for a plot of bias against spread'
  )
  arguments = parser.parse_args()
  table = run()
  print(f'{"scores":8}{"estimator":34}{"bias":>8}{"spread":>9}{"floor":>9}')
  for (kind, name), (bias, spread, floor) in table.items():
    print(f'{kind:8}{name:34}{bias:8.3f}{spread:9.3f}{floor:9.3f}')
  if arguments.picture:
    draw_picture(table, arguments.picture)


if __name__ == '__main__':
  main()
