"""Draws the pictures of the documentation; needs the extra `dev`.

python docs/figures.py operators
python docs/figures.py answer_only WITH_GRADIENT_WORKDIR CUT_OFF_WORKDIR
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from rag_jax import ops

DOCS = pathlib.Path(__file__).parent
METRIC = 'after ranker/Hits@1'


def curve(workdir: str) -> tuple[list[int], list[float]]:
  """Steps and Hits@1 on test_phrasing, from a run's metrics.jsonl."""
  text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
  records = [json.loads(line) for line in text.splitlines()]
  records = [r for r in records if r['split'] == 'test_phrasing']
  return [r['step'] for r in records], [r[METRIC] for r in records]


def answer_only(with_gradient: str, cut_off: str) -> None:
  """Hits@1 over training, with and without the reader's gradient."""
  figure, axes = plt.subplots(figsize=(6, 3.2), layout='constrained')
  for workdir, colour, label, above in (
    (with_gradient, '#1b6ca8', "trained by the answer's loss", -0.07),
    (cut_off, '#999999', "reader's gradient cut off", 0.03),
  ):
    steps, values = curve(workdir)
    axes.plot(steps, values, color=colour, linewidth=2)
    axes.annotate(
      label,
      (steps[-1], values[-1] + above),
      color=colour,
      horizontalalignment='right',
    )
  axes.set(
    xlabel='step',
    ylabel='Hits@1 on test_phrasing',
    ylim=(0, 1),
    xlim=(0, None),
    title='Retrieval learned from answers, no gold document in any loss',
  )
  axes.title.set_fontsize(10)
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(DOCS / 'answer_only.png', dpi=160)


def operators() -> None:
  """Map and Jacobian of each operator on scores (t, 0, -0.5, ...)."""
  key = jax.random.key(0)
  families = {
    'softmax': ops.softmax,
    'entmax15': ops.entmax15,
    'sparsemax': ops.sparsemax,
    'entmax, alpha 4': lambda z: ops.entmax(z, alpha=4.0),
    'capped_simplex, k 2': lambda z: ops.capped_simplex(z, k=2),
    'relaxed_top_k, k 2': lambda z: ops.relaxed_top_k(z, k=2, temperature=0.3),
    'perturbed_top_k, k 2': lambda z: ops.perturbed_top_k(
      key, z, k=2, temperature=0.3, num_samples=4000
    ),
  }
  others = jnp.array([0.0, -0.5, -1.0])
  t = jnp.linspace(-3, 3, 241)
  scores = jnp.concatenate(
    [t[:, None], jnp.broadcast_to(others, (len(t), 3))], axis=1
  )
  colours = ['#1b6ca8', '#d1495b', '#edae49', '#66a182']
  figure, panels = plt.subplots(
    2,
    len(families),
    figsize=(2.1 * len(families), 4.2),
    layout='constrained',
    height_ratios=(1.3, 1),
  )
  place = jnp.concatenate([jnp.array([0.4]), others])
  for column, (name, operator) in enumerate(families.items()):
    axes = panels[0, column]
    weights = jax.vmap(operator)(scores)
    for slot, colour in enumerate(colours):
      axes.plot(t, weights[:, slot], color=colour, linewidth=1.8)
    axes.set_title(name, fontsize=9)
    axes.set(ylim=(-0.05, 1.05), xlabel='t')
    axes.spines[['top', 'right']].set_visible(False)
    jacobian = jax.jacobian(operator)(place)
    axes = panels[1, column]
    axes.imshow(jacobian, cmap='RdBu', vmin=-0.6, vmax=0.6)
    for (row, other), value in np.ndenumerate(jacobian):
      text = '0' if abs(value) < 0.005 else f'{value:.2f}'.replace('0.', '.')
      axes.text(other, row, text, ha='center', va='center', fontsize=7)
    axes.set(xticks=[], yticks=[])
  panels[0, 0].set_ylabel('weights of (t, 0, -.5, -1)')
  panels[1, 0].set_ylabel('Jacobian at t = .4')
  figure.savefig(DOCS / 'operators.png', dpi=140)


if __name__ == '__main__':
  {'operators': operators, 'answer_only': answer_only}[sys.argv[1]](
    *sys.argv[2:]
  )
