"""Comparison of docid schemes on a corpus, before training."""

import dataclasses
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from rag_jax import config as configs
from rag_jax import (
  console,
  files,
  measures,
  model,
  pretrained,
  queries,
  starts,
  store,
  trec,
  types,
  workdir,
)
from rag_jax.components import query_encoder
from rag_jax.data import batches, pipeline
from rag_jax.index import docids, statistics

SAMPLE = 500  # maximum number of questions


def run(config: configs.Config, folder: str | os.PathLike[str]) -> str:
  """Assigns docids by every scheme and measures retrieval, without training.

  Args:
    config: the experiment; `config.docid` has the sizes of the schemes.
    folder: folder for docids.json and docids.png.

  Returns:
    The table as text.

  Raises:
    ValueError: if the data is invalid, or no question has a gold document.
  """
  configs.check(config)
  folder, config = store.local(folder), pretrained.complete(config)
  dataset = workdir.load_data(config)
  split, questions = _questions(config, dataset)
  tokenizer = pretrained.tokenizer(config, dataset)
  weights, _ = pretrained.load(config)
  if config.init_from:
    source, size = starts.read(config), tokenizer.get_vocab_size()
    weights = starts.with_components(source, config, weights, vocab_size=size)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  for note in workdir.notes(config, dataset, tokenizer, encoded):
    console.note(note)
  groups = trec.groups(dataset.documents)
  gold, _ = measures.gold(questions, rows, groups)
  tokens = batches.encode_questions(
    tokenizer,
    questions,
    rows,
    config.data,
    max_tokens=queries.limit(config),
    targets=False,
  )
  arguments = config, dataset.documents, tokenizer, encoded.tokens, weights
  vectors = workdir.document_vectors(*arguments, folder.parent)
  embedded = model.embed(
    model.init_key(config.seed),
    config.model,
    jnp.asarray(encoded.tokens),
    jnp.asarray(tokens.query),
    vocab_size=tokenizer.get_vocab_size(),
    pretrained=weights,
  )
  unit = query_encoder.is_unit(config.query_encoder)
  found = statistics.compare(
    vectors,
    np.asarray(embedded),
    gold,
    [dataclasses.replace(config.docid, scheme=name) for name in docids.SCHEMES],
    titles=[document.title for document in dataset.documents],
    seed=config.seed,
    groups=groups,
    unit=unit,
  )
  found += statistics.ngrams(
    np.asarray(encoded.tokens),
    vectors,
    np.asarray(embedded),
    gold,
    groups=groups,
    unit=unit,
  )
  note = f'{split}: {len(questions)} questions, untrained vectors'
  if config.docid.further:
    note += f'; without docid.further={config.docid.further}'
  return f'{statistics.table(found)}\n\n{note}\n{_save(found, folder)}'


def _questions(
  config: configs.Config, dataset: types.Dataset
) -> tuple[str, list[types.Question]]:
  """The first split that is measured, and questions with gold documents."""
  split = next(iter(pipeline.check_splits(dataset, config.data)), '')
  questions = [q for q in dataset.splits.get(split, ()) if q.document_ids]
  if not questions:
    raise ValueError(
      f'split {split!r} must have questions with gold documents, got none. '
      'Set --config.data.eval_splits to a split that has, or search without '
      'questions by rag-jax train --config=zero_shot.'
    )
  return split, questions[:SAMPLE]


def _save(rows: list[statistics.Row], folder: pathlib.Path) -> str:
  """Writes docids.json and docids.png; returns a note about the picture."""
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
  files.write(folder / 'docids.json', text + '\n')
  try:
    draw(rows, folder / 'docids.png')
  except ImportError:
    return "for a picture, pip install '.[dev]'"
  return f'picture: {folder / "docids.png"}'


def draw(rows: list[statistics.Row], path: pathlib.Path) -> None:
  """Draws Hits@10, entropy of the codes and memory of each scheme."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout='constrained')
  schemes = list(dict.fromkeys(row.scheme for row in rows))
  colours = ['#1b6ca8', '#d1495b', '#edae49']
  for place, mode in enumerate(statistics.MODES):
    bars = [row for row in rows if row.mode == mode]
    at = [schemes.index(row.scheme) + 0.27 * (place - 1) for row in bars]
    panels[0].barh(
      at,
      [row.hits[10] for row in bars],
      height=0.25,
      color=colours[place],
      label=mode,
    )
  panels[0].set(yticks=range(len(schemes)), xlim=(0, 1), xlabel='Hits@10')
  panels[0].set_yticklabels(schemes)
  panels[0].legend(frameon=False, fontsize=8)
  first = {row.scheme: row.statistics for row in reversed(rows)}
  for scheme in schemes:
    levels = first[scheme].levels
    panels[1].plot(
      range(1, len(levels) + 1),
      [level.entropy for level in levels],
      marker='o',
      label=scheme,
    )
  panels[1].set(xlabel='level', ylabel='entropy of the codes, bits')
  panels[1].legend(frameon=False, fontsize=7)
  panels[2].barh(
    range(len(schemes)),
    [first[s].trie_memory / first[s].documents for s in schemes],
    color=colours[0],
  )
  panels[2].set(yticks=[], xlabel='bytes of the trie per document')
  for axes in panels:
    axes.spines[['top', 'right']].set_visible(False)
  panels[0].invert_yaxis()
  panels[2].invert_yaxis()
  figure.savefig(path, dpi=130)
  plt.close(figure)
