"""The command `rag-jax plan`: where an index fits, before it is made.

Bytes follow from numbers alone: documents, tokens, codes, width and words. The
trie is that of uniform codes (`docid_sizes`), which is exact for random docids
and close for those of residual k-means.
"""

import dataclasses
import math

import numpy as np

from rag_jax import config as configs
from rag_jax import memory, sizes
from rag_jax.components import query_encoder
from rag_jax.index import docids
from rag_jax.ops import docid_layout, docid_order, docid_sizes, postings

GIB, FLOAT = memory.GIB, memory.FLOAT
SHARE = 0.9  # of a device's memory that can be filled
# Different words of a document as a share of its tokens, and Heaps' law for
# the vocabulary; of passages of Wikipedia.
WORDS = 0.5
HEAPS = 40
TEXT = 5  # characters of a token
# Schemes whose codes mean the same below every prefix: not those of a tree.
SHARED_CODES = docids.QUANTISED[1:]
OBJECT = 400  # bytes of a document in Python, beside its text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """What is planned for.

  Attributes:
    documents: number of documents.
    tokens: tokens that are kept of each.
    words: different words of each, for the lexicon.
    vocabulary: number of token ids.
    devices: number of devices.
    device_memory: GiB of one device; 0 = what this machine has.
    host_memory: GiB of the host; 0 = what this machine has.
  """

  documents: int
  tokens: int
  words: int
  vocabulary: int
  devices: int = 1
  device_memory: float = 0.0
  host_memory: float = 0.0

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    least = {'documents': 1, 'tokens': 1, 'words': 0, 'devices': 1}
    least |= {'device_memory': 0, 'host_memory': 0}
    for name, number in least.items():
      if not getattr(self, name) >= number:
        raise ValueError(
          f'--{name} must be at least {number}, got {getattr(self, name)}. '
          f'Set --{name}.'
        )
    if self.documents >= 2**31 - 1:
      raise ValueError(
        f'--documents must be below {2**31 - 1:,}, got {self.documents:,}. '
        'Divide the corpus: rows are int32.'
      )


@dataclasses.dataclass(frozen=True)
class Part:
  """Bytes of a part of the index, for one choice.

  Attributes:
    name: the part.
    choice: the choice, and the flag that makes it.
    device: on each device.
    host: in memory of each host, or on its disk if memory-mapped.
    is_divided: whether the devices of the axis fsdp divide `device`; see
      `placement`.
    shared: on each of them in addition, if they divide it.
    copies: how often they have it together, if they divide it.
  """

  name: str
  choice: str
  device: int
  host: int = 0
  is_divided: bool = True
  shared: int = 0
  copies: int = 1

  def on_each(self, devices: int) -> float:
    """Bytes on each of the devices that divide the index."""
    if devices == 1 or not self.is_divided:
      return self.device
    return self.device * min(self.copies / devices, 1) + self.shared


def size_of(
  config: configs.Config,
  documents: int,
  *,
  tokens: int = 0,
  words: int = -1,
  devices: int = 1,
  device_memory: float = 0.0,
  host_memory: float = 0.0,
) -> Size:
  """The size of a corpus for an experiment; 0 and -1 = as the experiment."""
  tokens = tokens or config.data.max_document_tokens
  vocabulary = 32_000 if config.data.tokenizer else config.data.vocab_size
  return Size(
    documents=documents,
    tokens=tokens,
    words=math.ceil(WORDS * tokens) if words < 0 else words,
    vocabulary=vocabulary,
    devices=devices,
    device_memory=device_memory,
    host_memory=host_memory,
  )


def trie(config: configs.Config, documents: int) -> docid_layout.Capacity:
  """The expected room of the trie of an experiment."""
  docid = config.docid
  levels = docid.num_levels
  if docid.scheme == 'hierarchical_kmeans':
    clusters = max(documents / docid.leaf_size, 1)
    depth = math.ceil(math.log(clusters) / math.log(docid.branching))
    levels = min(max(depth, 0), docid.max_depth)
  if docid.scheme == 'atomic':
    levels = 0
  leaves = documents * (1 + docid.further)  # each has as many as it can
  return docid_sizes.expected(leaves, docid.num_codes, levels)


def parts(config: configs.Config, size: Size) -> list[Part]:
  """All parts of an index, one entry a choice, the first as it is by default.

  Example:
    >>> size = size_of(configs.Config(), 1_000_000, tokens=100)
    >>> [p.device for p in parts(configs.Config(), size) if p.name == 'tokens']
    [400000000, 200000000, 0]
  """
  count = size.documents
  room = trie(config, count)
  code = max(
    np.dtype(docid_order.code_type(n)).itemsize for n in room.num_values
  )
  token = np.dtype(docid_order.code_type(size.vocabulary)).itemsize
  cells = count * size.tokens
  codes = count * code * len(room.num_values)
  width = query_encoder.vector_width(config.query_encoder)
  found = [
    Part('tokens', 'int32, of rag-jax train', 4 * cells),
    Part('tokens', f'{token} bytes, of rag-jax corpus', token * cells),
    Part('tokens', '--config.data.host_tokens=True', 0, token * cells),
    Part('docids', f'{code} bytes a code', codes),
    Part('marks', 'of what is deleted, on every device', count, 0, False),
    Part('trie', 'on every device', room.memory, 0, False),
  ]
  if config.docid.further:
    more = config.docid.further * (codes + count)
    found.append(Part('further docids', 'on every device', more, 0, False))
  if config.id_decoder.output == 'node_table':
    rows = FLOAT * table_rows(config, room) * width
    state = memory.STATE if _trains(config) else 1
    found.append(Part('node table', 'float32', rows))
    half = '--config.search.vector_type=bfloat16, to answer'
    found.append(Part('node table', half, rows // 2))
    if state > 1:
      more = (state - 1) * rows
      found.append(Part('its training', 'gradient and Adam', more))
  codes = len(room.num_values) * config.docid.num_codes
  rows = FLOAT * codes * width
  found.append(
    Part('codebook', '--config.id_decoder.output=codebook', rows, 0, False)
  )
  if config.id_decoder.shares_rows:
    shared = rows * state + 4 * room.num_nodes
    about = 'codebook of nodes without a row, and which these are'
    found.append(Part('shared rows', about, shared, 0, False))
  if config.data.lexicon:
    number, vocabulary = lexicon(config, size)
    words = 4 * (vocabulary + 1)
    whole = 8 * (number + postings.WINDOW) + words
    shared = words + 4 * room.num_nodes
    copies = 1 + config.docid.further  # of a document with all its leaves
    found.append(Part('lexicon', 'BM25', whole, 0, True, shared, copies))
  if config.reader.weights:
    found.append(Part('passages', "int32, in the reader's tokens", 4 * cells))
  texts = count * (TEXT * size.tokens + OBJECT)
  found.append(Part('texts', 'to train and to answer', 0, texts))
  return found


def table_rows(config: configs.Config, room: docid_layout.Capacity) -> int:
  """Expected rows of the node table.

  Args:
    config: the experiment.
    room: from `trie`.

  Example:
    >>> config = configs.build({
    ...   'docid': {'scheme': 'random', 'codebook_size': 256, 'num_levels': 4},
    ...   'id_decoder': {'table_levels': 2}})
    >>> room = trie(config, 1_000_000)
    >>> room.num_nodes, table_rows(config, room)
    (1094552, 65792)
  """
  decoder = config.id_decoder
  if not decoder.shares_rows:
    return room.num_nodes
  levels = decoder.table_levels
  rows = sum(room.nodes[:levels])
  if least := decoder.table_documents:
    for depth in range(levels + 1, len(room.nodes) + 1):
      rows += docid_sizes.large(
        room.documents, config.docid.num_codes, depth, least
      )
  return min(rows, room.num_nodes)


def _trains(config: configs.Config) -> bool:
  return any(
    stage.steps and stage.rate('id_decoder') for _, stage in config.stages
  )


def lexicon(config: configs.Config, size: Size) -> tuple[int, int]:
  """Postings and words of the lexicon.

  Raises:
    ValueError: if there are more postings than 32 bits can number.
  """
  number = size.documents * size.words
  vocabulary = HEAPS * math.sqrt(number)
  if config.data.pair_weight:
    number, vocabulary = 2 * number, vocabulary + postings.PAIR_BUCKETS
  postings.check_postings(number)
  return number, math.ceil(vocabulary)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What fits.

  Attributes:
    parts: all parts and choices.
    chosen: the parts of the plan.
    step: bytes of the rest of a training step on a device.
    device: bytes of all on each device.
    limit: bytes that a device has.
    flags: what to set.
    fits: whether it fits.
  """

  parts: list[Part]
  chosen: list[Part]
  step: float
  device: float
  limit: float
  flags: tuple[str, ...]
  fits: bool


