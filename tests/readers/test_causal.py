import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from rag_jax import readers, types
from rag_jax.data import chat_forms, prompts
from rag_jax.nn import generate, llama, llama_weights, weights
from rag_jax.ops import losses
from rag_jax.readers import base

CONFIG = base.ReaderConfig(
  kind='causal', weights='tiny', num_heads=4, max_answer_tokens=4
)
SIZES = llama.LlamaConfig(
  vocab_size=12,
  width=16,
  num_layers=1,
  num_heads=4,
  num_key_value_heads=2,
  head_size=4,
  mlp_dim=24,
)
END = CONFIG.end_token
TEMPLATE = chat_forms.template('chatml', end='<|im_end|>')
WEIGHTS = jnp.array([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]])
ANSWERS = jnp.array([[[4, 5, 0]], [[7, 0, 0]]])
TOKENS = jnp.array(  # template tokens 1 and 3, padding, then the passage
  [
    [[1, 3, 0, 4, 5, 6], [1, 3, 0, 7, 0, 0], [1, 3, 3, 0, 8, 9]],
    [[1, 0, 10, 11, 0, 0], [1, 3, 0, 8, 8, 4], [1, 3, 0, 5, 7, 0]],
  ]
)
QUERY = jnp.array([[3, 6, 1], [9, 1, 0]])


@functools.cache
def reader_of(**options):
  reader = readers.make(dataclasses.replace(CONFIG, **options))
  return reader, jax.jit(reader.read)


@pytest.fixture(scope='module')
def params():
  found = jax.jit(llama.init, static_argnums=1)(jax.random.key(2), SIZES)
  found = jax.tree.map(lambda x: 2.5 * x, found)
  reader, _ = reader_of()
  return reader.init(jax.random.key(0), vocab_size=300, pretrained=found)


@pytest.fixture(scope='module')
def memory(params):
  _, read = reader_of()
  return read(params, QUERY, TOKENS)


def test_likelihoods_equal_those_of_prompt_plus_answer(params, memory):
  reader, _ = reader_of()
  found = reader.log_likelihood(params, memory, ANSWERS)
  assert found.shape == (2, 3, 4)
  target = base.with_end(ANSWERS[:, 0], END)
  for b, k in np.ndindex(2, 3):
    before = [*TOKENS[b, k][TOKENS[b, k] > 0], *QUERY[b][QUERY[b] > 0]]
    answer = target[b][target[b] > 0]
    row = jnp.array([*before, *answer])[None]
    logits = llama.apply(params['llama'], SIZES, row, row > 0)[0]
    scores = jax.nn.log_softmax(logits)[len(before) - 1 : -1]
    expected = scores[jnp.arange(len(answer)), answer]
    np.testing.assert_allclose(
      found[b, k, : len(answer)], expected, rtol=5e-6, atol=2e-5
    )
    assert (found[b, k, len(answer) :] == 0).all()


def total(scores, marginal):
  """Log marginal of each question, from float[B, K, T], in NumPy."""
  scores = np.exp(np.asarray(scores, float))
  weights = np.asarray(WEIGHTS, float)[..., None]
  if marginal == 'token':
    return np.log((weights * scores).sum(1)).sum(-1)
  return np.log((weights[..., 0] * scores.prod(-1)).sum(1))


@pytest.mark.parametrize('beams', [1, 3])
@pytest.mark.parametrize('marginal', ['sequence', 'token'])
def test_generated_scores_equal_teacher_forced_scores(
  params, memory, marginal, beams
):
  reader, _ = reader_of(marginal=marginal, num_beams=beams)
  found = jax.jit(reader.answer)(params, memory, WEIGHTS, WEIGHTS > 0)
  tokens = np.asarray(found.tokens)
  assert tokens.shape == (2, 4) and END not in tokens
  scores = reader.log_likelihood(params, memory, found.tokens[:, None])
  ended = (tokens != 0).sum(1)[:, None, None] < 4
  scores = np.where((np.arange(5) < 4) | ended, scores, 0)
  np.testing.assert_allclose(
    found.log_probability, total(scores, marginal), rtol=1e-4
  )
  np.testing.assert_array_equal(found.no_answer, -found.log_probability)
  posterior = np.where(WEIGHTS > 0, np.exp(scores.sum(-1)) * WEIGHTS, 0)
  np.testing.assert_array_equal(found.place, posterior.argmax(1))
  assert (found.start == -1).all() and (found.end == -1).all()


