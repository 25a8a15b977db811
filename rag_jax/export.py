"""Export of a system to common formats.

The exported folder has the documents with their docids, the tokenizer, the
parameters of each component as safetensors, and each BERT, T5 and Llama in the
form that `transformers` and the fields `query_encoder.weights` and
`reader.weights` read. `vectors.npy` has the vectors of the documents.
"""

import dataclasses
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from rag_jax import checkpoint, console, files
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax.components import query_encoder
from rag_jax.data import tokenizers
from rag_jax.nn import bert_weights, llama, published_form, t5, weights
from rag_jax.readers import language_models


def export(system: systems.System, folder: str | os.PathLike[str]) -> str:
  """Writes a system to a new folder.

  Args:
    system: from `rag_jax.load`.
    folder: a new or empty folder.

  Returns:
    The written files, one per line: `documents.jsonl` (id, title, text and
    codes of each document), `config.json`, `tokenizer.json`,
    `COMPONENT.safetensors` with parameters under names such as
    'encoder/block_0/attention/query/kernel', for a component that contains
    a BERT the folder `COMPONENT-bert` in Hugging Face format, for a T5 or Llama
    `reader-t5` or `reader-llama`, and `vectors.npy`, float32[n, D], the vectors
    that the search compares with the query's, a row for each line of
    `documents.jsonl`.

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
  _write_documents(system, path / 'documents.jsonl')
  np.save(path / 'vectors.npy', vectors(system))
  files.write(path / 'config.json', configs.to_json(system.config))
  tokenizers.save(system.tokenizer, path / 'tokenizer.json')
  if system.reader_tokenizer is not None:
    tokenizers.save(system.reader_tokenizer, path / 'reader-tokenizer.json')
  for name, params in system.params.items():
    weights.write(path / f'{name}.safetensors', checkpoint.named(params))
    if isinstance(params, dict) and 'bert' in params:
      _write_bert(system, name, path / f'{name}-bert')
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
    table = np.asarray(params['id_decoder']['table'])[rows]
    return np.asarray(query_encoder.normalise(jnp.asarray(table)))
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
  with path.open('w', encoding='utf-8') as file:
    for document, docid in zip(system.documents, codes, strict=False):
      if document is not None:
        row = dataclasses.asdict(document) | {'codes': docid.tolist()}
        file.write(json.dumps(row, ensure_ascii=False) + '\n')


def _write_bert(
  system: systems.System, component: str, folder: pathlib.Path
) -> None:
  """Writes a component's BERT in Hugging Face format."""
  params = system.params[component]['bert']
  sizes = query_encoder.bert_config(getattr(system.config, component))
  config = bert_weights.with_table_sizes(sizes, params)
  folder.mkdir()
  state = bert_weights.to_state_dict(params, config)
  weights.write(folder / 'model.safetensors', state)
  text = json.dumps(weights.bert_description(config), indent=2) + '\n'
  files.write(folder / 'config.json', text)
  own = system.reader_tokenizer if component == 'reader' else None
  tokenizers.save(own or system.tokenizer, folder / 'tokenizer.json')
