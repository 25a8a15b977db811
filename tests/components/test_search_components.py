import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import (
  id_decoder,
  query_encoder,
  ranker,
  table_products,
)
from rag_jax.index import docids
from rag_jax.ops import beam
from rag_jax.ops import trie as tries

WIDTH, VOCAB, COUNT = 16, 60, 40


@pytest.fixture
def corpus():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(1, VOCAB, (COUNT, 10)), jnp.int32)


@pytest.fixture
def encoder(corpus):
  config = query_encoder.QueryEncoderConfig(
    width=WIDTH, num_heads=2, mlp_dim=16
  )
  weights = query_encoder.inverse_document_frequency(corpus, vocab_size=VOCAB)
  params = query_encoder.init(
    jax.random.key(0), config, vocab_size=VOCAB, token_weights=weights
  )
  return params, config


class TestQueryEncoder:
  def test_untrained_query_and_document_vectors_are_equal(
    self, encoder, corpus
  ):
    encoding = query_encoder.apply(*encoder, corpus)
    documents = query_encoder.embed_documents(encoder[0], corpus)
    np.testing.assert_allclose(encoding.vector, documents, atol=1e-6)

  def test_vectors_have_unit_length_and_an_empty_query_is_zero(self, encoder):
    query = jnp.array([[4, 5, 0], [0, 0, 0]])
    vector = query_encoder.apply(*encoder, query).vector
    np.testing.assert_allclose(
      jnp.linalg.norm(vector, axis=1), [1, 0], atol=1e-6
    )

  def test_an_empty_query_has_a_finite_gradient(self, encoder):
    params, config = encoder

    def total(params):
      query = jnp.array([[4, 5, 0], [0, 0, 0]])
      return query_encoder.apply(params, config, query).vector.sum()

    leaves = jax.tree.leaves(jax.grad(total)(params))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)

  def test_inverse_document_frequency_against_its_definition(self):
    tokens = jnp.array([[1, 1, 2], [1, 0, 0], [3, 0, 0]])
    found = query_encoder.inverse_document_frequency(tokens, vocab_size=5)
    for token, count in ((1, 2), (2, 1), (3, 1), (4, 0)):
      expected = math.log1p((3 - count + 0.5) / (count + 0.5))
      assert float(found[token]) == pytest.approx(expected, rel=1e-6)

  def test_a_corpus_in_blocks_is_the_corpus_at_once(
    self, encoder, corpus, monkeypatch
  ):
    params = encoder[0]
    # Lengths on both sides of a step, an empty document, and a hole.
    lengths = np.arange(COUNT) % 11
    tokens = jnp.where(np.arange(10) < lengths[:, None], corpus, 0)
    tokens = tokens.at[7, 1].set(0)
    whole = query_encoder.embed_documents(params, tokens)
    frequency = query_encoder.inverse_document_frequency(
      tokens, vocab_size=VOCAB
    )
    monkeypatch.setattr(query_encoder, 'STEP', 4)
    for size in (3, 8, COUNT - 1, COUNT):
      monkeypatch.setattr(query_encoder, 'BLOCK', size)
      np.testing.assert_allclose(
        query_encoder.embed_corpus(params, tokens), whole, atol=1e-6
      )
      np.testing.assert_array_equal(
        query_encoder.inverse_document_frequency(tokens, vocab_size=VOCAB),
        frequency,
      )


