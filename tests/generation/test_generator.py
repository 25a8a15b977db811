import dataclasses

import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest

from rag_jax import types
from rag_jax.data import formats, pipeline
from rag_jax.generation import generator, settings

CONFIG = settings.GeneratorConfig(
  width=16,
  num_layers=1,
  num_heads=2,
  mlp_dim=16,
  steps=3,
  batch_size=8,
  max_tokens=32,
  samples=3,
)


@pytest.fixture(scope='module')
def material(tiny_folder):
  dataset = formats.load(str(tiny_folder))
  data = pipeline.DataConfig(vocab_size=320, max_document_tokens=24)
  return dataset, data, pipeline.train_tokenizer(dataset, data)


@pytest.fixture(scope='module')
def train(material):
  dataset, data, tokenizer = material

  def run(questions=None, **fields):
    losses = []
    model = generator.train(
      dataclasses.replace(CONFIG, **fields),
      data,
      0,
      tokenizer,
      dataset.documents,
      dataset.splits['train'] if questions is None else questions,
      report=lambda step, loss: losses.append(float(loss)),
    )
    return model, losses

  return run


@pytest.fixture(scope='module')
def short(material):
  """Training questions of one word, so that a model learns to end them."""
  return [
    dataclasses.replace(question, text=question.document_ids[0].split('-')[1])
    for question in material[0].splits['train']
  ]


@pytest.fixture(scope='module')
def trained(train, short):
  return train(short, steps=40, learning_rate=2e-2)


@pytest.fixture(scope='module')
def eager(trained):
  return trained[0]


def test_the_loss_is_that_of_question_given_document(train, material):
  dataset, data, tokenizer = material
  question = dataset.splits['train'][5]
  model, losses = train([question], steps=1)
  reader = generator.make(model.config)
  start = reader.init(jax.random.key(0), vocab_size=tokenizer.get_vocab_size())
  texts = {d.id: pipeline.document_text(d) for d in dataset.documents}
  passage = tokenizer.encode(texts[question.document_ids[0]]).ids[:24]
  target = tokenizer.encode(question.text).ids

  @jax.jit
  def total(passages, targets):
    memory = reader.read(start, jnp.ones((1, 1), int), passages)
    return -reader.log_likelihood(start, memory, targets).sum()

  expected = total(np.array([[passage]]), np.array([[target]]))
  assert losses == [pytest.approx(float(expected), rel=1e-4)]


def test_training_lowers_the_loss_and_repeats_exactly(train, trained, short):
  first, losses = trained
  again, same = train(short, steps=40, learning_rate=2e-2)
  assert losses == same
  assert losses[-1] < 0.5 * losses[0]
  for one, other in zip(
    jax.tree.leaves(first.params), jax.tree.leaves(again.params), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_questions_do_not_depend_on_the_documents_beside(eager, material):
  documents = material[0].documents
  together = eager.write(documents[:5])
  assert any(together) and all(len(own) <= 3 for own in together)
  assert eager.write(documents[3:5]) == together[3:]
  for own in together:
    assert len(set(own)) == len(own)
    assert all(text and text == text.strip() for text in own)
  other = dataclasses.replace(eager, seed=1)
  assert other.write(documents[:5]) != together


def test_a_document_of_another_id_has_other_draws(eager, material):
  document = material[0].documents[0]
  renamed = dataclasses.replace(document, id='other')
  first, second = eager.write([document, renamed])
  assert first != second


def test_saved_parameters_write_the_same(eager, material, tmp_path):
  dataset, data, tokenizer = material
  generator.save(eager, tmp_path / 'model.npz')
  loaded = generator.load(
    eager.config, data, 0, tokenizer, tmp_path / 'model.npz'
  )
  assert loaded.write(dataset.documents[:4]) == eager.write(
    dataset.documents[:4]
  )


def test_pairs_that_cannot_be_used_raise(train):
  asked = types.Question(id='q', text='Who?')
  with pytest.raises(ValueError, match='got none. Set --config.generator'):
    train([asked])
  long = types.Question(
    id='q', text='who ' * 40, document_ids=('red-cat',), answers=('a',)
  )
  with pytest.raises(ValueError, match='at most 32 tokens, got none'):
    train([long])


@pytest.mark.parametrize(
  'field, value',
  [
    ('kind', 'bert'),
    ('weights', 'somewhere'),
    ('width', 0),
    ('samples', 0),
    ('steps', -1),
    ('top_k', -1),
    ('top_p', 0.0),
    ('temperature', 0.0),
    ('round_trip', -1),
  ],
)
def test_a_value_out_of_range_raises(field, value):
  with pytest.raises(ValueError, match=f'generator.{field} must be'):
    settings.GeneratorConfig(**{field: value})


def test_published_kinds_need_weights():
  with pytest.raises(ValueError, match='generator.weights must be set'):
    settings.GeneratorConfig(kind='t5')


@pytest.mark.parametrize(
  'kind', ['t5', pytest.param('causal', marks=pytest.mark.long)]
)
def test_published_weights_are_trained_and_write(
  kind, published_t5, material, tmp_path, monkeypatch
):
  monkeypatch.setattr(generator, 'BATCH', 2)
  weights = published_t5
  if kind == 'causal':
    weights = str(language_models.write_folder(tmp_path / 'llama', 'llama'))
  dataset, data, tokenizer = material
  config = settings.GeneratorConfig(
    kind=kind,
    weights=weights,
    steps=2,
    batch_size=2,
    max_tokens=12,
    samples=2,
    learning_rate=0.1,
  )
  questions = [
    dataclasses.replace(question, text='the')
    for question in dataset.splits['train'][:4]
  ]
  arguments = config, data, 0, tokenizer
  documents = dataset.documents[:4]
  model = generator.train(*arguments, documents, questions)
  untrained = dataclasses.replace(config, steps=0)
  start = generator.train(untrained, *arguments[1:], documents, questions)
  moved = jax.tree.map(
    lambda x, y: bool((x != y).any()), start.params, model.params
  )
  assert np.mean(jax.tree.leaves(moved)) > 0.5
  generator.save(model, tmp_path / 'model.npz')
  loaded = generator.load(*arguments, tmp_path / 'model.npz')
  assert loaded.tokenizer.to_str() == model.tokenizer.to_str()
  found = model.write(documents[:3])
  assert found == loaded.write(documents[:3]) and len(found) == 3
