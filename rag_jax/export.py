"""Export of a system to common formats.

The exported folder has the documents with their docids, the tokenizer, the
parameters of each component as safetensors, and each published encoder, T5 and
language model in the form that `transformers`, `sentence-transformers` and the
fields `query_encoder.weights` and `reader.weights` read. `vectors.npy` has the
vectors of the documents.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from rag_jax import checkpoint, console, files, matching, placement
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax.components import query_encoder
from rag_jax.data import tokenizer_files, tokenizers
from rag_jax.index import further
from rag_jax.nn import (
  encoders,
  llama,
  published,
  published_form,
  sentence_folder,
  t5,
  weights,
)
from rag_jax.readers import language_models


def export(system: systems.System, folder: str | os.PathLike[str]) -> str:
  """Writes a system to a new folder.

  Args:
    system: from `rag_jax.load`.
    folder: a new or empty folder.

  Returns:
    The written files, one per line: `documents.jsonl` (id, title, text and
    codes of each document, with `docid.further` also `further_codes`),
    `config.json`, `tokenizer.json`,
    `COMPONENT.safetensors` with parameters under names such as
    'encoder/block_0/attention/query/kernel', for a component on the weights of
    a published encoder the folder `COMPONENT-FAMILY`, such as `reader-bert`, in
    Hugging Face format, for a T5 or Llama `reader-t5` or `reader-llama`, and
    `vectors.npy`, float32[n, D], the vectors that the search compares with the
    query's, a row for each line of `documents.jsonl`.

  Raises:
    ValueError: if the folder is not empty.
  """
  path = pathlib.Path(folder)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise ValueError(
      f'export needs a new or empty folder, got {str(path)!r}. '
      'Set --to to another folder.'
    )
  path.mkdir(parents=True, exist_ok=True)
  params, index = placement.gathered(system.params, system.index)
  system = dataclasses.replace(system, params=params, index=index)
  _write_documents(system, path / 'documents.jsonl')
  np.save(path / 'vectors.npy', vectors(system))
  files.write(path / 'config.json', configs.to_json(system.config))
  tokenizers.save(system.tokenizer, path / 'tokenizer.json')
  if system.reader_tokenizer is not None:
    tokenizers.save(system.reader_tokenizer, path / 'reader-tokenizer.json')
  for name, params in system.params.items():
    weights.write(path / f'{name}.safetensors', checkpoint.named(params))
    if isinstance(params, dict) and 'bert' in params:
      family = getattr(system.config, name).architecture.family or 'bert'
      _write_encoder(system, name, path / f'{name}-{family}')
  _write_reader(system, path)
  written = sorted(p for p in path.rglob('*') if p.is_file())
  return '\n'.join(
    f'{p.stat().st_size:>12,} bytes  {p.relative_to(path)}' for p in written
  )


def vectors(system: systems.System) -> np.ndarray:
  """Vectors of the documents that the system has, float32[n, D]."""
  present = np.asarray([document is not None for document in system.documents])
  rows = np.flatnonzero(present)
  config, params = system.config.query_encoder, system.params
  if query_encoder.make(config).published:
    found = matching.document_vectors(
      params['id_decoder'],
      system.config.model,
      system.index,
      jnp.asarray(rows)[None],
    )
    return np.asarray(query_encoder.comparable(config, found[0]))
  tokens = jnp.asarray(np.asarray(system.index.tokens)[rows])
  found = query_encoder.embed_corpus(params['query_encoder'], tokens)
  return np.asarray(found)


def _write_reader(system: systems.System, path: pathlib.Path) -> None:
  """Writes a T5 or Llama in Hugging Face format, if the reader is one."""
  config, params = system.config.reader, system.params.get('reader', {})
  if 't5' in params:
    state, about = published_form.of_t5(
      params['t5'], t5.sizes(params['t5'], num_heads=config.num_heads)
    )
    folder = path / 'reader-t5'
  elif 'llama' in params:
    sizes = llama.sizes(
      params['llama'], **language_models.model_options(config)
    )
    state, about = published_form.of_language_model(
      params['llama'], sizes, end_token=config.end_token
    )
    folder = path / 'reader-llama'
  else:
    return
  folder.mkdir()
  weights.write(folder / 'model.safetensors', state)
  if about:
    files.write(folder / 'config.json', json.dumps(about, indent=2) + '\n')
  else:
    console.note(
      f'{str(folder)!r} has no config.json, since the scaling of its rotary '
      'positions is not stored; copy the file of the original weights there'
    )
  tokenizer = system.reader_tokenizer or system.tokenizer
  tokenizers.save(tokenizer, folder / 'tokenizer.json')


def _write_documents(system: systems.System, path: pathlib.Path) -> None:
  codes = np.asarray(system.index.codes)
  more: dict[int, list[list[int]]] = {}
  if system.index.further is not None:
    more = {row: [] for row in range(len(codes))}
    for place, docid in further.listed(system.index.further):
      more[place].append(docid)
  with path.open('w', encoding='utf-8') as file:
    for place, document in enumerate(system.documents):
      if document is not None:
        row = dataclasses.asdict(document) | {'codes': codes[place].tolist()}
        if more:
          row['further_codes'] = more[place]
        file.write(json.dumps(row, ensure_ascii=False) + '\n')


def _write_encoder(
  system: systems.System, component: str, folder: pathlib.Path
) -> None:
  """Writes a component's encoder in Hugging Face format."""
  config = getattr(system.config, component)
  params = system.params[component]
  state, about = encoders.publish(params['bert'], config)
  folder.mkdir()
  weights.write(folder / published.WEIGHTS, state)
  _write_json(folder / 'config.json', about)
  pad = max(config.architecture.pad_token, 0)
  own = system.reader_tokenizer if component == 'reader' else None
  text = tokenizer_files.restored(own or system.tokenizer, pad)
  files.write(folder / 'tokenizer.json', text)
  name = tokenizer_files.name_of(text, pad)
  # transformers takes the class and the padding from here.
  about = {'tokenizer_class': 'PreTrainedTokenizerFast', 'pad_token': name}
  _write_json(folder / 'tokenizer_config.json', about)
  if component == 'query_encoder':
    _write_modules(system.config, params.get('dense', {}), folder)


def _write_modules(
  config: configs.Config, dense: dict[str, Any], folder: pathlib.Path
) -> None:
  """Writes how vectors are made, in the form of sentence-transformers."""
  described = sentence_folder.describe(config.query_encoder, config.data, dense)
  for name, values in described.items():
    (folder / name).parent.mkdir(exist_ok=True)
    _write_json(folder / name, values)
  for number, layer in enumerate(dense.values()):
    state = {'linear.weight': np.asarray(layer['kernel']).T}
    if 'bias' in layer:
      state['linear.bias'] = np.asarray(layer['bias'])
    weights.write(folder / f'{number + 2}_Dense' / published.WEIGHTS, state)


def _write_json(path: pathlib.Path, values: Any) -> None:
  files.write(path, json.dumps(values, indent=2) + '\n')
