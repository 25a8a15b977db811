"""Time of a constrained decoding step, compared with other implementations.

python benchmarks/decode.py [--quick] [--static=CHECKOUT]
python benchmarks/decode.py --full [--only='V=256 L=4'] [--seconds=2 --brief]
python benchmarks/decode.py --flat --static=CHECKOUT [--only='V=256 L=4']

All use beam search over the same docids with the same tiny model (an embedding
of width 32 and one matrix). Scores are normalised over the vocabulary, except
for `edges`:

  free      no constraint
  STATIC    github.com/youtube/static-constraint-decoding, if --static names a
            checkout of it
  binary    a binary search in the sorted docids per candidate code
  callback  a Python dictionary trie, by jax.pure_callback, for small corpora
  ours      rag_jax; the share of docids equal to STATIC's is printed
  edges     rag_jax, normalised over the edges of the trie (its default)

Printed: median ms per code, ratio to STATIC, bytes per docid (with and without
the document rows, which STATIC lacks), bytes of marisa-trie if installed, and
build time (STATIC: from sorted docids; ours: from any order). --flat prints the
ratio of times for ten million and for 100,000 docids, of ours and STATIC, all
four in interleaved rounds. The order within a round is random. All run with
huge pages, as in launch.py.
"""

import argparse
import functools
import importlib
import random
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import host_memory
from rag_jax.ops import beam, docid_order
from rag_jax.ops import trie as tries

WIDTH = 32
QUICK = ((100_000, 256, 4, False), (1_000_000, 2048, 8, False))
POINTS = (
  (10_000, 256, 4, False),
  (100_000, 256, 4, False),
  (100_000, 256, 4, True),
  (1_000_000, 256, 8, False),
  (1_000_000, 2048, 4, True),
  (1_000_000, 2048, 8, False),
)
FULL = tuple(
  (count, size, length, skewed)
  for count in (10_000, 100_000, 1_000_000, 10_000_000)
  for size in (256, 2048)
  for length in (4, 8)
  for skewed in (False, True)
)
SMALL, LARGE = 100_000, 10_000_000  # corpus sizes of --flat
SEARCHES = ((1, 10), (8, 10), (32, 10), (8, 70))  # batch, beams
FULL_SEARCHES = tuple(
  (batch, beams) for beams in (10, 70) for batch in (1, 8, 32)
)


def name_of(point):
  count, size, length, skewed = point
  return f'N={count:,} V={size} L={length} {"zipf" if skewed else "uniform"}'


def draw(count, size, length, skewed):
  """Draws distinct docids in random order, uniform or skewed (Zipf)."""
  rng = np.random.default_rng(0)
  share = 1 / np.arange(1, size + 1)
  codes = np.zeros((0, length), np.uint16)
  while len(codes) < count:
    columns = [
      rng.choice(size, int(count * 1.3), p=share / share.sum())
      if skewed
      else rng.integers(0, size, int(count * 1.3))
      for _ in range(length)
    ]
    more = np.stack([column.astype(np.uint16) for column in columns], axis=1)
    codes = np.concatenate([codes, more])
    order = docid_order.sort(codes)
    codes = codes[order.rows[order.shared()[:-1] < length]]
  return codes[rng.permutation(len(codes))[:count]]


def step_fn(params, cache, frontier):
  return params[0][frontier.codes] @ params[1], cache


@functools.partial(jax.jit, static_argnames=('batch', 'beams', 'scoring'))
def ours(params, trie, *, batch, beams, scoring):
  return beam.search(
    params,
    (),
    trie,
    step_fn=step_fn,
    batch_size=batch,
    beam_size=beams,
    scoring=scoring,
    logits=True,
  ).codes


