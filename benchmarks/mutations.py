"""Mutation testing: injects small faults and counts those that tests catch.

python benchmarks/mutations.py [--only=TEXT] [--start=N] [--jobs=2] [--list]

Each mutation changes a sign, a mask, a weight, a stage or a flag at an
interface between components, in a copy of the sources; then the tests of that
interface run. Mutations that no test catches are printed, with the reason if a
mutation is known to be harmless. Takes about 40 minutes on two CPU cores.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Mutation(NamedTuple):
  """A fault: a text that occurs once in a file, and its replacement."""

  file: str
  old: str
  new: str
  tests: str  # tests that must fail, as pytest arguments
  harmless: str = ''  # why it has no effect, if so


READ = ' tests/test_reader_terms.py tests/test_objective.py'
RANK = ' tests/test_ranking_terms.py tests/test_objective.py'
TRACE = ' tests/test_trace.py tests/test_reader_terms.py'
FORWARD = ' tests/test_forward.py tests/test_trace.py'
OBJECTIVE = ' tests/test_objective.py'
TRAIN = ' tests/test_step.py tests/test_optimizer.py tests/test_train.py'
PUBLISHED = ' tests/test_published_run.py'
CONFIG = (
  ' tests/test_config.py tests/test_composition.py tests/test_remedies.py'
)
STORE = ' tests/test_store.py tests/test_workdir.py'
SYSTEM = ' tests/test_system.py'
REPORT = ' tests/test_report.py'
OUTPUTS = ' tests/test_outputs.py'
COMPARE = ' tests/test_compare.py'
DATA = ' tests/data/test_pipeline.py'
READERS = ' tests/readers'
COMPONENTS = ' tests/components'
INDEX = ' tests/index/test_live_trained.py tests/index/test_live.py'

MUTATIONS: tuple[Mutation, ...] = (
  Mutation(
    'rag_jax/reader_terms.py',
    'nll = -(trace.posterior * trace.reading.docid).sum(1)',
    'nll = (trace.posterior * trace.reading.docid).sum(1)',
    READ,
  ),
  Mutation(
    'rag_jax/trace.py',
    'scores = self.likelihoods + self.reading.scores',
    'scores = -self.likelihoods + self.reading.scores',
    TRACE,
  ),
  Mutation(
    'rag_jax/trace.py',
    'jax.nn.softmax(jnp.where(self.holds, scores, masking.NEG_INF))',
    'jax.nn.softmax(scores)',
    TRACE,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'return metrics.total(nll, readable.any(1) & trace.batch.where)',
    'return metrics.total(nll, readable.any(1))',
    READ,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'readable = trace.holds & (reading.weights > 0)',
    'readable = trace.holds',
    READ,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'reading.weights, trace.likelihoods, where=trace.holds',
    'reading.weights, trace.likelihoods, where=reading.where',
    READ,
    'a document without the answer has log-likelihood -1e9 and adds nothing; '
    'a question for which no document has it is not counted',
  ),
  Mutation(
    'rag_jax/reader_terms.py', 'return 1.0 - utility', 'return utility', READ
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'return -trace.teacher_likelihoods()',
    'return trace.teacher_likelihoods()',
    READ,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'others = where[:, None] & ~jnp.eye(size, dtype=bool)',
    'others = where[:, None] | jnp.eye(size, dtype=bool)',
    READ,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'rng, z, 1 - c, k=s.samples',
    'rng, z, c, k=s.samples',
    READ,
  ),
  Mutation(
    'rag_jax/reader_terms.py',
    'token_where=trace.token_where,\n    )\n  else',
    'token_where=None,\n    )\n  else',
    READ,
    'padding has log-likelihood 0 given every document, so it adds nothing',
  ),
  Mutation(
    'rag_jax/objective.py',
    'stage.weight(name) * value / jnp.maximum(counts[name], 1.0)',
    'value / jnp.maximum(counts[name], 1.0)',
    OBJECTIVE,
  ),
  Mutation(
    'rag_jax/objective.py', 'if stage.weight(name)\n', 'if True\n', OBJECTIVE
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'negatives = trace.contrasted & ~trace.is_gold\n  gold',
    'negatives = trace.contrasted\n  gold',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'margin=trace.stage.margin,',
    'margin=-trace.stage.margin,',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'gap = trace.stage.margin * (best[:, 0] - best[:, 1])',
    'gap = trace.stage.margin * (best[:, 1] - best[:, 0])',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'rest = where & ~is_gold & ~answers',
    'rest = where & ~is_gold',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'jax.nn.softplus(-odds)',
    'jax.nn.softplus(odds)',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'everything = jnp.logaddexp(everything, 0.0)',
    'everything = jnp.logaddexp(everything, 1.0)',
    RANK + PUBLISHED,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'return metrics.total(nll, trace.has_gold & is_gold.any(1))',
    'return metrics.total(nll, trace.has_gold)',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'return metrics.total(-scores[:, 0], trace.index.alive[rows])',
    'return metrics.total(scores[:, 0], trace.index.alive[rows])',
    RANK,
  ),
  Mutation(
    'rag_jax/ranking_terms.py',
    'positions = trace.shard[0] * count + jnp.arange(count)',
    'positions = jnp.arange(count)',
    TRAIN,
  ),
  Mutation(
    'rag_jax/trace.py',
    'return (self.batch.gold >= 0).any(axis=1) & self.batch.where',
    'return (self.batch.gold >= 0).any(axis=1)',
    RANK,
  ),
  Mutation(
    'rag_jax/trace.py',
    'candidates.where & ~is_gold], axis=1)',
    'candidates.where], axis=1)',
    TRACE,
  ),
  Mutation(
    'rag_jax/trace.py',
    'return where & (index.gold_nodes[documents] | is_gold)',
    'return where',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/trace.py',
    "if self.stage.estimator == 'none' or self.costs_search:\n      # No",
    'if self.costs_search:\n      # No',
    TRACE,
  ),
  Mutation(
    'rag_jax/trace.py',
    'length = self.stage.passage_tokens or reading.passages.shape[-1]',
    'length = reading.passages.shape[-1]',
    TRACE + TRAIN,
  ),
  Mutation(
    'rag_jax/trace.py',
    'return self.stage.read_size or self.config.search.read_size',
    'return self.config.search.read_size',
    TRACE + PUBLISHED,
  ),
  Mutation(
    'rag_jax/trace.py',
    'return dataclasses.replace(reading, weights=weights)\n\n  @functools',
    'return reading\n\n  @functools',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/trace.py',
    'self.shard[0] * count + jnp.arange(count)',
    'jnp.arange(count)',
    TRAIN + TRACE,
  ),
  Mutation(
    'rag_jax/trace.py',
    'weights / jnp.maximum(hard.sum(-1, keepdims=True), 1)',
    'weights',
    TRACE,
  ),
  Mutation(
    'rag_jax/trace.py', 'operator=self.operator, rng=rng', 'rng=rng', RANK
  ),
  Mutation(
    'rag_jax/forward.py',
    'order = jnp.where(first & where, jnp.inf, order)',
    'order = jnp.where(first & where, -jnp.inf, order)',
    FORWARD,
  ),
  Mutation(
    'rag_jax/forward.py', 'order = order + noise', 'order = order', FORWARD
  ),
  Mutation(
    'rag_jax/forward.py',
    'scores = reading.scores + reader.relevance(memory)',
    'scores = reading.scores - reader.relevance(memory)',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/forward.py',
    'if config.reader.reranks:\n    ranking = _reorder',
    'if False:\n    ranking = _reorder',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/forward.py',
    'docid = jnp.where(candidates.where, docid, 0.0)',
    'docid = docid',
    FORWARD,
  ),
  Mutation(
    'rag_jax/forward.py',
    'scores.append(jnp.where(ended, 0.0, edges[..., 0]))',
    'scores.append(edges[..., 0])',
    FORWARD,
  ),
  Mutation(
    'rag_jax/forward.py',
    "ahead *= ranker.lexical_growth(params['ranker'], config.ranker)",
    'ahead *= 1.0',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/step.py',
    'rng = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)',
    'rng = jax.random.key(config.seed + 1)',
    TRAIN,
  ),
  Mutation(
    'rag_jax/step.py',
    'lambda x: x / count, (loss, gradients)',
    'lambda x: x, (loss, gradients)',
    TRAIN,
  ),
  Mutation(
    'rag_jax/step.py',
    'if own in base.PUBLISHED',
    'if own not in base.PUBLISHED',
    TRAIN,
  ),
  Mutation(
    'rag_jax/step.py',
    "if precision == 'float32':",
    "if precision != 'int8':",
    TRAIN,
  ),
  Mutation(
    'rag_jax/step.py',
    'jax.random.fold_in(rng, number), part',
    'rng, part',
    TRAIN,
  ),
  Mutation(
    'rag_jax/optimizer.py',
    "mask[part]['bert'] = {",
    "mask[part]['none'] = {",
    TRAIN + PUBLISHED,
  ),
  Mutation('rag_jax/optimizer.py', 'stage.rate(part) > 0', 'True', TRAIN),
  Mutation(
    'rag_jax/optimizer.py',
    'return rate * (head if is_head else 1.0) * x',
    'return rate * x',
    TRAIN,
  ),
  Mutation(
    'rag_jax/optimizer.py', 'name not in base.PUBLISHED and any', 'any', TRAIN
  ),
  Mutation(
    'rag_jax/optimizer.py',
    'peak_value=stage.learning_rate,',
    'peak_value=1e-3,',
    TRAIN,
  ),
  Mutation(
    'rag_jax/optimizer.py',
    'decay_steps=max(stage.steps, 2),',
    'decay_steps=10_000,',
    TRAIN,
  ),
  Mutation(
    'rag_jax/optimizer.py',
    'weight_decay=config.train.weight_decay',
    'weight_decay=0.0',
    TRAIN,
  ),
  Mutation(
    'rag_jax/train.py',
    'state = start_stage(state, config, stage)',
    'pass',
    TRAIN,
  ),
  Mutation(
    'rag_jax/train.py',
    'questions, index = material[name](state.params)',
    'questions, index = next(iter(material.values()))(state.params)',
    TRAIN,
  ),
  Mutation(
    'rag_jax/train.py',
    'if stage.steps and step <= stage.steps:',
    'if stage.steps and step < stage.steps:',
    TRAIN,
  ),
  Mutation(
    'rag_jax/train.py',
    'size = min(-(-length // LENGTH_STEP) * LENGTH_STEP, most)',
    'size = min(length // 2, most)',
    TRAIN,
  ),
  Mutation(
    'rag_jax/curriculum.py',
    'others = found.where & ~traces.gold_among(found, batch.gold)',
    'others = found.where',
    TRAIN + PUBLISHED,
  ),
  Mutation(
    'rag_jax/curriculum.py',
    'chosen = answered(name, config, chosen, index)',
    'pass',
    TRAIN,
  ),
  Mutation('rag_jax/curriculum.py', 'chosen = labelled(chosen)', 'pass', TRAIN),
  Mutation(
    'rag_jax/curriculum.py',
    'enough = 2 * stage.steps * stage.batch_size',
    'enough = 1',
    TRAIN,
  ),
  Mutation(
    'rag_jax/curriculum.py',
    'allowed = index.gold_nodes[: len(index.tokens)]',
    'allowed = None',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/data/pipeline.py',
    'rows = rows[order[place]]',
    'rows = rows[place]',
    TRAIN + DATA,
  ),
  Mutation(
    'rag_jax/data/pipeline.py',
    'longest = np.where(documents >= 0, lengths[documents], 0).max(axis=1)',
    'longest = np.where(documents >= 0, lengths[documents], 0).min(axis=1)',
    TRAIN + DATA + PUBLISHED,
  ),
  Mutation('rag_jax/evaluate.py', 'value[without] = np.nan', 'pass', PUBLISHED),
  Mutation(
    'rag_jax/evaluate.py',
    'results += _summarise(subsets, measured.values)',
    'results += _summarise({split: subsets[split]}, measured.values)',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/measures.py',
    "right = question.answers if question.answerable else ('',)",
    'right = question.answers',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/evaluate.py',
    'None if answer.abstained else answer.text',
    'answer.text',
    PUBLISHED,
  ),
  Mutation(
    'rag_jax/trec.py', 'min(found[place], below)', 'found[place]', OUTPUTS
  ),
  Mutation('rag_jax/trec.py', 'escape(d.id)', 'd.id', OUTPUTS),
  Mutation(
    'rag_jax/measures.py', 'gold_rows, grades=grades)', 'gold_rows)', OUTPUTS
  ),
  Mutation('rag_jax/outputs.py', 'show(found.results)\n', 'pass\n', OUTPUTS),
  Mutation(
    'rag_jax/compare.py',
    'rng.binomial(count, 0.5, DRAWS)',
    'rng.binomial(count, 0.45, DRAWS)',
    COMPARE,
  ),
  Mutation(
    'rag_jax/compare.py',
    'change = both[1] - both[0]',
    'change = both[0] - both[1]',
    COMPARE,
  ),
  Mutation(
    'rag_jax/report.py',
    'np.quantile(means, [0.025, 0.975])',
    'np.quantile(means, [0.05, 0.95])',
    TRAIN + REPORT,
  ),
  Mutation(
    'rag_jax/config.py',
    "'reader.abstention_threshold',",
    "'reader.abstention_threshold',\n  'seed',",
    STORE,
  ),
  Mutation(
    'rag_jax/composition.py',
    'if uses_costs and not has_loss:',
    'if False:',
    CONFIG,
  ),
  Mutation(
    'rag_jax/composition.py',
    'if stage.marginal and stage.marginal not in reader.marginals:',
    'if False:',
    CONFIG,
  ),
  Mutation(
    'rag_jax/composition.py', 'size > config.search.beam_size', 'False', CONFIG
  ),
  Mutation(
    'rag_jax/store.py',
    'if value != was:',
    'if value != was and was is not None:',
    STORE,
  ),
  Mutation(
    'rag_jax/system.py',
    'threshold < base.NEVER and bool(found.no_answer[row] > threshold)',
    'threshold < base.NEVER and bool(found.no_answer[row] < threshold)',
    SYSTEM,
  ),
  Mutation(
    'rag_jax/system.py',
    'inside = None if begin < before else (begin - before, end - before)',
    'inside = None if begin < before else (begin, end)',
    SYSTEM,
  ),
  Mutation(
    'rag_jax/system.py',
    "mask[self._rows_of(allowed, what='allowed')] = True",
    'mask[:] = True',
    SYSTEM,
  ),
  Mutation(
    'rag_jax/system.py',
    'left, change = live_indexes.delete(live, deleted)',
    'left, change = live, live_indexes.delete(live, deleted)[1]',
    SYSTEM,
  ),
  Mutation(
    'rag_jax/table_changes.py',
    "table = node_table.update(decoder['table'], change, vectors, unit=unit)",
    "table = decoder['table']",
    SYSTEM,
  ),
  Mutation(
    'rag_jax/table_changes.py',
    "table = growth.move(decoder['table'], before, after)",
    "table = growth.move(0 * decoder['table'], before, after)",
    SYSTEM,
  ),
  Mutation(
    'rag_jax/readers/spans.py',
    'joint = spans.score + jnp.log(jnp.where(support, weights, 1.0))',
    'joint = spans.score',
    READERS,
  ),
  Mutation(
    'rag_jax/readers/spans.py',
    'null = null_log_odds(memory.relevance, where)',
    'null = -null_log_odds(memory.relevance, where)',
    READERS + PUBLISHED,
  ),
  Mutation(
    'rag_jax/readers/spans.py',
    'match &= (window == token) | ~real',
    'match &= (window == token) & real',
    READERS,
  ),
  Mutation(
    'rag_jax/readers/causal.py',
    'target = base.with_end(answers[:, 0], config.end_token)[:, None]',
    'target = base.with_end(answers[:, 0], 0)[:, None]',
    READERS,
  ),
  Mutation(
    'rag_jax/components/id_decoder.py',
    'negatives = (depth == level) | (is_leaf & (depth > 0) & (depth < level))',
    'negatives = depth == level',
    TRAIN + COMPONENTS,
  ),
  Mutation(
    'rag_jax/components/id_decoder.py',
    'return total / trie.depth',
    'return -total / trie.depth',
    COMPONENTS + PUBLISHED,
  ),
  Mutation(
    'rag_jax/components/ranker.py',
    'return weights / jnp.where(total > 0, total, 1)',
    'return weights',
    COMPONENTS,
  ),
  Mutation(
    'rag_jax/index/growth.py',
    'return moved.at[new.rows].set(table[old.rows])',
    'return moved.at[new.rows].set(table[: len(new.rows)])',
    INDEX,
  ),
  Mutation('rag_jax/index/live.py', 'sign=-1', 'sign=1', INDEX),
)


def run(mutation: Mutation, folder: pathlib.Path, cache: pathlib.Path) -> bool:
  """Whether a test fails with the mutation."""
  path = folder / mutation.file
  text = path.read_text()
  if text.count(mutation.old) != 1:
    sys.exit(
      f'{mutation.file} must hold {mutation.old!r} once, got '
      f'{text.count(mutation.old)} times. Correct MUTATIONS.'
    )
  path.write_text(text.replace(mutation.old, mutation.new))
  try:
    command = [
      sys.executable,
      '-m',
      'pytest',
      '-x',
      '-q',
      '-p',
      'no:cacheprovider',
    ]
    environment = os.environ | {'RAG_JAX_TEST_CACHE': str(cache)}
    found = subprocess.run(
      command + mutation.tests.split(),
      cwd=folder,
      env=environment,
      capture_output=True,
      text=True,
    )
  finally:
    path.write_text(text)
  if found.returncode not in (0, 1, 2):
    sys.exit(f'pytest could not run {mutation.tests}: {found.stdout[-500:]}')
  return found.returncode != 0


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--only', default='', help='mutations that hold this text'
  )
  parser.add_argument('--start', type=int, default=0, help='skip the first N')
  parser.add_argument('--jobs', type=int, default=2, help='parallel jobs')
  parser.add_argument('--list', action='store_true', help='print, run nothing')
  flags = parser.parse_args()
  chosen = [m for m in MUTATIONS if flags.only in ' '.join(m)][flags.start :]
  if flags.list:
    for mutation in chosen:
      print(f'{mutation.file}: {mutation.old!r} -> {mutation.new!r}')
    return
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as name:
    parent = pathlib.Path(name)
    folders: queue.Queue = queue.Queue()
    ignore = shutil.ignore_patterns('.git', '.venv', 'runs', 'build')
    for number in range(flags.jobs):
      shutil.copytree(ROOT, parent / str(number), ignore=ignore)
      folders.put(parent / str(number))

    def one(mutation):
      folder = folders.get()
      try:
        return mutation, run(mutation, folder, parent / 'cache')
      finally:
        folders.put(folder)

    results = []
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
      for mutation, caught in pool.map(one, chosen):
        results.append((mutation, caught))
        print(
          f'{len(results)}/{len(chosen)} {"caught" if caught else "SURVIVED"} '
          f'{time.perf_counter() - start:.0f} s  {mutation.file}: '
          f'{mutation.new.strip()[:60]!r}',
          flush=True,
        )
  survivors = [mutation for mutation, found in results if not found]
  caught = len(results) - len(survivors)
  print(f'\n{caught} of {len(chosen)} caught, {caught / len(chosen):.0%}')
  for mutation in survivors:
    why = mutation.harmless or 'no test notices'
    print(f'{mutation.file}: {mutation.old!r} -> {mutation.new!r}: {why}')


if __name__ == '__main__':
  main()
