"""Model FLOP utilisation of a training step with a T5-base-shaped reader.

  python benchmarks/gpu.py                      # one GPU, under 8 minutes
  python benchmarks/gpu.py --tiny --peak=0.1    # that it runs, on a CPU

A step searches 100,000 documents, ranks, reads 20 passages of 160 tokens for
each question with random weights of the shape of T5-base in bfloat16, and
updates all parameters. Printed: the time of a step; its model FLOP utilisation,
that is the operations of the reader's matrix products in a forward and a
backward pass (twice the forward pass; nothing that is computed again) over time
times `--peak`; and the time of the search alone as a share of the step.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import compiled, model, parallel, placement, types
from rag_jax import config as configs
from rag_jax import step as steps
from rag_jax.index import index as indexes
from rag_jax.nn import t5

QUESTION, ANSWER = 32, 16  # tokens


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is trained on what."""

  documents: int = 100_000
  branching: int = 32
  levels: int = 4
  batch: int = 16
  passages: int = 20
  tokens: int = 160  # of a passage
  vocab: int = 32_128
  width: int = 384  # of the query encoder
  reader: t5.T5Config = t5.T5Config(
    width=768, num_layers=12, num_decoder_layers=12, num_heads=12, mlp_dim=3072
  )


TINY = Sizes(
  documents=500,
  branching=8,
  levels=3,
  batch=2,
  passages=2,
  tokens=16,
  vocab=200,
  width=32,
  reader=t5.T5Config(
    vocab_size=200,
    width=32,
    num_layers=1,
    num_decoder_layers=1,
    num_heads=2,
    head_size=16,
    mlp_dim=64,
  ),
)


def configuration(sizes: Sizes, mesh: str) -> configs.Config:
  """The experiment: a beam search, a ranker and the reader."""
  small = {'num_layers': 2, 'num_heads': 4, 'mlp_dim': 4 * sizes.width}
  reader = {
    name: getattr(sizes.reader, name)
    for name in ('width', 'num_layers', 'num_heads', 'mlp_dim')
  }
  return configs.build(
    {
      'data': {
        'max_document_tokens': sizes.tokens,
        'max_answer_tokens': ANSWER,
      },
      'query_encoder': small | {'width': sizes.width},
      'id_decoder': small | {'num_layers': 1},
      'reader': reader
      | {'kind': 't5', 'weights': 'random', 'max_answer_tokens': ANSWER},
      'search': {'beam_size': 2 * sizes.passages, 'read_size': sizes.passages},
      'train': {'precision': 'bfloat16', 'mesh': mesh},
      'stages': {
        'joint': {
          'steps': 100,
          'batch_size': sizes.batch,
          'losses': {'answer': 1.0, 'docid': 1.0, 'ranking': 1.0},
        }
      },
    }
  )


def corpus(sizes: Sizes) -> indexes.Index:
  """Random documents with docids in a full tree."""
  draw = np.random.default_rng(0)
  tokens = draw.integers(2, sizes.vocab, (sizes.documents, sizes.tokens))
  powers = sizes.branching ** np.arange(sizes.levels)[::-1]
  codes = np.arange(sizes.documents)[:, None] // powers % sizes.branching
  return indexes.from_codes(tokens.astype(np.int32), codes)


def questions(sizes: Sizes, index: indexes.Index) -> types.Batch:
  """Questions that are the first tokens of their gold documents."""
  rows = np.random.default_rng(1).integers(0, sizes.documents, sizes.batch)
  text = np.asarray(index.tokens)[rows]
  query = np.resize(text, (sizes.batch, min(QUESTION, sizes.tokens)))
  answers = np.zeros((sizes.batch, 1, ANSWER), np.int32)
  answers[:, 0, :5] = text[:, :5]
  return types.Batch(
    query=jnp.asarray(query),
    answers=jnp.asarray(answers),
    gold=jnp.asarray(rows[:, None], jnp.int32),
    where=jnp.ones(sizes.batch, bool),
  )


def reader_flops(sizes: Sizes, query: int) -> float:
  """Operations of the reader in a step: 2 for each multiplication and sum."""
  own = sizes.reader
  inner = own.num_heads * own.head_size
  width, source = own.width, query + sizes.tokens + 1
  read = sizes.batch * sizes.passages * source  # tokens of the encoder
  written = sizes.batch * ANSWER  # and of the decoder
  attention = 4 * width * inner  # weights: query, key, value, out
  feed = (3 if own.gated else 2) * width * own.mlp_dim
  encoder = read * (attention + feed + 2 * source * inner)
  crossed = 2 * width * inner + 2 * sizes.passages * source * inner
  decoder = written * (attention + feed + crossed + ANSWER * 2 * inner)
  memory = read * 2 * width * inner  # keys and values of cross-attention
  logits = written * width * own.vocab_size
  layers = own.num_layers * encoder
  layers += own.num_decoder_layers * (decoder + memory)
  return 3 * 2 * (layers + logits)


def timed(call, rounds: int) -> float:
  """Median seconds of a call that returns arrays."""
  jax.block_until_ready(call())
  seconds = []
  for _ in range(rounds):
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - began)
  return statistics.median(seconds)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--tiny', action='store_true')
  parser.add_argument('--mesh', default='', help='the field train.mesh')
  parser.add_argument('--batch', type=int, help='questions of a step')
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument(
    '--peak', type=float, default=989.0, help='TFLOP/s in bfloat16; H200: 989'
  )
  args = parser.parse_args()
  sizes = TINY if args.tiny else Sizes()
  if args.batch:
    sizes = dataclasses.replace(sizes, batch=args.batch)
  config = configuration(sizes, args.mesh)
  [(_, stage)] = config.stages
  index, devices = corpus(sizes), placement.mesh(args.mesh)
  batch = questions(sizes, index)

  def initial(index, pretrained):
    del pretrained  # random weights
    weights = model.Pretrained(reader=t5.init(jax.random.key(0), sizes.reader))
    vocab = jnp.zeros(sizes.vocab)
    return steps.init_state(config, stage, index, weights, vocab=vocab)

  state = placement.make(initial, index, devices=devices)
  placed = placement.place_index(index, devices)
  search = compiled.search(config.model)
  if devices.size == 1:
    seconds = timed(lambda: search(state.params, batch, placed), args.rounds)
  else:  # with what it takes to bring the documents to the host
    seconds = timed(
      lambda: parallel.call(search, state.params, batch, placed), args.rounds
    )
  made = functools.partial(steps.train_step, config=config, stage=stage)
  step = parallel.compile_step(made, mesh=args.mesh)

  def advance():
    nonlocal state
    state, sums = step(state, batch, placed)
    return sums

  whole = timed(advance, args.rounds)
  flops = reader_flops(sizes, batch.query.shape[1])
  used = flops / whole / devices.size / (args.peak * 1e12)
  print(
    f'device                {devices.size} x {jax.devices()[0].device_kind}'
  )
  print(f'step                  {1e3 * whole:.1f} ms')
  print(f'reader                {flops / 1e12:.4g} TFLOP a step')
  print(f'model FLOP utilisation {used:.1%} of {args.peak:g} TFLOP/s')
  print(f'search                {1e3 * seconds:.1f} ms, {seconds / whole:.1%}')


if __name__ == '__main__':
  main()
