import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  docid_search,
  model,
  objective,
  ranking_terms,
  types,
)
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax.components import query_encoder
from rag_jax.index import pseudo_queries

COUNT, VOCAB, BATCH = 12, 50, 4
MARGIN = 3.0


@pytest.fixture(scope='module')
def found(small_config, small_index, small_batch):
  """Scores of search and ranker, and the losses computed from them.

  Questions have two, one or no gold documents. Some documents are never gold.
  """
  config = small_config(ranker={'operator': 'softmax'})
  never = (2, 4, 8)
  asked = np.ones(small_index.trie.num_nodes, bool)
  asked[list(never)] = False
  index = dataclasses.replace(small_index, gold_nodes=jnp.asarray(asked))
  batch = dataclasses.replace(
    small_batch, gold=jnp.array([[0, 5], [5, -1], [4, 11], [-1, -1]])
  )
  stage = stages.Stage(candidates='beam+gold', margin=MARGIN)
  names = ('docid', 'ranking', 'list_mle', 'margin', 'prefix_margin')

  @jax.jit
  def run(rng):
    params = model.init(rng, config.model, index, vocab_size=VOCAB)
    trace = traces.Trace(
      params, rng, batch, index, config=config.model, stage=stage
    )
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    )
    everything = jnp.broadcast_to(jnp.arange(COUNT), (BATCH, COUNT))
    own = (params, config.model, index, encoding, everything)
    return {
      'documents': trace.candidates.documents,
      'where': trace.candidates.where,
      'scores': trace.ranking.scores,
      'docid': docid_search.score_docids(*own),  # of every document
      'edges': docid_search.edge_scores(*own),
      'terms': {name: objective.TERMS[name](trace) for name in names},
    }

  own = jax.device_get(run(jax.random.key(0)))
  gold = [{0, 5}, {5}, {4, 11}, set()]
  rows = []
  for row, documents in enumerate(own['documents']):
    real = {
      int(d): float(own['scores'][row, k])
      for k, d in enumerate(documents)
      if own['where'][row, k]
    }
    assert gold[row] <= set(real)
    others = [d for d in real if d not in gold[row] and d not in never]
    assert len(others) < len(real) - len(gold[row]) or row == 3
    rows.append((sorted(gold[row]), others, real))
  return own | {'rows': rows, 'codes': np.asarray(small_index.codes)}


class TestAgainstLoops:
  """Each ranking loss against a Python loop."""

  def check(self, found, name, wanted):
    value, count = found['terms'][name]
    assert float(value) == pytest.approx(sum(wanted), rel=1e-4)
    assert int(count) == len(wanted) == 3
    assert all(own > 1e-3 for own in wanted)

  def test_docid(self, found):
    wanted = [
      -np.mean([found['docid'][row, d] for d in gold])
      for row, (gold, _, _) in enumerate(found['rows'])
      if gold
    ]
    self.check(found, 'docid', wanted)

  def test_ranking_with_softmax_is_cross_entropy(self, found):
    wanted = []
    for gold, others, scores in found['rows'][:3]:
      total = np.log(sum(np.exp(scores[d]) for d in (*gold, *others)))
      own = np.mean([total - scores[d] for d in gold])
      wanted.append(own - np.log(len(gold)))  # minus the entropy of the targets
    self.check(found, 'ranking', wanted)

  def test_list_mle_against_enumeration_of_orders(self, found):
    """Sums P(order) over all orders that start with the gold documents."""
    wanted = []
    for gold, others, scores in found['rows'][:3]:
      total = 0.0
      for rest in itertools.permutations(others):
        order = [np.exp(scores[d]) for d in (*gold, *rest)]
        total += np.prod([x / sum(order[i:]) for i, x in enumerate(order)])
      wanted.append(-np.log(total))
    self.check(found, 'list_mle', wanted)

  def test_margin_against_the_formula_of_ltrgr(self, found):
    wanted = []
    for row, (gold, others, _) in enumerate(found['rows'][:3]):
      docid, total = found['docid'][row], 0.0
      for one in gold:
        for other in others:
          total += max(0.0, MARGIN - docid[one] + docid[other])
      wanted.append(total / len(gold))
    self.check(found, 'margin', wanted)

  def test_prefix_margin_against_the_formula_of_ripor(self, found):
    wanted, shared = [], []
    codes = found['codes']
    for row, (gold, others, scores) in enumerate(found['rows'][:3]):
      best = max(gold, key=scores.get)
      rival = max(others, key=scores.get)
      shared.append(int((codes[best] == codes[rival]).argmin()))
      edges, total, gap = found['edges'][row], 0.0, 0.0
      for level in range(codes.shape[1]):
        gap += edges[best, level] - edges[rival, level]
        heights = []
        for own in (best, rival):
          same = [
            scores[d]
            for d in (*gold, *others)
            if (codes[d, : level + 1] == codes[own, : level + 1]).all()
          ]
          heights.append(max(same))
        total += (gap - MARGIN * (heights[0] - heights[1])) ** 2
      wanted.append(total)
    self.check(found, 'prefix_margin', wanted)
    assert (
      min(shared) == 0 and max(shared) > 1
    )  # pairs with and without a shared prefix


