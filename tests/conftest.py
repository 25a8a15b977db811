import atexit
import collections
import dataclasses
import importlib.metadata
import json
import os
import shutil
import tempfile

# Tests compile a lot and compute little: fast compilation, and a cache that
# subprocesses share.
os.environ['XLA_FLAGS'] = (
  '--xla_backend_optimization_level=0 '
  '--xla_llvm_disable_expensive_passes=true ' + os.environ.get('XLA_FLAGS', '')
)
# Fusion emitters double the compile time; later versions need them.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
# Workers of pytest-xdist inherit the folder; benchmarks/mutations.py sets it.
CACHE = os.environ.get('RAG_JAX_TEST_CACHE')
if not CACHE:
  CACHE = tempfile.mkdtemp(prefix='rag_jax-compiled-')
  atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
  os.environ['RAG_JAX_TEST_CACHE'] = CACHE
os.environ['JAX_COMPILATION_CACHE_DIR'] = CACHE
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import jax
import numpy as np
import pytest

# Eight CPU devices on any machine, for tests with several devices.
jax.config.update('jax_num_cpu_devices', 8)

COLOURS = ('red', 'green', 'blue', 'white', 'black', 'brown')
ANIMALS = ('cat', 'dog', 'owl', 'fox', 'hen', 'bee', 'ant', 'elk')


def pytest_configure(config):
  config.addinivalue_line('markers', 'long: runs with RAG_JAX_TESTS=long')


def pytest_collection_modifyitems(items):
  """Skips long tests of what shorter ones test, too."""
  if os.environ.get('RAG_JAX_TESTS') != 'long':
    for item in items:
      if item.get_closest_marker('long'):
        item.add_marker(pytest.mark.skip(reason='set RAG_JAX_TESTS=long'))


@pytest.fixture(scope='module', autouse=True)
def forget_compiled():
  """Clears compiled programs, which hold a limited number of memory maps."""
  yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def write_lines():
  """Writes records to a path as JSON lines."""

  def write(path, records):
    text = ''.join(json.dumps(record) + '\n' for record in records)
    path.write_text(text, encoding='utf-8')

  return write


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory, write_lines):
  """Forty-eight documents and two splits, as JSON lines."""
  folder = tmp_path_factory.mktemp('tiny')
  documents, questions = [], []
  for i, animal in enumerate(ANIMALS):
    for j, colour in enumerate(COLOURS):
      name = f'{colour}-{animal}'
      legs = str(100 + 7 * i + 11 * j)
      text = f'The {colour} {animal} lives here. It weighs {legs} grams.'
      documents.append(
        {'id': name, 'title': f'{colour} {animal}'} | {'text': text}
      )
      questions.append(
        {
          'id': name,
          'question': f'How much does the {colour} {animal} weigh?',
          'answers': [legs],
          'document_ids': [name],
        }
      )
  write_lines(folder / 'documents.jsonl', documents)
  write_lines(folder / 'questions-train.jsonl', questions[:40])
  write_lines(folder / 'questions-dev.jsonl', questions[40:])
  return folder


@pytest.fixture(scope='module')
def trained_run(values, tmp_path_factory):
  """The workdir, prepared data and system of a run of a module's `values`."""
  from rag_jax import config, train, workdir

  path = tmp_path_factory.mktemp('runs') / 'run'
  built = config.build(values)
  prepared = workdir.open(built, path)
  return path, prepared, train.fit(built, prepared, path)


