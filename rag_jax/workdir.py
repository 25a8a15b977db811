"""What a workdir holds: whose it is, the tokenizer and the index."""

import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import rag, types
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.index import index as indexes


@flax.struct.dataclass
class Prepared:
  """Data, tokenizer and index of an experiment; the index is on the device."""

  dataset: types.Dataset = flax.struct.field(pytree_node=False)
  tokenizer: hf_tokenizers.Tokenizer = flax.struct.field(pytree_node=False)
  index: indexes.Index

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return self.tokenizer.get_vocab_size()

  @property
  def rows(self) -> dict[str, int]:
    """Row of each document in the index, by its id."""
    return {d.id: i for i, d in enumerate(self.dataset.documents)}


def open(config: configs.Config, workdir: pathlib.Path) -> Prepared:
  """Loads the data, claims the workdir, and makes or loads what it holds.

  Whatever is wrong with the data is said before the workdir is touched. What
  was met on the way (documents cut, answers that no document holds) is printed.

  Args:
    config: the experiment.
    workdir: its folder; made if it is not there.

  Returns:
    What training, measuring and asking need.

  Raises:
    ValueError: if the data is wrong, or the workdir is another experiment's.
  """
  dataset = formats.load(
    config.data.path, format=config.data.format, on_empty=config.data.on_empty
  )
  pipeline.check_splits(dataset, config.data)
  claim(workdir, config)
  return prepare(config, dataset, workdir)


def prepare(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> Prepared:
  """Makes the tokenizer and the index, or loads those the workdir holds."""
  tokenizer_path = workdir / 'tokenizer.json'
  if tokenizer_path.exists():
    tokenizer = tokenizers.load(tokenizer_path)
  else:
    tokenizer = pipeline.train_tokenizer(dataset, config.data)
    tokenizers.save(tokenizer, tokenizer_path)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  for note in (*dataset.notes, *_notes(config, len(encoded.tokens), encoded)):
    print(f'note: {note}', file=sys.stderr)
  index_path = workdir / 'index.npz'
  if not index_path.exists():
    vectors = rag.document_vectors(
      init_key(config),
      config.model,
      jnp.asarray(encoded.tokens),
      vocab_size=tokenizer.get_vocab_size(),
    )
    index = indexes.build(
      encoded.tokens,
      np.asarray(vectors),
      config.docid,
      seed=config.seed,
      titles=[document.title for document in dataset.documents],
    )
    indexes.save(index, index_path)
    return Prepared(dataset=dataset, tokenizer=tokenizer, index=index)
  index = indexes.load(index_path)
  if not np.array_equal(np.asarray(index.tokens), encoded.tokens):
    raise ValueError(
      f'data.path {config.data.path!r} holds other documents than the index '
      f'in {str(workdir)!r}. Use another --workdir, or the same data.'
    )
  return Prepared(dataset=dataset, tokenizer=tokenizer, index=index)


def init_key(config: configs.Config) -> jax.Array:
  """The key that parameters are made from, and with them the docids."""
  return jax.random.key(config.seed)


def claim(workdir: str | os.PathLike[str], config: configs.Config) -> None:
  """Writes config.json on the first run, and checks it on the next.

  Args:
    workdir: the folder; made if it is not there.
    config: the experiment; fields in `config.MAY_CHANGE` may differ between
      runs.

  Raises:
    ValueError: if the folder belongs to another experiment or to somebody
      else; nothing has been written then.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(
      f'workdir {str(workdir)!r} is a file. Set --workdir to a folder.'
    )
  path = workdir / 'config.json'
  if not path.exists():
    if workdir.exists() and any(workdir.iterdir()):
      raise ValueError(
        f'workdir {str(workdir)!r} holds files but no config.json, so it is '
        'not of an experiment. Set --workdir to a new or empty folder.'
      )
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    text = json.dumps(configs.as_dict(config), indent=2)
    partial.write_text(text + '\n', encoding='utf-8')
    os.replace(partial, path)
    return
  try:
    stored = dict(_flatten(json.loads(path.read_text(encoding='utf-8'))))
  except (ValueError, AttributeError) as error:
    raise ValueError(
      f'{str(path)!r} is damaged ({error}). Set another --workdir.'
    ) from error
  ours = dict(_flatten(json.loads(json.dumps(configs.as_dict(config)))))
  for name in sorted(stored.keys() | ours.keys()):
    if stored.get(name) == ours.get(name) or name in configs.MAY_CHANGE:
      continue
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment with {name}='
      f'{stored.get(name)!r}, got {ours.get(name)!r}. Set another '
      f'--workdir, or --config.{name}={stored.get(name)}.'
    )


def _notes(config: configs.Config, count: int, encoded: Any) -> Iterator[str]:
  """What the user should know of how the corpus was taken in."""
  if encoded.truncated:
    yield (
      f'{encoded.truncated} of {count} documents are cut after '
      f'{config.data.max_document_tokens} tokens '
      '(--config.data.max_document_tokens).'
    )
  if config.search.beam_size > count:
    yield (
      f'search.beam_size is {config.search.beam_size}, but there are only '
      f'{count} documents; empty places are masked.'
    )


def _flatten(values: dict[str, Any], prefix: str = '') -> Iterator:
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
