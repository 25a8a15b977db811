"""Draws the pictures of the documentation; needs the extra `dev`.

python docs/figures.py WITH_GRADIENT_WORKDIR CUT_OFF_WORKDIR
"""

import json
import pathlib
import sys

import matplotlib.pyplot as plt

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


if __name__ == '__main__':
  answer_only(*sys.argv[1:])
