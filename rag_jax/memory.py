"""How much memory an experiment needs, estimated from its sizes.

The estimate is the sum of the parameters with optimiser state and gradients,
the tables of the corpus, and the largest terms of a step or of an evaluation.
It is made before anything is computed or written, so it knows the number of
documents but not the trie. The compiled steps of five experiments took 0.99 to
1.7 times the estimate (`tests/test_memory.py` compares one), so what is
refused would not have fitted.
"""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from rag_jax import config as configs
from rag_jax import sizes
from rag_jax import stage as stages

GIB = 2**30
FLOAT = 4  # bytes
# float32 values per token and layer that a backward pass keeps, in widths:
# queries, keys and values, what attention reads and writes, norms, residuals.
KEPT = 14
TITLE = 20  # characters
STATE = 4  # parameter, its gradient and Adam's two moments


def check(config: configs.Config, corpus: sizes.Corpus) -> None:
  """Raises a ValueError if an experiment needs more memory than there is.

  Args:
    config: the experiment; `train.max_memory_gib` is the limit, and 0 is what
      the machine has.
    corpus: sizes of the data.
  """
  limit = config.train.max_memory_gib * GIB or available()
  needed = estimate(config, corpus)
  if needed <= limit:
    return
  remedy = '--config.data.path to a smaller corpus'
  name, value = 'data.path', repr(config.data.path)
  if found := _remedy(config, corpus, limit):
    name, was, now = found
    value, remedy = f'{was}', f'--config.{name}={now}'
  raise ValueError(
    f'{name} {value} makes this experiment need about {_gib(needed)} GiB of '
    f'memory with {corpus.documents} documents, got {_gib(limit)} GiB. Set '
    f'{remedy}, or --config.train.max_memory_gib={math.ceil(needed / GIB) + 1} '
    'to try nevertheless.'
  )


def available() -> float:
  """Bytes of memory of the device, or of the machine if that is a CPU."""
  device = jax.local_devices()[0]
  found = (device.memory_stats() or {}).get('bytes_limit', 0)
  if found:
    return float(found)
  sizes = [float(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))]
  for name in ('memory.max', 'memory/memory.limit_in_bytes'):
    try:  # of a container
      sizes.append(float(pathlib.Path('/sys/fs/cgroup', name).read_text()))
    except (OSError, ValueError):  # none, or 'max'
      continue
  return min(sizes)


def estimate(config: configs.Config, corpus: sizes.Corpus) -> float:
  """Bytes that an experiment needs, the most of all stages and evaluation.

  Args:
    config: the experiment.
    corpus: sizes of the data.

  Returns:
    The estimate; the program itself and its compilation need about 1 GiB more.

  Example:
    >>> corpus = sizes.Corpus(documents=1000, questions=100, characters=10**6)
    >>> round(estimate(configs.Config(), corpus) / GIB, 1)
    1.0
  """
  encoder, decoder, reader = parameters(config, corpus)
  named = {'query_encoder': encoder, 'id_decoder': decoder, 'reader': reader}
  data = config.data
  row = (
    data.max_document_tokens
    + 2 * config.query_encoder.width
    + _levels(config, corpus)
  )
  titles = TITLE * data.title_weight * corpus.documents  # texts of BM25
  question = 2 * corpus.question_tokens(config.data) + corpus.gold_documents(
    config.data
  )
  question += data.max_answers * data.max_answer_tokens
  fixed = titles + FLOAT * (
    corpus.documents * row + corpus.questions * question
  )
  used = [_evaluation(config, corpus) + FLOAT * sum(named.values())]
  used.append(FLOAT * _quantiser(config, corpus))
  for _, stage in config.stages:
    if stage.steps:
      state = sum(
        size * (STATE if stage.rate(name) else 1)
        for name, size in named.items()
      )
      used.append(_step(config, corpus, stage) + FLOAT * state)
  return fixed + max(used)


def parameters(
  config: configs.Config, corpus: sizes.Corpus
) -> tuple[float, float, float]:
  """Numbers of parameters: query encoder, ID decoder and reader."""
  width, vocabulary = config.query_encoder.width, _vocabulary(config, corpus)
  encoder = float(corpus.encoder) or (
    vocabulary * width + width**2 + _layers(config.query_encoder, width)
  )
  if config.search.hops == 2:
    encoder *= 2  # and the network of the second query
  rows = _nodes(config, corpus)
  codes = _levels(config, corpus) * config.docid.num_codes
  if config.id_decoder.output == 'codebook':
    rows = codes
  elif config.id_decoder.shares_rows:
    own = config.docid.num_codes**config.id_decoder.table_levels
    if config.id_decoder.table_documents:
      own += corpus.documents / config.id_decoder.table_documents * codes
    rows = codes + min(own, rows)
  decoder = rows * width + _layers(config.id_decoder, width, attentions=2)
  own = config.reader
  reader = float(corpus.reader)
  if not own.weights:
    reader = vocabulary * own.width + own.window * own.width**2
    reader += _layers(own, own.width)
    if own.kind == 'fid':
      reader += _layers(own, own.width, attentions=2)
  return encoder, decoder, reader


