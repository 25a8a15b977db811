"""From question to gradient: the tutorial, as a script.

  python docs/tutorial.py

The documentation shows it as a page; a test runs it as it is.
"""

# %% [markdown]
# # From question to gradient
#
# This tutorial builds a small retrieval-augmented question answering model from
# the parts of `rag_jax.ops`, and differentiates it end to end. It then does the
# same with the packaged model. It takes about a minute on two CPU cores. The
# page is made from `docs/tutorial.py`, which a test runs as it is.
#
# | step | part | output |
# |---|---|---|
# | 1 | tokenizer | question and documents as integers |
# | 2 | docids and trie | a short code sequence for each document |
# | 3 | beam search | the best documents by their docids |
# | 4 | ranker | a weight for each document |
# | 5 | reader | the likelihood of the answer given each document |
# | 6 | marginal loss | one number |
# | 7 | `jax.grad` | a gradient for every component |
# | 8 | `optax` | new parameters |
# | 9 | packaged model | the same with `System` and `rag_jax.step` |

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax import ops

DOCUMENTS = [
  'gold is a metal with the symbol Au',
  'silver is a metal with the symbol Ag',
  'iron is a metal with the symbol Fe',
  'Paris is the capital of France',
  'Lima is the capital of Peru',
  'Rome is the capital of Italy',
  'Mars has two moons',
  'Venus has no moon',
]
QUESTION, ANSWER = 'which symbol has gold', 'Au'
np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Tokens
# A question and a document are rows of integers. 0 is padding, so a token array
# is its own mask. B = 1 question, N = 8 documents, Q = 4 and P = 8 tokens.

# %%
WORDS = sorted(set(' '.join([*DOCUMENTS, QUESTION]).split()))
IDS = {word: number for number, word in enumerate(WORDS, start=1)}
VOCAB_SIZE = len(IDS) + 1


def tokenize(texts, length):
  """Texts as int32[n, length]; 0 = padding."""
  rows = [[IDS[word] for word in text.split()] for text in texts]
  return jnp.array([row + [0] * (length - len(row)) for row in rows])


tokens = tokenize(DOCUMENTS, 8)  # int32[N, P]
query = tokenize([QUESTION], 4)  # int32[B, Q]
answer = tokenize([ANSWER], 1)  # int32[B, A]
assert tokens.shape == (8, 8) and query.shape == (1, 4)

# %% [markdown]
# ## 2. Docids and trie
# A generative index gives each document a docid, a short sequence of codes.
# Here hierarchical k-means makes them from document vectors, so that similar
# documents share a prefix. A document vector is the sum of its token
# embeddings, which start at random.

# %%
from rag_jax.index import docids

WIDTH = 64
keys = jax.random.split(jax.random.key(0), 2)


def bag(embedding, tokens):
  """Sum of token embeddings, unit length; float32[..., D]."""
  total = (embedding[tokens] * (tokens != 0)[..., None]).sum(-2)
  return total / jnp.linalg.norm(total, axis=-1, keepdims=True)


embedding = jax.random.normal(keys[0], (VOCAB_SIZE, WIDTH))
vectors = bag(embedding, tokens)  # float32[N, D]
config = docids.DocidConfig(branching=3, leaf_size=2)
codes = docids.assign(np.asarray(vectors), config)  # int32[N, L]
trie = ops.trie.build(codes)
for text, docid in zip(DOCUMENTS, codes.tolist(), strict=True):
  print(docid, text)

# %% [markdown]
# The trie holds all docids. Its nodes have rows in one table: the N documents
# first, then the inner nodes. `sum_below` adds up the vectors of the documents
# below each node, which gives every node a vector to start from.

# %%
table = ops.trie.sum_below(trie, vectors)  # float32[num_nodes, D]
table /= jnp.linalg.norm(table, axis=-1, keepdims=True)
assert table.shape == (trie.num_nodes, WIDTH)

# %% [markdown]
# ## 3. Constrained beam search
# The model of the search is a function, `step_fn(params, cache, frontier)`. It
# sees the nodes that the beams stand on and scores the edges that leave them.
# This one compares the question's vector with the vector of each child node. It
# has no state, so its cache is empty. `beam.search` normalises the scores over
# the children of each node, so a document's score is a log-probability.

