"""Estimates of memory, against compiled steps and by their remedies."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from rag_jax import config as configs
from rag_jax import curriculum, experiment_files, memory, model, sizes, types
from rag_jax import step as steps
from rag_jax import workdir as workdirs
from rag_jax.data import batches

CORPUS = sizes.Corpus(documents=500, questions=900, characters=200_000)
BIG = sizes.Corpus(
  documents=110_000,
  questions=80_000,
  characters=10**8,
  encoder=23_000_000,
  reader=140_000_000,
)


@pytest.mark.parametrize('name', experiment_files.names())
def test_no_experiment_is_refused_on_8_gib(name):
  if name == 'minilm':  # is imported by others
    return
  values = experiment_files.load(name)
  values.train.max_memory_gib = 8.0
  config = configs.build(values)
  memory.check(config, CORPUS)
  if config.data.path != 'facts':
    memory.check(config, BIG)


def changed(**fields):
  values = experiment_files.load('quickstart').to_dict()
  for name, value in fields.items():
    *path, last = name.split('__')
    group = values
    for part in path:
      group = group[part]
    group[last] = value
  return values


HUGE = 10**8
CASES = (
  {'query_encoder__width': HUGE},
  {'reader__width': HUGE},
  {'reader__num_layers': HUGE},
  {'id_decoder__mlp_dim': HUGE},
  {'data__max_document_tokens': HUGE},
  {'search__beam_size': HUGE},
  {'pseudo_queries__batch_size': HUGE},
  {'train__eval_batch_size': HUGE},
  {'stages__joint__batch_size': HUGE},
  {'docid__scheme': 'rq_vae', 'docid__latent': HUGE},
  {'docid__branching': HUGE},
  {'data__title_weight': HUGE},
)


@pytest.mark.parametrize('fields', CASES, ids=lambda own: max(own))
def test_both_remedies_work(fields):
  values = changed(train__max_memory_gib=16.0, **fields)
  name = next(n for n, value in fields.items() if value == HUGE)
  name = name.replace('__', '.')
  with pytest.raises(
    ValueError, match=f'^{name} {HUGE} .*16 GiB. Set'
  ) as error:
    memory.check(configs.build(values), CORPUS)
  text = str(error.value)
  small = int(re.search(f'--config.{name}=([0-9]+)', text)[1])
  more = int(re.search('max_memory_gib=([0-9]+)', text)[1])
  assert '\n' not in text and small < HUGE
  fields = fields | {name.replace('.', '__'): small}
  lowered = changed(train__max_memory_gib=16.0, **fields)
  memory.check(configs.build(lowered), CORPUS)
  values['train']['max_memory_gib'] = float(more)
  memory.check(configs.build(values), CORPUS)


def test_a_corpus_that_is_too_large_is_the_cause():
  values = changed(train__max_memory_gib=0.01)
  corpus = sizes.Corpus(documents=10**8, questions=0, characters=10**9)
  with pytest.raises(ValueError, match=r'^data\.path .*a smaller corpus'):
    memory.check(configs.build(values), corpus)


def test_the_machine_is_the_limit_by_default(monkeypatch):
  config = configs.build(changed())
  memory.check(config, CORPUS)
  monkeypatch.setattr(memory, 'available', lambda: 1e6)
  with pytest.raises(ValueError, match=r'got 0\.000931 GiB'):
    memory.check(config, CORPUS)


def test_nothing_is_written_if_it_is_refused(tiny_values, tmp_path):
  train = tiny_values['train'] | {'max_memory_gib': 1e-6}
  config = configs.build(tiny_values | {'train': train})
  with pytest.raises(ValueError, match='GiB'):
    workdirs.open(config, tmp_path / 'run')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_estimate_is_near_a_compiled_step(tiny_values, tmp_path):
  """Sizes at which arrays, not the program, take most of the memory."""
  stage = tiny_values['stages']['joint'] | {'batch_size': 64}
  values = tiny_values | {
    'reader': tiny_values['reader'] | {'width': 64, 'mlp_dim': 128},
    'data': tiny_values['data'] | {'max_document_tokens': 100},
    'stages': {'joint': stage},
  }
  config = configs.build(values)
  prepared = workdirs.open(config, tmp_path / 'run')
  questions = curriculum.training_questions(prepared)
  [batch] = batches.train_batches(questions, batch_size=64, seed=0)[:1]
  [(_, stage)] = config.stages
  init = functools.partial(steps.init_state, config, stage)
  vocab = jnp.zeros(prepared.vocab_size)
  arguments = prepared.index, prepared.pretrained
  state = jax.eval_shape(functools.partial(init, vocab=vocab), *arguments)
  step = functools.partial(steps.train_step, config=config, stage=stage)
  compiled = jax.jit(step).lower(state, batch, prepared.index).compile()
  found = compiled.memory_analysis()
  used = found.temp_size_in_bytes + found.argument_size_in_bytes
  corpus = sizes.of(prepared.dataset, prepared.pretrained)
  assert 0.5 < memory.estimate(config, corpus) / used < 2


def test_published_weights_count():
  dataset = types.Dataset(documents=(), splits={})
  weights = model.Pretrained(reader={'a': jnp.zeros((3, 4)), 'b': jnp.ones(5)})
  assert sizes.of(dataset, weights).reader == 17


def test_one_item_of_several_is_lowered():
  values = changed(docid__scheme='rq_vae', docid__hidden_dims=(HUGE, 64))
  with pytest.raises(ValueError, match=r'^docid\.hidden_dims') as error:
    memory.check(configs.build(values), CORPUS)
  small = re.search(r'hidden_dims=\(([0-9]+), 64\)', str(error.value))[1]
  values['docid']['hidden_dims'] = (int(small), 64)
  memory.check(configs.build(values), CORPUS)