@pytest.fixture(scope='session')
def tiny_values(tiny_folder):
  """A tiny experiment with all components, as nested fields."""
  small = {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
  return {
    'name': 'tiny',
    'data': {
      'path': str(tiny_folder),
      'vocab_size': 320,
      'max_document_tokens': 24,
      'max_answer_tokens': 4,
    },
    'docid': {'branching': 8, 'leaf_size': 8},
    'query_encoder': {'width': 16} | small,
    'id_decoder': small,
    'reader': {'width': 16, 'max_answer_tokens': 4} | small,
    'search': {'beam_size': 6, 'read_size': 3},
    'pseudo_queries': {'batch_size': 8, 'max_tokens': 10},
    'train': {
      'warmup_steps': 1,
      'log_every': 1,
      'checkpoint_every': 2,
      'eval_batch_size': 8,
      'report': False,  # one test has it: it takes time to compile
    },
    'stages': {
      'joint': {
        'steps': 4,
        'batch_size': 8,
        'learning_rate': 1e-3,
        'losses': {
          'answer': 1.0,
          'docid': 1.0,
          'ranking': 1.0,
          'indexing': 1.0,
        },
      },
    },
  }


@pytest.fixture(scope='session')
def tiny_file(tiny_values, tmp_path_factory):
  """This experiment as a file."""
  path = tmp_path_factory.mktemp('experiment') / 'tiny.py'
  path.write_text(
    'from rag_jax import config\n\n\ndef get_config():\n'
    '  values = config.default()\n'
    f'  values.update({tiny_values!r})\n'
    '  return values\n'
  )
  return path


@pytest.fixture(scope='session')
def small_config():
  """Builds the configuration of a small model; keywords change its groups."""
  from rag_jax import config as configs

  def build(**groups):
    sizes = {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
    values = {
      'docid': {'branching': 3, 'leaf_size': 3},
      'query_encoder': {'width': 16} | sizes,
      'id_decoder': sizes,
      'reader': {'width': 16} | sizes,
      'search': {'beam_size': 6, 'read_size': 3},
      'pseudo_queries': {'batch_size': 4, 'max_tokens': 4},
    }
    for name, fields in groups.items():
      values[name] = values.get(name, {}) | fields
    return configs.build(values)

  return build


@pytest.fixture(scope='session')
def small_tokens():
  """Twelve documents of nine tokens, with a vocabulary of fifty."""
  return np.random.default_rng(0).integers(3, 50, (12, 9))


@pytest.fixture(scope='session')
def small_index(small_config, small_tokens):
  """An index of `small_tokens`."""
  from rag_jax import model
  from rag_jax.index import docids
  from rag_jax.index import index as indexes

  config, tokens = small_config(), jax.numpy.asarray(small_tokens)
  vectors = model.document_vectors(
    jax.random.key(0), config.model, tokens, vocab_size=50
  )
  codes = docids.assign(np.asarray(vectors), config.docid)
  return indexes.from_codes(small_tokens, codes)


@pytest.fixture(scope='session')
def small_batch(small_tokens):
  """Questions: the first four tokens of a document; answers: the next two."""
  from rag_jax import types

  answers = np.zeros((4, 2, 3), np.int64)
  answers[:, 0, :2] = small_tokens[:4, 4:6]
  return types.Batch(
    query=jax.numpy.asarray(small_tokens[:4, :4]),
    answers=jax.numpy.asarray(answers),
    gold=jax.numpy.arange(4)[:, None],
    where=jax.numpy.ones(4, bool),
  )


@pytest.fixture(scope='session')
def write_tokenizer():
  """Writes a deterministic word-piece tokenizer."""
  import tokenizers as hf
  from tokenizers import models, normalizers, pre_tokenizers, processors

  def write(path, texts, *, special, template, size=200, doubled=False):
    normalizer = normalizers.BertNormalizer()
    splitter = pre_tokenizers.BertPreTokenizer()
    # The trainer of `tokenizers` is not deterministic.
    counts = collections.Counter(
      word
      for text in texts
      for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    words = sorted(counts, key=lambda word: (-counts[word], word))
    letters = sorted(set(''.join(words)))
    inner = [f'##{letter}' for letter in letters]
    pieces = dict.fromkeys([*special, '[UNK]', *letters, *inner, *words])
    vocabulary = {piece: i for i, piece in enumerate(list(pieces)[:size])}
    tokenizer = hf.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens([*special, '[UNK]'])
    single = [*template[:-1], '$A', template[-1]]
    doubled = [template[-1]] if doubled else []
    second = ['$B:1', f'{template[-1]}:1']
    tokenizer.post_processor = processors.TemplateProcessing(
      single=' '.join(single),
      pair=' '.join([*single, *doubled, *second]),
      special_tokens=[(t, tokenizer.token_to_id(t)) for t in template],
    )
    tokenizer.save(str(path))

  return write


@pytest.fixture(scope='session')
def write_encoder(write_tokenizer):
  """Writes a folder with a small random encoder of any family.

  Its arrays are drawn from a NumPy seed in the order of their names, so that
  tests can hold what other implementations compute from them.
  """
  from rag_jax.nn import (
    bert,
    bert_weights,
    encoders,
    modernbert,
    modernbert_weights,
    weights,
  )

  sizes = {'width': 8, 'num_layers': 3, 'num_heads': 2, 'mlp_dim': 12}
  sizes |= {'vocab_size': 60, 'max_positions': 40}
  texts = [
    'red green blue',
    'cat dog owl',
    'which one is it?',
    'query passage:',
  ]

  def shapes_of(family, fields):
    if family == 'modernbert':
      window = {'window': 4, 'global_every': 2, 'local_rope_base': 100.0}
      config = modernbert.ModernBertConfig(**sizes | window | fields)
      blocks = ('qkv', 'out', 'up', 'down', 'hidden_norm', 'norm')
      table = modernbert_weights._table(config)
      assert set(table['block_1']) == set(blocks)
      return modernbert_weights.describe(config) | {'pad_token_id': 3}, table
    names = bert_weights.FAMILIES[family]
    config = bert.BertConfig(**sizes | {'num_segments': 1 + (family == 'bert')})
    config = dataclasses.replace(config, **dict(names.fixed), **fields)
    pad = int(bert_weights.is_shifted(family))
    skip = bert_weights.skipped(names, pad)
    longer = dataclasses.replace(config, max_positions=40 + skip)
    about = bert_weights.describe(config, family, pad)
    return about, bert_weights._table(longer, names)

  def write(folder, family='bert', *, kind='', seed=0, said=None, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    about, table = shapes_of(family, fields)
    shapes = {
      name: shape
      for entry in jax.tree.leaves(
        table, is_leaf=lambda x: hasattr(x, 'shapes')
      )
      for name, shape in entry.shapes.items()
    }
    prefix = modernbert_weights.PREFIX
    if family in bert_weights.FAMILIES:
      prefix = bert_weights.FAMILIES[family].prefix
    prefix = prefix if kind else ''
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    shapes |= HEADS.get(kind, {})
    rng = np.random.default_rng(seed)
    state = {
      name: rng.normal(
        float('norm' in name.lower() and name.endswith('weight')), 0.4, shape
      ).astype(np.float32)
      for name, shape in sorted(shapes.items())
    }
    weights.write(folder / 'model.safetensors', state)
    architectures = {'architectures': [kind or 'Model']}
    labels = {'num_labels': 1} if 'Sequence' in kind else {}
    (folder / 'config.json').write_text(
      json.dumps(about | architectures | labels)
    )
    special = ['[PAD]', '[CLS]', '[SEP]']
    if bert_weights.is_shifted(family):
      special = ['[CLS]', '[PAD]', '[SEP]']  # padding is token 1
    elif family == 'modernbert':
      special = ['[CLS]', '[SEP]', '[UNK]', '[PAD]']
    write_tokenizer(
      folder / 'tokenizer.json',
      texts,
      special=special,
      template=['[CLS]', '[SEP]'],
      size=60,
      doubled=bert_weights.is_shifted(family),
    )
    for name, values in (said or {}).items():
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).write_text(json.dumps(values))
    return str(folder)

  assert set(encoders.FAMILIES) == {*bert_weights.FAMILIES, 'modernbert'}
  return write


def _linear(name, outputs, inputs=8, bias=True):
  shapes = {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}
  return shapes if bias else {f'{name}.weight': (outputs, inputs)}


_ROBERTA = _linear('classifier.dense', 8) | _linear('classifier.out_proj', 1)
_MODERN = _linear('head.dense', 8, bias=False) | {'head.norm.weight': (8,)}
HEADS = {
  'BertForQuestionAnswering': _linear('qa_outputs', 2),
  'BertForSequenceClassification': _linear('bert.pooler.dense', 8)
  | _linear('classifier', 1),
  'RobertaForSequenceClassification': _ROBERTA,
  'XLMRobertaForQuestionAnswering': _linear('qa_outputs', 2),
  'MPNetForSequenceClassification': _ROBERTA,
  'DistilBertForSequenceClassification': _linear('pre_classifier', 8)
  | _linear('classifier', 1),
  'ElectraForSequenceClassification': _ROBERTA,
  'ModernBertForQuestionAnswering': _MODERN | _linear('classifier', 2),
  'ModernBertForSequenceClassification': _MODERN | _linear('classifier', 1),
}


@pytest.fixture(scope='session')
def published_bert(tiny_folder, tmp_path_factory, write_tokenizer):
  """A folder with a BERT of 200 tokens in published form."""
  from rag_jax.data import formats, pipeline
  from rag_jax.nn import bert, bert_weights, weights

  folder = tmp_path_factory.mktemp('published')
  sizes = bert.BertConfig(
    vocab_size=200,
    width=16,
    num_layers=2,
    num_heads=2,
    mlp_dim=16,
    max_positions=64,
  )
  params = bert.init(jax.random.key(0), sizes)
  state = bert_weights.to_state_dict(params, sizes)
  weights.write(folder / 'model.safetensors', state)
  described = {
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'vocab_size': sizes.vocab_size,
    'hidden_size': sizes.width,
    'num_hidden_layers': sizes.num_layers,
    'num_attention_heads': sizes.num_heads,
    'intermediate_size': sizes.mlp_dim,
    'max_position_embeddings': sizes.max_positions,
    'type_vocab_size': sizes.num_segments,
    'layer_norm_eps': sizes.epsilon,
  }
  (folder / 'config.json').write_text(json.dumps(described))
  dataset = formats.load(str(tiny_folder))
  texts = [pipeline.document_text(d) for d in dataset.documents]
  texts += [q.text for split in dataset.splits.values() for q in split]
  template = ['[CLS]', '[SEP]']
  path = folder / 'tokenizer.json'
  write_tokenizer(path, texts, special=['[PAD]', *template], template=template)
  return str(folder)


@pytest.fixture(scope='session')
def published_t5(tiny_folder, tmp_path_factory, write_tokenizer):
  """A folder with a T5 of 200 tokens in published form."""
  from rag_jax.data import formats, pipeline
  from rag_jax.nn import t5, t5_weights, weights

  folder = tmp_path_factory.mktemp('published')
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
  return str(folder)


@pytest.fixture(scope='session')
def published_values(tiny_values, published_bert):
  """An experiment on published weights: stages search, reading and joint."""
  sizes = {
    'width': 16,
    'num_layers': 2,
    'num_heads': 2,
    'mlp_dim': 16,
    'weights': published_bert,
    'frozen_layers': 1,
  }
  own = {'steps': 2, 'batch_size': 8}
  search = {'docid': 1.0, 'ranking': 1.0}
  reading = {'answer': 1.0, 'relevance': 1.0}
  everything = search | reading | {'reranking': 1.0, 'null_document': 1.0}
  return tiny_values | {
    'data': tiny_values['data']
    | {
      'tokenizer': published_bert,
      'max_vector_tokens': 24,
      'lexicon': True,
    },
    'query_encoder': sizes,
    'id_decoder': {'num_layers': 0},
    'search': {
      'beam_size': 12,
      'read_size': 3,
      'scoring': 'absolute',
      'lexical_weight': 0.3,
    },
    'ranker': {'docid_weight': 0.0, 'vector_weight': 10.0},
    'reader': sizes
    | {
      'kind': 'bert',
      'max_answer_tokens': 4,
      'null_document': True,
      'reranks': True,
    },
    'train': tiny_values['train'] | {'head_lr_multiplier': 10.0},
    'stages': {
      'search': own
      | {
        'losses': search,
        'trains': {'query_encoder': 1.0, 'id_decoder': 1.0, 'ranker': 1.0},
      },
      'reading': own
      | {
        'candidates': 'gold+negative',
        'losses': reading,
        'trains': {'reader': 1.0},
      },
      'joint': own | {'losses': everything, 'read_size': 2},
    },
  }


@pytest.fixture(scope='session')
def published_run(published_values, tmp_path_factory):
  """A run on published weights: configuration, workdir and results."""
  from rag_jax import config as configs
  from rag_jax import train

  workdir = tmp_path_factory.mktemp('runs') / 'run'
  config = configs.build(published_values)
  return config, workdir, train.run(config, workdir)


@pytest.fixture(scope='session')
def published_prepared(published_run):
  """The input of training of `published_run`."""
  from rag_jax import workdir as workdirs

  config, workdir, _ = published_run
  return workdirs.open(config, workdir)


@pytest.fixture(scope='session')
def published_system(published_run):
  """The trained system of `published_run`."""
  from rag_jax import loading

  _, workdir, _ = published_run
  return loading.load(workdir)
