"""Documents with several docids: search, scores and losses by enumeration."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  docid_search,
  matching,
  model,
  objective,
  placement,
)
from rag_jax import stage as stages
from rag_jax.components import id_decoder, query_encoder
from rag_jax.index import docids, further
from rag_jax.index import index as indexes
from rag_jax.ops import beam, beam_ends, lexical, split_rows
from rag_jax.ops import trie as tries

COUNT, VOCAB, MOST = 12, 50, 2
EVERYTHING = 40  # more prefixes than there are docids


@pytest.fixture(scope='module')
def config(small_config):
  return small_config(
    docid={'further': MOST, 'further_from': 'crops'},
    id_decoder={'num_layers': 0},
    search={'beam_size': EVERYTHING},
  )


@pytest.fixture(scope='module')
def index(config, small_tokens):
  """Twelve documents; their keys are parts of them, or of other documents."""
  tokens = np.asarray(small_tokens, np.int32)
  keys = np.zeros((3 * COUNT, tokens.shape[1]), np.int32)
  parts = tokens[:, :3], tokens[::-1, 3:6], tokens[:, 6:]
  keys[:, :3] = np.concatenate(parts)
  owners = np.tile(np.arange(COUNT), 3)
  texts = np.concatenate([tokens, keys])
  vectors = jax.jit(
    lambda key: model.document_vectors(
      key,
      config.model,
      jnp.asarray(tokens),
      vocab_size=VOCAB,
      texts=jnp.asarray(texts),
    )
  )(jax.random.key(0))
  own, others = np.split(np.asarray(vectors), [COUNT])
  found, quantiser = indexes.build(tokens, own, config.docid)
  base = docids.encode(quantiser, others, config.docid)
  codes = np.asarray(found.codes, np.int32)
  chosen = further.choose(codes[:, :-1], base, owners, most=MOST)
  built = further.build(codes, base, keys, chosen)
  assert {0, 1, 2} == set(built.where.sum(0).tolist())
  return indexes.with_further(found, built)


@functools.cache
def initialise(config):
  return jax.jit(
    lambda index: model.init(jax.random.key(0), config, index, vocab_size=VOCAB)
  )


def initial(config, index):
  return initialise(config.model)(index)


@pytest.fixture(scope='module')
def params(config, index):
  """Initial parameters with a node table that no vector determines."""
  found = initial(config, index)
  decoder = found['id_decoder']
  table = jax.random.normal(jax.random.key(1), decoder['table'].shape)
  return found | {'id_decoder': decoder | {'table': table}}


@pytest.fixture(scope='module')
def encoding(config, params, small_batch):
  run = jax.jit(query_encoder.apply, static_argnums=1)
  return run(params['query_encoder'], config.query_encoder, small_batch.query)


def every_docid(index):
  """(document, docid) of all docids in the trie."""
  more = index.further
  found = [(n, tuple(own)) for n, own in enumerate(np.asarray(index.codes))]
  return found + [
    (n, tuple(np.asarray(more.codes[f, n])))
    for f, n in np.argwhere(np.asarray(more.where))
  ]


def enumerate_documents(params, index, encoding, docids_there):
  """P(document) of each query, float[B, N], and P(docid), without the trie.

  A docid has a factor for each prefix that others share: a softmax over the
  next codes. The vector of a node is looked up by `trie.walk` alone.
  """
  decoder = params['id_decoder']
  codes = np.array([own for _, own in docids_there])
  way = tries.walk(index.trie, jnp.asarray(codes)[None])
  rows = np.stack([np.asarray(f.children[0, :, 0]) for f in way], axis=1)
  table = np.asarray(decoder['table'], np.float64)
  unit = table / np.linalg.norm(table, axis=1, keepdims=True)
  logits = np.asarray(encoding.vector, np.float64) @ unit.T
  probability = np.ones((len(logits), len(codes)))
  for place, own in enumerate(codes):
    for level in range(rows.shape[1]):
      alike = (codes[:, :level] == own[:level]).all(axis=1)
      if alike.sum() == 1:  # told from all others
        break
      scale = np.exp(float(decoder['log_scale'][level]))
      children = {
        codes[i, level]: rows[i, level] for i in np.flatnonzero(alike)
      }
      scores = np.exp(scale * logits[:, list(children.values())])
      own_score = np.exp(scale * logits[:, rows[place, level]])
      probability[:, place] *= own_score / scores.sum(axis=1)
  total = np.zeros((len(logits), COUNT))
  for place, (document, _) in enumerate(docids_there):
    total[:, document] += probability[:, place]
  return total, probability


@pytest.fixture(scope='module')
def exact(params, index, encoding):
  return enumerate_documents(params, index, encoding, every_docid(index))


@functools.cache
def retrieve(config):
  """(params, index, encoding, allowed) -> documents found."""

  @jax.jit
  def run(params, index, encoding, allowed=None):
    return docid_search.retrieve(
      params, config, index, encoding, allowed=allowed
    )

  return run


def by_document(found):
  """Scores of found documents float[B, N]; a document twice is an error."""
  scores = np.full((len(found.where), COUNT), -np.inf)
  for query, (rows, own, where) in enumerate(
    zip(found.documents, found.scores, found.where, strict=True)
  ):
    real = np.asarray(rows)[np.asarray(where)]
    assert len(set(real.tolist())) == len(real)
    scores[query, real] = np.asarray(own)[np.asarray(where)]
  return scores


class TestSearch:
  def test_it_equals_the_enumeration_of_all_docids(
    self, config, params, index, encoding, exact
  ):
    found = retrieve(config.model)(params, index, encoding)
    np.testing.assert_allclose(exact[0].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
      np.exp(by_document(found)), exact[0], rtol=1e-4, atol=1e-7
    )
    assert int(found.where.sum()) == COUNT * len(exact[0])
    assert (np.diff(np.asarray(found.scores), axis=1) <= 0).all()
    # The codes are those of the most probable docid.
    there, each = every_docid(index), exact[1]
    for query, document in np.ndindex(len(each), COUNT):
      own = [i for i, (n, _) in enumerate(there) if n == document]
      best = max(own, key=lambda i: each[query, i])
      place = np.flatnonzero(np.asarray(found.documents[query]) == document)[0]
      assert tuple(np.asarray(found.codes[query, place])) == there[best][1]

  def test_scores_by_teacher_forcing_are_those_of_the_search(
    self, config, params, index, encoding, exact
  ):
    rows = jnp.broadcast_to(jnp.arange(COUNT), exact[0].shape)

    @jax.jit
    def run(params, index, encoding):
      own = params, config.model, index, encoding
      return docid_search.score_docids(*own, rows), docid_search.score_all(*own)

    for scores in run(params, index, encoding):
      np.testing.assert_allclose(np.exp(scores), exact[0], rtol=1e-4)

  def test_a_beam_returns_as_many_documents_as_it_is_wide(
    self, config, params, index, encoding, exact
  ):
    search = dataclasses.replace(config.search, beam_size=3, read_size=1)
    narrow = dataclasses.replace(config.model, search=search)
    found = retrieve(narrow)(params, index, encoding)
    assert found.where.shape == (4, 3)
    assert bool(found.where.all())
    scores = np.exp(by_document(found))
    assert (scores <= exact[0] * (1 + 1e-4)).all()  # of the docids found

  def test_allowed_documents_are_allowed_by_all_their_docids(
    self, config, params, index, encoding
  ):
    allowed = jnp.arange(COUNT) % 2 == 0
    own = params, index, encoding
    found = retrieve(config.model)(*own, allowed)
    scores = by_document(found)
    assert not np.isfinite(scores[:, 1::2]).any()
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)
    run = jax.jit(
      lambda params, *own: docid_search.score_all(
        params, config.model, *own, allowed=allowed
      )
    )
    np.testing.assert_allclose(scores[:, ::2], run(*own)[:, ::2], atol=1e-4)

  def test_the_lookahead_of_a_docid_is_that_of_its_document(
    self, config, params, index
  ):
    texts = np.arange(2 * COUNT).reshape(COUNT, 2) % 7 + 1
    lexicon = lexical.build(texts, vocab_size=8)
    weighted = dataclasses.replace(
      config.model,
      search=dataclasses.replace(config.search, lexical_weight=2.0),
    )
    words = jnp.array([[3, 0], [5, 6]])
    weighed = dataclasses.replace(index, lexicon=lexicon)
    run = jax.jit(matching.lookahead, static_argnums=1)
    ahead = run(params, weighted, weighed, words)
    scores = 2 * np.asarray(jax.jit(lexical.score_all)(lexicon, words))
    assert scores.any()
    for f in range(MOST + 1):
      part = ahead[:, f * COUNT : (f + 1) * COUNT]
      np.testing.assert_allclose(part, scores, rtol=1e-6)

  def test_one_docid_each_gives_the_candidates_of_the_beam(
    self, config, params, small_index, encoding
  ):
    table = jax.random.normal(
      jax.random.key(2), (small_index.trie.num_nodes, 16)
    )
    own = params | {'id_decoder': params['id_decoder'] | {'table': table}}
    assert small_index.docids_each == 1
    found = retrieve(config.model)(own, small_index, encoding)
    bare = further.Further(
      codes=np.zeros((0, *small_index.codes.shape), np.int32),
      where=np.zeros((0, COUNT), bool),
    )
    same = dataclasses.replace(small_index, further=bare)
    merged = retrieve(config.model)(own, same, encoding)
    jax.tree.map(np.testing.assert_array_equal, found, merged)


def test_merged_scores_against_a_dictionary():
  rng = np.random.default_rng(0)
  scores = np.sort(rng.normal(size=(3, 20)))[:, ::-1].astype(np.float32)
  documents = rng.integers(0, 6, (3, 20))
  where = rng.random((3, 20)) < 0.8
  found = jax.jit(beam_ends.merge, static_argnums=1)(
    beam_ends.types.Candidates(
      documents=jnp.asarray(documents),
      codes=jnp.broadcast_to(jnp.arange(20)[:, None], (3, 20, 1)),
      scores=jnp.asarray(scores),
      where=jnp.asarray(where),
    ),
    8,
  )
  for query in range(3):
    wanted = collections.defaultdict(list)
    for place in np.flatnonzero(where[query]):
      wanted[documents[query, place]].append(place)
    sums = {
      n: np.log(np.exp(scores[query, places]).sum())
      for n, places in wanted.items()
    }
    order = sorted(sums, key=lambda n: -sums[n])
    real = np.asarray(found.where[query])
    assert real.tolist() == [True] * len(order) + [False] * (8 - len(order))
    assert np.asarray(found.documents[query])[real].tolist() == order
    assert np.asarray(found.codes[query, :, 0])[real].tolist() == [
      wanted[n][0] for n in order
    ]
    np.testing.assert_allclose(
      np.asarray(found.scores[query])[real], [sums[n] for n in order], rtol=1e-5
    )


class TestLosses:
  def test_the_gradient_reaches_all_docids_by_their_share(
    self, config, params, index, encoding
  ):
    document = int(np.asarray(index.further.where).sum(0).argmax())
    codes = [own for n, own in every_docid(index) if n == document]
    assert len(codes) == MOST + 1

    def each(table):
      decoder = params['id_decoder'] | {'table': table}
      return beam.score(
        (decoder, encoding),
        id_decoder.initial_cache(config.id_decoder, 4, 16),
        index.trie,
        jnp.broadcast_to(jnp.array(codes), (4, len(codes), len(codes[0]))),
        step_fn=lambda *own: id_decoder.apply(*own, config=config.id_decoder),
      )[0]

    def total(table):
      own = params | {'id_decoder': params['id_decoder'] | {'table': table}}
      rows = jnp.full((4, 1), document)
      scores = docid_search.score_docids(
        own, config.model, index, encoding, rows
      )
      return scores[0, 0]

    table = params['id_decoder']['table']
    share = jax.nn.softmax(jax.jit(each)(table))
    jacobian = jax.jit(jax.jacrev(each))(table)
    wanted = jnp.einsum('e,end->nd', share, jacobian)
    found = jax.jit(jax.grad(total))(table)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    leaves = further.leaves_of(np.array([document]), index.further)
    assert len(leaves) == MOST + 1
    assert (np.abs(np.asarray(found)[leaves]).sum(axis=1) > 0).all()

  def test_the_docid_loss_is_of_the_summed_probability(
    self, config, params, index, small_batch, exact
  ):
    stage = stages.Stage(losses=(('docid', 1.0),), candidates='beam')

    @jax.jit
    def run(params, index):
      own = params, jax.random.key(5), small_batch, index
      return objective.loss(*own, config=config.model, stage=stage)[0]

    terms = run(params, index)
    value, count = terms['docid']
    gold = exact[0][np.arange(4), np.arange(4)]
    assert int(count) == 4
    assert float(value) == pytest.approx(-np.log(gold).sum(), rel=1e-5)


def test_initial_nodes_are_means_of_documents_and_keys(config, index):
  params = initial(config, index)
  encoder, table = params['query_encoder'], params['id_decoder']['table']

  def embed(tokens):
    return np.asarray(jax.jit(query_encoder.embed_documents)(encoder, tokens))

  texts = [embed(index.tokens), *map(embed, index.further.tokens)]
  for f, n in [(0, 3), *np.argwhere(np.asarray(index.further.where)) + [1, 0]]:
    np.testing.assert_allclose(table[f * COUNT + n], texts[f][n], atol=1e-5)
  absent = ~np.asarray(index.further.where).ravel()
  assert not np.asarray(table)[COUNT : COUNT * (MOST + 1)][absent].any()
  # A node of the first level: all docids that start with its code.
  there = every_docid(index)
  below = collections.defaultdict(list)
  for f in range(MOST + 1):
    for n in range(COUNT):
      if f and not bool(index.further.where[f - 1, n]):
        continue
      own = index.codes[n] if not f else index.further.codes[f - 1, n]
      below[int(own[0])].append(texts[f][n])
  way = tries.walk(index.trie, jnp.array([[own for _, own in there]]))[0]
  for (_, own), row in zip(there, way.children[0, :, 0], strict=True):
    if len(below[own[0]]) > 1:
      mean = np.sum(below[own[0]], axis=0)
      np.testing.assert_allclose(
        table[row], mean / np.linalg.norm(mean), atol=1e-4
      )


class TestChoice:
  def test_it_takes_the_codes_of_most_keys_against_a_counter(self):
    rng = np.random.default_rng(1)
    own = rng.integers(0, 3, (9, 2))
    keys, owners = rng.integers(0, 3, (60, 2)), rng.integers(0, 9, 60)
    chosen = further.choose(own, keys, owners, most=3)
    for document in range(9):
      mine = [i for i in range(60) if owners[i] == document]
      counts = collections.Counter(tuple(keys[i]) for i in mine)
      counts.pop(tuple(own[document]), None)
      first = {codes: i for i in reversed(mine) for codes in [tuple(keys[i])]}
      order = sorted(counts, key=lambda c: (-counts[c], first[c]))[:3]
      found = [i for i in chosen[:, document] if i >= 0]
      assert found == [first[codes] for codes in order]
      assert (chosen[len(order) :, document] == -1).all()

  def test_docids_are_unique_and_own_docids_stay(self, index, small_index):
    there = [own for _, own in every_docid(index)]
    assert len(set(there)) == len(there) > COUNT
    np.testing.assert_array_equal(index.codes, small_index.codes)
    for f, n in np.argwhere(np.asarray(index.further.where)):
      assert (index.further.codes[f, n, :-1] != index.codes[n, :-1]).any()

  def test_documents_without_keys_have_one_docid(self):
    codes = np.array([[0, 0], [0, 1]], np.int32)
    none = np.zeros((0, 1), np.int32)
    chosen = further.choose(codes[:, :1], none, np.zeros(0, int), most=2)
    built = further.build(codes, none, none, chosen)
    assert not built.where.any()
    index = indexes.from_codes(np.ones((2, 3), np.int32), codes, further=built)
    assert sorted(index.trie.documents.tolist()[:2]) == [0, 1]


def test_a_deleted_document_has_no_leaf_in_the_trie(index):
  gone = int(np.asarray(index.further.where).sum(0).argmax())
  alive = np.arange(COUNT) != gone
  less = indexes.from_codes(
    np.asarray(index.tokens),
    np.asarray(index.codes),
    alive=alive,
    further=jax.tree.map(np.asarray, index.further),
  )
  left = int(np.asarray(index.further.where)[:, alive].sum()) + COUNT - 1
  leaves = np.asarray(less.trie.documents)[:left]
  assert gone not in leaves % COUNT
  assert len(set(leaves.tolist())) == left


def test_each_device_of_a_mesh_has_trie_and_further_docids(index):
  placed = placement.place_index(index, placement.mesh('data=4,fsdp=2'))
  for array in jax.tree.leaves((placed.trie, placed.further)):
    assert array.sharding.is_fully_replicated
  assert isinstance(placed.codes, split_rows.Rows)  # as for one docid each
  wanted = index.further.replace(tokens=None)  # the keys start the node table
  assert index.further.tokens is not None
  jax.tree.map(np.testing.assert_array_equal, placed.further, wanted)


def test_a_file_keeps_further_docids(index, small_index, tmp_path):
  indexes.save(index, {}, tmp_path / 'several.npz')
  for on_host in (False, True):
    found, _ = indexes.load(tmp_path / 'several.npz', on_host=on_host)
    jax.tree.map(np.testing.assert_array_equal, found.further, index.further)
    jax.tree.map(np.testing.assert_array_equal, found.trie, index.trie)
  indexes.save(small_index, {}, tmp_path / 'one.npz')
  with np.load(tmp_path / 'one.npz') as stored:
    assert set(stored.files) == {'tokens', 'codes', 'alive', 'checksum'}
  assert indexes.load(tmp_path / 'one.npz')[0].further is None
