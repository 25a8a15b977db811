"""Bridge questions over a made-up corpus: two searches against one.

A corpus of 60 people, each with the town of birth, and 16 towns, each with a
colour. "What colour has the town where p3 was born?" needs both documents and
names one. A quarter of the people begin no training question of this kind.

  python benchmarks/second_search.py --hops=2
  python benchmarks/second_search.py --hops=1
  python benchmarks/second_search.py --hops=2 --answers_only

Prints, for new people and for those of training: exact match of the answer, and
the share of questions with both gold documents in the support of the ranker.
About half a minute each, most of it to compile. Results: docs/results.md.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax import config as configs
from rag_jax import forward, measures, model, objective, types
from rag_jax import stage as stages
from rag_jax.index import docids
from rag_jax.index import index as indexes

PEOPLE, TOWNS, COLOURS = 60, 16, 8
LENGTH, ASKED = 8, 10  # tokens of a document and of a question
SMALL = {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 32}
GOLD = ('answer', 'docid', 'ranking', 'indexing')
ALONE = ('answer', 'posterior', 'docid_posterior', 'indexing')


class Corpus:
  """Documents, questions and a vocabulary, all from one seed."""

  def __init__(self, seed: int):
    """Draws the facts."""
    rng = np.random.default_rng(seed)
    self.words: dict[str, int] = {}
    born, colour = (
      rng.integers(TOWNS, size=PEOPLE),
      rng.integers(COLOURS, size=TOWNS),
    )
    texts = [f'p{i} was born in t{born[i]} a person' for i in range(PEOPLE)]
    texts += [f't{i} shines c{colour[i]} always place' for i in range(TOWNS)]
    self.tokens = np.array([self.encode(text, LENGTH) for text in texts])
    # (question, answer, rows of gold documents)
    asked = [
      (
        f'what colour has the town where p{i} was born ?',
        f'c{colour[town]}',
        (i, PEOPLE + town),
      )
      for i, town in enumerate(born)
    ]
    self.new = list(range(0, PEOPLE, 4))
    self.bridges = [i for i in range(PEOPLE) if i % 4]
    asked += [
      (f'where was p{i} born ?', f't{t}', (i, -1)) for i, t in enumerate(born)
    ]
    asked += [
      (f'what colour has the town t{i} ?', f'c{c}', (PEOPLE + i, -1))
      for i, c in enumerate(colour)
    ]
    self.trained = [*self.bridges, *range(PEOPLE, len(asked))]
    self.query = np.array([self.encode(text, ASKED) for text, _, _ in asked])
    self.answers = np.array([self.encode(text, 2) for _, text, _ in asked])
    self.gold = np.array([rows for _, _, rows in asked])
    self.size = len(self.words) + 5

  def encode(self, text: str, length: int) -> list[int]:
    """Token ids of the words, padded."""
    known = self.words
    ids = [known.setdefault(word, len(known) + 5) for word in text.split()]
    return ids + [0] * (length - len(ids))

  def batch(self, rows) -> types.Batch:
    """Questions by number."""
    return types.Batch(
      query=jnp.asarray(self.query[rows]),
      answers=jnp.asarray(self.answers[rows])[:, None],
      gold=jnp.asarray(self.gold[rows]),
      where=jnp.ones(len(rows), bool),
    )


def build(hops: int) -> configs.Config:
  """A small model; both have 24 candidates."""
  return configs.build(
    {
      'docid': {'branching': 4, 'leaf_size': 4},
      'query_encoder': {'width': 32} | SMALL,
      'id_decoder': SMALL | {'num_layers': 0},
      'reader': {'width': 32, 'shared_softmax': True} | SMALL,
      'search': {
        'beam_size': 24 // hops,
        'read_size': 3,
        'hops': hops,
        'hop_tokens': 4,
      },
      'pseudo_queries': {'batch_size': 8, 'max_tokens': 4},
    }
  )


def train(config, corpus, index, stage, *, steps: int, seed: int):
  """Trains by Adam; returns the parameters."""
  init = functools.partial(model.init, vocab_size=corpus.size)
  params = jax.jit(lambda rng, index: init(rng, config.model, index))(
    jax.random.key(seed), index
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(4e-3))

  @jax.jit
  def step(params, state, rng, batch, index):
    def loss(params):
      terms, _ = objective.loss(
        params, rng, batch, index, config=config.model, stage=stage
      )
      return sum(v / jnp.maximum(n, 1) for v, n in terms.values())

    slope = jax.grad(loss)(params)
    updates, state = optimizer.update(slope, state)
    return optax.apply_updates(params, updates), state

  rng, state = np.random.default_rng(seed + 1), optimizer.init(params)
  for number in range(steps):
    rows = rng.choice(corpus.trained, stage.batch_size)
    key = jax.random.key(number)
    params, state = step(params, state, key, corpus.batch(rows), index)
  return params


def main() -> None:
  """Trains one model and prints its measures."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--hops', type=int, default=2)
  parser.add_argument('--answers_only', action='store_true')
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--seed', type=int, default=0)
  own = parser.parse_args()
  config, corpus = build(own.hops), Corpus(own.seed)
  vectors = model.document_vectors(
    jax.random.key(own.seed),
    config.model,
    jnp.asarray(corpus.tokens),
    vocab_size=corpus.size,
  )
  codes = docids.assign(np.asarray(vectors), config.docid)
  index = indexes.from_codes(corpus.tokens, codes)
  stage = stages.Stage(
    steps=own.steps,
    losses=tuple(
      dict.fromkeys(ALONE if own.answers_only else GOLD, 1.0).items()
    ),
    candidates='beam' if own.answers_only else 'beam+gold',
  )
  params = train(
    config, corpus, index, stage, steps=own.steps, seed=own.seed + 1
  )
  answer = jax.jit(functools.partial(forward.answer, config=config.model))
  for name, rows in (('new', corpus.new), ('trained', corpus.bridges[:15])):
    found = answer(params, corpus.batch(rows), index)
    right = [
      corpus.tokens[read][start : end + 1].tolist() == [gold]
      for read, start, end, gold in zip(
        *map(np.asarray, (found.read, found.start, found.end)),
        corpus.answers[rows, 0],
        strict=True,
      )
    ]
    kept = measures.gold_in_support(
      np.asarray(found.documents),
      np.asarray(found.weights),
      corpus.gold[rows],
    )
    print(
      f'{name}: EM {np.mean(right):.3f}, gold in support {kept.mean():.3f} '
      f'({len(rows)} questions)'
    )


if __name__ == '__main__':
  main()
