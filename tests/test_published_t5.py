"""A published T5 as the reader, with a search trained from scratch."""

import dataclasses
import json

import jax
import pytest

from rag_jax import compiled, evaluate, train
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import formats, pipeline
from rag_jax.nn import t5, t5_weights, weights


@pytest.fixture
def config(tiny_values, tiny_folder, tmp_path, write_tokenizer):
  folder = tmp_path / 'published'
  folder.mkdir()
  sizes = t5.T5Config(
    vocab_size=200,
    width=16,
    num_layers=1,
    num_decoder_layers=2,
    num_heads=3,  # does not divide the width
    head_size=4,
    mlp_dim=16,
  )
  state = t5_weights.to_state_dict(t5.init(jax.random.key(0), sizes), sizes)
  weights.write(folder / 'model.safetensors', state)
  described = {
    'model_type': 't5',
    'feed_forward_proj': 'relu',
    'vocab_size': sizes.vocab_size,
    'd_model': 16,
    'd_kv': 4,
    'd_ff': 16,
    'num_layers': 1,
    'num_decoder_layers': 2,
    'num_heads': 3,
    'relative_attention_num_buckets': 32,
    'layer_norm_epsilon': 1e-6,
  }
  (folder / 'config.json').write_text(json.dumps(described))
  texts = [
    pipeline.document_text(d) for d in formats.load(str(tiny_folder)).documents
  ]
  path = folder / 'tokenizer.json'
  write_tokenizer(path, texts, special=['<pad>', '</s>'], template=['</s>'])
  own = {'kind': 't5', 'weights': str(folder), 'max_answer_tokens': 5}
  own |= {'num_heads': 3}
  losses = {'answer': 1.0, 'docid': 1.0, 'ranking': 1.0}
  joint = tiny_values['stages']['joint'] | {'steps': 2, 'losses': losses}
  return configs.build(
    tiny_values
    | {
      'data': tiny_values['data'] | {'tokenizer': str(folder)},
      'reader': tiny_values['reader'] | own,
      'stages': {'joint': joint},
    }
  )


def test_the_t5_is_trained_and_generates_answers(config, tmp_path):
  prepared = workdirs.open(config, tmp_path / 'run')
  published = prepared.pretrained.reader
  system = train.fit(config, prepared, tmp_path / 'run')
  moved = jax.tree.map(
    lambda x, y: bool((x != y).any()), published, system.params['reader']['t5']
  )
  assert all(jax.tree.leaves(moved))
  questions = prepared.dataset.splits['dev']
  found = evaluate.run(system, compiled.answer, questions)
  assert found.tokens.shape == (8, 5)
  assert (found.log_probability < 0).all()
  text, span = system.text(found, 0)
  assert isinstance(text, str) and span is None


def test_a_tokenizer_larger_than_the_embedding_raises_an_error(
  config, tmp_path, write_tokenizer
):
  path = tmp_path / 'tokenizer.json'
  texts = [' '.join(map(str, range(900)))]
  options = {'special': ['<pad>', '</s>'], 'template': ['</s>'], 'size': 400}
  write_tokenizer(path, texts, **options)
  data = dataclasses.replace(config.data, tokenizer=str(path))
  own = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match='at most the 200 tokens of reader.w'):
    workdirs.open(own, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_tokenizer_of_a_bert_raises_an_error(
  config, published_bert, tmp_path
):
  data = dataclasses.replace(config.data, tokenizer=published_bert)
  own = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match='end texts with </s>, token 1, .*None'):
    workdirs.open(own, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
