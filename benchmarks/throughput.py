"""Tokens per second of MiniLM and T5-small, compared with transformers.

python -m pip install torch transformers   # without them only ours runs
python benchmarks/throughput.py [--quick]

encoder   MiniLM over 32 passages of 128 tokens, forward
reader    MiniLM with a span head over 16 passages of 160 tokens, loss and
          gradients of all weights
T5        an Adam step on T5-small, 8 questions of 128 tokens, answers of 16

Both sides use float32 and the same random weights; results are checked against
each other. Both use one thread per available core, and huge pages as in
launch.py. Rounds are interleaved. Printed: tokens per second of the median
round, and the median over rounds of the ratio of times ours / theirs; below,
the same for CPU time, which other load affects less. If other programs use the
cores, set OMP_WAIT_POLICY=PASSIVE, since PyTorch's threads otherwise spin.
"""

import argparse
import importlib
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax import host_memory
from rag_jax.nn import bert, bert_weights, t5, t5_weights

RATE = 1e-3  # learning rate
MINILM, T5_SMALL = bert.BertConfig(), t5.T5Config()


def draw_tokens(vocab_size, rows, length):
  """Draws tokens without padding, int32."""
  rng = np.random.default_rng(rows)
  return rng.integers(1, vocab_size, (rows, length)).astype(np.int32)


def encoder(torch, transformers):
  """Our function, theirs (or None), and tokens per round."""
  params = jax.jit(bert.init, static_argnums=1)(jax.random.key(0), MINILM)
  tokens = draw_tokens(MINILM.vocab_size, 32, 128)
  apply = jax.jit(bert.apply, static_argnums=1)
  read = jnp.asarray(tokens)

  def ours():
    return np.asarray(apply(params, MINILM, read))

  if not torch:
    return ours, None, tokens.size
  model = their_minilm(torch, transformers, params)
  inputs = torch.tensor(tokens).long()

  def theirs():
    with torch.no_grad():
      return model(inputs).last_hidden_state.numpy()

  return ours, theirs, tokens.size


def reader(torch, transformers):
  """As `encoder`; the functions return the loss."""
  params = jax.jit(bert.init, static_argnums=1)(jax.random.key(0), MINILM)
  rng = np.random.default_rng(0)
  spans = rng.normal(size=(MINILM.width, 2)).astype(np.float32)
  params = {'bert': params, 'spans': jnp.asarray(spans)}
  tokens = draw_tokens(MINILM.vocab_size, 16, 160)
  ends = rng.integers(0, 160, (16, 2))

  @jax.jit
  def gradient(params, tokens, ends):
    def loss(params):
      states = bert.apply(params['bert'], MINILM, tokens)
      scores = jax.nn.log_softmax(states @ params['spans'], axis=1)
      return -jnp.take_along_axis(scores, ends[:, None], 1).mean()

    return jax.value_and_grad(loss)(params)

  read, places = jnp.asarray(tokens), jnp.asarray(ends)

  def ours():
    loss, _ = jax.block_until_ready(gradient(params, read, places))
    return np.asarray(loss)

  if not torch:
    return ours, None, tokens.size
  model = their_minilm(torch, transformers, params['bert'])
  head = torch.nn.Parameter(torch.tensor(spans))
  inputs, targets = torch.tensor(tokens).long(), torch.tensor(ends)
  weights = [head, *model.parameters()]

  def theirs():
    for weight in weights:
      weight.grad = None
    scores = model(inputs).last_hidden_state @ head
    loss = torch.nn.functional.cross_entropy(scores, targets)
    loss.backward()
    return loss.detach().numpy()

  return ours, theirs, tokens.size


def their_minilm(torch, transformers, params):
  """A BertModel with these weights, in evaluation mode (no dropout)."""
  model = transformers.BertModel(
    transformers.BertConfig(
      vocab_size=MINILM.vocab_size,
      hidden_size=MINILM.width,
      num_hidden_layers=MINILM.num_layers,
      num_attention_heads=MINILM.num_heads,
      intermediate_size=MINILM.mlp_dim,
      layer_norm_eps=MINILM.epsilon,
    ),
    add_pooling_layer=False,
  )
  state = bert_weights.to_state_dict(params, MINILM)
  model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
  return model.eval()


