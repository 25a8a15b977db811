import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import compiled, curriculum, model, train
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline

SEARCH = {'steps': 2, 'losses': {'docid': 1.0, 'ranking': 1.0}}
READ = {'steps': 2, 'candidates': 'gold', 'losses': {'answer': 1.0}}
JOINT = {'steps': 1, 'losses': {'answer': 1.0, 'docid': 1.0}}
UNSEEN = {'steps': 1, 'candidates': 'beam', 'losses': {'posterior': 1.0}}


@pytest.fixture(scope='module')
def start(tiny_values, tmp_path_factory):
  """The input of training, in a workdir."""
  config = configs.build(tiny_values)
  return workdirs.open(config, tmp_path_factory.mktemp('work') / 'run')


@pytest.fixture
def staged(tiny_values, start):
  """Makes a configuration with these stages, and the input of training."""

  def make(data=None, reader=None, **named):
    config = configs.build(
      tiny_values
      | {
        'stages': named,
        'data': tiny_values['data'] | (data or {}),
        'reader': tiny_values['reader'] | (reader or {}),
      }
    )
    system = start.system.with_config(config)
    return config, dataclasses.replace(start, system=system)

  return make


def with_questions(prepared, change):
  """`prepared` with `change(i, question)` applied to training questions."""
  dataset = prepared.dataset
  asked = tuple(change(i, q) for i, q in enumerate(dataset.splits['train']))
  splits = dict(dataset.splits) | {'train': asked}
  return dataclasses.replace(
    prepared, dataset=dataclasses.replace(dataset, splits=splits)
  )


def material(config, prepared, other=None, params=None):
  """Stage name -> its training questions."""
  found = curriculum.prepare(config, prepared, other or {})
  return {name: make(params)[0] for name, make in found.items()}


def rows_of(questions, everything):
  """Rows of `questions` in `everything`."""
  texts = [tuple(row) for row in np.asarray(everything.query)]
  return [texts.index(tuple(row)) for row in np.asarray(questions.query)]


def test_questions_of_each_kind_of_stage(staged):
  config, prepared = staged(
    search=SEARCH, read=READ, joint=JOINT, unseen=UNSEEN, off={'steps': 0}
  )
  absent = {0: {'answers': ('q',)}, 1: {'answers': ()}}
  absent |= {2: {'document_ids': ()}, 3: {'document_ids': ()}}
  prepared = with_questions(
    prepared, lambda i, q: dataclasses.replace(q, **absent.get(i, {}))
  )
  everything = curriculum.training_questions(prepared)
  found = {
    name: rows_of(own, everything)
    for name, own in material(config, prepared).items()
  }
  assert found == {
    'search': [0, 1, *range(4, 40)],  # those with gold documents
    'read': [*range(4, 40)],  # that contain an answer
    'joint': [*range(40)],
    'unseen': [*range(40)],
  }


def test_labelled_questions_limits_search_and_gold_stages_only(staged):
  own = {'labelled_questions': 20}
  config, prepared = staged(data=own, search=SEARCH, read=READ, joint=JOINT)
  counts = {
    name: (len(own.gold), int((own.gold >= 0).sum()))
    for name, own in material(config, prepared).items()
  }
  assert counts == {'search': (20, 20), 'read': (20, 20), 'joint': (40, 20)}


def test_without_gold_documents_search_trains_on_all_questions(staged):
  config, prepared = staged(search=SEARCH)
  prepared = with_questions(
    prepared, lambda i, q: dataclasses.replace(q, document_ids=())
  )
  assert len(material(config, prepared)['search'].query) == 40


def test_a_generative_reader_needs_no_answer_span(staged):
  config, prepared = staged(reader={'kind': 'fid'}, read=READ)
  prepared = with_questions(
    prepared,
    lambda i, q: dataclasses.replace(q, answers=('q',)[i % 2 :]),
  )
  everything = curriculum.training_questions(prepared)
  found = rows_of(material(config, prepared)['read'], everything)
  assert found == [*range(0, 40, 2)]
  pointing, prepared_ = staged(read=READ)
  prepared_ = dataclasses.replace(prepared_, dataset=prepared.dataset)
  message = '^stages.read reads gold.*got none.*--config.stages.read.steps=0'
  with pytest.raises(ValueError, match=message):
    curriculum.prepare(pointing, prepared_, {})