class TestIdDecoder:
  @pytest.fixture(params=id_decoder.OUTPUTS)
  def decoder(self, request, encoder, corpus):
    vectors = query_encoder.embed_documents(encoder[0], corpus)
    config = docids.DocidConfig(branching=3, leaf_size=3)
    codes = docids.assign(np.asarray(vectors), config)
    trie = tries.build(codes)
    config = id_decoder.IdDecoderConfig(
      output=request.param, num_heads=2, mlp_dim=16
    )
    params = jax.jit(functools.partial(id_decoder.init, config=config))(
      jax.random.key(1),
      trie=trie,
      codes=jnp.asarray(codes),
      document_vectors=vectors,
    )
    return params, config, trie, codes

  def score_all(self, decoder, encoding):
    params, config, trie, codes = decoder
    batch = encoding.vector.shape[0]
    everything = jnp.broadcast_to(codes, (batch, *codes.shape))
    score = functools.partial(
      beam.score, step_fn=functools.partial(id_decoder.apply, config=config)
    )
    cache = id_decoder.initial_cache(config, batch, WIDTH)
    return jax.jit(score)((params, encoding), cache, trie, everything)

  def trained(self, decoder):
    """The same decoder with a nonzero residual."""
    params, config, trie, codes = decoder
    noise = jax.random.normal(jax.random.key(2), (WIDTH, WIDTH))
    params['network']['residual']['kernel'] = noise
    return params, config, trie, codes

  @pytest.mark.parametrize('is_trained', [False, True])
  def test_log_probabilities_sum_to_one_over_the_corpus(
    self, decoder, encoder, corpus, is_trained
  ):
    decoder = self.trained(decoder) if is_trained else decoder
    encoding = query_encoder.apply(*encoder, corpus[:5])
    scores = self.score_all(decoder, encoding)
    np.testing.assert_allclose(jnp.exp(scores).sum(1), 1, rtol=1e-5)

  @pytest.mark.parametrize('is_trained', [False, True])
  def test_beam_search_equals_scoring_every_document(
    self, decoder, encoder, corpus, is_trained
  ):
    decoder = self.trained(decoder) if is_trained else decoder
    params, config, trie, codes = decoder
    encoding = query_encoder.apply(*encoder, corpus[:5])
    scores = self.score_all(decoder, encoding)
    search = functools.partial(
      beam.search,
      step_fn=functools.partial(id_decoder.apply, config=config),
      batch_size=5,
      beam_size=COUNT,
    )
    cache = id_decoder.initial_cache(config, 5, WIDTH)
    found = jax.jit(search)((params, encoding), cache, trie)
    order = jnp.argsort(-scores, axis=1)
    np.testing.assert_allclose(
      found.scores, jnp.take_along_axis(scores, order, 1), atol=1e-4
    )

  def test_a_document_as_query_retrieves_itself(self, decoder, encoder, corpus):
    if decoder[1].output == 'codebook':
      pytest.skip('a codebook does not identify single documents')
    encoding = query_encoder.apply(*encoder, corpus)
    best = self.score_all(decoder, encoding).argmax(axis=1)
    assert float((best == jnp.arange(COUNT)).mean()) > 0.9

  def test_untrained_scores_are_cosines_with_mean_vectors(
    self, decoder, encoder, corpus
  ):
    params, config, trie, codes = decoder
    if config.output == 'codebook':
      pytest.skip('a codebook has means of codes, not of nodes')
    documents = np.asarray(query_encoder.embed_documents(encoder[0], corpus))
    encoding = query_encoder.apply(*encoder, corpus[:3])
    scores = self.score_all(decoder, encoding)
    prefixes = [
      [tuple(row[:end]) for end in range(1, len(row) + 1)]
      for row in codes.tolist()
    ]

    def mean_of(rows):
      mean = documents[rows].sum(axis=0)
      return mean / np.linalg.norm(mean)

    for query in range(3):
      vector = np.asarray(encoding.vector[query])
      for document in range(COUNT):
        expected = 0.0
        for level in range(trie.depth):
          parent = prefixes[document][:level][-1:]
          family = [p[level] for p in prefixes if p[:level][-1:] == parent]
          values = [
            config.scale * vector @ mean_of([p[level] == n for p in prefixes])
            for n in sorted(set(family))
          ]
          index = sorted(set(family)).index(prefixes[document][level])
          expected += values[index] - np.logaddexp.reduce(values)
        assert float(scores[query, document]) == pytest.approx(
          expected, abs=1e-3
        )

  def test_gathered_rows_and_the_whole_product_give_equal_scores(
    self, decoder, encoder, corpus, monkeypatch
  ):
    params, *rest = self.trained(decoder)
    encoding = query_encoder.apply(*encoder, corpus[:5])

    def total(params):
      scores = self.score_all((params, *rest), encoding)
      return jnp.sin(scores).sum(), scores

    found = []
    for ratio in (0, 1_000):
      monkeypatch.setattr(table_products, 'MAX_PRODUCT_RATIO', ratio)
      found.append(jax.grad(total, has_aux=True)(params))
    for gathered, product in zip(*map(jax.tree.leaves, found), strict=True):
      # Relative to the largest, since small entries come from cancellation.
      most = max(float(jnp.abs(product).max()), 1)
      np.testing.assert_allclose(gathered, product, rtol=0, atol=1e-5 * most)

  def test_an_unknown_output_raises(self):
    with pytest.raises(ValueError, match='node_table, codebook, got .hash.'):
      id_decoder.IdDecoderConfig(output='hash')


