"""`System`: from a workdir or from documents, with changes of documents."""

import dataclasses
import functools
import inspect
import json
import shutil

import numpy as np
import pytest

import rag_jax
from rag_jax import ask, loading, store, train, types
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline

QUESTION = 'How much does the red cat weigh?'
NEW = {
  'id': 'pink-gnu',
  'title': 'pink gnu',
  'text': 'The pink gnu lives here. It weighs 999 grams.',
}


@pytest.fixture(scope='module')
def trained(tiny_values, tiny_folder, tmp_path_factory):
  """Kind -> a trained workdir that was moved, and whose data was deleted."""

  @functools.cache
  def train_one(kind):
    folder = tmp_path_factory.mktemp('gone')
    data, run = folder / 'data', folder / 'run'
    shutil.copytree(tiny_folder, data)
    values = tiny_values | {'data': tiny_values['data'] | {'path': str(data)}}
    if kind == 'codebook':
      values['id_decoder'] = values['id_decoder'] | {'output': 'codebook'}
    if kind == 'lexicon':
      values['id_decoder'] = values['id_decoder'] | {'num_layers': 0}
      values['search'] = values['search'] | {'lexical_weight': 2.0}
      values['search'] |= {'scoring': 'absolute'}
      values['data'] |= {'lexicon': True}
    config = configs.build(values)
    train.fit(config, workdirs.open(config, run), run)
    shutil.rmtree(data)
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'moved'
    return shutil.move(run, elsewhere)

  return train_one


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained('node_table'), tmp_path / 'copy')


@pytest.fixture(
  params=[
    'node_table',
    pytest.param('codebook', marks=pytest.mark.long),
    'lexicon',
  ]
)
def any_copy(request, trained, tmp_path):
  return shutil.copytree(trained(request.param), tmp_path / 'copy')


@pytest.fixture(scope='module')
def system(trained):
  return rag_jax.load(trained('node_table'))


class TestLongQuestions:
  """The end of a question counts, and others of a batch do not."""

  POLITE = 'Dear machine, could you please be so very kind as to tell me this: '

  def test_answers_are_the_same_alone_and_beside_long_questions(self, system):
    asked = [QUESTION, self.POLITE * 3 + QUESTION]
    together = system.ask(asked)
    for text, answer in zip(asked, together, strict=True):
      [alone] = system.ask([text])
      assert alone.text == answer.text
      assert alone.probability == pytest.approx(answer.probability, abs=1e-5)
      assert [c.document.id for c in alone.candidates] == [
        c.document.id for c in answer.candidates
      ]
      assert alone.notes == answer.notes == ()
    vectors = system.embed([*asked, self.POLITE * 3 + 'Why?'])
    np.testing.assert_allclose(vectors[:1], system.embed(asked[:1]), atol=1e-5)
    assert abs(vectors[1] - vectors[2]).max() > 1e-3  # the end is read

  def test_what_the_model_does_not_take_is_said(self, system, capsys):
    short, long = system.ask([QUESTION, self.POLITE * 99])
    assert short.notes == ()
    [note] = long.notes
    assert note == (
      '1 of 1 questions cut after 512 tokens, as many as the model takes.'
    )
    assert long.to_dict()['notes'] == [note]
    assert f'note      {note}' in ask.show(long)
    system.search([QUESTION, self.POLITE * 99])
    assert '1 of 2 questions cut' in capsys.readouterr().err


def test_the_best_parameters_are_loaded_instead(trained, tmp_path):
  copy = shutil.copytree(trained('node_table'), tmp_path / 'copy')
  with pytest.raises(ValueError, match='has no best parameters. Train with'):
    loading.load(copy, best=True)
  shutil.copytree(copy / store.CHECKPOINTS, copy / store.BEST)
  system = loading.load(copy, best=True)
  assert system.rows and system.calibrator is None