def test_rare_tokens_are_those_of_the_corpus(staged, monkeypatch):
  monkeypatch.setattr(curriculum.renaming, 'SHARE', 0.25)  # a small corpus
  renamed = JOINT | {'renamed': 0.5}
  words = renamed | {'renamed_numbers': False}
  config, prepared = staged(plain=JOINT, renamed=renamed, words=words)
  found = curriculum.prepare(config, prepared, {})
  indexes = {name: make(None)[1] for name, make in found.items()}
  assert indexes['plain'].rare is None
  is_rare = np.asarray(indexes['renamed'].rare)
  assert len(is_rare) == prepared.system.tokenizer.get_vocab_size()
  for token in range(len(is_rare)):
    count = (prepared.index.tokens == token).any(1).sum()
    assert is_rare[token] == (token > 0 and 1 <= count <= 12)
  assert is_rare.any()
  left_out = is_rare & ~np.asarray(indexes['words'].rare)
  pieces = map(prepared.system.tokenizer.id_to_token, range(len(is_rare)))
  digits = [any(c.isdigit() for c in piece) for piece in pieces]
  np.testing.assert_array_equal(left_out, is_rare & digits)
  assert left_out.any()


class TestNegatives:
  @pytest.fixture(scope='class')
  def searched(self, tiny_values, start):
    """Config, parameters of the first step, questions and index."""
    config = configs.build(tiny_values)
    init = functools.partial(
      model.init, config=config.model, vocab_size=start.vocab_size
    )
    params = jax.jit(init)(jax.random.key(0), index=start.index)
    questions = curriculum.training_questions(start)
    return config, params, questions, start.index

  def negative(self, searched, gold):
    config, params, questions, index = searched
    wide = np.full((len(questions.query), 6), -1, np.int32)
    wide[:, : gold.shape[1]] = gold
    own = dataclasses.replace(questions, gold=wide)
    found = curriculum.with_negative(config, params, own, index)
    np.testing.assert_array_equal(found.gold, wide)
    return found.negative[:, None]

  def test_a_gold_document_is_never_a_negative(self, searched, start):
    nothing = np.zeros((40, 0), np.int32)
    first = self.negative(searched, nothing)
    second = self.negative(searched, first)
    third = self.negative(searched, np.hstack([second, first]))
    assert (first >= 0).all() and (second >= 0).all() and (third >= 0).all()
    for one, other in ((first, second), (first, third), (second, third)):
      assert (one != other).all()
    # With the second best as gold, the best is the negative again.
    np.testing.assert_array_equal(self.negative(searched, second), first)
    # The negatives follow the order of the ranker.
    system = start.trained(searched[1])
    asked = start.dataset.splits['train']
    ranked = system.run(compiled.rank, asked)
    np.testing.assert_array_equal(
      ranked.documents[:, :3], np.hstack([first, second, third])
    )
    # There is no negative if all retrieved documents are gold.
    assert (self.negative(searched, ranked.documents) == -1).all()

  def test_gold_documents_of_the_data_are_no_negatives(self, searched):
    config, params, questions, index = searched
    found = curriculum.with_negative(config, params, questions, index)
    assert (found.negative >= 0).all()
    assert (found.negative[:, None] != found.gold).all()

  def test_gold_documents_beyond_max_gold_may_be_negatives(
    self, searched, start
  ):
    # See the docstring of `with_negative`.
    config, params, questions, index = searched
    own = questions.gold
    best = self.negative(searched, own)
    names = [document.id for document in start.dataset.documents]
    both = with_questions(
      start,
      lambda i, q: dataclasses.replace(
        q, document_ids=(*q.document_ids, names[best[i, 0]])
      ),
    )
    known = {}
    for count in (1, 2):
      data = dataclasses.replace(config.data, max_gold=count)
      other = dataclasses.replace(config, data=data)
      asked = dataclasses.replace(both, system=both.system.with_config(other))
      encoded = curriculum.training_questions(asked)
      assert encoded.gold.shape == (40, count)
      found = curriculum.with_negative(other, params, encoded, index)
      known[count] = found.negative == best[:, 0]
    assert known[1].all() and not known[2].any()

  def test_negatives_are_searched_with_the_current_parameters(
    self, staged, searched
  ):
    # Set by hand, because the loss relevance needs published weights.
    _, params, _, index = searched
    config, prepared = staged(read=READ)
    [(name, stage)] = config.stages
    stage = dataclasses.replace(stage, candidates='gold+negative')
    config = dataclasses.replace(config, stages=((name, stage),))
    make = curriculum.prepare(config, prepared, {})[name]
    first, index = make(params)
    assert index is prepared.index
    assert (first.negative != first.gold[:, 0]).all()
    table = params['id_decoder']['table']
    other = params | {
      'id_decoder': params['id_decoder'] | {'table': jnp.roll(table, 1, 0)}
    }
    assert (make(other)[0].negative != first.negative).any()