# %%
params = {
  'query_encoder': {'embedding': embedding},
  'id_decoder': {'table': table, 'log_scale': jnp.log(8.0)},
  'ranker': {'docid': jnp.float32(0.5), 'vector': jnp.float32(2.0)},
  'reader': {
    'embedding': jax.random.normal(keys[1], (VOCAB_SIZE, WIDTH)),
    'scale': jnp.float32(0.1),
  },
}


def step_fn(params, cache, frontier):
  """Scores the edges that leave each beam, float32[B, K, C], in nats."""
  decoder, vector = params
  children = decoder['table'][frontier.children]  # [B, K, C, D]
  scores = jnp.einsum('bd,bkcd->bkc', vector, children)
  return jnp.exp(decoder['log_scale']) * scores, cache


@functools.partial(jax.jit, static_argnames='beam_size')
def search(params, query, *, beam_size, allowed=None):
  """The best documents of each question."""
  vector = bag(params['query_encoder']['embedding'], query)
  return ops.beam.search(
    (params['id_decoder'], vector),
    (),  # no cache
    trie,
    step_fn=step_fn,
    batch_size=query.shape[0],
    beam_size=beam_size,
    allowed=allowed,
  )


found = search(params, query, beam_size=4)
for row, score in zip(found.documents[0], found.scores[0], strict=True):
  print(f'{score:7.2f}  {DOCUMENTS[row]}')

# %% [markdown]
# Decoding is constrained by the trie, so every docid that comes out belongs to
# a document, and none comes twice. A free decoder could write any of the code
# sequences below; most of them name nothing.

# %%
exist = {tuple(docid) for docid in codes.tolist()}
decoded = [tuple(docid) for docid in found.codes[0].tolist()]
free = int(np.prod(codes.max(axis=0) + 1))
print(f'{len(exist)} docids exist, out of {free} code sequences')
assert bool(found.where.all()) and len(set(decoded)) == 4
assert set(decoded) <= exist < set(np.ndindex(*(codes.max(axis=0) + 1)))

# A beam as wide as the corpus returns all documents: the search is exact.
everything = search(params, query, beam_size=8)
assert sorted(everything.documents[0].tolist()) == list(range(8))
assert jnp.isclose(jnp.exp(everything.scores).sum(), 1.0)

# An allow-list restricts the search; slots without a document are masked.
allowed = jnp.arange(8) >= 6  # the documents on planets
restricted = search(params, query, beam_size=4, allowed=allowed)
assert restricted.where[0].tolist() == [True, True, False, False]
assert set(restricted.documents[0, :2].tolist()) == {6, 7}

# %% [markdown]
# ## 4. The ranker's weights
# The choice of documents is discrete and has no gradient. Their scores have
# one: `beam.score` scores given docids by teacher forcing, with the same model.
# The ranker adds a second signal, the inner product of question and document,
# and `sparsemax` turns scores into weights. They sum to 1, and a document far
# below the best gets exactly 0.


# %%
@jax.jit
def rank(params, query, found):
  """Scores of the candidates in nats, float32[B, K]."""
  embedding = params['query_encoder']['embedding']
  vector = bag(embedding, query)
  docid = ops.beam.score(
    (params['id_decoder'], vector), (), trie, found.codes, step_fn=step_fn
  )
  own = bag(embedding, tokens[found.documents])  # [B, K, D]
  product = jnp.einsum('bd,bkd->bk', vector, own)
  ranker = params['ranker']
  return ranker['docid'] * docid + ranker['vector'] * product


scores = rank(params, query, found)
weights = ops.sparsemax(scores, where=found.where)
print('softmax  ', np.asarray(jax.nn.softmax(scores))[0])
print('sparsemax', np.asarray(weights)[0])
assert jnp.isclose(weights.sum(), 1.0)
assert 0 < (weights == 0).sum() < 3

# %% [markdown]
# ## 5. The reader
# This reader points at one token of a passage: the token whose embedding fits
# the question best. Its likelihood of an answer is the sum over all places
# where the answer stands. A passage without the answer cannot give it, and
# `holds` masks it.