def test_relevance_loss_against_the_formula():
  where = jnp.array([[True, True, False], [True, True, True]])
  relevance = jnp.array([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]])
  gold = jnp.array([[False, True, True], [True, False, False]])
  known = jnp.array([True, True])
  loss = functools.partial(ranking_terms.relevance_loss, relevance, gold, where)
  total, count = loss(known)
  wanted = np.log(np.exp(1) + np.exp(2)) - 2 + np.log(3)
  np.testing.assert_allclose(total, wanted, rtol=1e-6)
  assert int(count) == 2
  with_null, _ = loss(known, null=True)
  wanted = np.log(1 + np.exp(1) + np.exp(2)) - 2 + np.log(4)
  np.testing.assert_allclose(with_null, wanted, rtol=1e-6)
  total, count = loss(~known)
  assert float(total) == 0 and int(count) == 0


def test_null_loss_uses_passages_without_the_answer():
  relevance = jnp.array([[2.0, 1.0, -1.0]] * 5)
  where = jnp.ones((5, 3), bool).at[3, 1:].set(False)
  # Questions 1, 2 and 4 have their answer in passages 1 and 3.
  answers = jnp.array([[True, False, True]] * 5)
  answers &= jnp.array([True, True, False, True, False])[:, None]
  batch = types.Batch(
    query=jnp.ones((5, 1), int),
    answers=jnp.array([[[6]], [[6]], [[0]], [[6]], [[0]]]),
    gold=jnp.full((5, 1), -1),
    where=jnp.ones(5, bool),
    answerable=jnp.array([True, True, False, True, True]),
  )
  gold = jnp.array([[True, False, False]]) & (jnp.arange(5) != 1)[:, None]
  gold &= (jnp.arange(5) != 2)[:, None]

  def null_loss(relevance):
    return ranking_terms.null_loss(relevance, answers, gold, where, batch)

  total, count = null_loss(relevance)
  # Question 1 has one passage left without gold and answers. Question 3 is
  # unanswerable, so all three count. Questions 2, 4 and 5 do not count: no gold
  # document read, no passage left, no known answer.
  assert int(count) == 2
  wanted = np.log1p(np.exp(1.0)) + np.log1p(np.exp([2.0, 1.0, -1.0]).sum())
  assert float(total) == pytest.approx(wanted, rel=1e-5)
  slopes = jax.grad(lambda x: null_loss(x)[0])(relevance)
  expected = [[0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
  assert (np.asarray(slopes) > 0).astype(int).tolist() == expected


def test_gold_documents_missed_by_the_beam_are_not_counted(
  small_config, small_index, small_batch
):
  """Ranking losses skip questions whose gold document the beam misses."""
  config = small_config(search={'beam_size': 3, 'read_size': 2})
  stage = stages.Stage(candidates='beam')

  @jax.jit
  def run(rng):
    params = model.init(rng, config.model, small_index, vocab_size=VOCAB)

    def trace(gold):
      where = jnp.arange(BATCH) < BATCH - 1  # the last is padding
      batch = dataclasses.replace(small_batch, gold=gold, where=where)
      return traces.Trace(
        params, rng, batch, small_index, config=config.model, stage=stage
      )

    documents = trace(small_batch.gold).found.documents
    missed = jnp.argmax(
      (documents[:, None] != jnp.arange(COUNT)[:, None]).all(-1), axis=1
    )
    gold = documents[:, :1].at[0, 0].set(missed[0])
    return {
      name: objective.TERMS[name](trace(gold))[1]
      for name in ('ranking', 'list_mle', 'docid')
    }

  counts = jax.device_get(run(jax.random.key(0)))
  assert counts['ranking'] == counts['list_mle'] == BATCH - 2
  assert counts['docid'] == BATCH - 1  # needs no candidates


def test_indexing_is_the_docid_loss_of_crops(
  small_config, small_index, small_batch
):
  config = small_config()
  stage = stages.Stage(losses=(('indexing', 1.0),))

  @jax.jit
  def run(rng):
    params = model.init(rng, config.model, small_index, vocab_size=VOCAB)
    own = traces.Trace(
      params, rng, small_batch, small_index, config=config.model, stage=stage
    )
    query, rows = pseudo_queries.draw(
      rng,
      config.pseudo_queries,
      small_index.tokens,
      jnp.arange(config.pseudo_queries.batch_size),
      log_token_weight=params['ranker']['log_token_weight'],
    )
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, query
    )
    everything = jnp.broadcast_to(jnp.arange(COUNT), (len(rows), COUNT))
    chances = jnp.exp(
      docid_search.score_docids(
        params, config.model, small_index, encoding, everything
      )
    )
    return ranking_terms.indexing(own), chances, rows

  (value, count), chances, rows = jax.device_get(run(jax.random.key(0)))
  np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-4)
  wanted = -sum(
    np.log(own[row]) for own, row in zip(chances, rows, strict=True)
  )
  assert float(value) == pytest.approx(wanted, rel=1e-4) and wanted > 0
  assert int(count) == len(rows)


def test_the_operator_of_a_stage_overrides_that_of_the_ranker(
  small_config, small_index, small_batch
):
  config = small_config(ranker={'operator': 'sparsemax'})
  stage = stages.Stage(candidates='beam', operator='softmax')

  @jax.jit
  def run(rng):
    params = model.init(rng, config.model, small_index, vocab_size=VOCAB)
    trace = traces.Trace(
      params, rng, small_batch, small_index, config=config.model, stage=stage
    )
    return trace.ranking.scores, trace.ranking.weights

  scores, weights = jax.device_get(run(jax.random.key(0)))
  np.testing.assert_allclose(weights, jax.nn.softmax(scores), atol=1e-6)
