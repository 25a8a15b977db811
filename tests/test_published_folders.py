"""What a folder of sentence-transformers says, from its files to vectors.

States come from `encoders`, which tests/nn compares with transformers; pooling,
dense layers and prompts are computed here with NumPy.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import corpus, export, loading, pretrained
from rag_jax.data import tokenizer_files, tokenizers
from rag_jax.index import node_table
from rag_jax.nn import encoders, pooling, published, weights

TEXTS = ['red cat', 'is it blue owl dog?', 'green']
MODULES = ('Transformer', 'Pooling')


def said(*more, modes=('cls_token',), **files):
  """Files of a folder with these modules and poolings."""
  kinds = [*MODULES, *more]
  modules = [
    {
      'path': f'{i}_{kind}' if i else '',
      'type': f'sentence_transformers.models.{kind}',
    }
    for i, kind in enumerate(kinds)
  ]
  flags = {f'pooling_mode_{mode}': True for mode in modes}
  pool = {'word_embedding_dimension': 8} | flags
  found = {'modules.json': modules, '1_Pooling/config.json': pool}
  named = {name.replace('__', '/') + '.json': v for name, v in files.items()}
  return found | named


def system_of(folder, **data):
  config = loading.search_config(len(TEXTS), folder)
  changed = dataclasses.replace(config.data, **data)
  return loading.from_documents(
    TEXTS, config=dataclasses.replace(config, data=changed)
  )


def states_of(folder, texts):
  """The states of each text alone, float[T, W]."""
  sizes, architecture = encoders.read_config(folder)
  params, _ = encoders.load(folder, sizes, architecture)
  path = f'{folder}/tokenizer.json'
  params = encoders.renumber(params, tokenizer_files.pad_token(path))
  tokenizer = tokenizers.load_published(path)
  for text in texts:
    row = tokenizers.encode(
      tokenizer, [text], max_tokens=20, with_special_tokens=True
    ).tokens
    row = row[:, : (row != 0).sum()]
    yield np.asarray(encoders.apply(params, sizes, jnp.asarray(row)))[0]


def documents_of(system):
  return np.asarray(system.params['id_decoder']['table'])[: len(TEXTS)]


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


POOLED = {
  'cls_token': lambda h: h[0],
  'lasttoken': lambda h: h[-1],
  'max_tokens': lambda h: h.max(0),
  'mean_sqrt_len_tokens': lambda h: h.sum(0) / len(h) ** 0.5,
  'weightedmean_tokens': lambda h: np.average(
    h, axis=0, weights=1 + np.arange(len(h))
  ),
}


def test_every_pooling_equals_numpy():
  rng = np.random.default_rng(0)
  states = rng.normal(size=(3, 5, 4)).astype(np.float32)
  where = np.arange(5) < np.array([[5], [3], [0]])
  names = {
    'cls_token': 'cls',
    'lasttoken': 'last_token',
    'max_tokens': 'max',
    'mean_sqrt_len_tokens': 'mean_sqrt_length',
    'weightedmean_tokens': 'weighted_mean',
  }
  for name, kind in [*names.items(), ('mean', 'mean')]:
    by_hand = POOLED.get(name, lambda h: h.mean(0))
    found = pooling.pool(jnp.asarray(states), jnp.asarray(where), kind)
    for row in (0, 1):
      expected = by_hand(states[row][where[row]])
      np.testing.assert_allclose(found[row], expected, atol=1e-6)
    assert not found[2].any()


def test_vectors_are_dot_products_without_a_normalize_module(
  write_encoder, tmp_path, capsys
):
  folder = write_encoder(tmp_path, said=said())
  system = system_of(folder)
  expected = np.stack([h[0] for h in states_of(folder, TEXTS)])
  np.testing.assert_allclose(system.embed(TEXTS), expected, atol=1e-5)
  np.testing.assert_allclose(documents_of(system), expected, atol=1e-5)
  assert 'compared by the dot product' in capsys.readouterr().err
  # Scores are dot products, divided by the mean squared length.
  config = dataclasses.replace(
    system.config,
    search=dataclasses.replace(system.config.search, lexical_weight=0.0),
    ranker=dataclasses.replace(system.config.ranker, lexical_weight=0.0),
  )
  [found] = system.with_config(config).search(['is it a dog?'])
  scores = system.embed(['is it a dog?'])[0] @ expected.T
  order = [int(row.document.id) for row in found]
  assert order == np.argsort(-scores).tolist()
  size = np.square(expected).sum(1).mean()
  np.testing.assert_allclose(
    [row.score for row in found], 20 * np.sort(scores)[::-1] / size, rtol=1e-4
  )


def test_a_node_table_of_dot_products_holds_means():
  """Three documents below one node, two of them at first; then one leaves."""
  rows = np.array([[3.0, 0.0], [1.0, 2.0], [0.0, 4.0]], np.float32)
  none = np.zeros(0, np.int32)
  sizes = {'sample': np.array([[0]]), 'changed_owners': np.array([0])}
  table = jnp.asarray([*rows[:2], [0, 0], rows[:2].mean(0), [0, 0]])
  added = node_table.Change(
    documents=np.array([2]),
    nodes=np.array([4]),
    below=np.array([0, 2]),
    owners=np.array([0, 0]),
    rotated=np.array([3]),
    counts=np.array([2]),
    changed=np.array([2]),
    sign=1,
    **sizes,
  )
  more = node_table.update(table, added, rows[2:], unit=False)
  np.testing.assert_allclose(more[3], rows.mean(0), rtol=1e-6)
  np.testing.assert_allclose(more[4], (rows[0] + rows[2]) / 2, rtol=1e-6)
  gone = dataclasses.replace(
    added,
    documents=none,
    nodes=none,
    below=none,
    owners=none,
    changed=np.array([0]),
    sign=-1,
  )
  less = node_table.update(more, gone, unit=False)
  np.testing.assert_allclose(less[3], rows[1:].mean(0), rtol=1e-6)


def test_named_similarity_and_pooling_by_flag(write_encoder, tmp_path, capsys):
  about = {'similarity_fn_name': 'cosine'}
  files = said(modes=('max_tokens',), config_sentence_transformers=about)
  folder = write_encoder(tmp_path, said=files)
  expected = unit(np.stack([h.max(0) for h in states_of(folder, TEXTS)]))
  np.testing.assert_allclose(
    system_of(folder).embed(TEXTS), expected, atol=1e-5
  )
  config = loading.search_config(3, folder)
  encoder = dataclasses.replace(config.query_encoder, pooling='last_token')
  changed = dataclasses.replace(config, query_encoder=encoder)
  system = loading.from_documents(TEXTS, config=changed)
  expected = unit(np.stack([h[-1] for h in states_of(folder, TEXTS)]))
  np.testing.assert_allclose(documents_of(system), expected, atol=1e-5)
  assert 'dot product' not in capsys.readouterr().err


@pytest.fixture(scope='module')
def dense_folder(write_encoder, tmp_path_factory):
  """XLM-R, padding 1, mean, two dense layers, prompts, normalised."""
  folder = tmp_path_factory.mktemp('dense')
  layer = {'in_features': 8, 'out_features': 6, 'bias': True}
  layer |= {'activation_function': 'torch.nn.modules.activation.Tanh'}
  last = {'in_features': 6, 'out_features': 4, 'bias': False}
  last |= {'activation_function': 'torch.nn.modules.linear.Identity'}
  files = said(
    'Dense',
    'Dense',
    'Normalize',
    modes=('mean_tokens',),
    sentence_bert_config={'max_seq_length': 9},
    config_sentence_transformers={
      'prompts': {'query': 'query: ', 'passage': 'passage: '}
    },
  )
  files |= {'2_Dense/config.json': layer, '3_Dense/config.json': last}
  name = write_encoder(folder, 'xlm-roberta', said=files)
  rng = np.random.default_rng(1)
  arrays = {'linear.weight': (6, 8), 'linear.bias': (6,)}
  for place, shapes in ((2, arrays), (3, {'linear.weight': (4, 6)})):
    weights.write(
      folder / f'{place}_Dense' / 'model.safetensors',
      {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()},
    )
  return name


def by_hand(folder, prompt, texts):
  """Vectors of the folder above."""
  first, last = (
    weights.read(f'{folder}/{i}_Dense/model.safetensors') for i in (2, 3)
  )
  texts = [prompt + text for text in texts]
  mean = np.stack([h.mean(0) for h in states_of(folder, texts)])
  x = np.tanh(mean @ first['linear.weight'].T + first['linear.bias'])
  return unit(x @ last['linear.weight'].T)


def test_dense_layers_and_prompts_from_files_to_an_export(
  dense_folder, tmp_path
):
  system = system_of(dense_folder)
  documents = by_hand(dense_folder, 'passage: ', TEXTS[::2])
  questions = by_hand(dense_folder, 'query: ', TEXTS)
  np.testing.assert_allclose(documents_of(system)[::2], documents, atol=1e-5)
  np.testing.assert_allclose(system.embed(TEXTS), questions, atol=1e-5)
  assert system.config.data.max_vector_tokens == 9
  export.export(system, tmp_path / 'out')
  again = tmp_path / 'out' / 'query_encoder-xlm-roberta'
  np.testing.assert_allclose(
    system_of(str(again)).embed(TEXTS), questions, atol=1e-5
  )


def test_prompts_by_flag(dense_folder):
  plain = system_of(dense_folder, query_prompt='', document_prompt='query: ')
  documents = by_hand(dense_folder, 'query: ', TEXTS[::2])
  np.testing.assert_allclose(documents_of(plain)[::2], documents, atol=1e-5)
  assert len(plain.index.around_query[0]) == 1  # a special token, no prompt


def test_a_prompt_is_for_the_encoder_alone(dense_folder):
  system = system_of(dense_folder)
  asked = corpus.as_questions(['blue owl dog'])
  found = system.encode(asked, max_tokens=4)
  tokenizer = system.tokenizer
  decode = tokenizer.decode
  assert decode(found.reader_query[0].tolist()).replace(' ', '') == 'blueowl'
  # The prompt adds to the length of a question.
  kept = decode([t for t in found.query[0].tolist() if t])
  assert kept.replace(' ', '') == 'query:blueowl'
  before, after = system.index.around_query
  assert tokenizer.decode(before.tolist()).replace(' ', '') == 'query:'
  assert len(after) == 1


@pytest.mark.parametrize(
  'change, words',
  [
    ({'1_Pooling/config.json': {}}, 'pooling in .*1_Pooling.* got none'),
    (
      said(modes=('cls_token', 'mean_tokens')),
      'pooling in .* got cls . mean. Give',
    ),
    ({'1_Pooling/config.json': {'pooling_mode': 'x'}}, 'pooling in .* got x'),
    (
      {
        '1_Pooling/config.json': {
          'pooling_mode': 'cls',
          'embedding_dimension': 9,
        }
      },
      'word_embedding_dimension .* must be 8, .* got 9',
    ),
    (said('LSTM'), 'modules in .* got .sentence_transformers.models.LSTM'),
    (said('Normalize', 'Dense'), 'Normalize in .* must be the last'),
    (
      said(config_sentence_transformers={'similarity_fn_name': 'euclidean'}),
      "similarity_fn_name .* got 'euclidean'",
    ),
    (
      said(config_sentence_transformers={'default_prompt_name': 'x'}),
      "prompts in .* default_prompt_name 'x'",
    ),
    (
      said('Dense')
      | {
        '2_Dense/config.json': {
          'in_features': 8,
          'out_features': 8,
          'activation_function': 'my.Own',
        }
      },
      "activation_function .* got 'my.Own'",
    ),
  ],
)
def test_what_is_not_supported_is_refused_by_name(
  write_encoder, tmp_path, change, words
):
  folder = write_encoder(tmp_path, said=said() | change)
  with pytest.raises(ValueError, match=words):
    pretrained.complete(loading.search_config(3, folder))


def complete(folder, **groups):
  values = {'query_encoder': {'weights': folder}, 'data': {'tokenizer': folder}}
  values['id_decoder'] = {'num_layers': 0}
  for name, fields in groups.items():
    values[name] = values.get(name, {}) | fields
  return pretrained.complete(configs.build(values))


def test_fields_at_their_defaults_are_those_of_the_weights(dense_folder):
  found = complete(dense_folder).query_encoder
  assert (found.width, found.num_layers, found.vector_width) == (8, 3, 4)
  assert found.dense == ('tanh', 'none')
  assert found.architecture.family == 'xlm-roberta'
  assert found.architecture.pad_token == 1
  assert complete(dense_folder).query_encoder == found
  words = 'query_encoder.mlp_dim must be 12 as in .* got 16. Set --config.query'
  with pytest.raises(ValueError, match=words):
    complete(dense_folder, query_encoder={'mlp_dim': 16})
  own = {'architecture': {'epsilon': 0.5}}
  with pytest.raises(ValueError, match='architecture.epsilon must be 1e-12'):
    complete(dense_folder, query_encoder=own)
  for wrong in (2, 41):
    with pytest.raises(ValueError, match='max_vector_tokens must be 3 to 40'):
      complete(dense_folder, data={'max_vector_tokens': wrong})


def test_well_known_models_without_prompts_are_a_note(
  write_encoder, tmp_path, capsys
):
  folder = write_encoder(tmp_path / 'e5-small-v2', said=said())
  complete(folder)
  said_so = capsys.readouterr().err
  assert "--config.data.query_prompt='query: '" in said_so
  complete(folder, data={'query_prompt': 'query: ', 'document_prompt': ''})
  assert 'prompt' not in capsys.readouterr().err


def test_the_tokenizer_must_be_that_of_the_weights(write_encoder, tmp_path):
  folder = write_encoder(tmp_path / 'a', said=said())
  other = write_encoder(tmp_path / 'b', said=said())
  pretrained.load(complete(folder, data={'tokenizer': other}))  # equal content
  path = tmp_path / 'b' / 'tokenizer.json'
  file = json.loads(path.read_text())
  words = file['model']['vocab']
  words['red'], words['cat'] = words['cat'], words['red']
  path.write_text(json.dumps(file))
  config = complete(folder, data={'tokenizer': other})
  message = "data.tokenizer must be that of query_encoder.weights .*'red' has"
  with pytest.raises(ValueError, match=message):
    pretrained.load(config)
  # A reader may have a tokenizer of its own.
  reader = {'kind': 'bert', 'weights': other}
  data = {'max_document_tokens': 16}
  _, own = pretrained.load(complete(folder, reader=reader, data=data))
  assert own.token_to_id('red') == words['red']
  data = {'max_document_tokens': 17}
  message = 'at most 40 tokens.* got 41.*max_document_tokens=16'
  with pytest.raises(ValueError, match=message):
    complete(folder, reader=reader, data=data)


def test_a_folder_without_a_tokenizer_is_a_note(
  write_encoder, tmp_path, capsys
):
  folder = write_encoder(tmp_path / 'a', said=said())
  other = write_encoder(tmp_path / 'b', said=said())
  (tmp_path / 'b' / 'tokenizer.json').unlink()
  pretrained.load(complete(other, data={'tokenizer': folder}))
  assert 'hold no tokenizer' in capsys.readouterr().err


def test_lower_case_is_honoured(write_encoder, tmp_path):
  files = said(sentence_bert_config={'do_lower_case': True})
  folder = write_encoder(tmp_path, said=files)
  path = tmp_path / 'tokenizer.json'
  file = json.loads(path.read_text())
  file['normalizer']['lowercase'] = False
  path.write_text(json.dumps(file))
  config = complete(folder)
  tokenizer = pretrained.tokenizer(config, None)
  upper, lower = (tokenizer.encode(x).ids for x in ('RED Cat', 'red cat'))
  assert upper == lower


def test_shards_load_from_the_folder(write_encoder, tmp_path):
  folder = write_encoder(tmp_path / 'a', said=said('Normalize'))
  expected = system_of(folder).embed(TEXTS)
  state = weights.read(folder)
  (tmp_path / 'a' / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match='must hold .model.safetensors. or'):
    published.folder(folder)
  places = {}
  for number, name in enumerate(state):
    shard = f'model-0000{number % 2 + 1}-of-00002.safetensors'
    places[name] = shard
  for shard in set(places.values()):
    part = {n: state[n] for n, place in places.items() if place == shard}
    weights.write(tmp_path / 'a' / shard, part)
  index = tmp_path / 'a' / published.INDEX
  index.write_text(json.dumps({'weight_map': places}))
  np.testing.assert_array_equal(system_of(folder).embed(TEXTS), expected)