# %%
@jax.jit
def read(params, query, passages, answer):
  """Log-likelihood of the answer given each passage; which ones have it."""
  reader = params['reader']
  asked = reader['embedding'][query].sum(1)  # [B, D]
  states = reader['embedding'][passages]  # [B, K, P, D]
  logits = reader['scale'] * jnp.einsum('bd,bkpd->bkp', asked, states)
  logits = jnp.where(passages != 0, logits, -1e9)
  stands = passages == answer[:, None]  # [B, K, P], where the answer stands
  holds = stands.any(-1)
  scores = jnp.where(stands, jax.nn.log_softmax(logits), -1e9)
  return jax.nn.logsumexp(scores, axis=-1), holds


likelihoods, holds = read(params, query, tokens[found.documents], answer)
print('P(answer | question, document)', np.exp(likelihoods)[0])
assert int(holds.sum()) == 1  # only one document has the answer

# %% [markdown]
# ## 6. The marginal loss
# The answer may come from any candidate. Its likelihood is the sum over
# documents of weight times likelihood (RAG-sequence, Lewis et al. 2020). No
# gold document is needed.


# %%
@jax.jit
def loss_fn(params, query, answer):
  """-log sum_k w_k P(answer | question, document k)."""
  found = search(jax.lax.stop_gradient(params), query, beam_size=4)
  scores = rank(params, query, found)
  weights = ops.sparsemax(scores, where=found.where)
  likelihoods, holds = read(params, query, tokens[found.documents], answer)
  loss = ops.losses.sequence_marginal(weights, likelihoods, where=holds)
  return loss.mean()


loss = loss_fn(params, query, answer)
by_hand = -jnp.log((weights * jnp.where(holds, jnp.exp(likelihoods), 0)).sum())
print(f'loss {loss:.3f}')
assert jnp.isclose(loss, by_hand, rtol=1e-5)

# %% [markdown]
# ## 7. The gradient
# Search, ranking and reading are one function of the parameters. `jax.grad`
# differentiates it, and `jax.jit` compiles it. All four components get a
# gradient from the answer alone.

# %%
loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params, query, answer)
norms = {name: float(optax.global_norm(g)) for name, g in gradient.items()}
for name, norm in norms.items():
  print(f'{name:14} {norm:.4f}')
assert all(norm > 0 for norm in norms.values())

# %% [markdown]
# A gradient can be checked by a finite difference: change one parameter a
# little, and see what the loss does.

# %%
step = 1e-2


def with_weight(value):
  """The loss with another weight of the docid in the ranker."""
  ranker = params['ranker'] | {'docid': value}
  return loss_fn(params | {'ranker': ranker}, query, answer)


center = params['ranker']['docid']
slope = (with_weight(center + step) - with_weight(center - step)) / (2 * step)
print(f'jax.grad {gradient["ranker"]["docid"]:.4f}, difference {slope:.4f}')
assert jnp.isclose(slope, gradient['ranker']['docid'], rtol=0.02, atol=1e-3)

# %% [markdown]
# Sparsemax has a price: a document with weight 0 gets no gradient from the
# marginal loss. A teacher loss reaches it. The reader's posterior says which
# documents explain the answer, and the Fenchel-Young loss of sparsemax moves
# the scores towards it: its gradient is `weights - posterior`.

# %%
prior = jnp.array([[3.0, 0.0]])  # the second document has weight 0
only_second = jnp.array([[-1e9, -0.1]])  # and it alone has the answer
where = jnp.array([[False, True]])


def marginal(z):
  return ops.losses.sequence_marginal(
    ops.sparsemax(z), only_second, where=where
  ).sum()


posterior = jax.nn.softmax(prior + only_second)
teacher = functools.partial(ops.losses.fenchel_young, operator='sparsemax')
starved = jax.grad(marginal)(prior)
taught = jax.grad(lambda z: teacher(z, posterior).sum())(prior)
print('marginal', np.asarray(starved)[0], 'teacher', np.asarray(taught)[0])
assert (starved == 0).all() and taught[0].tolist() == [1.0, -1.0]

# %% [markdown]
# ## 8. One optimiser step
# The update is plain `optax`. One step lowers the loss; thirty steps make the
# reader sure of the answer and the search sure of the document.

# %%
adam = optax.adam(0.02)


@jax.jit
def train_step(params, state, query, answer):
  loss, gradient = jax.value_and_grad(loss_fn)(params, query, answer)
  updates, state = adam.update(gradient, state)
  return optax.apply_updates(params, updates), state, loss


