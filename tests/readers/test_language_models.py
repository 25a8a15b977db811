"""The causal reader on each family of language models."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import pretrained, readers, types
from rag_jax.data import chat_forms, tokenizers
from rag_jax.nn import llama, llama_weights
from rag_jax.readers import base

FORMS = {
  'llama': 'plain',
  'llama3': 'llama3',
  'mistral': 'mistral',
  'qwen2': 'chatml',
  'qwen3': 'qwen3',
  'gemma3': 'gemma',
}
START = {  # text before the instruction
  'llama': '<s> ',
  'llama3': '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n',
  'mistral': '<s> [INST] ',
  'qwen2': '<|im_start|>system\n',
  'qwen3': '<|im_start|>system\n',
  'gemma3': '<bos><start_of_turn>user\n',
}
STOP = {  # text after the question
  'llama': '?\nAnswer:',
  'llama3': '<|start_header_id|>assistant<|end_header_id|>\n\nAnswer:',
  'mistral': '? [/INST] Answer:',
  'qwen2': '?<|im_end|>\n<|im_start|>assistant\nAnswer:',
  'qwen3': '<|im_start|>assistant\n<think>\n\n</think>\n\nAnswer:',
  'gemma3': '?<end_of_turn>\n<start_of_turn>model\nAnswer:',
}
END = {
  'llama': '</s>',
  'llama3': '<|eot_id|>',
  'mistral': '</s>',
  'qwen2': '<|im_end|>',
  'qwen3': '<|im_end|>',
  'gemma3': '<end_of_turn>',
}
PAGES = [
  types.Document(id='a', title='T', text='the naïve page, the end'),
  types.Document(id='b', text='the other'),
]


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
  """Family -> configuration as of a run, reader, weights."""
  parent, kept = tmp_path_factory.mktemp('readers'), {}

  def load(family):
    if family not in kept:
      folder = language_models.write_folder(parent / family, family)
      own = {'kind': 'causal', 'weights': str(folder), 'max_answer_tokens': 16}
      config = pretrained.complete(configs.build({'reader': own})).reader
      reader = readers.make(config)
      kept[family] = config, reader, reader.load()
    return kept[family]

  return load


@pytest.mark.parametrize('family', FORMS)
def test_prompts_have_the_form_of_the_family(loaded, family, tmp_path):
  config, reader, found = loaded(family)
  assert config.prompt == FORMS[family]
  assert found.tokenizer.id_to_token(config.end_token) == END[family]
  # A run stores the tokenizer and the configuration, and reads them again.
  tokenizers.save(found.tokenizer, tmp_path / 'reader.json')
  tokenizer = tokenizers.load(tmp_path / 'reader.json')
  inputs = reader.text_inputs
  # The name of a special token in a text is no token.
  text = PAGES[0].text.replace('naïve', f'naïve{END[family]}')
  pages = [dataclasses.replace(PAGES[0], text=text), PAGES[1]]
  passages, cut = inputs.passages(tokenizer, pages, max_tokens=400)
  questions = inputs.questions(tokenizer, ['who is it'], max_tokens=300)
  assert cut == 0
  shift = int(family in ('llama3', 'qwen2', 'qwen3'))
  assert json.loads(config.language_model)['shift'] == shift
  ids = np.concatenate([passages[0], questions[0]])
  ids = ids[ids > 0] - shift
  text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
  assert text.startswith(START[family] + chat_forms.INSTRUCTION)
  assert text.endswith(STOP[family])
  assert 'Passage: T: the naïve page, the end' in text
  assert 'Question: who is it?' in text
  # The prompt is tokenised as a whole would be, but for the start of a text.
  published = llama_weights.describe(config.weights).tokenizer
  whole = text.removeprefix('<s> ').removeprefix('<bos>')
  whole = whole.removeprefix('<|begin_of_text|>')
  assert ids.tolist() == published.encode(whole).ids
  answers = inputs.answers(
    tokenizer, [('the end', 'a b')], max_answers=2, max_tokens=12
  )
  assert inputs.decode(tokenizer, answers[0, 0]) == 'the end'
  assert inputs.decode(tokenizer, answers[0, 1]) == 'a b'


@pytest.mark.parametrize('family', ['qwen2', 'mistral'])
def test_likelihoods_equal_those_of_the_whole_text(loaded, family):
  config, reader, found = loaded(family)
  tokenizer, inputs = found.tokenizer, reader.text_inputs
  passages, _ = inputs.passages(tokenizer, PAGES, max_tokens=300)
  questions = inputs.questions(tokenizer, ['who'], max_tokens=120)
  answers = inputs.answers(tokenizer, [('!',)], max_answers=1, max_tokens=4)
  params = reader.init(jax.random.key(0), vocab_size=9, pretrained=found.params)
  shift = int(family == 'qwen2')  # '!' is token 0 there
  memory = jax.jit(reader.read)(params, questions, jnp.asarray(passages[None]))
  scores = jax.jit(reader.log_likelihood)(params, memory, jnp.asarray(answers))
  model = llama_weights.load(config.weights)
  for k in range(2):
    ids = np.concatenate([passages[k], questions[0], answers[0, 0]])
    ids = [*(ids[ids > 0] - shift), config.end_token]
    count = int((answers[0, 0] > 0).sum()) + 1
    tokens = jnp.array([ids])
    logits = jax.jit(llama.apply, static_argnums=1)(
      model.params, model.config, tokens, tokens >= 0
    )
    logs = jax.nn.log_softmax(logits[0, -count - 1 : -1])
    expected = logs[jnp.arange(count), tokens[0, -count:]]
    np.testing.assert_allclose(scores[0, k, :count], expected, atol=2e-4)
    assert not scores[0, k, count:].any()
  weights = jnp.array([[0.4, 0.6]])
  written = jax.jit(reader.answer)(params, memory, weights, weights > 0)
  text = inputs.decode(tokenizer, np.asarray(written.tokens[0]))
  assert isinstance(text, str) and written.log_probability[0] < 0


def test_a_complete_configuration_needs_no_files(loaded):
  config, _, _ = loaded('gemma3')
  moved = dataclasses.replace(config, weights='/nowhere')
  own = configs.build({'reader': dataclasses.asdict(moved)})
  assert pretrained.complete(own) == own


def test_another_form_can_be_chosen(loaded, tmp_path, capsys):
  folder = language_models.write_folder(tmp_path, 'qwen2')
  values = {'reader': {'kind': 'causal', 'weights': str(folder)}}
  plain = values['reader'] | {'prompt': 'plain'}
  found = pretrained.complete(configs.build({'reader': plain})).reader
  tokenizer = readers.make(found).load().tokenizer
  assert tokenizer.id_to_token(found.end_token) == '<|endoftext|>'
  other = json.dumps({'chat_template': '{{ x }}', 'eos_token': '<|im_end|>'})
  (folder / 'tokenizer_config.json').write_text(other)
  assert not capsys.readouterr().err
  found = pretrained.complete(configs.build(values)).reader
  assert found.prompt == 'plain'
  assert 'chat template' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r'reader.prompt must be one of .* got'):
    pretrained.complete(
      configs.build({'reader': values['reader'] | {'prompt': 'alpaca'}})
    )


def test_options_of_other_weights_raise(loaded):
  config, _, _ = loaded('qwen2')
  other = dataclasses.replace(config, language_model='')
  with pytest.raises(ValueError, match=r'reader.language_model must be as in'):
    readers.make(other).load()
  other = dataclasses.replace(config, language_model='{')
  with pytest.raises(ValueError, match=r'language_model must be the text'):
    readers.make(other).load()
  unknown = base.ReaderConfig(kind='causal', weights='/nowhere/model.gguf')
  with pytest.raises(ValueError, match='/nowhere'):
    pretrained.complete(configs.build({'reader': dataclasses.asdict(unknown)}))