class TestAsk:
  def test_an_answer_has_consistent_plain_values(self, system):
    [answer] = system.ask([QUESTION])
    assert answer.question == QUESTION
    assert 0 < answer.probability <= 1
    assert not answer.abstained
    weights = [own.weight for own in answer.candidates]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert len({own.document.id for own in answer.candidates}) == 6
    if answer.span is not None:
      begin, end = answer.span
      assert answer.document.text[begin:end] == answer.text
    for own in answer.candidates:
      row = system.rows[own.document.id]
      codes = np.asarray(system.index.codes)[row]
      assert own.codes == tuple(codes.tolist())

  def test_spans_are_character_offsets_of_the_text(self, system):
    document = system.documents[0]
    whole = pipeline.document_text(document)
    before = len(whole) - len(document.text)
    count = int((np.asarray(system.index.tokens[0]) > 0).sum())
    for token in range(count):
      begin, end = pipeline.span(
        system.tokenizer, document, token, token, system.config.data
      )
      assert whole[begin:end] == whole[begin:end].strip() != ''
      if begin >= before:
        assert document.text[begin - before : end - before] == whole[begin:end]

  def test_batch_size_does_not_change_answers(self, system):
    texts = [f'How much does the {c} bee weigh?' for c in ('red', 'blue')]
    texts *= 6  # more than one batch of 8, padded
    together = system.ask(texts)
    alone = [system.ask([text])[0] for text in texts[:2]]
    for one, other in zip(alone, together, strict=False):
      assert one.text == other.text
      assert one.probability == pytest.approx(other.probability, rel=1e-4)
      ids = [own.document.id for own in one.candidates]
      assert ids == [own.document.id for own in other.candidates]
    assert [a.text for a in together[::2]] == [together[0].text] * 6

  def test_only_allowed_documents_are_found(self, system):
    allowed = ['red-cat', 'blue-dog', 'green-owl']
    [answer] = system.ask([QUESTION], allowed=allowed)
    found = {own.document.id for own in answer.candidates}
    assert found == set(allowed)
    [candidates] = system.search([QUESTION], allowed=['blue-dog'])
    assert [own.document.id for own in candidates] == ['blue-dog']

  def test_search_equals_the_candidates_of_ask(self, system):
    [answer] = system.ask([QUESTION])
    [candidates] = system.search([QUESTION])
    assert candidates == answer.candidates
    vectors = system.embed([QUESTION, 'Who?'])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)

  def test_the_system_abstains_above_the_threshold(self, system):
    reader = dataclasses.replace(
      system.config.reader, abstention_threshold=-1e3
    )
    abstaining = system.with_config(
      dataclasses.replace(system.config, reader=reader)
    )
    [answer] = abstaining.ask([QUESTION])
    assert answer.abstained and answer.text == ''
    assert answer.probability > 0

  @pytest.mark.parametrize(
    ('call', 'message'),
    [
      (lambda s: s.ask(QUESTION), r"list of texts, got the text .*Pass \['How"),
      (lambda s: s.ask(['']), "not blank, got ''"),
      (lambda s: s.ask([3]), 'texts .*got 3'),
      (lambda s: s.ask([]), 'must not be empty'),
      (lambda s: s.ask(['a'], allowed='red-cat'), r"Pass \['red-cat'\]"),
      (lambda s: s.ask(['a'], allowed=[]), 'allowed .*got none'),
      (lambda s: s.search(['a'], allowed=['x']), "allowed .*got 'x'.*such as"),
      (lambda s: s.ask(['a'], allowed=[True]), 'allowed .*got True'),
      (lambda s: s.delete('red-cat'), r"Pass \['red-cat'\]"),
      (lambda s: s.delete(['x']), "ids .*got 'x'"),
      (lambda s: s.add('A text.'), r'must be a list'),
      (lambda s: s.add([]), 'must not be empty'),
      (lambda s: s.add([' ']), 'must have text'),
      (lambda s: s.add([{'id': 'a'}]), 'mappings with text'),
      (lambda s: s.add([{'id': 1, 'text': 'a'}]), 'id of a document must be'),
      (lambda s: s.add([{'text': 'a', 'url': 'b'}]), 'leave out other fields'),
      (lambda s: s.add([NEW, NEW]), "'pink-gnu' twice"),
      (lambda s: s.add([NEW | {'id': 'red-cat'}]), "'red-cat' is in the"),
      (
        lambda s: s.add([dataclasses.replace(s.documents[0], id='other')]),
        'equal to row',
      ),
    ],
  )
  def test_invalid_input_raises_one_error(self, system, call, message):
    with pytest.raises(ValueError, match=message):
      call(system)
    assert not (system.workdir / 'live.npz').exists()


