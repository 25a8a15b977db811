"""What a workdir holds: whose it is, the tokenizer and the index."""

import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import rag, types
from rag_jax.components import query_encoder, t5_reader
from rag_jax.data import formats, pipeline, tokenizers, words
from rag_jax.index import encoding
from rag_jax.index import index as indexes
from rag_jax.nn import bert_weights, published, t5, t5_weights, weights
from rag_jax.ops import lexical
from rag_jax.ops import trie as tries


@flax.struct.dataclass
class Prepared:
  """Data, tokenizer and index of an experiment; the index is on the device."""

  dataset: types.Dataset = flax.struct.field(pytree_node=False)
  tokenizer: hf_tokenizers.Tokenizer = flax.struct.field(pytree_node=False)
  vocabulary: words.Vocabulary | None = flax.struct.field(pytree_node=False)
  index: indexes.Index
  pretrained: rag.Pretrained

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return self.tokenizer.get_vocab_size()

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """Row of each document in the index, by its id."""
    return {d.id: i for i, d in enumerate(self.dataset.documents)}

  def encode(
    self, questions: Sequence[types.Question], config: pipeline.DataConfig
  ) -> pipeline.Questions:
    """Questions as arrays, in the tokens and words of the documents."""
    return pipeline.encode_questions(
      self.tokenizer, questions, self.rows, config, self.vocabulary
    )


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
  pretrained = load_pretrained(config)
  claim(workdir, config)
  return prepare(config, dataset, pretrained, workdir)


def prepare(
  config: configs.Config,
  dataset: types.Dataset,
  pretrained: rag.Pretrained,
  workdir: pathlib.Path,
) -> Prepared:
  """Makes the tokenizer and the index, or loads those the workdir holds."""
  tokenizer = _tokenizer(config, dataset, workdir)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  for note in (*dataset.notes, *_notes(config, dataset, encoded.truncated)):
    print(f'note: {note}', file=sys.stderr)
  index_path = workdir / 'index.npz'
  is_published = pretrained.query_encoder is not None
  if is_published or not index_path.exists():
    vectors = document_vectors(
      config, dataset, tokenizer, encoded.tokens, pretrained, workdir.parent
    )
  if is_published:
    pretrained = dataclasses.replace(pretrained, vectors=jnp.asarray(vectors))
  if not index_path.exists():
    index = indexes.build(
      encoded.tokens,
      vectors,
      config.docid,
      seed=config.seed,
      titles=[document.title for document in dataset.documents],
    )
    indexes.save(index, index_path)
  index = indexes.load(index_path)
  if not np.array_equal(np.asarray(index.tokens), encoded.tokens):
    raise ValueError(
      f'data.path {config.data.path!r} holds other documents than the index '
      f'in {str(workdir)!r}. Use another --workdir, or the same data.'
    )
  vocabulary, index = _complete(config, dataset, tokenizer, index)
  return Prepared(
    dataset=dataset,
    tokenizer=tokenizer,
    vocabulary=vocabulary,
    index=index,
    pretrained=pretrained,
  )


def load_pretrained(config: configs.Config) -> rag.Pretrained:
  """Reads the published weights that the components name, if any.

  Raises:
    ValueError: if a size in the configuration is not that of the weights, or
      they have no row for some token.
  """
  found: dict[str, Any] = {}
  for part in ('query_encoder', 'reader'):
    own = getattr(config, part)
    if not own.weights:
      continue
    folder = published.resolve(own.weights, 'model.safetensors').parent
    if part == 'reader' and own.kind == 'fusion':
      found[part] = _load_t5(part, own, folder)
    else:
      found[part] = _load_bert(part, own, folder)
    _check_vocabulary(config, part, len(found[part]['embedding']))
  return rag.Pretrained(**found)


def _load_bert(part: str, config: Any, folder: pathlib.Path) -> rag.Params:
  sizes = weights.bert_config(folder)
  _check_sizes(part, config, sizes)
  state = weights.read(folder / 'model.safetensors')
  return bert_weights.from_state_dict(state, sizes)


def _load_t5(part: str, config: Any, folder: pathlib.Path) -> rag.Params:
  sizes = weights.t5_config(folder)
  _check_sizes(part, config, sizes)
  state = weights.read(folder / 'model.safetensors')
  params = t5_weights.from_state_dict(state, sizes)
  told = t5.sizes(params, num_heads=sizes.num_heads)
  for name in ('epsilon', 'max_distance'):
    if getattr(told, name) != getattr(sizes, name):
      raise ValueError(
        f'{part}.weights must be of a T5 with {name} {getattr(told, name)}, '
        f'got {getattr(sizes, name)} in {config.weights!r}. Give another T5.'
      )
  return params


def _check_sizes(part: str, ours: Any, sizes: Any) -> None:
  for name in ('width', 'num_layers', 'num_heads', 'hidden'):
    if getattr(ours, name) != getattr(sizes, name):
      raise ValueError(
        f'{part}.{name} must be {getattr(sizes, name)} as in the weights '
        f'{ours.weights!r}, got {getattr(ours, name)}. '
        f'Set --config.{part}.{name}={getattr(sizes, name)}.'
      )