@functools.partial(
  jax.jit, static_argnames=('batch', 'beams', 'mask', 'length')
)
def masked(params, data, *, batch, beams, length, mask):
  """Beam search that masks codes for which `mask` is False."""
  codes = jnp.zeros((batch, 1), jnp.int32)
  scores = jnp.zeros((batch, 1))
  prefixes = jnp.zeros((batch, 1, 0), jnp.int32)
  for _ in range(length):
    logs = jax.nn.log_softmax(params[0][codes] @ params[1])
    if mask is not None:
      logs = jnp.where(mask(data, prefixes, logs.shape[-1]), logs, -1e9)
    size = logs.shape[-1]
    flat = (scores[..., None] + logs).reshape(batch, -1)
    scores, chosen = jax.lax.top_k(flat, beams)
    codes = chosen % size
    rows = jnp.arange(batch)[:, None]
    prefixes = prefixes[rows, chosen // size]
    prefixes = jnp.concatenate([prefixes, codes[..., None]], axis=-1)
  return prefixes


def binary_mask(ordered, prefixes, size):
  """Valid next codes, by a binary search for each in the sorted docids."""
  shape, length = prefixes.shape[:2], prefixes.shape[2]
  codes = jnp.arange(size)
  wanted = jnp.concatenate(
    [
      jnp.broadcast_to(prefixes[:, :, None], (*shape, size, length)),
      jnp.broadcast_to(codes[:, None], (*shape, size, 1)),
    ],
    axis=-1,
  )
  low = jnp.zeros((*shape, size), jnp.int32)
  high = jnp.full((*shape, size), len(ordered), jnp.int32)

  def narrow(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    rows = ordered[jnp.minimum(middle, len(ordered) - 1), : length + 1]
    differs = rows.astype(jnp.int32) != wanted
    place = jnp.argmax(differs, axis=-1)[..., None]
    less = jnp.take_along_axis(rows.astype(jnp.int32), place, -1) < (
      jnp.take_along_axis(wanted, place, -1)
    )
    right = differs.any(-1) & less[..., 0] & (low < high)
    return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

  steps = int(np.ceil(np.log2(len(ordered)))) + 1
  low, _ = jax.lax.fori_loop(0, steps, narrow, (low, high))
  found = ordered[jnp.minimum(low, len(ordered) - 1), : length + 1]
  return (found.astype(jnp.int32) == wanted).all(-1)


def callback_mask(nested):
  """A mask from a trie of nested Python dictionaries."""

  def allowed(prefixes, size):
    out = np.zeros((*prefixes.shape[:2], int(size)), bool)
    for place in np.ndindex(*prefixes.shape[:2]):
      node = nested
      for code in prefixes[place].tolist():
        node = node.get(code, {})
      out[place][list(node)] = True
    return out

  def mask(_, prefixes, size):
    shape = jax.ShapeDtypeStruct((*prefixes.shape[:2], size), bool)
    return jax.pure_callback(
      functools.partial(allowed, size=size), shape, prefixes
    )

  return mask


def nest(codes):
  nested = {}
  for row in codes.tolist():
    node = nested
    for code in row:
      node = node.setdefault(code, {})
  return nested


def median_times(contenders, flags):
  """Median ms of each, in interleaved rounds, for at most `flags.seconds`."""
  times = {name: [] for name in contenders}
  for function in contenders.values():
    jax.block_until_ready(function())
  end = time.perf_counter() + flags.seconds
  names, rng = list(contenders), random.Random(0)
  for turn in range(flags.rounds):
    if turn and time.perf_counter() > end:
      break
    rng.shuffle(names)  # a fixed order would give each fixed cache contents
    for name in names:
      begin = time.perf_counter()
      jax.block_until_ready(contenders[name]())
      times[name].append(time.perf_counter() - begin)
  return {name: statistics.median(t) * 1e3 for name, t in times.items()}


def static_contender(ordered, size, params):
  """STATIC: a search function, bytes of its index, seconds to build it."""
  csr_utils = importlib.import_module('static_decoding.csr_utils')
  decoding = importlib.import_module('static_decoding.decoding_jax')
  begin = time.perf_counter()
  packed, pointers, widest, *dense = csr_utils.build_static_index(
    ordered.astype(np.int32), size
  )
  seconds = time.perf_counter() - begin
  arrays = [jnp.asarray(x) for x in (packed, pointers, *dense)]
  nbytes = sum(x.nbytes for x in (packed, pointers, *dense))
  widest = tuple(int(n) for n in widest)

  def model(codes, weights):
    return (weights[0][codes[:, 0]] @ weights[1])[:, None], weights

  def search(batch, beams):
    return decoding.sparse_transition_jax(
      model,
      params,
      batch,
      beams,
      min(size, beams),
      0,
      ordered.shape[1],
      size,
      widest,
      *arrays,
    )

  return search, nbytes, seconds


def marisa_bytes(codes):
  try:
    marisa_trie = importlib.import_module('marisa_trie')
  except ImportError:
    return None
  keys = [row.tobytes() for row in codes.astype('>u2')]
  return len(marisa_trie.BinaryTrie(keys).tobytes())


def draw_model(size):
  """A random embedding and output matrix, for codes below `size`."""
  rng = np.random.default_rng(1)
  return tuple(
    jnp.asarray(rng.normal(size=shape) * 0.3, jnp.float32)
    for shape in ((size, WIDTH), (WIDTH, size))
  )


def overlap(ours, theirs):
  """Share of docids [B, K, L] per query that both searches return."""
  return np.mean(
    [
      len(set(map(tuple, a.tolist())) & set(map(tuple, b.tolist()))) / len(a)
      for a, b in zip(np.asarray(ours), np.asarray(theirs), strict=True)
    ]
  )


def measure(point, flags):
  """Prints the ms per code of each contender and search."""
  count, size, length, _ = point
  codes = draw(*point)
  params = draw_model(size)
  begin = time.perf_counter()
  trie = jax.block_until_ready(tries.build(codes))
  seconds = time.perf_counter() - begin
  ordered = codes[docid_order.sort(codes).rows]
  memory = sum(x.nbytes for x in jax.tree.leaves(trie))
  line = f'\n{name_of(point)}: {memory / count:.1f} B per docid '
  line += f'({memory / count - 4:.1f} without documents)'
  static = None
  if flags.static:
    static, nbytes, built = static_contender(ordered, size, params)
    line += f', STATIC {nbytes / count:.1f} (ratio {memory / nbytes:.2f})'
  if count <= 1_000_000 and (packed := marisa_bytes(codes)):
    line += f', marisa-trie {packed / count:.1f} ({memory / packed:.1f}x)'
  line += f'; built in {seconds:.2f} s'
  print(line + (f', STATIC {built:.2f} s' if static else ''), flush=True)
  nested = None
  if count * length <= 4_000_000 and not flags.brief:
    nested = nest(codes)
  on_device = jnp.asarray(ordered)
  searches = FULL_SEARCHES if flags.full else SEARCHES
  for batch, beams in searches[:2] if flags.quick else searches:
    sizes = {'batch': batch, 'beams': beams}
    plain = functools.partial(masked, params, length=length, **sizes)
    contenders = {
      'ours': functools.partial(
        ours, params, trie, scoring='vocabulary', **sizes
      ),
      'edges': functools.partial(
        ours, params, trie, scoring='log_softmax', **sizes
      ),
    }
    if static:
      contenders['STATIC'] = functools.partial(static, batch, beams)
    if not (static and flags.brief):
      contenders['free'] = functools.partial(plain, None, mask=None)
    slow = {}
    if batch * beams * size <= 100_000 and not flags.brief:
      slow['binary'] = functools.partial(plain, on_device, mask=binary_mask)
      if nested:
        slow['callback'] = functools.partial(
          plain, None, mask=callback_mask(nested)
        )
    times = median_times(contenders, flags)
    times |= median_times(slow, flags) if slow else {}
    cells = [f'{name} {ms / length:.3f}' for name, ms in times.items()]
    peer = 'STATIC' if static else 'free'
    cells.append(f'| ours/{peer} {times["ours"] / times[peer]:.2f}')
    cells.append(f'edges/{peer} {times["edges"] / times[peer]:.2f}')
    if 'binary' in times:
      cells.append(f'ours/binary {times["ours"] / times["binary"]:.3f}')
    if static:
      same = overlap(contenders['ours'](), contenders['STATIC']())
      cells.append(f'same {same:.2f}')
    print(
      f'  batch {batch:>2} beam {beams:>2}: ' + '  '.join(cells), flush=True
    )


def measure_flatness(point, flags):
  """Prints the ratio of times for the large and the small corpus."""
  _, *kind = point
  print(f'\n{name_of(point)}, time relative to N={SMALL:,}:', flush=True)
  model = draw_model(point[1])
  contenders = {}
  for count in (SMALL, LARGE):
    codes = draw(count, *kind)
    trie = jax.block_until_ready(tries.build(codes))
    ordered = codes[docid_order.sort(codes).rows]
    contenders['ours', count] = functools.partial(
      ours, model, trie, scoring='vocabulary'
    )
    contenders['STATIC', count] = static_contender(ordered, point[1], model)[0]
  for batch, beams in FULL_SEARCHES:
    times = median_times(
      {
        name: functools.partial(function, batch=batch, beams=beams)
        for name, function in contenders.items()
      },
      flags,
    )
    cells = [
      f'{name} {times[name, LARGE] / times[name, SMALL]:.2f}'
      for name in ('ours', 'STATIC')
    ]
    print(f'  batch {batch:>2} beam {beams:>2}: {", ".join(cells)}', flush=True)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--quick', action='store_true')
  parser.add_argument(
    '--full', action='store_true', help='up to 10 million docids'
  )
  parser.add_argument(
    '--flat', action='store_true', help=f'only {LARGE:,} against {SMALL:,}'
  )
  parser.add_argument('--static', help='a checkout of STATIC')
  parser.add_argument(
    '--brief', action='store_true', help='only ours, edges and STATIC'
  )
  parser.add_argument('--only', default='', help='points whose name holds this')
  parser.add_argument('--rounds', type=int, default=201)
  parser.add_argument(
    '--seconds', type=float, default=4, help='time limit per search'
  )
  flags = parser.parse_args()
  if flags.flat and (flags.quick or flags.full):
    parser.error('--flat excludes --quick and --full. Remove them.')
  for name in ('brief', 'flat'):
    if getattr(flags, name) and not flags.static:
      parser.error(f'--{name} needs STATIC. Set --static to a checkout.')
  if flags.static:
    sys.path.insert(0, flags.static)
  points = QUICK if flags.quick else FULL if flags.full else POINTS
  if flags.flat:
    points = [point for point in FULL if point[0] == LARGE]
  for point in points:
    if flags.only in name_of(point):
      (measure_flatness if flags.flat else measure)(point, flags)


if __name__ == '__main__':
  host_memory.use_huge_pages()
  main()
