"""A whole search with a T5-small beside Hugging Face's, in one run.

python -m pip install torch transformers   # left out if absent
python benchmarks/t5_search.py [--quick]

The encoder over 32 tokens, then four steps of a beam of 10 under a trie of
100,000 random docids of four codes, 256 values a code. Both sides have the same
random weights and must find the same documents. Hugging Face constrains
`generate` by a function over a dictionary trie, as generative retrieval does.
Rounds are interleaved, so that a busy moment hits both alike. Printed: the
median of each in ms, and the ratio of ours to theirs in the same run.
"""

import argparse
import importlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import t5, t5_weights
from rag_jax.ops import beam, trie

LENGTH, VALUES, DOCUMENTS = 4, 256, 100_000
BEAM, QUERY = 10, 32
FIRST = 2  # the rows before it are T5's padding and end of sequence
START = 0  # what the decoder reads at the root
VOCABULARIES = {'docids': FIRST + LENGTH * VALUES, 'T5': 32128}
NEAR = 1e-4  # nats; documents closer than this may change places


def draw_docids():
  """Different random docids, int64[N, L]."""
  rng = np.random.default_rng(0)
  numbers = rng.choice(VALUES**LENGTH, DOCUMENTS, replace=False)
  shifts = VALUES ** np.arange(LENGTH)[::-1]
  return numbers[:, None] // shifts % VALUES


def code_rows():
  """Row of the vocabulary of code v of level l, int64[L, V]."""
  return FIRST + np.arange(LENGTH * VALUES).reshape(LENGTH, VALUES)


def our_search(params, config, docids, rows):
  """Compiled tokens -> Candidates."""
  index = trie.build(docids)
  step_fn = t5.search_step(config, rows, start_token=START)

  @jax.jit
  def search(params, index, tokens):
    where = jnp.ones(tokens.shape, bool)
    memory = t5.encode(params, config, tokens, where)
    shared, cache = t5.start(params, config, memory, where, LENGTH)
    return beam.search(
      (params, shared),
      cache,
      index,
      step_fn=step_fn,
      batch_size=len(tokens),
      beam_size=BEAM,
      scoring='vocabulary',
      logits=True,
    )

  return lambda tokens: jax.block_until_ready(search(params, index, tokens))
