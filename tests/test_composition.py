import pytest

from rag_jax import composition, objective
from rag_jax import config as configs
from rag_jax.ops import regularisers

BERT = {
  'data': {'tokenizer': 'tiny'},
  'reader': {'kind': 'bert', 'weights': 'tiny'},
}


def build(small_config, stage, **groups):
  own = {'steps': 1, 'losses': {'answer': 1.0}} | stage
  return small_config(stages={'joint': own}, **groups)


def weigh(*names, **more):
  return dict.fromkeys(names, 1.0) | more


# Name -> (fields of the stage, fields of other groups, error).
CASES = {
  'a best checkpoint without evaluations': (
    {},
    {'train': {'keep_best': 'answers/EM'}},
    "keep_best 'answers/EM' needs evaluations.*evaluate_every=0. Set",
  ),
  'no loss': ({'losses': {}}, {}, 'losses must name a loss.*losses.NAME'),
  'no component': ({'trains': {}}, {}, 'trains must name a component.*NAME'),
  'parts of a batch': (
    {'batch_size': 9},
    {'train': {'accumulate': 2}},
    r'batch_size must be a multiple of train.accumulate \(2\), got 9',
  ),
  'a search loss without a search': (
    {'candidates': 'gold', 'losses': weigh('answer', 'docid')},
    {},
    "losses.docid needs a search, got stages.joint.candidates='gold'.*Set",
  ),
  'a teacher without a search': (
    {'candidates': 'gold', 'losses': weigh('answer', 'pdist')},
    {},
    'losses.pdist needs a search.*Set',
  ),
  'a negative without the loss relevance': (
    {'candidates': 'gold+negative'},
    {},
    'gold.negative trains the relev.*got stages.joint.losses.relevance=0',
  ),
  'relevance of gold documents alone': (
    {'candidates': 'gold', 'losses': weigh('answer', 'relevance')},
    BERT,
    'losses.relevance needs passages that are not gold.*gold.negative',
  ),
  'more documents read than retrieved': (
    {'read_size': 7},
    {},
    r'read_size must be at most search.beam_size \(6\), got 7',
  ),
  'a reader without relevance': (
    {'losses': weigh('relevance')},
    {'reader': {'kind': 'fid'}},
    "losses.relevance needs a reader that scores.*'fid'",
  ),
  'a null document without relevance': (
    {'losses': weigh('null_document')},
    {'reader': {'kind': 'fid'}},
    "losses.null_document needs a reader that scores.*'fid'",
  ),
  'a reader that does not rerank': (
    {'losses': weigh('reranking')},
    BERT,
    "losses.reranking needs a reader that reranks.*'bert'",
  ),
  'a reader without attention': (
    {'losses': weigh('adist')},
    {},
    "losses.adist needs a reader that attends.*'extractive'",
  ),
  'a token loss of an extractive reader': (
    {'losses': weigh('emdr2_token')},
    {},
    "losses.emdr2_token needs a reader that generates.*'extractive'",
  ),
  'a loss without its null document': (
    {'losses': weigh('answer', 'null_document')},
    BERT,
    'losses.null_document needs reader.null_document=True, got False',
  ),
  'a null document with gold documents only': (
    {'read_size': 1, 'losses': weigh('answer', 'null_document')},
    BERT | {'reader': BERT['reader'] | {'null_document': True}},
    r'null_document needs more documents.*max_gold \(1\).*read_size=2',
  ),
  'a null document without its loss': (
    {},
    BERT | {'reader': BERT['reader'] | {'null_document': True}},
    'reader.null_document is trained by the loss null_document.*Set',
  ),
  'a marginal of another reader': (
    {'marginal': 'token'},
    {},
    "marginal must be one of sequence with.*'extractive', got 'token'",
  ),
  'a sequence marginal of a fusion reader': (
    {'marginal': 'sequence'},
    {'reader': {'kind': 'fid'}},
    "marginal must be one of fusion with.*'fid', got 'sequence'",
  ),
  'an estimator without its loss': (
    {'estimator': 'enumerate'},
    {},
    "estimator 'enumerate' trains the search by the loss expected_cost",
  ),
  'a loss without its estimator': (
    {'losses': weigh('answer', 'expected_cost')},
    {},
    'losses.expected_cost needs an estimator, one of gumbel_softmax.*rescore',
  ),
  'a set of all documents read': (
    {
      'estimator': 'leave_one_out_set',
      'samples': 3,
      'losses': weigh('expected_cost'),
    },
    {},
    "samples must be from 2 to 2 for the estimator 'leave_one_out_set' with 3",
  ),
  'more samples than documents read': (
    {
      'estimator': 'expected_utility',
      'samples': 4,
      'losses': weigh('expected_cost'),
    },
    {},
    "samples must be from 1 to 3 for the estimator 'expected_utility' with 3",
  ),
  'no pseudo-queries': (
    {'losses': weigh('indexing')},
    {'pseudo_queries': {'batch_size': 0}},
    'losses.indexing needs pseudo-queries, got pseudo_queries.batch_size=0',
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_an_incompatible_choice_raises_an_error_with_a_remedy(
  small_config, name
):
  stage, groups, message = CASES[name]
  with pytest.raises(ValueError, match=message) as error:
    build(small_config, stage, **groups)
  assert 'Set ' in str(error.value) and '--config.' in str(error.value)


@pytest.mark.parametrize('loss', ['ranking', 'reranking', 'posterior'])
@pytest.mark.parametrize('operator', ['capped_simplex', 'perturbed_top_k'])
def test_a_fenchel_young_loss_needs_a_matching_operator(
  small_config, loss, operator
):
  reranks = BERT | {'reader': BERT['reader'] | {'reranks': True}}
  match = f'losses.{loss} is a Fenchel-Young loss.*{operator!r}'
  stage = {'losses': weigh(loss)}
  with pytest.raises(ValueError, match=match):
    build(small_config, stage, ranker={'operator': operator}, **reranks)
  with pytest.raises(ValueError, match=match):
    build(small_config, stage | {'operator': operator}, **reranks)
  # The operator of the stage overrides that of the ranker.
  own = stage | {'operator': 'entmax'}
  build(small_config, own, ranker={'operator': operator}, **reranks)
  for known in composition.FENCHEL_YOUNG:
    assert known in regularisers.FAMILIES


def test_compatible_choices_are_accepted(small_config):
  every = composition.LOSSES
  assert every == tuple(objective.TERMS)
  reranks = BERT['reader'] | {'reranks': True, 'null_document': True}
  without = ('adist', 'emdr2_token', 'expected_cost')
  losses = weigh(*(name for name in every if name not in without))
  build(small_config, {'losses': losses}, **BERT | {'reader': reranks})
  # Generative readers have a posterior too.
  teachers = ('posterior', 'docid_posterior', 'adist', 'emdr2_token', 'loop')
  config = build(
    small_config, {'losses': weigh(*teachers)}, reader={'kind': 'fid'}
  )
  assert set(dict(config.stages[0][1].losses)) == set(teachers)
  build(small_config, {'candidates': 'all', 'read_size': 40})


def test_a_stage_without_steps_is_not_checked(small_config):
  stage = {'steps': 0, 'losses': {}, 'read_size': 99}
  assert build(small_config, stage).steps == 0


def test_errors_name_the_stage(small_config):
  right = {'steps': 1, 'losses': {'answer': 1.0}}
  for fields, match in (
    ({'estimator': 'guess'}, 'stages.second.estimator must be one of'),
    ({'read_size': 99}, 'stages.second.read_size must be at most'),
    ({'losses': {'answr': 1.0}}, "no field 'stages.second.losses.answr'.*answ"),
    ({'cadidates': 'all'}, "'stages.second.cadidates'. Did you mean"),
  ):
    with pytest.raises(ValueError, match=match):
      small_config(stages={'first': right, 'second': right | fields})


def test_published_weights_need_their_tokenizer():
  with pytest.raises(ValueError, match='encoder.weights .*need their own'):
    configs.build({'query_encoder': {'weights': 'tiny'}})
  # A reader may have a tokenizer beside its weights.
  causal = {'kind': 'causal', 'weights': 'tiny'}
  assert configs.build({'reader': causal}).reader.kind == 'causal'
  assert configs.build({'reader': BERT['reader']}).reader.kind == 'bert'
  assert configs.build(BERT).data.tokenizer == 'tiny'
