"""Errors of the Python API: each is one line with a remedy."""

import pathlib
import re

import numpy as np
import pytest

import rag_jax
from rag_jax import baselines, compare_docids, experiment_files, train, types
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import tokenizers, words
from rag_jax.ops import losses
from rag_jax.ops import trie as tries

DOCUMENTS = ['A cat sleeps.', 'Dogs bark at night.', 'Fish swim in the sea.']
BM25 = baselines.bm25_index([types.Document(id='a', text='A cat.')])
TOKENIZER = tokenizers.train(DOCUMENTS, vocab_size=300)
TRIE = tries.build(np.array([[0, 1], [1, 0]]))
NOWHERE = pathlib.Path('/proc/nothing/run')  # not writable


@pytest.fixture(scope='module')
def system():
  return rag_jax.from_documents(DOCUMENTS)


OF_SYSTEM = {
  'ask, a text': (lambda s: s.ask('Who sleeps?'), r"Pass \['Who sleeps\?'\]"),
  'ask, nothing': (lambda s: s.ask([]), 'Pass at least one'),
  'ask, a blank': (lambda s: s.ask(['x', ' ']), "got ' '. Leave it out"),
  'ask, None': (lambda s: s.ask(None), 'got None. Pass a list'),
  'search, a number': (lambda s: s.search([3]), 'got 3'),
  'embed, a text': (lambda s: s.embed('x'), r"Pass \['x'\]"),
  'allowed, an id': (lambda s: s.search(['x'], allowed='0'), r"Pass \['0'\]"),
  'allowed, a mask': (
    lambda s: s.search(['x'], allowed=np.array([True, False, False])),
    "ids of documents.*such as '0'",
  ),
  'add, a text': (lambda s: s.add('new'), r'Pass \[document\]'),
  'add, a misspelt field': (
    lambda s: s.add([{'id': 'a', 'txt': 'b'}]),
    'Rename or leave out',
  ),
  'delete, an id': (lambda s: s.delete('0'), r"Pass \['0'\]"),
  'delete, all': (lambda s: s.delete(list(s.rows)), 'Keep at least one'),
  'ask, a mapping': (lambda s: s.ask({'q': 'x'}), 'Pass a list'),
  'search, a path': (lambda s: s.search(pathlib.Path('x')), 'Pass a list'),
  'allowed, rows': (lambda s: s.search(['x'], allowed=[1]), "such as '0'"),
  'allowed, a number': (lambda s: s.search(['x'], allowed=1), r'Pass \[1\]'),
  'delete, a number': (lambda s: s.delete(1), r'Pass \[1\]'),
  'with_config, a dict': (lambda s: s.with_config({}), 'config.build'),
}
OTHERS = {
  'load, nothing there': (lambda: rag_jax.load('/nowhere'), 'Train first'),
  'load, a file': (lambda: rag_jax.load(__file__), 'is a file. Give the fol'),
  'load, None': (lambda: rag_jax.load(None), "such as 'runs/facts'"),
  'documents, a text': (lambda: rag_jax.from_documents('x'), r'\[document\]'),
  'documents, a path': (
    lambda: rag_jax.from_documents(pathlib.Path('x')),
    'Read the file first',
  ),
  'documents, an id twice': (
    lambda: rag_jax.from_documents([{'id': 'a', 'text': t} for t in 'xy']),
    "got 'a' twice",
  ),
  'config, a dict': (
    lambda: rag_jax.from_documents(DOCUMENTS, config={'seed': 1}),
    'got dict. Pass rag_jax.config.build',
  ),
  'build, a name': (lambda: configs.build('quickstart'), 'experiment_files'),
  'build, a number for a group': (
    lambda: configs.build({'search': 3}),
    "'search.beam_size'",
  ),
  'build, weights that are missing': (
    lambda: configs.build({'reader': {'kind': 'causal'}}),
    "got reader.weights=''",
  ),
  'train, values that were not built': (
    lambda: train.run(configs.default(), NOWHERE),
    'got ConfigDict. Pass rag_jax.config.build',
  ),
  'train, a folder that cannot be written': (
    lambda: train.run(configs.Config(), NOWHERE),
    'cannot be written .*Set --workdir to a ',
  ),
  'train, no workdir': (
    lambda: train.run(configs.Config(), None),
    "workdir must be a path, got None.*such as 'runs/facts'",
  ),
  'open, a number for a workdir': (
    lambda: workdirs.open(configs.Config(), 3),
    'workdir must be a path, got 3',
  ),
  'compare docids, no folder': (
    lambda: compare_docids.run(configs.Config(), None),
    'workdir must be a path, got None',
  ),
  'compare docids, a dict': (
    lambda: compare_docids.run({}, 'runs/x'),
    'Pass rag_jax.config.build',
  ),
  'BM25, texts for documents': (
    lambda: baselines.bm25_index(DOCUMENTS),
    r'as_documents\(texts\)',
  ),
  'BM25, a text for queries': (
    lambda: baselines.bm25_search(BM25, 'a cat', k=1),
    r"Pass \['a cat'\]",
  ),
  'BM25 scores, a text': (
    lambda: baselines.bm25_scores(BM25, 'a cat'),
    r"Pass \['a cat'\]",
  ),
  'dense search, one vector': (
    lambda: baselines.dense_search(np.ones((3, 4)), np.ones(4), k=1),
    r'got \(3, 4\) and \(4,\). Pass a row',
  ),
  'dense search, another width': (
    lambda: baselines.dense_search(np.ones((3, 4)), np.ones((1, 5)), k=1),
    r'got \(3, 4\) and \(1, 5\)',
  ),
  'words of a text': (lambda: words.build('a cat'), r"Pass \['a cat'\]"),
  'tokens of a text': (
    lambda: tokenizers.encode(TOKENIZER, 'a cat', max_tokens=4),
    r"Pass \['a cat'\]",
  ),
  'tokenizer of a text': (
    lambda: tokenizers.train('a cat', vocab_size=300),
    r"Pass \['a cat'\]",
  ),
  'trie, rows for an allow-list': (
    lambda: tries.allow(TRIE, np.array([1])),
    'allowed must be bool',
  ),
  'trie, an allow-list of another length': (
    lambda: tries.allow(TRIE, np.array([True])),
    r'allowed must be bool\[2\]',
  ),
  'trie, codes that are too large': (
    lambda: tries.build(np.array([[2**31, 0], [0, 1]])),
    r'codes must be below 2\*\*31 - 1, got 2147483648',
  ),
  'trie, codes that wrap around to small ones': (
    lambda: tries.build(np.array([[2**32 + 1, 0], [0, 1]])),
    'got 4294967297',
  ),
  'Fenchel-Young loss, labels for weights': (
    lambda: losses.fenchel_young(np.ones((2, 3), np.float32), np.ones(2, int)),
    'targets must be floating point, got int',
  ),
  'Fenchel-Young loss, labels as floats': (
    lambda: losses.fenchel_young(np.ones((2, 3)), np.array([2.0, 0.0])),
    'one_hot',
  ),
  'load an experiment, a saved configuration': (
    lambda: experiment_files.load('runs/facts/config.json'),
    'set --workdir alone',
  ),
}


def error_of(call):
  with pytest.raises(ValueError) as error:
    call()
  text = str(error.value)
  assert '\n' not in text
  return text


@pytest.mark.parametrize('name', OF_SYSTEM)
def test_errors_of_a_system(system, name):
  call, words = OF_SYSTEM[name]
  text = error_of(lambda: call(system))
  assert re.search(words, text), text


@pytest.mark.parametrize('name', OTHERS)
def test_errors_of_other_functions(name):
  call, words = OTHERS[name]
  text = error_of(call)
  assert re.search(words, text), text


def test_the_error_of_a_missing_extra_names_its_command(monkeypatch, tmp_path):
  import sys

  from rag_jax.nn import gguf_file

  monkeypatch.setitem(sys.modules, 'gguf', None)
  (tmp_path / 'model.gguf').write_bytes(b'GGUF')
  text = error_of(lambda: gguf_file.read(tmp_path / 'model.gguf'))
  assert "pip install 'rag_jax[gguf]'" in text
