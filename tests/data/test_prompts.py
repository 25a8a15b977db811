import numpy as np
import pytest
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from rag_jax import types
from rag_jax.data import chat_forms, prompts

TEMPLATE = prompts.PromptTemplate(
  text='{title}: {passage}\nQuestion: {question}?\nAnswer:', end='<end>'
)


def make_tokenizer():
  """One token per byte, and one special token that ends a turn."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {'<end>': 0} | {c: i + 1 for i, c in enumerate(alphabet)}
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(['<end>'])
  return tokenizer


def page(text, title='T'):
  return types.Document(id='a', title=title, text=text)


def text_of(tokenizer, tokens, where):
  return tokenizer.decode(tokens[where].tolist(), skip_special_tokens=False)


def test_prompts_are_the_filled_template():
  tokenizer = make_tokenizer()
  pages = [[page('A b {c}.'), page('naïve café')], [page('x')]]
  found = prompts.encode(
    tokenizer, TEMPLATE, ['who', 'why'], pages, max_tokens=60
  )
  assert found.tokens.shape == (2, 2, 60) and found.truncated == 0
  assert text_of(tokenizer, found.tokens[0, 0], found.where[0, 0]) == (
    'T: A b {c}.\nQuestion: who?\nAnswer:'
  )
  copied = text_of(tokenizer, found.tokens[0, 1], found.copied[0, 1])
  assert copied == 'naïve café'
  assert not found.where[1, 1].any()  # the question has one passage


def test_passages_are_truncated_so_that_prompts_fit():
  tokenizer = make_tokenizer()
  found = prompts.encode(
    tokenizer, TEMPLATE, ['who'], [[page('word ' * 90)]], max_tokens=50
  )
  text = text_of(tokenizer, found.tokens[0, 0], found.where[0, 0])
  assert found.truncated == 1 and len(text) == 50
  assert text.startswith('T: word word') and text.endswith('who?\nAnswer:')
  with pytest.raises(ValueError, match='without its passage, got 20 for 26'):
    prompts.encode(tokenizer, TEMPLATE, ['who'], [[page('x')]], max_tokens=20)


def test_special_tokens_in_a_text_are_removed():
  tokenizer = make_tokenizer()
  pages = [[page('a<end>b', title='<end>c')]]
  found = prompts.encode(tokenizer, TEMPLATE, ['<end>'], pages, max_tokens=60)
  assert 0 not in found.tokens[found.where]
  text = text_of(tokenizer, found.tokens[0, 0], found.where[0, 0])
  assert text == 'c: ab\nQuestion: ?\nAnswer:'


def test_answers_round_trip():
  tokenizer = make_tokenizer()
  found = prompts.encode_answers(
    tokenizer, TEMPLATE, ['Paris', 'Buenos Aires'], max_tokens=8
  )
  assert found.truncated == 1
  assert text_of(tokenizer, found.tokens[0], found.where[0]) == ' Paris<end>'
  assert found.where.sum(1).tolist() == [7, 8]
  assert prompts.decode(tokenizer, TEMPLATE, found.tokens[0]) == 'Paris'
  more = tokenizer.encode(' a b \nand more').ids
  assert prompts.decode(tokenizer, TEMPLATE, more) == 'a b'
  assert prompts.decode(tokenizer, TEMPLATE, np.array([0, 5])) == ''


def test_errors_name_the_field_the_value_and_the_remedy():
  with pytest.raises(ValueError, match='must hold {question} once .* got'):
    prompts.PromptTemplate(text='{passage}')
  with pytest.raises(ValueError, match='hold {passage} if it holds {title}'):
    prompts.PromptTemplate(text='{title} {question}')
  with pytest.raises(ValueError, match="{answer} once, got 'x'"):
    prompts.PromptTemplate(text='{question}', answer='x')
  tokenizer = make_tokenizer()
  with pytest.raises(ValueError, match='passages must be given .* got none'):
    prompts.encode(tokenizer, TEMPLATE, ['who'], max_tokens=60)
  with pytest.raises(ValueError, match="token of the model, got '<|im_end|>'"):
    prompts.end_token(
      tokenizer, chat_forms.template('chatml', end='<|im_end|>')
    )
