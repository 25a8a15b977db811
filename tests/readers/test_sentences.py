"""The reader that selects sentences, against Python and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from rag_jax import readers
from rag_jax.data import sentence_marks, tokenizers
from rag_jax.readers import base, sentences

VOCAB, STOP, THREE, FIVE, SAINT, CLOSING = 60, 3, 4, 5, 6, 7
SIZES = {'width': 16, 'num_layers': 0, 'num_heads': 2, 'mlp_dim': 16}
CONFIG = base.ReaderConfig(
  kind='sentences', citations=True, max_answer_tokens=14, **SIZES
)
READER = readers.make(CONFIG)
MARKS = np.zeros((VOCAB, 4), np.float32)
MARKS[STOP, sentence_marks.END] = 1
MARKS[[THREE, FIVE], sentence_marks.NUMBER] = 1
MARKS[SAINT, sentence_marks.ABBREVIATION] = 1
MARKS[CLOSING, sentence_marks.CLOSING] = 1
QUERY = jnp.array([[50, 51, 52]])
# Sentences of two passages; the first is words of the question alone.
TEXTS = [
  [[50, 51, STOP], [10, 11, 12, STOP], [13, STOP], [14, THREE, STOP, FIVE, 15]],
  [[20, 21, STOP], [SAINT, STOP, 22, 23, STOP], [10, 11, 30, 31, STOP]],
]
PASSAGES = jnp.asarray(
  [[[*itertools.chain(*own), *[0] * 16][:16] for own in TEXTS]]
)
WEIGHTS = jnp.array([[0.3, 0.7]])


@pytest.fixture(scope='module')
def params():
  init = jax.jit(READER.init, static_argnames='vocab_size')
  return init(jax.random.key(0), vocab_size=VOCAB, pretrained={'marks': MARKS})


read = jax.jit(READER.read)
write = jax.jit(READER.answer)
joint = jax.jit(READER.joint_log_likelihood)
each = jax.jit(READER.log_likelihood)
find = jax.jit(sentence_marks.split, static_argnames='most')


def split(tokens):
  """Sentences of a list of tokens, by the rule in words."""
  found, start = [], 0
  for place, token in enumerate(tokens):
    before = tokens[place - 1] if place else 0
    after = tokens[place + 1] if place + 1 < len(tokens) else 0
    earlier = tokens[place - 2] if place > 1 else 0
    inside = {before, after} <= {THREE, FIVE}
    inside |= before == SAINT and earlier not in (THREE, FIVE)
    if token == STOP and not inside and after not in (STOP, CLOSING):
      found.append(tokens[start : place + 1])
      start = place + 1
  return found + ([tokens[start:]] if tokens[start:] else [])


def test_sentences_are_those_of_a_loop():
  rng = np.random.default_rng(0)
  rows = rng.choice([STOP, STOP, THREE, FIVE, SAINT, CLOSING, 9], (60, 12))
  found, is_mark = find(jnp.asarray(rows), jnp.asarray(MARKS), most=12)
  np.testing.assert_array_equal(is_mark, rows == STOP)
  for own, tokens in zip(np.asarray(found), rows.tolist(), strict=True):
    sizes = [len(part) for part in split(tokens)]
    assert own.tolist() == list(np.repeat(np.arange(len(sizes)), sizes))


def test_what_follows_the_last_sentence_belongs_to_it():
  tokens = jnp.array([9, STOP, 9, STOP, 9, STOP, 0])
  found, _ = find(tokens, jnp.asarray(MARKS), most=2)
  assert found.tolist() == [0, 0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
  'text, wanted',
  [
    ('it weighs 3.5 g. it is red', [False, True]),
    ('see dr. who! see e.g. this', [False, True, False, False]),
    ('so it is (really.) and then?', [False, True]),
  ],
)
def test_marks_are_those_of_the_tokenizer(text, wanted):
  tokenizer = tokenizers.train([text] * 2, vocab_size=400)
  marks = np.array(READER.from_tokenizer(tokenizer)['marks'])
  assert marks.shape == (tokenizer.get_vocab_size(), 4)
  marks.resize((400, 4))  # one compilation for all texts
  tokens = tokenizers.encode(tokenizer, [text], max_tokens=40).tokens[0]
  found, is_mark = find(jnp.asarray(tokens), marks, most=20)
  ends = np.append(np.diff(found) > 0, False)[np.asarray(is_mark)]
  assert ends.tolist() == wanted


def test_targets_are_shares_of_bigrams(params):
  memory = read(params, QUERY, PASSAGES)
  run = jax.jit(sentences.targets, static_argnames='vocab_size')

  def of(answer):
    padded = jnp.array([[*answer, *[0] * 12][:12]])
    found = run(memory, padded, vocab_size=VOCAB)[0]
    rows = zip(np.asarray(found), TEXTS, strict=True)
    return [own[: len(texts)].tolist() for own, texts in rows]

  none = [[False] * 4, [False] * 3]
  assert of([]) == none
  # Words of the question are in no target, nor are single words of longer ones.
  assert of([50, 51, STOP, 11, 20, 22]) == none
  # Half of the bigrams, and the only word of a sentence; no citation between.
  assert of([10, 11, -1, 13]) == [[False, True, True, False], [False] * 3]
  # A third of the bigrams is too little.
  assert of([10, 11])[1] == [False] * 3
  assert of([10, 11, 30])[1] == [False, False, True]
  assert of([14, THREE, STOP, FIVE])[0] == [False] * 3 + [True]


def test_the_likelihoods_of_all_selections_sum_to_one(params):
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(2, 4)).astype(np.float32)
  # Without the sentences that share bigrams, or have none of their own.
  texts = TEXTS[0][1:], TEXTS[1][:2]
  where = np.array([[[0, 1, 1, 1], [1, 1, 0, 0]]], bool)
  memory = read(params, QUERY, PASSAGES)
  memory = memory._replace(logits=logits[None], where=where)
  total, alone = 0.0, np.zeros(2)
  for chosen in itertools.product((0, 1), repeat=5):
    parts = itertools.compress([*texts[0], *texts[1]], chosen)
    answer = jnp.array([[[*itertools.chain(*parts), *[0] * 25][:25]]])
    [[score]] = joint(params, memory, WEIGHTS, answer)
    chances = np.concatenate(
      [
        scipy.special.expit(logits[0, 1:] + np.log(0.3)),
        scipy.special.expit(logits[1, :2] + np.log(0.7)),
      ]
    )
    own = np.where(chosen, chances, 1 - chances).prod()
    np.testing.assert_allclose(np.exp(score), own, rtol=1e-4)
    total += own
    # Each selection of a passage alone occurs for all of the other one.
    alone += np.exp(np.asarray(each(params, memory, answer)))[0, :, 0]
  np.testing.assert_allclose(total, 1, rtol=1e-4)
  np.testing.assert_allclose(alone, [4, 8], rtol=1e-4)


def test_the_answer_loss_reaches_the_weights_and_lowers(params):
  answer = jnp.array([[[10, 11, 12, STOP]]])

  @jax.jit
  @jax.value_and_grad
  def loss(given):
    own, scores = given
    memory = READER.read(own, QUERY, PASSAGES)
    weights = jax.nn.softmax(scores)
    return -READER.joint_log_likelihood(own, memory, weights, answer).sum()

  given = params, np.log(WEIGHTS)
  before, (gradients, slope) = loss(given)
  # The first passage has the answer.
  assert slope[0, 0] < -0.01 and slope[0, 1] > 0.01
  assert not gradients['marks'].any()  # not trained
  step = jax.tree.map(
    lambda x, g: x - np.float32(0.02) * np.asarray(g), given, (gradients, slope)
  )
  after, _ = loss(step)
  assert after < before - 0.01


def expected(logits, weights, *, room, most, least):
  """The answer of `TEXTS`, by a loop over sentences."""
  scored = []
  for passage, texts in enumerate(TEXTS):
    for place, tokens in enumerate(texts):
      odds = logits[passage][place] + np.log(max(weights[passage], 1e-4))
      if weights[passage] > 0 and scipy.special.expit(odds) >= least:
        scored.append((-odds, passage, place, tokens))
  used, chosen = 0, []
  for _, passage, place, tokens in sorted(scored):
    used += len(tokens) + 1
    if used <= room and (not most or len(chosen) < most):
      chosen.append((-weights[passage], passage, place, tokens))
  parts = [[*own, -1 - passage] for _, passage, _, own in sorted(chosen)]
  return list(itertools.chain(*parts)), len(parts)


@pytest.mark.parametrize('most, least', [(0, 0.5), (2, 0.2)])
def test_answers_are_those_of_a_loop(params, most, least):
  reader = readers.make(
    base.ReaderConfig(
      kind='sentences',
      citations=True,
      max_answer_tokens=14,
      max_sentences=most,
      threshold=least,
      **SIZES,
    )
  )
  run, memory = jax.jit(reader.answer), read(params, QUERY, PASSAGES)
  rng, counts, cited = np.random.default_rng(0), set(), set()
  for weights in ([0.3, 0.7], [0.7, 0.3], [0.0, 1.0], [1.0, 0.0]):
    for shift in (-3, 0, 0, 0, 1, 1, 2, [[20], [0]]):
      logits = (rng.normal(size=(2, 4)) + shift).astype(np.float32)
      own = memory._replace(logits=logits[None])
      given = np.asarray([weights], np.float32)
      found = run(params, own, given, given > 0)
      tokens, count = expected(logits, weights, room=14, most=most, least=least)
      written = found.tokens[0].tolist()
      assert written == [*tokens, *[0] * 14][:14]
      assert (found.no_answer[0] == 0) == (not count)
      for token in written:
        assert token >= 0 or weights[-1 - token] > 0
      counts.add(count)
      if count:  # the first citation
        first = next(-1 - token for token in written if token < 0)
        assert int(found.place[0]) == first
        cited.add(first)
  assert cited == {0, 1} and {0, 1, 2} <= counts
  assert (max(counts) == 2) == (most == 2)


def test_the_score_is_that_of_the_selection(params):
  logits = np.full((1, 2, 4), -2, np.float32)
  logits[0, 1, 0] = 3
  memory = read(params, QUERY, PASSAGES)._replace(logits=logits)
  found = write(params, memory, WEIGHTS, WEIGHTS > 0)
  assert found.tokens[0].tolist() == [20, 21, STOP, -2] + [0] * 10
  answer = np.zeros((1, 1, 25), int)
  [[empty]] = joint(params, memory, WEIGHTS, answer)
  answer[0, 0, :3] = [20, 21, STOP]
  [[score]] = joint(params, memory, WEIGHTS, answer)
  np.testing.assert_allclose(found.log_probability, score, rtol=1e-5)
  np.testing.assert_allclose(found.no_answer, empty - score, rtol=1e-5)


def test_passages_are_read_and_answered_alone(params):
  memory = read(params, QUERY, PASSAGES)
  turned = read(params, QUERY, PASSAGES[:, ::-1])
  np.testing.assert_allclose(memory.logits, turned.logits[:, ::-1], atol=1e-5)
  logits = np.full((1, 2, 4), -2, np.float32)
  logits[0, :, :2] = 2
  high = memory._replace(logits=logits)
  both = jax.jit(READER.answer_each)(params, high)
  for place in range(2):
    weights = np.eye(2, dtype=np.float32)[place, None]
    found = np.array(write(params, high, weights, weights > 0).tokens[0])
    assert (found == -1 - place).any()
    found[found == -1 - place] = -1
    assert both[0, place].tolist() == found.tolist()


def test_padding_of_passages_changes_nothing(params, monkeypatch):
  """Neither do the pieces in which they are encoded depend on it."""
  monkeypatch.setattr(sentences, 'PIECE', 10)
  run = jax.jit(lambda *own: READER.read(*own))
  narrow = run(params, QUERY, PASSAGES)
  wide = run(params, QUERY, np.pad(PASSAGES, ((0, 0), (0, 0), (0, 4))))
  where = np.asarray(narrow.where)
  np.testing.assert_array_equal(wide.where[..., :4], where)
  assert not wide.where[..., 4:].any()
  ours, theirs = np.asarray(narrow.logits), np.asarray(wide.logits)[..., :4]
  np.testing.assert_allclose(ours[where], theirs[where], atol=1e-5)


def test_the_kind_needs_citations():
  with pytest.raises(ValueError, match='got reader.citations=False') as error:
    readers.make(base.ReaderConfig(kind='sentences'))
  assert '--config.reader.citations=True' in str(error.value)