state = adam.init(params)
params, state, before = train_step(params, state, query, answer)
after = loss_fn(params, query, answer)
print(f'loss {before:.3f}, after one step {after:.3f}')
assert after < before

for _ in range(29):
  params, state, after = train_step(params, state, query, answer)
best = int(search(params, query, beam_size=4).documents[0, 0])
print(f'after 30 steps {after:.3f}: {DOCUMENTS[best]}')
assert after < 0.5 and ANSWER in DOCUMENTS[best]

# %% [markdown]
# ## 9. The same with the packaged model
# `rag_jax` has these parts ready: a tokenizer, docids, a trained ID decoder, a
# ranker with BM25, readers, and losses by name. `config.build` checks an
# experiment, and `from_documents` makes a `System` of it.

# %%
import dataclasses

import rag_jax
from rag_jax import config as configs
from rag_jax import optimizer, types
from rag_jax import step as steps
from rag_jax.data import batches

small = {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 32}
experiment = configs.build(
  {
    'data': {'vocab_size': 300, 'max_document_tokens': 48},
    'docid': {'branching': 3, 'leaf_size': 2},
    'query_encoder': {'width': 32} | small,
    'id_decoder': small,
    'reader': {'width': 32} | small,
    'search': {'beam_size': 4, 'read_size': 4},
    'train': {'warmup_steps': 1},
    'stages': {
      'joint': {
        'steps': 40,
        'learning_rate': 0.01,
        'candidates': 'beam',
        'losses': {'answer': 1.0, 'posterior': 1.0, 'docid_posterior': 1.0},
      }
    },
  }
)
system = rag_jax.from_documents(DOCUMENTS, config=experiment)
[candidates] = system.search([QUESTION])
for own in candidates:
  print(f'{own.weight:.3f}  {own.codes}  {own.document.text}')
assert all(own.document.text in DOCUMENTS for own in candidates)

# %% [markdown]
# A batch holds the questions as tokens. `steps.train_step` is the whole step,
# from tokens to new parameters. It is the function that `rag-jax train`
# compiles. It returns the next state, and sums and counts of what it measures,
# such as the loss and the gradient norm of each component.

# %%
questions = [
  types.Question(id='0', text=QUESTION, answers=(ANSWER,)),
  types.Question(id='1', text='which symbol has iron', answers=('Fe',)),
  types.Question(id='2', text='what is the capital of Peru', answers=('Lima',)),
  types.Question(id='3', text='how many moons has Mars', answers=('two',)),
]
[batch] = batches.eval_batches(system.encode(questions), batch_size=4)
[(_, stage)] = experiment.stages
state = steps.State(
  step=jnp.zeros((), jnp.int32),
  params=system.params,
  optimizer=optimizer.make(experiment, stage).init(system.params),
)
step_function = jax.jit(
  functools.partial(steps.train_step, config=experiment, stage=stage)
)
history = []
for _ in range(stage.steps):
  state, sums = step_function(state, batch, system.index)
  history.append({name: float(s / c) for name, (s, c) in sums.items()})
for name in ('query_encoder', 'id_decoder', 'ranker', 'reader'):
  norm = history[0][f'gradient_norm/{name}']
  print(f'{name:14} {norm:.3f}')
  assert norm > 0
first, last = history[0]['loss'], history[-1]['loss']
print(f'loss {first:.3f} to {last:.3f}')
assert last < first / 2

# %% [markdown]
# A `System` with the new parameters answers. `rag_jax.load(workdir)` returns
# the same kind of object from the folder of a training run.

# %%
trained = dataclasses.replace(system, params=state.params, has_reader=True)
answers = trained.ask([question.text for question in questions])
for own in answers:
  print(f'{own.question}? {own.text} ({own.probability:.2f})')
assert [own.text for own in answers] == ['Au', 'Fe', 'Lima', 'two']

# %% [markdown]
# ## Where to go next
# - [Tasks](tasks.md): fourteen typical tasks, each in at most three lines.
# - [Use your own corpus](howto/corpus.md), [encoder](howto/encoder.md),
#   [reader](howto/reader.md), [loss](howto/loss.md) or
#   [docids](howto/docids.md).
# - [Methods](methods.md): published systems as choices of values.
# - [Operators](operators.md): other ways from scores to weights, and from
#   weights to gradients.