def test_padding_is_never_generated(params):
  """Not even if it is the most probable token."""
  embedding = params['llama']['embedding']
  loud = embedding.at[0].set(3 * embedding.mean(0) + embedding[5] * 4)
  params = {'llama': params['llama'] | {'embedding': loud}}
  for marginal in ('sequence', 'token'):
    reader, read = reader_of(marginal=marginal)
    memory = read(params, QUERY, TOKENS)
    found = jax.jit(reader.answer)(params, memory, WEIGHTS, WEIGHTS > 0)
    scores = reader.log_likelihood(params, memory, found.tokens[:, None])
    ended = (found.tokens != 0).sum(1)[:, None, None] < 4
    scores = np.where((np.arange(5) < 4) | ended, scores, 0)
    np.testing.assert_allclose(
      found.log_probability, total(scores, marginal), rtol=1e-4
    )


@pytest.mark.parametrize('marginal', ['sequence', 'token'])
def test_copied_answers_are_spans_of_passages_with_weight(
  params, memory, marginal
):
  reader, _ = reader_of(marginal=marginal, copy=True)
  found = jax.jit(reader.answer)(params, memory, WEIGHTS, WEIGHTS > 0)
  each = reader.answer_each(params, memory)
  bodies = [[[4, 5, 6], [7], []], [[10, 11], [8, 8, 4], [5, 7]]]

  def contains(body, text):
    starts = range(len(body) - len(text) + 1)
    return any(body[i : i + len(text)] == text for i in starts)

  for b in range(2):
    text = found.tokens[b][found.tokens[b] > 0].tolist()
    assert text and any(contains(body, text) for body in bodies[b])
  bodies[0][2] = [8, 9]
  for b, k in np.ndindex(2, 3):
    text = each[b, k][each[b, k] > 0].tolist()
    assert text and contains(bodies[b][k], text)


def test_sampling_the_best_token_is_greedy(params, memory):
  reader, _ = reader_of()
  keys = jax.random.split(jax.random.key(0), (2, 3))
  sample = jax.jit(reader.sample_each, static_argnums=3)
  best = sample(params, memory, keys, generate.Sampling(top_k=1))
  greedy = jax.jit(reader.answer_each)(params, memory)
  ended = (greedy != 0).sum(-1, keepdims=True) < 4
  np.testing.assert_array_equal(best, jnp.where(ended, greedy, 0))
  drawn = sample(params, memory, keys, generate.Sampling(temperature=3.0))
  assert not np.array_equal(drawn, best) and drawn.shape == best.shape


def test_answer_each_equals_answering_from_each_passage_alone(params, memory):
  reader, _ = reader_of()
  tokens = jax.jit(reader.answer_each)(params, memory)
  assert tokens.shape == (2, 3, 4)
  answer = jax.jit(reader.answer)
  for k in range(3):
    one = jnp.tile(jax.nn.one_hot(k, 3), (2, 1))
    found = answer(params, memory, one, one > 0)
    np.testing.assert_array_equal(tokens[:, k], found.tokens)
    assert found.place.tolist() == [k, k]


@pytest.mark.parametrize('marginal', ['sequence', 'token'])
def test_a_gradient_step_lowers_the_answer_loss(
  params, marginal, losses_of_a_step
):
  reader, _ = reader_of()

  def loss(params):
    memory = reader.read(params, QUERY, TOKENS)
    # Generation inside the loss must not affect the gradient.
    written = reader.answer_each(params, memory)
    scores = reader.log_likelihood(params, memory, ANSWERS)
    if marginal == 'token':
      found = losses.token_marginal(WEIGHTS, scores)
    else:
      found = losses.sequence_marginal(WEIGHTS, scores.sum(-1))
    return found.sum() + 0 * written.sum()

  before, after = losses_of_a_step(loss, params, 0.05)
  assert after < before - 0.01


def make_tokenizer(end=END):
  """One token per byte, and the three special tokens of SmolLM2."""
  special = ['<|endoftext|>', '<|im_start|>']
  special.insert(end, '<|im_end|>')
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {name: i for i, name in enumerate([*special, *alphabet])}
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(special)
  return tokenizer