def make(config: configs.Config, size: Size) -> Plan:
  """Chooses what fits, with as few changes of the experiment as possible.

  In this order: tokens as `rag-jax corpus` packs them; tokens on the host;
  all tables divided over the devices; without training, the node table in
  bfloat16; codes scored by a codebook, without a vector a node; no lexicon.
  Instead of the last two, where docids have codebooks that all nodes of a level
  share: rows of the node table for as many upper levels as fit.
  """
  found = _choose(config, size)
  decoder = config.id_decoder
  changes = any('output=' in x or 'lexicon=' in x for x in found.flags)
  if found.fits and not changes or decoder.shares_rows:
    return found
  if decoder.output != 'node_table' or config.docid.scheme not in SHARED_CODES:
    return found
  for levels in range(config.docid.num_levels, 0, -1):
    smaller = dataclasses.replace(decoder, table_levels=levels)
    own = _choose(dataclasses.replace(config, id_decoder=smaller), size)
    if own.fits and not any('lexicon=' in flag for flag in own.flags):
      flag = f'--config.id_decoder.table_levels={levels}'
      return dataclasses.replace(own, flags=(*own.flags, flag))
  return found


def _choose(config: configs.Config, size: Size) -> Plan:
  """The first choice that fits, or the smallest."""
  every = parts(config, size)
  limit = SHARE * (size.device_memory * GIB or memory.available())
  few = min(size.documents, 1000)
  corpus = sizes.Corpus(documents=few, questions=1000, characters=10**7)
  step = memory.estimate(config, corpus)
  sharded = size.devices > 1 and hasattr(config.train, 'mesh')
  tokens = [part for part in every if part.name == 'tokens']
  table = ('node table', 'its training')
  Without = tuple[str | Part, ...]
  tries: list[tuple[Without, Part, bool, tuple[str, ...]]] = []
  without: Without = ()
  tables = [part for part in every if part.name == 'node table']
  rounds = bool(tables) and not config.steps  # training has a float32 table
  if tables:
    is_small = rounds and config.search.vector_type != 'float32'
    without = ('codebook', tables[0 if is_small else 1])
  on_host = ('--config.data.host_tokens=True',)
  mesh = (f'--config.train.mesh=fsdp={size.devices}',)
  tries.append((without, tokens[1], False, ()))
  tries.append((without, tokens[2], False, on_host))
  if sharded:
    tries.append((without, tokens[1], True, mesh))
    tries.append((without, tokens[2], True, on_host + mesh))
  if rounds:
    small = ('--config.search.vector_type=bfloat16',)
    for _, own, divided, flags in tuple(tries):
      less: Without = ('codebook', tables[0])
      tries.append((less, own, divided, flags + small))
  codes = ('--config.id_decoder.output=codebook',)
  shares = config.id_decoder.shares_rows
  if without and not config.query_encoder.weights and not shares:
    tries.append((table, tokens[2], False, on_host + codes))
  if config.data.lexicon and not config.search.lexical_weight:
    for taken, own, divided, flags in tuple(tries):
      none = ('--config.data.lexicon=False',)
      tries.append(((*taken, 'lexicon'), own, divided, flags + none))
  best: Plan | None = None
  for taken, own, divided, flags in tries:
    chosen = [
      part
      for part in every
      if part.name not in taken
      and part not in taken
      and (part.name != 'tokens' or part is own)
    ]
    share = size.devices if divided else 1
    device = step + sum(part.on_each(share) for part in chosen)
    found = Plan(every, chosen, step, device, limit, flags, device <= limit)
    if found.fits:
      return found
    if best is None or device < best.device:
      best = found
  assert best is not None
  return best