class TestOtherData:
  @pytest.fixture
  def folder(self, tmp_path, write_lines):
    folder = tmp_path / 'other'
    folder.mkdir()
    documents = [
      {'id': str(i), 'text': f'A snail lives here. It eats {text} leaves.'}
      for i, text in enumerate(('131', '132', 'some', '134'))
    ]
    questions = [
      {'id': str(i), 'question': 'What does a snail eat?'}
      | {'answers': [str(131 + i)], 'document_ids': [str(i)]}
      for i in range(3)
    ]
    write_lines(folder / 'documents.jsonl', documents)
    write_lines(folder / 'questions-train.jsonl', questions)
    return folder

  @pytest.fixture
  def other_config(self, staged, folder):
    return staged(warmup=READ | {'data': str(folder)}, read=READ, joint=JOINT)

  def test_documents_of_other_data_are_appended(self, other_config, capsys):
    config, prepared = other_config
    other = curriculum.load_stage_data(config)
    assert list(other) == ['warmup']
    found = curriculum.prepare(config, prepared, other)
    first, index = found['warmup'](None)
    count = len(prepared.index.tokens)
    np.testing.assert_array_equal(index.tokens[:count], prepared.index.tokens)
    assert len(index.tokens) == count + 3  # the last is not gold
    assert first.gold.ravel().tolist() == [
      count,
      count + 1,
    ]  # one document lacks the answer
    encoded = pipeline.encode_documents(
      prepared.system.tokenizer, [other['warmup'].documents[1]], config.data
    )
    np.testing.assert_array_equal(index.tokens[count + 1], encoded.tokens[0])
    notes = capsys.readouterr().err
    assert 'stages.warmup.data: 3 of 3 documents are truncated; 2 of' in notes
    # The other stages train on the data of the experiment.
    for name, size in (('read', 40), ('joint', 40)):
      questions, index = found[name](None)
      assert index is prepared.index and len(questions.query) == size
      assert (questions.gold < count).all()

  def test_only_the_needed_part_of_other_data_is_used(self, staged, folder):
    fields = READ | {'data': str(folder), 'steps': 1, 'batch_size': 1}
    config, prepared = staged(warmup=fields)
    other = curriculum.load_stage_data(config)['warmup']
    [(name, stage)] = config.stages
    questions, index = curriculum.stage_questions(name, stage, prepared, other)
    assert len(index.tokens) == len(prepared.index.tokens) + 2
    assert len(questions.query) == 2

  def test_errors_of_other_data_are_raised_before_training(
    self, staged, other_config, folder, tmp_path, write_lines
  ):
    config, prepared = other_config
    nowhere = str(tmp_path / 'nowhere')
    missing, _ = staged(warmup=READ | {'data': nowhere, 'batch_size': 8})
    with pytest.raises(ValueError, match='^stages.warmup.data .*does not exis'):
      train.run(missing, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    write_lines(folder / 'questions-train.jsonl', [])
    write_lines(
      folder / 'questions-test.jsonl', [{'id': 'q', 'question': 'What?'}]
    )
    message = "^stages.warmup.data .*in split 'train'.*splits are test"
    with pytest.raises(ValueError, match=message):
      curriculum.load_stage_data(config)
    question = {'id': 'p', 'question': 'What lives here?'}
    question |= {'answers': ['A horse'], 'document_ids': ['0']}
    write_lines(folder / 'questions-train.jsonl', [question])
    other = curriculum.load_stage_data(config)
    with pytest.raises(ValueError, match='word for word, got none in 1'):
      curriculum.prepare(config, prepared, other)

  def test_a_stage_without_steps_loads_no_data(self, staged, tmp_path):
    fields = READ | {'data': str(tmp_path / 'nowhere'), 'steps': 0}
    config, _ = staged(warmup=fields, joint=JOINT)
    assert curriculum.load_stage_data(config) == {}