class TestRanker:
  def test_lexical_is_bm25(self):
    config = ranker.RankerConfig()
    weights = jnp.array([1.0, 2.0, 3.0, 0.5])
    params = ranker.init(config, token_weights=weights)
    query = jnp.array([[2, 3, 0]])
    passages = jnp.array([[[2, 2, 1, 0], [1, 1, 1, 3], [1, 0, 0, 0]]])
    found = ranker.lexical(
      params, config, query, passages, mean_length=jnp.float32(3.0)
    )

    def term(weight, count, length):
      norm = 1 - config.length_norm + config.length_norm * length / 3
      return weight * count / (count + config.saturation * norm)

    expected = [term(3.0, 2, 3), term(0.5, 1, 4), 0.0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)

  def test_a_signal_of_weight_zero_is_off(self):
    config = ranker.RankerConfig(docid_weight=0.0)
    params = ranker.init(config, token_weights=jnp.ones(3))
    one, two = jnp.ones((1, 2)), jnp.full((1, 2), 2.0)
    with_docid = ranker.apply(
      params, config, docid=two, vector=one, lexical=one
    )
    without = ranker.apply(params, config, docid=one, vector=one, lexical=one)
    np.testing.assert_array_equal(with_docid, without)

  def test_weights_sum_to_one_over_the_real_candidates(self):
    config = ranker.RankerConfig()
    where = jnp.array([[True, True, False], [False, False, False]])
    weights = ranker.select(config, jnp.ones((2, 3)), where=where)
    np.testing.assert_allclose(weights.sum(1), [1, 0])
    assert float(weights[0, 2]) == 0

  @pytest.mark.parametrize(
    'field, value', [('operator', 'hardmax'), ('vector_weight', -1.0)]
  )
  def test_bad_values_name_the_field_and_the_remedy(self, field, value):
    with pytest.raises(ValueError, match=f'ranker.{field} must') as error:
      ranker.RankerConfig(**{field: value})
    assert repr(value) in str(error.value)
    assert f'--config.ranker.{field}' in str(error.value)