def show(config: configs.Config, size: Size) -> str:
  """The plan as a table, and the flags to set."""
  found = make(config, size)
  count = size.devices
  lines = [
    f'{size.documents:,} documents of {size.tokens} tokens, {count} devices of '
    f'{found.limit / SHARE / GIB:.4g} GiB',
    '',
    f'{"GiB":<14}{"each device":>12}{f"one of {count}":>12}{"host":>10}'
    '  choice',
  ]
  for part in found.parts:
    mark = '*' if part in found.chosen else ' '
    shared = part.on_each(count)
    lines.append(
      f'{mark} {part.name:<12}{_gib(part.device):>12}{_gib(shared):>12}'
      f'{_gib(part.host):>10}  {part.choice}'
    )
  lines += [
    f'  {"step":<12}{_gib(found.step):>12}{_gib(found.step):>12}{"":>10}  '
    'model, activations, optimiser (estimate)',
    '',
    f'* together: {_gib(found.device)} of {_gib(found.limit)} GiB on each '
    f'device ({SHARE:.0%} of it), '
    f'{_gib(sum(part.host for part in found.chosen))} GiB on the host.',
  ]
  host = size.host_memory * GIB
  texts = sum(part.host for part in found.chosen if part.name == 'texts')
  if host and texts > host:
    lines.append(
      f'The texts need {_gib(texts)} GiB in the memory of each host, which has '
      f'{size.host_memory:g}.'
    )
  if found.fits:
    lines.append('It fits. Build it with rag-jax corpus, and set')
    lines += [f'  {flag}' for flag in found.flags or ('nothing else',)]
  else:
    need = found.device / SHARE / GIB
    lines.append(
      f'It does not fit: even with {" ".join(found.flags) or "these choices"} '
      f'a device needs {need:.4g} GiB. Fewer documents fit, or more devices.'
    )
  return '\n'.join(lines)


def _gib(size: float) -> str:
  return f'{size / GIB:.2f}' if not 0 < size < GIB / 100 else '<0.01'