def _quantiser(config: configs.Config, corpus: sizes.Corpus) -> float:
  """Parameters and activations of the training of docids."""
  docid = config.docid
  codes = min(docid.num_codes, corpus.documents)
  if docid.scheme == 'hierarchical_kmeans':
    codes = docid.branching
  if docid.scheme not in ('rq_vae', 'learned'):
    return 2.0 * codes * config.query_encoder.width
  sizes = [config.query_encoder.width, *docid.hidden_dims, docid.latent]
  pairs = zip(sizes[:-1], sizes[1:], strict=True)
  weights = 2 * sum(a * b for a, b in pairs)
  tables = docid.num_levels * docid.num_codes * docid.latent
  rows = docid.batch_size * (sum(sizes) + docid.num_levels * docid.num_codes)
  return float(STATE * (weights + tables) + rows)


def _layers(part: Any, width: int, *, attentions: int = 1) -> float:
  """Parameters of the transformer layers of a component."""
  each = attentions * 4 * width**2 + 2 * width * part.mlp_dim
  return float(part.num_layers) * each


def _vocabulary(config: configs.Config, corpus: sizes.Corpus) -> int:
  """An upper bound of the number of token ids."""
  if config.data.tokenizer:
    return 32_000
  return min(config.data.vocab_size, corpus.characters + 300)


def _nodes(config: configs.Config, corpus: sizes.Corpus) -> float:
  """Nodes of the trie: the documents, and prefixes that some of them share."""
  shared = 0.2 if config.docid.scheme == 'hierarchical_kmeans' else 0.5
  return (1 + shared) * corpus.documents * (1 + config.docid.further)


def _levels(config: configs.Config, corpus: sizes.Corpus) -> int:
  docid = config.docid
  if docid.scheme == 'hierarchical_kmeans':
    clusters = max(corpus.documents / docid.leaf_size, 1)
    depth = math.ceil(math.log(clusters) / math.log(docid.branching))
    return min(depth, docid.max_depth) + 2
  return 1 + (0 if docid.scheme == 'atomic' else docid.num_levels)


def _children(config: configs.Config, corpus: sizes.Corpus) -> int:
  docid = config.docid
  most = max(docid.num_codes, docid.leaf_size)
  return min(most, corpus.documents)


def _activations(
  part: Any, tokens: float, keys: float, *, width: int, keeps: bool
) -> float:
  """Bytes of a transformer over this many tokens, each attending to `keys`.

  Args:
    part: configuration of the component.
    tokens: number of tokens.
    keys: number of keys per token.
    width: of the states.
    keeps: whether a backward pass keeps the states of all layers.
  """
  each = KEPT * width + 2 * part.mlp_dim + 2 * part.num_heads * keys
  kept = part.num_layers if keeps and not getattr(part, 'remat', False) else 1
  return FLOAT * tokens * (each * min(kept, part.num_layers) + 2 * width)


def _step(
  config: configs.Config, corpus: sizes.Corpus, stage: stages.Stage
) -> float:
  """Bytes of the largest terms of a training step."""
  parts = config.train.accumulate
  if jax.default_backend() != 'cpu':  # devices with memory of their own
    parts *= jax.device_count()
  questions = stage.batch_size / parts
  losses = {name for name, _ in stage.losses}
  size = stage.read_size or config.search.read_size
  beam = 0.0
  if stage.searches:
    beam = config.search.beam_size + corpus.gold_documents(config.data)
    if stage.candidates == 'all':
      beam = corpus.documents
  else:
    size = corpus.gold_documents(config.data) + (
      stage.candidates == 'gold+negative'
    )
  total = _search(config, corpus, questions, beam, keeps=True)
  if 'indexing' in losses:
    crops = config.pseudo_queries.batch_size / parts
    total += _search(config, corpus, crops, 1, keeps=True)
  if losses - {'docid', 'ranking', 'indexing', 'margin', 'prefix_margin'}:
    length = config.data.max_document_tokens
    tokens = min(stage.passage_tokens or length, length)
    total += _reading(config, corpus, questions * size, tokens, keeps=True)
  return total


def _evaluation(config: configs.Config, corpus: sizes.Corpus) -> float:
  """Bytes of the largest terms of one batch of evaluation."""
  questions, search = config.train.eval_batch_size, config.search
  tokens = config.data.max_document_tokens
  read = questions * search.read_size
  found = _search(config, corpus, questions, search.beam_size, keeps=False)
  return max(found, _reading(config, corpus, read, tokens, keeps=False))


