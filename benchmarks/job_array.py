"""Indexes the same corpus by one process, by shards, and by killed shards.

  python benchmarks/job_array.py --documents=100000

It writes a corpus of random sentences (words by Zipf's law), runs `rag-jax
corpus` encode, fit, assign and pack on it three times (one process a step; four
shards, one after the other; four processes, two at a time, of which two are
killed at random moments of each step and started again), and compares the
SHA-256 of every file. It prints seconds, seconds of CPU and the largest
resident memory of each step of the one process.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
STEPS = ('encode', 'fit', 'assign')
SHARDS = 4


def write_corpus(path, count, words_each, seed=0):
  """Documents of about so many words; 50,000 different words."""
  rng = np.random.default_rng(seed)
  letters = 'bcdfghklmnprstvz', 'aeiou'
  words = [
    ''.join(letters[i % 2][rng.integers(len(letters[i % 2]))] for i in range(n))
    for n in rng.integers(3, 10, 50_000)
  ]
  with path.open('w') as file:
    for first in range(0, count, 10_000):
      number = min(10_000, count - first)
      lengths = rng.integers(words_each // 2, 3 * words_each // 2, number)
      ids = np.minimum(rng.zipf(1.2, lengths.sum()) - 1, len(words) - 1)
      for i, row in enumerate(np.split(ids, np.cumsum(lengths)[:-1]), first):
        text = ' '.join(words[j] for j in row)
        record = {'id': str(i), 'title': words[row[-1]], 'text': text}
        file.write(json.dumps(record) + '\n')


def command(step, workdir, shard, flags=()):
  return [
    sys.executable, '-m', 'rag_jax', 'corpus', step,
    f'--workdir={workdir}', f'--shard={shard}', *flags,
  ]  # fmt: skip


def start(arguments):
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    arguments,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  errors = process.communicate()[1]
  if process.returncode:
    raise SystemExit(errors[-2000:])


def measured(arguments):
  """Seconds, seconds of CPU and largest resident memory (MB) of a command."""
  begin = time.perf_counter()
  process = start(arguments)
  errors = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit(errors[-2000:])
  used = usage.ru_utime + usage.ru_stime
  return time.perf_counter() - begin, used, usage.ru_maxrss / 1024


def shard(step, workdir, number, flags, kill):
  """Runs a shard; `kill` is a time in seconds after which it is killed once."""
  arguments = command(step, workdir, f'{number}/{SHARDS}', flags)
  process = start(arguments)
  killed = 0
  if kill is not None:
    try:
      process.wait(kill)
    except subprocess.TimeoutExpired:
      process.kill()
      killed = 1
    process.communicate()
    process = start(arguments)
  finish(process)
  return killed


def shards(workdir, flags, kills, seconds, seed):
  """All steps in shards; returns how many processes were killed."""
  rng, killed = random.Random(seed), 0
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for step in STEPS:
      chosen = rng.sample(range(SHARDS), kills)
      jobs = []
      for number in range(SHARDS):
        kill = None
        if number in chosen:  # while it works, not only while it starts
          kill = rng.uniform(0.1, 0.9) * seconds[step]
        jobs.append(pool.submit(shard, step, workdir, number, flags, kill))
      killed += sum(job.result() for job in jobs)
  finish(start(command('pack', workdir, '0/1')))
  return killed


def in_turn(workdir, one):
  """All shards of all steps, one after the other in this process."""
  from rag_jax import store
  from rag_jax.offline import run

  config = store.read_config(one)
  for step in STEPS:
    for number in range(SHARDS):
      run.step(config, workdir, [step], f'{number}/{SHARDS}')
  run.step(config, workdir, ['pack'])


def hashes(workdir):
  return {
    str(path.relative_to(workdir)): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(workdir.rglob('*'))
    if path.is_file()
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--documents', type=int, default=100_000)
  parser.add_argument('--words', type=int, default=35)
  parser.add_argument('--scheme', default='residual_kmeans')
  parser.add_argument('--only_one', action='store_true')
  parser.add_argument('--in_turn', default='', help=argparse.SUPPRESS)
  options, more = parser.parse_known_args()
  if options.in_turn:
    folder = pathlib.Path(options.in_turn)
    in_turn(folder / 'four', folder / 'one')
    return
  folder = pathlib.Path(tempfile.mkdtemp(prefix='job-array-'))
  (folder / 'corpus').mkdir()
  path = folder / 'corpus' / 'documents.jsonl'
  write_corpus(path, options.documents, options.words)
  flags = [
    '--config=beir',
    f'--config.data.path={folder / "corpus"}',
    '--config.data.lexicon=True',
    f'--config.docid.scheme={options.scheme}',
    '--config.docid.codebook_size=256',
    *more,
  ]
  one = folder / 'one'
  seconds = {}
  for step in (*STEPS, 'pack'):
    own = flags if step != 'pack' else ()
    seconds[step], used, memory = measured(command(step, one, '0/1', own))
    print(
      f'{step}: {seconds[step]:.1f} s, {used:.1f} s of CPU, {memory:.0f} MB',
      flush=True,
    )
  if not options.only_one:
    expected = hashes(one)
    print(f'{len(expected)} files of one process')
    finish(start([sys.executable, __file__, f'--in_turn={folder}']))
    same = hashes(folder / 'four') == expected
    print(f'four shards: same hashes: {same}', flush=True)
    count = shards(folder / 'killed', flags, 2, seconds, seed=0)
    same = hashes(folder / 'killed') == expected
    print(f'{count} processes killed: same hashes: {same}', flush=True)
  used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
  print(f'largest resident memory of any step: {used:.0f} MB')
  shutil.rmtree(folder)


if __name__ == '__main__':
  main()
