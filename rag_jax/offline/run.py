"""The command `rag-jax corpus STEP`: one process of a job array."""

import pathlib
from collections.abc import Sequence

from rag_jax import config as configs
from rag_jax import signals
from rag_jax.offline import blocks, pack, steps

STEPS = ('encode', 'fit', 'assign', 'pack')


def step(
  config: configs.Config,
  workdir: pathlib.Path,
  arguments: Sequence[str],
  shard: str = '0/1',
  block: int = 0,
) -> str:
  """Runs one step.

  Args:
    config: the experiment; `data.path` is a folder with a corpus.
    workdir: folder of the run that the index is for.
    arguments: the name of the step.
    shard: NUMBER/COUNT, the process of a job array.
    block: documents of a block; 0 = as in the workdir, else `blocks.BLOCK`.

  Returns:
    What was done.

  Raises:
    ValueError: if an argument is out of range, the corpus is damaged, or
      something of an earlier step is missing.
  """
  if len(arguments) != 1 or arguments[0] not in STEPS:
    raise ValueError(
      f'corpus needs one step of {", ".join(STEPS)}, got '
      f'{" ".join(arguments) or "none"!r}. Run rag-jax corpus encode.'
    )
  name, own = arguments[0], blocks.shard(shard)
  if name == 'pack' and own.count > 1:
    raise ValueError(
      f'corpus pack is one process, got --shard={shard}. Leave out --shard.'
    )
  signals.set_hint('run the same command to resume')
  job = steps.open_job(config, workdir, block=block)
  if name == 'pack':
    return pack.pack(job)
  functions = {'encode': steps.encode, 'fit': steps.fit, 'assign': steps.assign}
  return functions[name](job, own)
