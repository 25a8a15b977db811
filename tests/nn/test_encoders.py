"""Encoders of all families; the expected numbers are those of transformers.

They were printed by transformers 5.24 for the folders that `write_encoder`
writes; tests/oracles/test_transformers.py computes them again where it is
installed.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import pretrained, readers
from rag_jax.components import query_encoder
from rag_jax.data import tokenizer_files, tokenizers
from rag_jax.nn import encoders, weights

# Of two texts in a batch: two numbers of the first state of the longer one and
# of its last, the sum of a coordinate over the shorter one, and the sum of the
# longer one's magnitudes.
ROBERTA = [-0.90148, -0.56292, -0.23541, 0.73276, 2.61162, 55.82593]
STATES = {
  'bert': [0.9474, -0.7255, -1.06447, -1.52295, -3.2833, 66.96948],
  'camembert': ROBERTA,
  'distilbert': [1.94331, -0.8118, -0.87577, -0.86321, -7.89165, 77.08619],
  'electra': [1.14937, 0.56009, -0.74774, -2.15721, 3.2531, 62.71742],
  'modernbert': [0.51112, -0.66789, 0.23945, 0.14063, 0.31552, 49.43007],
  'mpnet': [1.2038, 1.48721, -1.28859, 1.01238, -2.94028, 66.32604],
  'roberta': ROBERTA,
  'xlm-roberta': ROBERTA,
}
ACTIVATIONS = {
  'relu': [0.78275, -0.26157, -1.26201, -1.60554, -3.3993, 64.78625],
  'gelu_new': [0.94759, -0.72573, -1.06426, -1.52266, -3.2833, 66.9696],
}
SPANS = {
  ('bert', 'BertForQuestionAnswering'): [
    [-0.79446, -0.60116],
    [-0.70801, -0.6785],
  ],
  ('modernbert', 'ModernBertForQuestionAnswering'): [
    [-0.1334, -2.08034],
    [-0.75175, -0.63779],
  ],
  ('xlm-roberta', 'XLMRobertaForQuestionAnswering'): [
    [-0.45827, -1.00069],
    [-0.53205, -0.88527],
  ],
}
RELEVANCE = {
  ('bert', 'BertForSequenceClassification'): -0.07803,
  ('distilbert', 'DistilBertForSequenceClassification'): 0.36618,
  ('electra', 'ElectraForSequenceClassification'): 0.96113,
  ('modernbert', 'ModernBertForSequenceClassification'): -1.8333,
  ('mpnet', 'MPNetForSequenceClassification'): 0.02944,
  ('roberta', 'RobertaForSequenceClassification'): -0.18441,
}


def states_of(folder):
  """States of two texts, and their mask."""
  sizes, architecture = encoders.read_config(folder)
  path = f'{folder}/tokenizer.json'
  params, _ = encoders.load(folder, sizes, architecture)
  params = encoders.renumber(params, tokenizer_files.pad_token(path))
  tokenizer = tokenizers.load_published(path)
  texts = ['red cat', 'is it blue owl dog?']
  tokens = tokenizers.encode(
    tokenizer, texts, max_tokens=12, with_special_tokens=True
  ).tokens
  return encoders.apply(params, sizes, jnp.asarray(tokens)), tokens != 0


def numbers(states, where):
  short, long = (np.asarray(states[i])[where[i]] for i in (0, 1))
  found = [*long[0, :2], *long[-1, -2:], short[:, 3].sum()]
  return [*found, np.abs(long).sum()]


@pytest.mark.parametrize('family', encoders.FAMILIES)
def test_states(write_encoder, tmp_path, family):
  found = numbers(*states_of(write_encoder(tmp_path, family)))
  np.testing.assert_allclose(found[:-1], STATES[family][:-1], atol=2e-5)
  assert found[-1] == pytest.approx(STATES[family][-1], abs=2e-4)


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activation_and_epsilon_are_those_of_the_weights(
  write_encoder, tmp_path, name
):
  epsilon = 1e-2 if name == 'relu' else 1e-12
  folder = write_encoder(tmp_path, activation=name, epsilon=epsilon)
  found = numbers(*states_of(folder))
  np.testing.assert_allclose(found[:-1], ACTIVATIONS[name][:-1], atol=2e-5)


def reading(folder, **options):
  """The reader of a folder on one pair of texts: its memory and notes."""
  data = {'tokenizer': folder, 'max_document_tokens': 5}
  config = pretrained.complete(
    configs.build(
      {'data': data, 'reader': {'kind': 'bert', 'weights': folder} | options}
    )
  )
  found, _ = pretrained.load(config)
  reader = readers.make(config.reader)
  tokenizer = pretrained.tokenizer(config, None)
  question = tokenizers.encode(
    tokenizer, ['is it red?'], max_tokens=9, with_special_tokens=True
  ).tokens
  passage = tokenizers.encode(tokenizer, ['green cat'], max_tokens=5).tokens
  params = reader.init(
    jax.random.key(0), vocab_size=60, pretrained=found.reader
  )
  return reader.read(params, jnp.asarray(question), jnp.asarray(passage)[None])


@pytest.mark.parametrize('family, kind', SPANS)
def test_a_head_for_question_answering_points_at_answers(
  write_encoder, tmp_path, family, kind
):
  memory = reading(write_encoder(tmp_path, family, kind=kind))
  found = memory.spans[0, 0, :2].T
  np.testing.assert_allclose(found, SPANS[family, kind], atol=2e-5)


@pytest.mark.parametrize('family, kind', RELEVANCE)
def test_a_cross_encoder_scores_passages(write_encoder, tmp_path, family, kind):
  memory = reading(write_encoder(tmp_path, family, kind=kind))
  assert float(memory.relevance[0, 0]) == pytest.approx(
    RELEVANCE[family, kind], abs=2e-5
  )


def test_a_classifier_of_several_labels_is_a_note(
  write_encoder, tmp_path, capsys
):
  kind = 'BertForSequenceClassification'
  folder = write_encoder(tmp_path, kind=kind)
  state = weights.read(folder)
  state['classifier.weight'] = np.ones((3, 8), np.float32)
  (tmp_path / 'model.safetensors').unlink()
  weights.write(tmp_path / 'model.safetensors', state)
  memory = reading(folder)
  assert not np.asarray(memory.relevance).any()
  assert 'not used: its classifier has 3 labels' in capsys.readouterr().err


@pytest.mark.parametrize('family', ['xlm-roberta', 'modernbert', 'distilbert'])
def test_published_form_is_restored(write_encoder, tmp_path, family):
  folder = write_encoder(tmp_path / 'a', family)
  config = pretrained.complete(
    configs.build(
      {
        'data': {'tokenizer': folder},
        'query_encoder': {'weights': folder},
      }
    )
  )
  found, _ = pretrained.load(config)
  params = found.query_encoder['bert']
  state, about = encoders.publish(params, config.query_encoder)
  for name, array in weights.read(folder).items():
    rows = 2 if 'position' in name and family == 'xlm-roberta' else 0
    np.testing.assert_array_equal(state[name][rows:], array[rows:])
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'config.json').write_text(json.dumps(about))
  assert encoders.read_config(tmp_path / 'b') == encoders.read_config(folder)


@pytest.mark.parametrize(
  'values, words',
  [
    ({'model_type': 'deberta'}, "model_type .* got 'deberta'. Give"),
    ({'hidden_act': 'mish'}, "hidden_act .* got 'mish'"),
    ({'position_embedding_type': 'relative_key'}, 'position_embedding_type'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config .* absent'),
    ({'auto_map': {'AutoModel': 'x'}}, 'auto_map .* code of its own'),
    ({'is_decoder': True}, 'is_decoder .* got True'),
    ({'embedding_size': 4}, r'embedding_size .* hidden_size \(8\), got 4'),
  ],
)
def test_what_changes_numbers_is_refused_by_name(
  write_encoder, tmp_path, values, words
):
  folder = write_encoder(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | values))
  with pytest.raises(ValueError, match=words):
    encoders.read_config(folder)


def test_an_adapter_is_refused(write_encoder, tmp_path):
  folder = write_encoder(tmp_path)
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds an adapter .*merge_and_unload'):
    encoders.read_config(folder)


@pytest.mark.parametrize(
  'values, words',
  [
    ({'layer_types': ['full_attention', 'sliding_attention'] * 2}, None),
    ({'layer_types': ['sliding_attention'] * 3}, 'layer_types .* every n-th'),
    ({'norm_bias': True}, 'norm_bias .* got True'),
    (
      {'rope_parameters': {'full_attention': {'rope_type': 'yarn'}}},
      "rope_type .* got 'yarn'",
    ),
  ],
)
def test_layers_of_a_modernbert(write_encoder, tmp_path, values, words):
  folder = write_encoder(tmp_path, 'modernbert')
  path = tmp_path / 'config.json'
  about = json.loads(path.read_text())
  del about['global_attn_every_n_layers']
  path.write_text(json.dumps(about | values))
  if words is None:
    assert encoders.read_config(folder)[1].global_every == 2
    return
  with pytest.raises(ValueError, match=words):
    encoders.read_config(folder)


def test_positions_of_another_padding_are_refused(write_encoder, tmp_path):
  folder = write_encoder(tmp_path, 'roberta')
  path = tmp_path / 'config.json'
  about = json.loads(path.read_text()) | {'pad_token_id': 2}
  path.write_text(json.dumps(about | {'max_position_embeddings': 43}))
  config = configs.build(
    {'data': {'tokenizer': folder}, 'query_encoder': {'weights': folder}}
  )
  with pytest.raises(ValueError, match='pad_token_id .* must be 1, .* got 2'):
    pretrained.complete(config)


def test_gradients_reach_positions_and_relative_positions(
  write_encoder, tmp_path
):
  folder = write_encoder(tmp_path, 'mpnet')
  sizes, architecture = encoders.read_config(folder)
  params, _ = encoders.load(folder, sizes, architecture)
  tokens = jnp.asarray([[5, 6, 7, 0]])

  def total(params):
    return jnp.sin(encoders.apply(params, sizes, tokens)[:, :3]).sum()

  gradient = jax.grad(total)(params)
  rows = np.abs(gradient['positions']).sum(1) > 0
  assert rows.nonzero()[0].tolist() == [0, 1, 2]
  assert np.abs(gradient['relative']).max() > 0


def test_frozen_layers_of_a_modernbert_get_no_gradient(write_encoder, tmp_path):
  folder = write_encoder(tmp_path, 'modernbert')
  sizes, architecture = encoders.read_config(folder)
  params, _ = encoders.load(folder, sizes, architecture)
  tokens = jnp.asarray([[5, 6, 7, 0]])

  def total(params):
    found = encoders.apply(params, sizes, tokens, frozen_layers=2)
    return jnp.sin(found).sum()

  gradient = jax.grad(total)(params)
  reached = {
    name
    for name, leaf in gradient.items()
    if any(np.abs(x).max() > 0 for x in jax.tree.leaves(leaf))
  }
  assert reached == {'block_2', 'final_norm'}


def test_an_unknown_architecture_is_an_error():
  with pytest.raises(ValueError, match='family must be one of .* got .t5.'):
    encoders.Architecture(family='t5')
  words = re.escape('query_encoder.pooling must be one of mean, cls, max')
  with pytest.raises(ValueError, match=words):
    query_encoder.QueryEncoderConfig(pooling='first')
  with pytest.raises(ValueError, match='needs published weights'):
    query_encoder.QueryEncoderConfig(similarity='dot')