class TestChanges:
  def test_adding_and_deleting_a_document(self, any_copy):
    system = rag_jax.load(any_copy)
    before = system.ask([QUESTION])
    more = system.add([NEW])
    asked, both = ['How much does the pink gnu weigh?'], ['pink-gnu', 'red-cat']
    [answer] = more.ask(asked, allowed=both)
    assert {own.document.id for own in answer.candidates} == set(both)
    assert 'pink-gnu' not in system.rows  # a system is immutable
    again = rag_jax.load(any_copy)
    assert again.ask(asked, allowed=both) == [answer]
    # The words of a document retrieve it.
    own_words = ['pink gnu . The pink gnu']
    [found] = again.search(own_words, allowed=['pink-gnu', 'green-hen'])
    assert found[0].document.id == 'pink-gnu'
    less = again.delete(['pink-gnu'])
    for own in (less, rag_jax.load(any_copy)):
      [candidates] = own.search(['How much does the pink gnu weigh?'])
      assert 'pink-gnu' not in {c.document.id for c in candidates}
      assert len(own.rows) == 48
      assert [a.text for a in own.ask([QUESTION])] == [a.text for a in before]

  def test_deleted_documents_are_not_retrieved(self, any_copy):
    gone = [f'{c}-cat' for c in ('red', 'blue', 'green')]
    system = rag_jax.load(any_copy).delete(gone)
    assert len(system.rows) == 45
    texts = [f'How much does the {c} cat weigh?' for c in ('red', 'blue')]
    for candidates in system.search(texts):
      assert not {own.document.id for own in candidates} & set(gone)
    with pytest.raises(ValueError, match="got 'red-cat'"):
      system.ask(texts, allowed=['red-cat'])

  def test_empty_rows_are_reused_and_capacity_grows(self, any_copy):
    system = rag_jax.load(any_copy).delete(['red-cat'])
    row = list(system.documents).index(None)
    many = [
      {'id': f'n{i}', 'text': f'Number {i} weighs {i * 7919 % 1000} grams.'}
      for i in range(150)
    ]
    system = system.add(many)
    assert system.documents[row].id == 'n0'
    assert len(system.rows) == 197
    [candidates] = system.search(['number 77'], allowed=['n77', 'n78'])
    assert {own.document.id for own in candidates} == {'n77', 'n78'}
    for name, own in system.rows.items():
      assert system.documents[own].id == name
    loaded = rag_jax.load(any_copy)
    assert loaded.documents == system.documents
    assert loaded.search(['number 77']) == system.search(['number 77'])

  def test_an_interrupted_change_keeps_the_previous_one(
    self, copy, monkeypatch
  ):
    system = rag_jax.load(copy).add([NEW])
    before = (copy / 'live.npz').read_bytes()

    def full(*_):
      raise OSError('no space left on device')

    monkeypatch.setattr('os.replace', full)
    with pytest.raises(ValueError, match='cannot be written .*no space'):
      system.delete(['pink-gnu'])
    monkeypatch.undo()
    assert (copy / 'live.npz').read_bytes() == before
    assert 'pink-gnu' in rag_jax.load(copy).rows


class TestLoad:
  def test_errors_of_an_incomplete_workdir(self, copy, tmp_path):
    with pytest.raises(ValueError, match='holds no config.json'):
      rag_jax.load(tmp_path / 'nowhere')
    shutil.move(copy / 'checkpoints', tmp_path / 'away')
    with pytest.raises(ValueError, match='no checkpoint. Train first'):
      rag_jax.load(copy)
    shutil.move(tmp_path / 'away', copy / 'checkpoints')
    path = copy / 'documents.jsonl.gz'
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match='documents.jsonl.gz.* cannot be read'):
      rag_jax.load(copy)
    path.write_bytes(whole)
    assert rag_jax.load(copy).rows

  def test_a_workdir_of_an_older_version_raises_an_error(self, copy):
    stored = json.loads((copy / 'config.json').read_text())
    del stored['stages']
    stored['loss'] = {'answer': 1.0}
    (copy / 'config.json').write_text(json.dumps(stored))
    with pytest.raises(ValueError, match='another version, with loss.answer'):
      rag_jax.load(str(copy))

  def test_the_loaded_system_equals_the_trained_one(
    self, tiny_values, tmp_path
  ):
    config = configs.build(tiny_values)
    prepared = workdirs.open(config, tmp_path / 'run')
    trained = train.fit(config, prepared, tmp_path / 'run')
    loaded = rag_jax.load(tmp_path / 'run')
    assert loaded.ask([QUESTION]) == trained.ask([QUESTION])


class TestFromDocuments:
  @pytest.mark.long
  def test_fifty_texts_are_retrieved_without_training(self):
    texts = [
      f'The {size} {animal} of {place} sleeps.'
      for size in ('big', 'small')
      for animal in ('cat', 'dog', 'owl', 'fox', 'hen')
      for place in ('Rome', 'Oslo', 'Lima', 'Cairo', 'Perth')
    ]
    system = rag_jax.from_documents(texts)
    asked = [texts[i].lower().replace('sleeps', '') for i in range(50)]
    found = [own[0].document.text for own in system.search(asked)]
    assert found == texts
    [answer] = system.ask(['Where does the big owl of Oslo sleep?'])
    assert answer.abstained and answer.text == '' and answer.document is None
    assert answer.candidates[0].document.text == 'The big owl of Oslo sleeps.'
    more = system.add([{'id': 'new', 'text': 'The red elk of Bern runs.'}])
    assert more.search(['red elk Bern'])[0][0].document.id == 'new'
    less = more.delete(['new'])
    assert less.search(['red elk Bern'])[0][0].document.id != 'new'

  def test_documents_may_have_any_form(self):
    documents = [
      'A cat sleeps.',
      {'id': 'b', 'title': 'Dogs', 'text': 'They bark.'},
      types.Document(id='c', text='An owl hoots.'),
    ]
    system = rag_jax.from_documents(documents)
    assert list(system.rows) == ['0', 'b', 'c']
    assert system.search(['dogs'])[0][0].document.id == 'b'


def test_public_names_of_the_package():
  assert set(rag_jax.__all__) == {'load', 'from_documents'}
  assert inspect.isfunction(rag_jax.load)
  with pytest.raises(AttributeError, match='no attribute'):
    rag_jax.lode  # noqa: B018