def _search(
  config: configs.Config,
  corpus: sizes.Corpus,
  questions: float,
  beam: float,
  *,
  keeps: bool,
) -> float:
  """Bytes to encode questions, to search with a beam and to score it."""
  encoder, tokens = config.query_encoder, corpus.question_tokens(config.data)
  width = encoder.width
  total = _activations(
    encoder,
    questions * tokens,
    tokens,
    width=width,
    keeps=keeps,
  )
  search = config.search
  if search.hops == 2 and beam > 1:  # the second query, and a second search
    read = tokens + config.data.max_document_tokens
    total += _activations(
      encoder,
      questions * search.hop_documents * read,
      read,
      width=width,
      keeps=keeps,
    )
    tokens += search.hop_tokens
    beam *= 4  # twice the documents, each scored by both searches
  nodes, levels = _nodes(config, corpus), _levels(config, corpus)
  if config.search.lexical_weight or not config.id_decoder.num_layers:
    total += 3 * FLOAT * questions * nodes
  if config.id_decoder.num_layers and beam:
    edges = min(_children(config, corpus) * width, nodes)
    prefixes = questions * beam * (1 + config.docid.further)
    steps = levels if keeps else 1
    total += FLOAT * prefixes * steps * edges
    total += _activations(
      config.id_decoder,
      prefixes * steps,
      levels + tokens,
      width=width,
      keeps=keeps,
    )
  if beam > 1 and not encoder.weights:  # vectors of documents
    total += FLOAT * questions * beam * config.data.max_document_tokens * width
  return total


def _reading(
  config: configs.Config,
  corpus: sizes.Corpus,
  passages: float,
  length: int,
  *,
  keeps: bool,
) -> float:
  """Bytes to read passages, each with its question, and to score answers."""
  data, reader = config.data, config.reader
  keys = length + corpus.question_tokens(config.data)
  width = reader.width
  total = _activations(reader, passages * keys, keys, width=width, keeps=keeps)
  if reader.kind in ('extractive', 'fid', 'sentences'):
    total += FLOAT * passages * keys * reader.window * width
  answers = data.max_answer_tokens + 1
  if reader.kind in ('extractive', 'bert'):
    return total + FLOAT * passages * length * data.max_answers
  if reader.kind == 'sentences':  # means of token states, and references
    return total + FLOAT * passages * (3 * length * width + answers)
  answers = max(answers, reader.max_answer_tokens)
  logits = 3 * FLOAT * passages * answers * _vocabulary(config, corpus)
  return total + logits / (1 if reader.kind == 'causal' else _fused(config))


def _fused(config: configs.Config) -> int:
  """Passages that a fusion-in-decoder reader joins into one decoder."""
  return max(config.search.read_size, 1)


def _remedy(
  config: configs.Config, corpus: sizes.Corpus, limit: float
) -> tuple[str, Any, Any] | None:
  """The size that is farthest above its default, and one that is enough."""
  found = []
  for name, value in _sizes(configs.as_dict(config), ''):
    largest = max(value) if isinstance(value, tuple) else value
    most = 2 ** max(largest - 1, 1).bit_length()
    while most > 1:
      most //= 2  # powers of two, which heads divide
      small: Any = min(value, most) if isinstance(value, int) else None
      if small is None:
        small = tuple(min(item, most) for item in value)
      try:
        smaller = configs.build(_with(config, name, small))
      except ValueError:
        continue  # such as a width that the heads do not divide
      if estimate(smaller, corpus) <= limit:
        odd = largest / max(_default(name), 1)
        found.append(((odd, most / largest), name, value, small))
        break
  if not found:
    return None
  _, name, value, small = max(found, key=lambda own: own[0])
  return name, value, small


def _default(name: str) -> int:
  """The default of a whole number, or the largest of a tuple of them."""
  group: Any = configs.Config()
  if name.startswith('stages.'):
    group, name = stages.Stage(), name.rpartition('.')[2]
  for part in name.split('.'):
    group = getattr(group, part)
  return max(group, default=1) if isinstance(group, tuple) else group


def _sizes(group: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
  """Dotted name and value of every whole number above 1, and tuple of them."""
  for name, value in group.items():
    if isinstance(value, dict):
      yield from _sizes(value, f'{prefix}{name}.')
    elif isinstance(value, (int, tuple)) and not isinstance(value, bool):
      items = value if isinstance(value, tuple) else (value,)
      if items and all(isinstance(item, int) for item in items):
        yield f'{prefix}{name}', value


def _with(config: configs.Config, name: str, value: Any) -> dict[str, Any]:
  """The values of an experiment with another one of a field."""
  changed = configs.as_dict(config)
  *path, last = name.split('.')
  group: Any = changed
  for part in path:
    group = group[part]
  group[last] = value
  return changed


def _gib(size: float) -> str:
  return f'{size / GIB:.3g}'
