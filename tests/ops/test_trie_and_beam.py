"""The trie and the beam against brute force, on tries of any shape."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_jax.ops import beam, docid_layout, reads, trie

SETTINGS = settings(max_examples=6, deadline=None, derandomize=True)
ON_CPU = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='what XLA does on a CPU'
)
FEW = settings(SETTINGS, max_examples=3)  # each example compiles several parts


@st.composite
def docid_sets(draw):
  """Unique codes: skewed, of one document, or with single-child chains."""
  length = draw(st.integers(1, 4))
  width = draw(st.integers(1, 5))
  count = draw(st.integers(1, min(20, width**length)))
  seed = draw(st.integers(0, 9))
  rng = np.random.default_rng(seed)
  skew = draw(st.sampled_from([1.0, 3.0]))
  rows: dict[tuple, None] = {}
  while len(rows) < count:
    code = (width * rng.random(length) ** skew).astype(int)
    rows[tuple(code.tolist())] = None
    if rng.random() < 0.2:  # skewed draws repeat; a uniform one ends the loop
      rows[tuple(rng.integers(0, width, length).tolist())] = None
  codes = np.array(list(rows), np.int32)
  return codes, seed


def skewed_codes(count):
  """Nearly so many docids of three codes below 70, small ones more often."""
  draws = np.random.default_rng(1).random((count, 3))
  return np.unique((70 * draws**3).astype(np.int32), axis=0)


def prefixes_of(codes):
  """The prefix at which each docid is told from all others, one a row."""
  rows = [tuple(row) for row in codes.tolist()]
  found = []
  for row in rows:
    for end in range(1, len(row) + 1):
      if sum(other[:end] == row[:end] for other in rows) == 1:
        break
    found.append(row[:end])
  return found


def model(batch_size, length, width, seed):
  """Logits that depend on the whole prefix, through a cache.

  Returns the parameters, a step function over all codes and one over edges.
  """
  rng = np.random.default_rng(seed)
  params = jnp.asarray(
    rng.normal(size=(batch_size, length, width)) * 2, jnp.float32
  )

  def logits_fn(params, cache, frontier):
    # A cache that hashes the prefix: it has to follow the beams.
    cache = jnp.sin(cache * 3.1 + frontier.codes + 0.5 * frontier.level)
    scores = params[:, frontier.level, None] * (1 + cache[..., None])
    return scores, cache

  def edges_fn(params, cache, frontier):
    scores, cache = logits_fn(params, cache, frontier)
    return beam.take(scores, frontier.tokens), cache

  return params, logits_fn, edges_fn


def brute_force(codes, params, scoring, allowed):
  """Scores of all documents [B, N], -inf where not allowed, in NumPy."""
  rows = [tuple(row) for row in codes.tolist()]
  ends = prefixes_of(codes)
  totals = np.full((len(params), len(rows)), -np.inf)
  for b, weights in enumerate(np.asarray(params, np.float64)):
    alive = [row for d, row in enumerate(rows) if allowed[b, d]]
    for d, row in enumerate(rows):
      if not allowed[b, d]:
        continue
      total, state, before = 0.0, 0.0, 0
      for level, code in enumerate(row):
        state = np.sin(state * 3.1 + before + 0.5 * level)
        logits, before = weights[level] * (1 + state), code
        if scoring == 'inner_product':
          total += logits[code]
        elif scoring == 'vocabulary':
          total += logits[code] - np.logaddexp.reduce(logits)
        elif level >= len(ends[d]):
          break
        elif scoring == 'absolute':
          total = logits[code]
        else:
          same = [r[level] for r in alive if r[:level] == row[:level]]
          siblings = sorted(set(same))
          total += logits[code] - np.logaddexp.reduce(logits[siblings])
      totals[b, d] = total
  return totals


def search(index, params, step_fn, **options):
  batch_size = len(params)
  return jax.jit(
    functools.partial(
      beam.search, step_fn=step_fn, batch_size=batch_size, **options
    )
  )(params, jnp.zeros((batch_size, 1)), index)


@pytest.mark.parametrize(
  'scoring, logits',
  [
    ('vocabulary', True),
    ('log_softmax', True),
    ('log_softmax', False),
    ('inner_product', False),
    ('absolute', False),
  ],
)
@SETTINGS
@given(data=docid_sets(), extra=st.integers(0, 3), limit=st.booleans())
def test_a_wide_beam_is_exact(scoring, logits, data, extra, limit):
  codes, seed = data
  index = trie.build(codes)
  params, *step_fns = model(2, codes.shape[1], 5, seed)
  options = {
    'step_fn': step_fns[0 if logits else 1],
    'scoring': scoring,
    'logits': logits,
  }
  allowed = np.ones((2, len(codes)), bool)
  if limit:
    allowed = np.random.default_rng(seed).random(allowed.shape) < 0.6
    allowed[:, 0] = True
    options['allowed'] = jnp.asarray(allowed)
  found = search(index, params, beam_size=len(codes) + extra, **options)
  wanted = brute_force(codes, params, scoring, allowed)
  for b in range(2):
    where = np.asarray(found.where[b])
    documents = np.asarray(found.documents[b])[where]
    assert sorted(documents) == np.flatnonzero(allowed[b]).tolist()
    assert (codes[documents] == np.asarray(found.codes[b])[where]).all()
    own = wanted[b, documents]
    np.testing.assert_allclose(found.scores[b][where], own, atol=1e-3)
    assert (np.diff(own) <= 1e-3).all()
    assert (np.asarray(found.scores[b])[~where] < -1e8).all()
  exact = beam.score_all(
    params,
    jnp.zeros((2, 1)),
    index,
    jnp.asarray(codes),
    batch_size=2,
    chunk=7,
    **options,
  )
  np.testing.assert_allclose(
    np.asarray(exact)[allowed], wanted[allowed], atol=1e-3
  )
  assert (np.asarray(exact)[~allowed] < -1e8).all()
  np.testing.assert_array_equal(beam.regret(found, exact, k=1), 0)


@pytest.mark.parametrize('scoring', beam.SCORINGS)
@pytest.mark.parametrize('tail', [0, 2])
def test_a_wide_beam_with_a_plan_is_exact(scoring, tail):
  rng = np.random.default_rng(0)
  codes = np.unique(rng.integers(0, 3, (20, 3)), axis=0)
  more = rng.integers(0, 3, (len(codes), tail))  # after all have ended
  codes = np.concatenate([codes, more], axis=1)
  alive = np.arange(len(codes)) % 4 > 0
  live = codes[alive]
  index = trie.build(codes, where=alive)
  params, logits_fn, _ = model(2, 3 + tail, 3, seed=0)
  values = rng.normal(size=(2, len(codes))) * 3
  options = {
    'lookahead': trie.max_below(index, jnp.asarray(values, jnp.float32)),
    'scoring': scoring,
    'logits': True,
  }
  own = values[:, alive]
  if scoring == 'log_softmax':
    wanted = planned_log_softmax(live, params, own)
  else:
    everything = np.ones(own.shape, bool)
    wanted = brute_force(live, params, scoring, everything) + own
  found = search(index, params, logits_fn, beam_size=len(live), **options)
  order = np.argsort(-wanted, axis=1)
  np.testing.assert_array_equal(found.documents, np.flatnonzero(alive)[order])
  best = np.take_along_axis(wanted, order, axis=1)
  np.testing.assert_allclose(found.scores, best, atol=1e-3)
  score = functools.partial(beam.score, step_fn=logits_fn, **options)
  exact = jax.jit(score)(
    params, jnp.zeros((2, 1)), index, np.broadcast_to(live, (2, *live.shape))
  )
  np.testing.assert_allclose(exact, wanted, atol=1e-3)


def planned_log_softmax(codes, params, own):
  """Scores [B, N] normalised at each node with the best of `own` added."""
  rows = [tuple(row) for row in codes.tolist()]
  totals = np.zeros(own.shape)
  for b, weights in enumerate(np.asarray(params, np.float64)):
    for d, end in enumerate(prefixes_of(codes)):
      state, before = 0.0, 0.0
      for level, code in enumerate(end):
        state = np.sin(state * 3.1 + before + 0.5 * level)
        ahead = np.full(len(weights[level]), -np.inf)
        for row, value in zip(rows, own[b], strict=True):
          if row[:level] == end[:level]:
            ahead[row[level]] = max(ahead[row[level]], value)
        edges = ahead + weights[level] * (1 + state)
        totals[b, d] += edges[code] - np.logaddexp.reduce(edges)
        before = code
  return totals


@SETTINGS
@given(data=docid_sets(), size=st.integers(1, 4), share=st.floats(0, 1))
def test_a_narrow_beam_returns_real_allowed_distinct_documents(
  data, size, share
):
  codes, seed = data
  rng = np.random.default_rng(seed)
  alive = rng.random(len(codes)) < 0.7
  alive[0] = True
  index = trie.build(codes, where=alive)
  params, logits_fn, _ = model(3, codes.shape[1], 5, seed)
  allowed = rng.random(len(codes)) < share
  allowed[rng.integers(len(codes))] = True
  found = search(
    index,
    params,
    logits_fn,
    beam_size=size,
    allowed=jnp.asarray(allowed),
    logits=True,
  )
  allowed &= alive
  assert found.documents.shape == (3, size)
  for b in range(3):
    documents = np.asarray(found.documents[b])[np.asarray(found.where[b])]
    assert len(set(documents.tolist())) == len(documents)
    assert allowed[documents].all()
    assert len(documents) == min(size, allowed.sum())
    assert (codes[documents] == found.codes[b][found.where[b]]).all()


@SETTINGS
@given(data=docid_sets())
def test_log_softmax_scores_sum_to_one_over_the_corpus(data):
  codes, seed = data
  index = trie.build(codes)
  params, logits_fn, _ = model(2, codes.shape[1], 5, seed)
  found = search(index, params, logits_fn, beam_size=len(codes), logits=True)
  np.testing.assert_allclose(beam.beam_mass(found), 0, atol=1e-5)


@SETTINGS
@given(data=docid_sets())
def test_the_trie_has_no_node_below_a_prefix_of_one_docid(data):
  codes, _ = data
  index = trie.build(codes)
  ends = prefixes_of(codes)
  assert index.depth == max(map(len, ends))
  inner = {e[:d] for e in ends for d in range(1, len(e))}
  assert index.num_nodes == len(codes) + len(inner)
  values = np.random.default_rng(0).normal(size=(len(codes), 3))
  table = jax.jit(trie.sum_below)(index, jnp.asarray(values, jnp.float32))
  by_depth = sorted(inner, key=lambda prefix: (len(prefix), prefix))
  wanted = [
    values[[end[: len(prefix)] == prefix for end in ends]].sum(0)
    for prefix in by_depth
  ]
  np.testing.assert_allclose(
    table, np.concatenate([values, np.reshape(wanted, (-1, 3))]), atol=1e-5
  )
  wanted = [
    values[[end[: len(prefix)] == prefix for end in ends]].max(0)
    for prefix in by_depth
  ]
  np.testing.assert_allclose(
    jax.jit(trie.max_below)(index, jnp.asarray(values.T, jnp.float32)).T,
    np.concatenate([values, np.reshape(wanted, (-1, 3))]),
    atol=1e-5,
  )


@FEW
@given(data=docid_sets(), dead=st.booleans())
def test_walks_end_at_their_leaves_and_depths_are_those_of_prefixes(data, dead):
  codes, _ = data
  alive = np.ones(len(codes), bool)
  if dead and len(codes) > 1:
    alive[0] = False
  index = trie.build(codes, where=alive)
  way = jax.jit(trie.walk)(index, jnp.asarray(codes)[None])
  rows = np.arange(len(codes))
  assert np.asarray(way[-1].where[0, :, 0])[alive].all()
  np.testing.assert_array_equal(
    np.asarray(way[-1].children[0, :, 0])[alive], rows[alive]
  )
  ends = np.zeros(len(codes), int)
  ends[alive] = [len(prefix) for prefix in prefixes_of(codes[alive])]
  depths = np.asarray(jax.jit(trie.depths)(index))
  np.testing.assert_array_equal(depths[: len(codes)], ends)
  for depth, frontier in enumerate(way, 1):
    inner = (np.asarray(frontier.children[0, :, 0]) >= len(codes)) & alive
    below = np.asarray(frontier.children[0, :, 0])[inner]
    assert (depths[below] == depth).all()


@FEW
@given(data=docid_sets())
def test_absolute_scores_need_only_the_way_down(data):
  codes, seed = data
  index = trie.build(codes)
  params, _, edges_fn = model(2, codes.shape[1], int(codes.max()) + 1, seed)
  asked = jnp.broadcast_to(jnp.asarray(codes), (2, *codes.shape))
  cache = jnp.zeros((2, 1))
  score = jax.jit(
    functools.partial(beam.score, step_fn=edges_fn, scoring='absolute')
  )
  quick = score(params, cache, index, asked)
  everything = jnp.ones(len(codes), bool)
  whole = score(params, cache, index, asked, allowed=everything)
  np.testing.assert_allclose(quick, whole, atol=1e-5)


def test_room_and_dead_documents_leave_the_maxima_alone():
  codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
  alive = np.array([True, True, True, True, False])
  layout = docid_layout.lay_out(codes, where=alive)
  tight = docid_layout.tight(layout)
  room = dataclasses.replace(
    tight,
    nodes=tuple(n + 3 for n in tight.nodes),
    parents=tuple(n + 2 for n in tight.parents),
    documents=7,
  )
  rows = (np.array([7, 10]),)  # as a live index numbers them
  index = trie.pack(layout, capacity=room, rows=rows)
  values = jnp.array([[-1.0, -2.0, -5.0, -4.0, 9.0]])
  table = np.asarray(trie.max_below(index, values))[0]
  assert table.shape == (index.num_nodes,)
  assert table[:5].tolist() == values[0].tolist()
  assert table[[7, 10]].tolist() == [-1, -4]
  assert np.isneginf(table[[5, 6, 8, 9]]).all()


def test_predicted_memory_is_the_memory():
  codes = np.unique(np.random.default_rng(0).integers(0, 40, (900, 5)), axis=0)
  codes[:, 4] *= 20  # one level of two bytes beside those of one
  layout = docid_layout.lay_out(codes)
  tight = docid_layout.tight(layout)
  room = dataclasses.replace(
    tight,
    nodes=tuple(n + 50 for n in tight.nodes),
    parents=tuple(n + 1 for n in tight.parents),
    tails=tuple(n + 7 for n in tight.tails),
  )
  for capacity in (tight, room):
    assert any(capacity.dense) and not all(capacity.dense)
    packed = trie.pack(layout, capacity=capacity)
    arrays = jax.tree.leaves(packed)
    assert capacity.memory == sum(x.nbytes for x in arrays)
    assert packed.rest.dtype == np.uint16


def test_levels_of_few_nodes_keep_a_bit_for_every_code():
  # Codes over more than one word; the third level has too many nodes for it.
  codes = skewed_codes(900)
  index = trie.build(codes)
  assert [words is not None for words in index.present] == [True, True, False]
  beams, ended = trie.root(1), False
  for level, size in enumerate(index.num_values[:2]):
    narrow = trie.expand(index, level, beams)
    wide = trie.expand_codes(index, level, beams)
    places = np.asarray(narrow.where).nonzero()
    row = (places[0], places[1], np.asarray(narrow.tokens)[places])
    assert np.asarray(wide.where).sum() == len(row[0])
    assert np.asarray(wide.where)[row].all()
    np.testing.assert_array_equal(wide.children[row], narrow.children[places])
    first, _ = trie.span(index, level, beams)
    for code in range(0, size, 7):
      chosen = jnp.full(beams.nodes.shape, code)
      found = trie.child(index, level, beams, wide.present, chosen)
      for place in zip(*np.nonzero(wide.where[..., code]), strict=True):
        offset = narrow.tokens[place].tolist().index(code)
        if not beams.ended[place]:
          assert found[place] == first[place] + offset
    count = int(narrow.where.sum())
    nodes = jnp.arange(count)[None]
    parents = jnp.asarray(places[1])[None]
    beams = trie.descend(
      index,
      level,
      beam.reorder(beams, parents),
      nodes,
      narrow.tokens[places][None],
    )
    ended = ended or bool(beams.ended.any())
  assert ended  # some docids need no third code


@pytest.mark.parametrize(
  'scoring, count',
  [
    *((scoring, 20) for scoring in beam.SCORINGS),
    ('log_softmax', 900),
    pytest.param('absolute', 900, marks=pytest.mark.long),
    pytest.param('vocabulary', 900, marks=pytest.mark.long),
  ],
)
def test_all_codes_of_a_level_give_what_its_edges_give(scoring, count):
  codes = skewed_codes(count)
  layout = docid_layout.lay_out(codes)
  tight = docid_layout.tight(layout)
  room = dataclasses.replace(  # more codes than the model scores, too
    tight,
    nodes=tuple(n + 3 for n in tight.nodes),
    parents=tuple(n + (d > 0) for d, n in enumerate(tight.parents)),
    branching=tuple(max(n, 48) for n in tight.branching),
    tails=tuple(n + 4 * (d > 0) for d, n in enumerate(tight.tails)),
    num_values=(96,) * 3,
    documents=tight.documents + 5,
  )
  params, logits_fn, _ = model(2, 3, 70, 0)
  options = {'scoring': scoring, 'logits': True}
  roomy = trie.pack(layout, capacity=room)
  assert roomy.present[1] is not None
  for index in (trie.build(codes), roomy):
    # With an allow-list the search goes from edge to edge.
    everything = jnp.ones(index.num_documents, bool)
    for size in (5, 32):
      run = functools.partial(
        search, index, params, logits_fn, beam_size=size, **options
      )
      ours, theirs = run(), run(allowed=everything)
      for name in ('documents', 'codes', 'where'):
        np.testing.assert_array_equal(
          getattr(ours, name), getattr(theirs, name)
        )
      np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5)
      where = np.asarray(ours.where)
      documents = np.asarray(ours.documents)[where]
      np.testing.assert_array_equal(codes[documents], ours.codes[where])


@pytest.mark.parametrize('scoring', beam.SCORINGS)
@pytest.mark.parametrize('hidden', [np.nan, np.inf, 1e30])
def test_what_a_model_says_of_edges_that_do_not_exist_is_not_heard(
  scoring, hidden
):
  codes = np.random.default_rng(0).integers(0, 6, (40, 4))
  codes = np.unique(np.concatenate([codes, codes[:, :2]], axis=1), axis=0)
  index = trie.build(codes)
  params, logits_fn, edges_fn = model(2, 6, 6, 0)
  everything = scoring == 'vocabulary'  # normalised over all: no edge is hidden
  allowed = jnp.arange(len(codes)) % 9 == 0  # fewer than there are beams
  options = {'beam_size': 8, 'scoring': scoring, 'logits': everything}
  step_fn = logits_fn if everything else edges_fn

  def loud(params, cache, frontier):
    scores, cache = step_fn(params, cache, frontier)
    if not everything:
      scores = jnp.where(frontier.where, scores, hidden)
    elif scores.shape[1] > 1:  # a dead beam
      dead = ~frontier.where.any(-1, keepdims=True)
      scores = jnp.where(dead, hidden, scores)
    return scores, cache

  for limit in ({}, {'allowed': allowed}):
    quiet = search(index, params, step_fn, **options, **limit)
    found = search(index, params, loud, **options, **limit)
    for name in ('documents', 'codes', 'where'):
      np.testing.assert_array_equal(getattr(quiet, name), getattr(found, name))
    where = np.asarray(found.where)
    np.testing.assert_allclose(
      found.scores[where], quiet.scores[where], rtol=1e-5
    )
    if limit:
      assert where.sum(1).tolist() == [allowed.sum()] * 2


@pytest.mark.parametrize('count', [1, 2, 5, 15, 16, 17])
@ON_CPU
def test_few_slices_of_a_large_array_are_read_one_by_one(monkeypatch, count):
  monkeypatch.setattr(reads, 'SPLIT', 0)
  x = np.random.default_rng(0).integers(0, 99, 500).astype(np.uint16)
  starts = np.random.default_rng(1).integers(0, 490, count)
  places = jnp.asarray(starts, jnp.int32).reshape(1, count)
  read = jax.jit(reads.slices, static_argnums=2)
  wanted = x[starts[:, None] + np.arange(7)][None]
  np.testing.assert_array_equal(read(jnp.asarray(x), places, 7), wanted)
  table = jnp.asarray(x.reshape(50, 10))
  rows = places % 50
  np.testing.assert_array_equal(jax.jit(reads.lines)(table, rows), table[rows])
  text = read.lower(jnp.asarray(x), places, 7).as_text()
  assert ('gather' in text) == (count > reads.FEW)


@pytest.mark.parametrize('size', [3, 10])
@pytest.mark.parametrize('scoring', beam.SCORINGS)
def test_a_search_is_the_same_however_slices_are_read(
  monkeypatch, scoring, size
):
  codes = np.concatenate([skewed_codes(900), np.zeros((1, 3), int)])
  codes = np.unique(codes, axis=0)
  codes = np.concatenate([codes, codes % 3], axis=1)  # tails after all ended
  params, logits_fn, _ = model(1, 6, 70, 0)
  options = {'beam_size': size, 'logits': True, 'scoring': scoring}
  index = trie.build(codes)
  assert index.depth == 3 and index.begins[1] and index.present[1] is not None
  together = search(index, params, logits_fn, **options)
  monkeypatch.setattr(reads, 'SPLIT', 0)
  one_by_one = search(index, params, logits_fn, **options)
  for name in ('documents', 'codes', 'where'):
    np.testing.assert_array_equal(
      getattr(together, name), getattr(one_by_one, name)
    )
  np.testing.assert_allclose(together.scores, one_by_one.scores, rtol=1e-6)
  assert (codes[together.documents] == together.codes).all()


@pytest.mark.parametrize('count', [70_001, 65_536, 16_385])
def test_a_large_top_k_is_found_in_two_steps(count):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, count)).astype(np.float32)
  x[1] = -np.inf  # as where all beams but a few are dead
  x[1, [7, count // 2, count - 1]] = [1, 3, 2]
  x[2] = -np.inf
  x[3] = rng.integers(0, 5, count)  # many are equal
  x[4] = -np.inf
  x[4, 482:513] = np.arange(31)  # of 16,385 in the groups that are padded
  values, rows = beam.largest(jnp.asarray(x), 30)
  wanted, places = jax.lax.top_k(x, 30)
  np.testing.assert_array_equal(values, wanted)
  np.testing.assert_array_equal(rows[0], places[0])
  np.testing.assert_array_equal(rows[1, :3], places[1, :3])
  assert (np.asarray(rows) < count).all()
  np.testing.assert_array_equal(np.take_along_axis(x, rows, 1), wanted)
  assert all(len(set(row.tolist())) == 30 for row in rows)


def memory_of_a_search(codes, *, vocab_size, batch_size, beam_size):
  """Bytes that a compiled search needs beside what it is given."""
  params = jnp.zeros((vocab_size, 8)), jnp.zeros((8, vocab_size))

  def step_fn(params, cache, frontier):
    return params[0][frontier.codes] @ params[1], cache

  run = jax.jit(
    functools.partial(
      beam.search,
      step_fn=step_fn,
      batch_size=batch_size,
      beam_size=beam_size,
      logits=True,
      scoring='vocabulary',
    )
  )
  compiled = run.lower(params, (), trie.build(codes)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_long_tails_take_no_more_memory_than_short_ones():
  def memory(length):
    codes = np.zeros((64, length), np.int32)
    codes[:, 0] = np.arange(64)  # told apart by their first code
    return memory_of_a_search(
      codes, vocab_size=1024, batch_size=4, beam_size=64
    )

  assert memory(12) < 1.5 * memory(3)


@ON_CPU
def test_scores_of_all_codes_are_written_over_the_logits():
  rng = np.random.default_rng(0)
  codes = np.unique(rng.integers(0, 512, (200_000, 2)), axis=0)
  assert all(words is not None for words in trie.build(codes).present)
  taken = memory_of_a_search(codes, vocab_size=512, batch_size=8, beam_size=64)
  assert taken < 1.5 * (8 * 64 * 512 * 4)


def test_tails_are_read_by_those_that_live():
  # Two of eight documents are allowed: the other beams are dead from the first
  # code on, and go on through tails beside them.
  codes = np.random.default_rng(0).integers(0, 8, (8, 6))
  codes[:, 0] = np.arange(8)
  params, logits_fn, _ = model(2, 6, 8, 0)
  allowed = jnp.arange(8) % 5 == 1
  options = {'logits': True, 'scoring': 'vocabulary', 'allowed': allowed}
  index = trie.build(codes)
  found = search(index, params, logits_fn, beam_size=8, **options)
  assert found.where.sum(1).tolist() == [2, 2]
  assert sorted(found.documents[0, :2].tolist()) == [1, 6]
  free = search(
    index, params, logits_fn, beam_size=8, logits=True, scoring='vocabulary'
  )
  for row in range(2):
    whole = dict(
      zip(free.documents[row].tolist(), free.scores[row], strict=True)
    )
    for slot in range(2):
      document = int(found.documents[row, slot])
      np.testing.assert_allclose(
        found.scores[row, slot], whole[document], rtol=1e-5
      )
      assert found.codes[row, slot].tolist() == codes[document].tolist()


def test_vocabularies_of_any_width_are_normalised():
  for width in (31, 96):
    codes = np.arange(width)[:, None]
    params, logits_fn, _ = model(2, 1, width, width)
    found = search(
      trie.build(codes),
      params * 30,
      logits_fn,
      beam_size=width,
      logits=True,
      scoring='vocabulary',
    )
    np.testing.assert_allclose(beam.beam_mass(found), 0, atol=1e-5)


def test_scores_are_differentiable_and_masked_slots_are_not_reached():
  codes = np.array([[0, 0], [0, 1], [1, 0]])
  index = trie.build(codes)
  params, logits_fn, _ = model(1, 2, 2, 0)

  @jax.jit
  def total(params):
    return beam.score(
      params,
      jnp.zeros((1, 1)),
      index,
      jnp.asarray(codes[None, [0, 2]]),
      step_fn=logits_fn,
      logits=True,
    ).sum()

  gradient = jax.jit(jax.grad(total))(params)
  assert np.isfinite(gradient).all()
  # log-softmax: the gradients of the edges of one node sum to zero
  np.testing.assert_allclose(gradient[0].sum(-1), 0, atol=1e-6)
  steps = [total(params.at[0, 0, 0].add(step)) for step in (-1e-2, 1e-2)]
  slope = (steps[1] - steps[0]) / 2e-2
  np.testing.assert_allclose(gradient[0, 0, 0], slope, atol=1e-3)


def test_search_is_traced_once_for_tries_of_one_shape():
  codes = np.array([[0, 0], [0, 1], [1, 0]])
  params, logits_fn, _ = model(2, 2, 2, 0)
  traced = []

  @jax.jit
  def run(params, index):
    traced.append(None)
    return beam.search(
      params,
      jnp.zeros((2, 1)),
      index,
      step_fn=logits_fn,
      batch_size=2,
      beam_size=2,
      logits=True,
    )

  first = run(params, trie.build(codes))
  again = run(params, trie.build(codes[::-1]))
  assert len(traced) == 1
  np.testing.assert_array_equal(2 - first.documents, again.documents)


@pytest.mark.parametrize(
  ('codes', 'where', 'message'),
  [
    (np.zeros((0, 2)), None, 'non-empty'),
    (np.array([[0, -1]]), None, 'at least 0, got -1'),
    (np.array([[1, 2], [0, 0], [1, 2]]), None, 'documents 0 and 2'),
    (np.array([[1, 2], [0, 0]]), np.zeros(2, bool), 'got none of 2'),
  ],
)
def test_bad_codes(codes, where, message):
  with pytest.raises(ValueError, match=message):
    trie.build(codes, where=where)


def test_what_does_not_fit_the_capacity_is_named():
  small = docid_layout.lay_out(np.array([[0, 0], [1, 0]]))
  capacity = docid_layout.tight(small)
  for codes, message in (
    (np.array([[0, 0], [0, 1]]), 'room for 1 levels'),
    (np.array([[0, 0], [1, 0], [2, 0]]), 'room for 2 documents, got 3'),
    (np.array([[0, 0], [3, 0]]), 'room for 2 num values at level 0, got 4'),
  ):
    with pytest.raises(ValueError, match=message):
      trie.build(codes, capacity=capacity)


def test_bad_search():
  index = trie.build(np.array([[0], [1]]))
  params, logits_fn, _ = model(1, 1, 2, 0)
  run = functools.partial(search, index, params, logits_fn, logits=True)
  with pytest.raises(ValueError, match='beam_size must be at least 1, got 0'):
    run(beam_size=0)
  with pytest.raises(ValueError, match='log_softmax.*got .cosine.'):
    run(beam_size=1, scoring='cosine')
  with pytest.raises(ValueError, match="'vocabulary' needs logits"):
    run(beam_size=1, scoring='vocabulary', logits=False)
  with pytest.raises(
    ValueError, match=r'lookahead must have shape \(1, 2\).*3'
  ):
    run(beam_size=1, lookahead=jnp.zeros((1, 3)))
  with pytest.raises(ValueError, match=r'must be bool\[2\] or bool\[1, 2\]'):
    run(beam_size=1, allowed=np.array([[True, False], [False, False]]))
  with pytest.raises(ValueError, match='allowed must .*got none'):
    run(beam_size=1, allowed=np.array([[False, False]]))
