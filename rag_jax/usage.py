"""The help text of the command line: commands, flags and fields."""

import textwrap

COMMANDS = {
  'train': 'train and evaluate an experiment; resumes a stopped run',
  'evaluate': 'evaluate a trained workdir again, also on other splits',
  'ask': 'answer questions with a trained workdir',
  'compare-docids': 'compare the docid schemes on a corpus, before training',
  'compare': 'test whether two or more trained runs differ significantly',
  'report': 'write one or more trained runs as a page, report.html',
  'sweep': 'train one run per combination of values',
  'export': 'write the parts of a trained workdir in common formats',
  'plan': 'where an index of so many documents fits, before it is made',
  'corpus': 'encode, fit, assign or pack: index a large corpus in shards',
}
ALIASES = {'index': 'compare-docids'}
USAGE = """\
usage: rag-jax COMMAND [--config=EXPERIMENT] [--workdir=FOLDER] [flags]
       python launch.py [--mode=COMMAND] [flags]

commands
{commands}

flags
  --config=EXPERIMENT
      an experiment file, or one of
      {experiments}.
      EXPERIMENT:ARGUMENT passes an argument to its get_config. Default: the
      configuration saved in the workdir; in a new workdir, quickstart.
  --config.FIELD=VALUE
      sets a field of the experiment, from the list below
  --workdir=FOLDER
      folder of the run; default: runs/NAME
  --question=TEXT
      ask: one question, instead of standard input
  --json
      ask: print each answer as a line of JSON
  --best
      ask, evaluate, export: the parameters that train.keep_best kept, instead
      of those of the last checkpoint
  --init_from=FOLDER
      train: workdir of a run whose weights a new run starts from
  --continue_from=FOLDER
      train: workdir of a run to continue in a copy, with more steps or another
      learning rate
  --distributed
      train, evaluate: join the processes that SLURM, Open MPI, a TPU or
      Kubernetes started, for one model; elsewhere with the three flags below
  --coordinator=HOST:PORT
      address of the first process
  --num_processes=NUMBER
      number of processes
  --process_id=NUMBER
      number of this process, from 0
  --grid=FIELD=VALUE,VALUE
      sweep: values of one field; repeat the flag for more fields
  --shard=NUMBER/COUNT
      corpus: this process of a job array, from 0/COUNT; default: 0/1
  --block=DOCUMENTS
      corpus encode: documents of a block; default: 16384
  --documents=N
      plan: number of documents; of each, --tokens=N and --words=N (different)
  --tokens=N
      plan: tokens of a document; default: data.max_document_tokens
  --devices=N
      plan: number of devices; default: those of this machine
  --device_memory=GIB
      plan: memory of a device, and --host_memory=GIB of the host
  --to=PATH
      export: folder to write to; report: file to write
  --helpfull
      every flag, including those of libraries

examples
  rag-jax train                                   trains the quickstart
  rag-jax ask --workdir=runs/facts                answers typed questions
  rag-jax train --config=beir --config.data.path=PATH --workdir=runs/mine
  rag-jax sweep --grid=search.beam_size=8,24 --grid=seed=0,1,2
  rag-jax compare runs/one runs/other
  rag-jax report runs/one runs/other

fields, with their defaults
{fields}"""


def show() -> str:
  """The text of `--help`: commands, flags, and the fields by group."""
  from rag_jax import experiment_files, field_help  # slow to import

  width = max(map(len, COMMANDS)) + 2
  commands = [f'  {name:{width}}{text}' for name, text in COMMANDS.items()]
  names = textwrap.fill(
    ', '.join(experiment_files.names()), 72, subsequent_indent=' ' * 6
  )
  return USAGE.format(
    commands='\n'.join(commands),
    experiments=names,
    fields=field_help.show(),
  )
