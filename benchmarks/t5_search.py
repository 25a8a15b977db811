"""Constrained search with a T5-small, compared with Hugging Face.

python -m pip install torch transformers   # without them only ours runs
python benchmarks/t5_search.py [--quick]

The encoder reads 32 tokens; beam search (10 beams) then decodes four codes
under a trie of 100,000 random docids, 256 values per code. Both sides have the
same random weights. Hugging Face's `generate` is constrained to the docids by
`prefix_allowed_tokens_fn` over a dictionary. Two output vocabularies:

docids: the codes, padding and end of sequence. Both sides normalise over the
whole vocabulary; their scores must agree.

T5: the 32128 tokens of T5. Ours computes only the logits of codes and
normalises over the edges of the trie. The results are checked against
`generate(renormalize_logits=True)`, which normalises equally; the timed
`generate` does without, which is faster.

Rounds are interleaved. Printed: median ms of each, and the median over rounds
of the ratio ours / theirs. If other programs use the cores, set
OMP_WAIT_POLICY=PASSIVE, since PyTorch's threads otherwise spin while they wait.
"""

import argparse
import functools
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
FIRST = 2  # token of code 0, after padding (= start) and end of sequence
VOCABULARIES = {'docids': FIRST + VALUES, 'T5': 32128}
THREADS = 2
NEAR = 1e-3  # nats; documents closer than this count as ties


def draw_docids():
  """Draws distinct docids, int64[N, L]."""
  rng = np.random.default_rng(0)
  numbers = rng.choice(VALUES**LENGTH, DOCUMENTS, replace=False)
  return numbers[:, None] // VALUES ** np.arange(LENGTH)[::-1] % VALUES


def our_search(params, config, docids):
  """A compiled function: tokens -> Candidates."""
  rows = FIRST + np.arange(VALUES)
  scoring = 'log_softmax'
  if config.vocab_size == VOCABULARIES['docids']:
    rows = np.concatenate([rows, np.arange(FIRST)])
    scoring = 'vocabulary'
  step_fn = t5.search_step(config, np.tile(rows, (LENGTH, 1)))

  @jax.jit
  def search(params, docids, tokens):
    where = jnp.ones(tokens.shape, bool)
    memory = t5.encode(params, config, tokens, where)
    shared, cache = t5.start(params, config, memory, where, LENGTH)
    return beam.search(
      (params, shared),
      cache,
      docids,
      step_fn=step_fn,
      batch_size=len(tokens),
      beam_size=BEAM,
      scoring=scoring,
      logits=True,
    )

  built = trie.build(docids)
  return lambda tokens: jax.block_until_ready(search(params, built, tokens))


def their_model(torch, transformers, config):
  """A Hugging Face T5 with random weights."""
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  return transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=config.vocab_size,
      decoder_start_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    )
  ).eval()


def their_search(torch, model, docids):
  """A function: tokens -> the result of `generate`."""
  allowed = {}
  for docid in (FIRST + docids).tolist():
    for level, token in enumerate(docid):
      allowed.setdefault(tuple(docid[:level]), set()).add(token)
  allowed = {prefix: list(tokens) for prefix, tokens in allowed.items()}

  def search(tokens, **options):
    tokens = torch.tensor(tokens)
    return model.generate(
      input_ids=tokens,
      attention_mask=torch.ones_like(tokens),
      num_beams=BEAM,
      num_return_sequences=BEAM,
      max_new_tokens=LENGTH,
      do_sample=False,
      prefix_allowed_tokens_fn=lambda _, sent: allowed[
        tuple(sent[1:].tolist())
      ],
      **options,
    )

  return search


def check(found, theirs):
  """Asserts equal results; returns the largest gap in nats and the ties."""
  # Their scores are means over the codes, since the length penalty is 1.
  scores = LENGTH * theirs.sequences_scores.reshape(-1, BEAM).numpy()
  codes = theirs.sequences[:, 1:].reshape(-1, BEAM, LENGTH).numpy() - FIRST
  gaps = np.abs(scores - found.scores)
  assert gaps.max() < NEAR, gaps.max()
  differs = (codes != found.codes).any(-1)
  for query, rank in np.argwhere(differs):  # only near ties may differ
    row = scores[query]
    near = np.abs(row - row[rank]) < NEAR
    assert near.sum() > 1 or rank == BEAM - 1, (query, rank)
  return gaps.max(), int(differs.sum())


def rounds(functions, *, seconds):
  """Times of each function in ms, rounds interleaved, after a warm-up."""
  for function in functions:
    function()
  times = []
  deadline = time.perf_counter() + seconds
  while time.perf_counter() < deadline or len(times) < 5:
    times.append([])
    for function in functions:
      start = time.perf_counter()
      function()
      times[-1].append(1e3 * (time.perf_counter() - start))
  return times


def optional(name):
  """A module, or None where it is not installed."""
  try:
    return importlib.import_module(name)
  except ImportError:
    return None


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='one query, 3 s')
  parser.add_argument('--seconds', type=float, default=20, help='per line')
  flags = parser.parse_args()
  sizes, seconds = (1, 8, 32), flags.seconds
  if flags.quick:
    sizes, seconds = (1,), 3
  torch, transformers = optional('torch'), optional('transformers')
  both = bool(torch and transformers)
  if not both:
    print('torch or transformers is not installed: only ours runs')
  docids = draw_docids()
  print(
    'vocabulary  batch   rag_jax ms   transformers ms   ratio   '
    'largest gap, nats   ties'
  )
  for name, vocab_size in VOCABULARIES.items():
    config = t5.T5Config(vocab_size=vocab_size)
    if both:
      model = their_model(torch, transformers, config)
      params = t5_weights.from_state_dict(model.state_dict(), config)
      theirs = their_search(torch, model, docids)
    else:
      params = t5.init(jax.random.key(0), config)
    ours = our_search(params, config, docids)
    for size in sizes:
      rng = np.random.default_rng(size)
      tokens = rng.integers(FIRST, FIRST + VALUES, (size, QUERY))
      if not both:
        times = rounds([functools.partial(ours, tokens)], seconds=seconds)
        middle = statistics.median(ms for (ms,) in times)
        print(f'{name:12}{size:5}{middle:13.1f}')
        continue
      gap, ties = check(
        ours(tokens),
        theirs(
          tokens,
          renormalize_logits=name == 'T5',
          return_dict_in_generate=True,
          output_scores=True,
        ),
      )
      times = rounds(
        [functools.partial(f, tokens) for f in (ours, theirs)], seconds=seconds
      )
      mine, other = np.median(times, axis=0)
      ratio = statistics.median(a / b for a, b in times)
      print(
        f'{name:12}{size:5}{mine:13.1f}{other:18.1f}{ratio:8.2f}{gap:20.1e}'
        f'{ties:7}',
        flush=True,
      )


if __name__ == '__main__':
  main()