class TestTextInputs:
  def test_passage_part_plus_question_part_is_the_prompt(self):
    tokenizer, text_inputs = make_tokenizer(), reader_of()[0].text_inputs
    pages = [
      types.Document(id='a', title='T', text='A naïve<|im_end|> page.'),
      types.Document(id='b', text='word ' * 90),
    ]
    passages, cut = text_inputs.passages(tokenizer, pages, max_tokens=150)
    questions = text_inputs.questions(
      tokenizer, ['who', 'why ' * 20], max_tokens=70
    )
    assert passages.shape == (2, 150) and questions.shape == (2, 70)
    assert cut == 1
    whole = prompts.encode(
      tokenizer, TEMPLATE, ['who'], [pages[:1]], max_tokens=300
    )
    joined = np.concatenate([passages[0], questions[0]])
    np.testing.assert_array_equal(
      joined[joined != 0], whole.tokens[0, 0][whole.where[0, 0]]
    )
    # `copied` marks exactly the passage tokens.
    reader, read = reader_of()
    wide = dataclasses.replace(SIZES, vocab_size=300)
    params = {'llama': llama.init(jax.random.key(0), wide)}
    memory = read(params, jnp.asarray(questions[:1]), passages[None, :1])
    copied = passages[0][np.asarray(memory.copied[0, 0])]
    assert tokenizer.decode(copied.tolist()) == 'A naïve page.'
    assert (passages[1] == 0).sum() == 1  # truncated to the full length
    text = tokenizer.decode(questions[1].tolist(), skip_special_tokens=False)
    assert text.endswith('<|im_end|>\n<|im_start|>assistant\nAnswer:')

  def test_answers_round_trip(self):
    tokenizer, text_inputs = make_tokenizer(), reader_of()[0].text_inputs
    found = text_inputs.answers(
      tokenizer,
      [('Paris', 'Buenos Aires'), (), ('a', 'b', 'c')],
      max_answers=2,
      max_tokens=8,
    )
    assert found.shape == (3, 2, 8)
    assert text_inputs.decode(tokenizer, found[0, 0]) == 'Paris'
    assert not found[0, 1].any() and not found[1].any()  # too long; none
    assert [text_inputs.decode(tokenizer, row) for row in found[2]] == [
      'a',
      'b',
    ]
    assert END not in found
    assert text_inputs.decode(tokenizer, np.zeros(8, int)) == ''


class TestLoad:
  @pytest.fixture
  def folder(self, tmp_path):
    """A tiny model in the files of Hugging Face."""
    sizes = dataclasses.replace(SIZES, vocab_size=300)
    params = llama.init(jax.random.key(0), sizes)
    weights.write(
      tmp_path / 'model.safetensors',
      llama_weights.to_state_dict(params, sizes),
    )
    fields = {
      'model_type': 'llama',
      'hidden_act': 'silu',
      'vocab_size': 300,
      'hidden_size': 16,
      'num_hidden_layers': 1,
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'head_dim': 4,
      'intermediate_size': 24,
      'rms_norm_eps': np.float32(1e-5).item(),  # as in a GGUF file
      'rope_theta': 1e5,
      'tie_word_embeddings': True,
    }
    (tmp_path / 'config.json').write_text(json.dumps(fields), encoding='utf-8')
    make_tokenizer().save(str(tmp_path / 'tokenizer.json'))
    return tmp_path, params

  def test_load_returns_the_published_weights(self, folder):
    path, params = folder
    config = dataclasses.replace(CONFIG, weights=str(path))
    found = readers.make(config).load()
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.tokenizer.token_to_id('<|im_end|>') == END

  @pytest.mark.parametrize(
    'field, value, wanted',
    [
      ('num_heads', 2, '4'),
      ('rope_base', 1e4, '100000.0'),
      ('epsilon', 1e-6, '9.99.*e-06'),
      ('end_token', 3, '2, .*im_end'),
    ],
  )
  def test_a_mismatch_with_the_weights_raises(
    self, folder, field, value, wanted
  ):
    changes = {'weights': str(folder[0]), field: value}
    reader = readers.make(dataclasses.replace(CONFIG, **changes))
    with pytest.raises(
      ValueError, match=f'reader.{field} must be {wanted}.* got {value}'
    ) as error:
      reader.load()
    assert f'--config.reader.{field}=' in str(error.value)


def test_a_template_with_the_question_first_raises():
  template = prompts.PromptTemplate(text='{question} {passage}')
  with pytest.raises(ValueError, match='in this order, got .{question} {pass'):
    prompts.encode_questions(
      make_tokenizer(), ['x'], template=template, max_tokens=9
    )
  with pytest.raises(ValueError, match="without its passage, got 19 .* 'a'."):
    readers.make(CONFIG).text_inputs.passages(
      make_tokenizer(), [types.Document(id='a', text='x')], max_tokens=20
    )