def _check_vocabulary(config: configs.Config, part: str, rows: int) -> None:
  """Raises a ValueError on tokens that published weights have no row for."""
  tokenizer = _published_tokenizer(config)
  count = max(tokenizer.get_vocab().values()) + 1
  own = f'{part}.weights {getattr(config, part).weights!r}'
  if count > rows:
    raise ValueError(
      f'data.tokenizer must have at most the {rows} tokens of {own}, got '
      f'{count} of {config.data.tokenizer!r}. Set --config.data.tokenizer to '
      'that of the weights.'
    )
  writes = part == 'reader' and config.reader.kind == 'fusion'
  end = tokenizer.token_to_id('</s>')
  if writes and end != t5_reader.END:
    raise ValueError(
      f'data.tokenizer must end texts with </s>, token {t5_reader.END}, as '
      f'{own} do, got token {end} of {config.data.tokenizer!r}. Set '
      '--config.data.tokenizer to that of the T5; a BERT does not share it.'
    )


def _tokenizer(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> hf_tokenizers.Tokenizer:
  """The tokenizer that the workdir holds; on the first run it is made."""
  path = workdir / 'tokenizer.json'
  if path.exists():
    return tokenizers.load(path)
  tokenizer = make_tokenizer(config, dataset)
  tokenizers.save(tokenizer, path)
  return tokenizer


def make_tokenizer(
  config: configs.Config, dataset: types.Dataset
) -> hf_tokenizers.Tokenizer:
  """The published tokenizer that `data.tokenizer` names, or one learned."""
  if not config.data.tokenizer:
    return pipeline.train_tokenizer(dataset, config.data)
  return _published_tokenizer(config)


def _published_tokenizer(config: configs.Config) -> hf_tokenizers.Tokenizer:
  path = published.resolve(config.data.tokenizer, 'tokenizer.json')
  return tokenizers.load_published(path)


def document_vectors(
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  tokens: np.ndarray,
  pretrained: rag.Pretrained,
  folder: pathlib.Path,
) -> np.ndarray:
  """What documents are named by, and tables start from, float32[N, D].

  Those of a published encoder, which reads more of a text and in its special
  tokens, are kept in `folder`/vectors; others are of `tokens`, int32[N, P].
  """
  if pretrained.query_encoder is None:
    vectors = rag.document_vectors(
      init_key(config),
      config.model,
      jnp.asarray(tokens),
      vocab_size=tokenizer.get_vocab_size(),
    )
    return np.asarray(vectors)
  texts = [pipeline.document_text(d) for d in dataset.documents]
  size = config.data.max_vector_tokens
  framed = tokenizers.encode(tokenizer, texts, max_tokens=size, framed=True)
  return encoding.encode(
    pretrained.query_encoder,
    query_encoder.bert_config(config.query_encoder),
    framed.tokens,
    folder=folder / 'vectors',
  )


def _complete(
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  index: indexes.Index,
) -> tuple[words.Vocabulary | None, indexes.Index]:
  """Adds what is quicker made again than stored."""
  frame = sum(tokenizers.frame(tokenizer), [])
  if len(frame) == 2:
    index = dataclasses.replace(index, frame=jnp.asarray(frame, jnp.int32))
  if config.query_encoder.weights and not config.loss.self_index:
    rows = {d.id: i for i, d in enumerate(dataset.documents)}
    asked = np.zeros(len(rows), np.float32)
    for question in pipeline.train_questions(dataset, config.data):
      asked[[rows[name] for name in question.document_ids]] = 1
    index = dataclasses.replace(
      index, asked=tries.sum_below(index.trie, jnp.asarray(asked)) > 0
    )
  if not config.data.max_query_words:
    return None, index
  texts = words.document_texts(
    dataset.documents, title_weight=config.data.title_weight
  )
  vocabulary = words.build(texts)
  lexicon = lexical.build(
    words.encode(vocabulary, texts),
    vocab_size=vocabulary.size,
    k1=config.data.bm25_k1,
    b=config.data.bm25_b,
    pair_weight=config.data.pair_weight,
  )
  return vocabulary, dataclasses.replace(index, lexicon=lexicon)


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
    found = dict(_flatten(json.loads(path.read_text(encoding='utf-8'))))
  except (ValueError, AttributeError) as error:
    raise ValueError(
      f'{str(path)!r} is damaged ({error}). Set another --workdir.'
    ) from error
  ours = _values(config)
  if strange := found.keys() - ours.keys():
    name = min(strange)
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment of another version, with '
      f'{name}={found[name]!r}. Set another --workdir.'
    )
  # A field that is younger than the experiment does nothing by default.
  stored = _values(configs.Config()) | found
  for name, value in sorted(ours.items()):
    if value == stored[name] or name in configs.MAY_CHANGE:
      continue
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment with {name}='
      f'{stored[name]!r}, got {value!r}. Set another --workdir, or '
      f'--config.{name}={stored[name]}.'
    )


def _notes(
  config: configs.Config, dataset: types.Dataset, truncated: int
) -> Iterator[str]:
  """What the user should know of how the data was taken in."""
  count = len(dataset.documents)
  if truncated:
    yield (
      f'{truncated} of {count} documents are cut after '
      f'{config.data.max_document_tokens} tokens '
      '(--config.data.max_document_tokens).'
    )
  if config.search.beam_size > count:
    yield (
      f'search.beam_size is {config.search.beam_size}, but there are only '
      f'{count} documents; empty places are masked.'
    )
  if config.data.labelled_questions:
    asked = pipeline.train_questions(dataset, config.data)
    kept = sum(bool(question.document_ids) for question in asked)
    yield (
      f'{kept} of {len(asked)} training questions keep their gold documents '
      f'(--config.data.labelled_questions={config.data.labelled_questions}).'
    )


def _values(config: configs.Config) -> dict[str, Any]:
  """Every field by its dotted name, as config.json has it."""
  return dict(_flatten(json.loads(json.dumps(configs.as_dict(config)))))


def _flatten(values: dict[str, Any], prefix: str = '') -> Iterator:
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