def t5_step(torch, transformers):
  """As `encoder`; the functions return the loss."""
  params = jax.jit(t5.init, static_argnums=1)(jax.random.key(0), T5_SMALL)
  tokens = draw_tokens(T5_SMALL.vocab_size, 8, 128)
  answers = draw_tokens(T5_SMALL.vocab_size, 8, 16)
  state = t5_weights.to_state_dict(params, T5_SMALL) if torch else {}
  optimizer = optax.adam(RATE)

  def loss_of(params, tokens, answers):
    where = jnp.ones(tokens.shape, bool)
    memory = t5.encode(params, T5_SMALL, tokens, where)
    before = jnp.pad(answers, ((0, 0), (1, 0)))[:, :-1]
    logits = t5.decode(params, T5_SMALL, memory, where, before)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, answers
    ).mean()

  def step(params, moments, tokens, answers):
    loss, gradient = jax.value_and_grad(loss_of)(params, tokens, answers)
    update, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, update), moments, loss

  step = jax.jit(step, donate_argnums=(0, 1))
  kept = [params, jax.jit(optimizer.init)(params)]
  read, target = jnp.asarray(tokens), jnp.asarray(answers)

  def ours():
    *kept[:], loss = step(*kept, read, target)
    jax.block_until_ready(kept)
    return np.asarray(loss)

  size = tokens.size + answers.size
  if not torch:
    return ours, None, size
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(dropout_rate=0.0, decoder_start_token_id=0)
  )
  state = {name: torch.tensor(array) for name, array in state.items()}
  model.load_state_dict(state, strict=False)
  adam = torch.optim.Adam(model.parameters(), lr=RATE)
  inputs, labels = (torch.tensor(x).long() for x in (tokens, answers))

  def theirs():
    adam.zero_grad(set_to_none=True)
    loss = model(input_ids=inputs, labels=labels).loss
    loss.backward()
    adam.step()
    return loss.detach().numpy()

  return ours, theirs, size


def timed(function):
  """Wall-clock and CPU seconds of a call."""
  clock, used = time.perf_counter(), time.process_time()
  function()
  return time.perf_counter() - clock, time.process_time() - used


def measure(name, ours, theirs, size, *, rounds):
  """Prints one line for wall-clock and one for CPU time."""
  first = ours()
  if theirs:
    np.testing.assert_allclose(theirs(), first, rtol=1e-3, atol=1e-4)
  functions = [ours, theirs] if theirs else [ours]
  times = np.array([[timed(f) for f in functions] for _ in range(rounds)])
  for kind, label in enumerate((name, '  CPU time')):
    seconds = times[:, :, kind]
    rates = [f'{size / middle:14.0f}' for middle in np.median(seconds, axis=0)]
    ratio = statistics.median(seconds[:, 0] / seconds[:, -1])
    tail = f'{ratio:8.2f}' if theirs else ''
    print(f'{label:12}{"".join(rates)}{tail}', flush=True)


def optional(name):
  """A module, or None where it is not installed."""
  try:
    return importlib.import_module(name)
  except ImportError:
    return None


def main():
  cases = {'encoder': encoder, 'reader': reader, 'T5': t5_step}
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='5 rounds')
  parser.add_argument('--rounds', type=int, default=25)
  parser.add_argument('--case', choices=cases, help='run one case only')
  flags = parser.parse_args()
  torch, transformers = optional('torch'), optional('transformers')
  if not (torch and transformers):
    print('torch or transformers is not installed: only ours runs')
    torch = None
  else:
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    print(f'{threads} threads, load {os.getloadavg()[0]:.1f}')
  print('tokens/s           rag_jax  transformers   ratio of times')
  for name in [flags.case] if flags.case else cases:
    rounds = 5 if flags.quick else flags.rounds
    measure(name, *cases[name](torch, transformers), rounds=rounds)
  print(f'load {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
  host_memory.use_huge_pages()  # affects both sides, through malloc
  main()