class TestWithoutLayers:
  """An ID decoder without layers, with absolute scoring."""

  @pytest.fixture
  def parts(self):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = docids.assign(vectors, docids.DocidConfig(branching=4, leaf_size=4))
    trie = tries.build(codes)
    config = id_decoder.IdDecoderConfig(num_layers=0)
    params = id_decoder.init(
      jax.random.key(0),
      config,
      trie=trie,
      codes=jnp.asarray(codes),
      document_vectors=jnp.asarray(vectors),
    )
    query = jnp.asarray(vectors[:3])
    encoding = query_encoder.Encoding(
      vector=query,
      memory=query[:, None],
      where=jnp.ones((3, 1), bool),
    )
    return params, config, trie, jnp.asarray(codes), vectors, encoding

  def test_leaf_scores_are_scaled_cosines_with_document_vectors(self, parts):
    params, config, trie, codes, vectors, encoding = parts
    search = functools.partial(
      beam.search,
      step_fn=functools.partial(id_decoder.apply, config=config),
      batch_size=3,
      beam_size=COUNT,
      scoring='absolute',
    )
    found = jax.jit(search)((params, encoding), (), trie)
    products = np.asarray(encoding.vector) @ vectors.T
    order = np.argsort(-products, axis=1)
    np.testing.assert_array_equal(found.documents, order)
    np.testing.assert_allclose(
      found.scores, config.scale * -np.sort(-products, axis=1), atol=1e-4
    )

  def test_all_levels_share_one_product(self, parts):
    params, config, trie, _, _, encoding = parts

    def operations(levels):
      def scores(params):
        frontiers = [
          tries.expand(trie, level, tries.root(3)) for level in range(levels)
        ]
        step = functools.partial(id_decoder.apply, config=config)
        return [step((params, encoding), (), f)[0] for f in frontiers]

      return jax.jit(scores).lower(params).compile().cost_analysis()['flops']

    product = 2 * 3 * WIDTH * trie.num_nodes
    assert trie.depth > 1
    assert product < operations(1) <= operations(trie.depth) < 2 * product

  def test_level_likelihoods_are_softmaxes_over_the_level(self, parts):
    params, config, trie, codes, _, encoding = parts
    gold = codes[jnp.array([[5, 8], [7, 2], [11, 30]])]
    found = jax.jit(
      functools.partial(id_decoder.level_log_likelihood, config=config)
    )((params, encoding), trie, gold)
    table = np.asarray(query_encoder.normalise(params['table']))
    scores = config.scale * np.asarray(encoding.vector) @ table.T
    depth = np.asarray(tries.depths(trie))
    leaf = np.arange(len(depth)) < COUNT
    total = np.zeros((3, 2))
    for frontier in tries.walk(trie, gold):
      level = frontier.level + 1
      nodes = (depth == level) | (leaf & (depth < level))
      for query, place in np.ndindex(3, 2):
        gold_score = scores[query, int(frontier.children[query, place, 0])]
        total[query, place] += gold_score - np.logaddexp.reduce(
          scores[query, nodes]
        )
    np.testing.assert_allclose(found, total / trie.depth, rtol=1e-4)

  @pytest.mark.parametrize('gold_documents', [None, (0, 1, 3, 5), (2, 4)])
  def test_leaves_above_a_level_are_negatives_too(self, gold_documents):
    # Document 3 ends at the first level, 2 and 4 at the second.
    codes = np.array(
      [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]]
      + [[2, 1, 1]]
    )
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(codes), WIDTH)).astype(np.float32)
    trie = tries.build(codes)
    assert np.asarray(tries.depths(trie))[:7].tolist() == [3, 3, 2, 1, 2, 3, 3]
    config = id_decoder.IdDecoderConfig(num_layers=0, scale=2.0)
    params = id_decoder.init(
      jax.random.key(0),
      config,
      trie=trie,
      codes=jnp.asarray(codes),
      document_vectors=jnp.asarray(vectors),
    )
    query = rng.normal(size=(1, WIDTH)).astype(np.float32)
    query /= np.linalg.norm(query)
    encoding = query_encoder.Encoding(
      vector=jnp.asarray(query),
      memory=jnp.asarray(query)[:, None],
      where=jnp.ones((1, 1), bool),
    )
    known = (
      np.ones(7)
      if gold_documents is None
      else np.isin(np.arange(7), gold_documents)
    )
    found = id_decoder.level_log_likelihood(
      (params, encoding),
      trie,
      jnp.asarray(codes)[None],
      config=config,
      where=None
      if gold_documents is None
      else tries.sum_below(trie, known * 1.0) > 0,
    )[0]
    # Without a trie: documents with a common prefix share a node; a document
    # with a unique prefix is a leaf at all deeper levels.
    total = np.zeros(7)
    for level in (1, 2, 3):
      scores, counts = {}, {}
      for prefix in {tuple(row[:level]) for row in codes}:
        below = [tuple(row[:level]) == prefix for row in codes]
        mean = vectors[below].sum(0)
        scores[prefix] = 2.0 * float(query[0] @ mean / np.linalg.norm(mean))
        counts[prefix] = known[below].any()
      for document, row in enumerate(codes):
        gold = tuple(row[:level])
        against = [scores[p] for p in scores if counts[p] or p == gold]
        total[document] += scores[gold] - np.logaddexp.reduce(against)
    np.testing.assert_allclose(found, total / 3, rtol=1e-4)

  def test_excluded_documents_get_no_gradient(self, parts):
    params, config, trie, codes, _, encoding = parts
    gold_documents = jnp.zeros(COUNT).at[jnp.array([5, 7])].set(1.0)
    where = tries.sum_below(trie, gold_documents) > 0

    def total(params):
      return id_decoder.level_log_likelihood(
        (params, encoding),
        trie,
        codes[jnp.array([[5]] * 3)],
        config=config,
        where=where,
      ).sum()

    gradient = jax.jit(jax.grad(total))(params)['table']
    moved = np.abs(np.asarray(gradient)).max(axis=1) > 0
    assert moved[[5, 7]].all()
    assert not moved[np.asarray(~where)].any()

  def test_a_codebook_needs_layers(self):
    with pytest.raises(ValueError, match='num_layers must be at least 1'):
      id_decoder.IdDecoderConfig(num_layers=0, output='codebook')
