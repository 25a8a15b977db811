"""Every command of docs/methods.md builds, and each of its stages trains."""

import dataclasses
import functools
import json
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from absl import flags
from ml_collections import config_flags
from tokenizers import decoders, models, pre_tokenizers

from rag_jax import config as configs
from rag_jax import (
  curriculum,
  experiment_files,
  keeper,
  objective,
  parallel,
  readers,
  states,
  train,
)
from rag_jax import stage as stages
from rag_jax import step as steps
from rag_jax import workdir as workdirs
from rag_jax.components import ranker
from rag_jax.nn import llama, llama_weights, weights
from rag_jax.readers import base

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'methods.md').read_text(encoding='utf-8')
SMALL = {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
WIDTH = {'width': 16}


def commands(text):
  """The flags of every command of a page that trains."""
  blocks = re.findall(r'```bash\n(.*?)```', text, flags=re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  words = [shlex.split(line) for line in lines]
  return [own[2:] for own in words if own[:2] == ['rag-jax', 'train']]


def run_of(words):
  """The name of a command's workdir."""
  flags = dict(word.split('=', 1) for word in words)
  return pathlib.Path(flags['--workdir']).name


COMMANDS = commands(PAGE.split('<!-- methods -->')[1])
OTHERS = [
  words
  for page in ('README.md', 'docs/results.md')
  for words in commands((ROOT / page).read_text(encoding='utf-8'))
  if any(word.startswith('--config=') for word in words)
]


# Their parts are those of other methods, in another combination.
LONG = {
  *('rag_token', 'rag_sequence', 'rag_sequence_spans', 'replug', 'emdr2'),
  *('ltrgr', 'reinforce', 'atlas_loop', 'rag_token_fid', 'replug_fid'),
}


def table(first):
  """Rows (lists of cells) of the tables whose first column has this heading."""
  rows, inside = [], False
  for line in PAGE.splitlines():
    # A bar inside a cell is escaped.
    cells = [c.strip() for c in re.split(r'(?<!\\)\|', line.strip('|'))]
    if line.startswith('|') and inside:
      rows.append(cells)
    inside = line.startswith('|') and (inside or cells[0] == first)
  return [row for row in rows if set(row[0]) != {'-'}]


def named(first):
  """The names in backquotes in the first column."""
  return {row[0].strip('`') for row in table(first)}


@pytest.fixture
def parse(monkeypatch):
  """Parses flags as the command line does; the values of the experiment."""
  monkeypatch.chdir(ROOT)

  def run(words):
    flag = '--config='
    [name] = [w.removeprefix(flag) for w in words if w.startswith(flag)]
    own = ['rag-jax', *(w for w in words if w.startswith('--config.'))]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict(
      'config', experiment_files.load(name), flag_values=values, sys_argv=own
    )
    values(own)
    return config.value

  return run


@pytest.fixture(scope='module')
def language_model(tmp_path_factory):
  """A random Llama in published form, with one token per byte."""
  folder = tmp_path_factory.mktemp('llama')
  sizes = llama.LlamaConfig(
    vocab_size=260,
    width=16,
    num_layers=1,
    num_heads=2,
    num_key_value_heads=1,
    head_size=8,
    mlp_dim=16,
  )
  params = jax.jit(llama.init, static_argnums=1)(jax.random.key(0), sizes)
  state = llama_weights.to_state_dict(params, sizes)
  weights.write(folder / 'model.safetensors', state)
  fields = {
    'model_type': 'llama',
    'hidden_act': 'silu',
    'vocab_size': sizes.vocab_size,
    'hidden_size': sizes.width,
    'num_hidden_layers': sizes.num_layers,
    'num_attention_heads': sizes.num_heads,
    'num_key_value_heads': sizes.num_key_value_heads,
    'head_dim': sizes.head_size,
    'intermediate_size': sizes.mlp_dim,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e5,
    'tie_word_embeddings': True,
  }
  (folder / 'config.json').write_text(json.dumps(fields), encoding='utf-8')
  marks = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {name: i for i, name in enumerate([*marks, *letters])}
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(marks)
  tokenizer.save(str(folder / 'tokenizer.json'))
  return str(folder)


def shrink(values, folder, language_model):
  """The same method on a small corpus with small components."""
  values = values.unlock().copy_and_resolve_references()
  causal = values.reader.kind == 'causal'
  values.data.update(path=str(folder), vocab_size=320, eval_splits=())
  values.data.max_answer_tokens = 4
  # A prompt takes 64 tokens of a subword model, and more where each is a byte.
  values.data.max_document_tokens = 160 if causal else 24
  values.docid.update(branching=8, codebook_size=8, leaf_size=8, num_levels=2)
  values.query_encoder.update(WIDTH | SMALL)
  values.id_decoder.update(SMALL)
  if values.id_decoder.output == 'node_table':
    values.id_decoder.num_layers = 0  # faster to compile
  values.reader.update(WIDTH | SMALL, max_answer_tokens=4)
  if values.stages.joint.cost == 'f1':  # long answers have F1 above 0 by chance
    values.reader.max_answer_tokens = 24
  if causal:
    values.reader.weights = language_model
  values.search.update(beam_size=6, read_size=min(values.search.read_size, 3))
  values.pseudo_queries.batch_size = 8
  values.train.warmup_steps = 1
  for stage in values.stages.values():
    stage.steps = min(stage.steps, 3)
    stage.batch_size = 8
    stage.samples = min(stage.samples, 3)
    if stage.candidates != 'all':
      stage.read_size = min(stage.read_size, 4)
  return configs.build(values)


@pytest.fixture(scope='module')
def prepare(tmp_path_factory):
  """Data and index of an experiment, shared by equal configurations."""
  kept = {}

  def run(config):
    own = config.data, config.docid, config.query_encoder
    key = own, config.reader.kind == 'causal'
    if key not in kept:
      workdir = tmp_path_factory.mktemp('methods') / 'run'
      kept[key] = workdirs.open(config, workdir)
    found = kept[key]
    system = found.system.with_config(config)
    return dataclasses.replace(found, system=system)

  return run


def parts(params):
  return {
    name: [np.asarray(x) for x in jax.tree.leaves(part)]
    for name, part in params.items()
  }


def moved(before, after):
  """The components with changed parameters."""
  return {
    name
    for name, own in before.items()
    if any((a != b).any() for a, b in zip(own, after[name], strict=True))
  }


@pytest.mark.parametrize('words', OTHERS, ids=' '.join)
def test_other_pages_have_commands_that_build(words, parse):
  built = configs.build(parse(words))
  assert built.steps > 0 or built.name.startswith('zero_shot')


@pytest.mark.parametrize(
  'words',
  [
    pytest.param(own, marks=pytest.mark.long) if run_of(own) in LONG else own
    for own in COMMANDS
  ],
  ids=run_of,
)
def test_a_method_trains(
  words, parse, tiny_folder, language_model, prepare, monkeypatch
):
  values = parse(words)
  config = shrink(values, tiny_folder, language_model)
  prepared = prepare(config)
  # One device compiles faster; the step is the same.
  monkeypatch.setattr(
    parallel, 'compile_step', lambda f, mode, mesh: jax.jit(f)
  )
  material = curriculum.prepare(config, prepared, {})
  vocab = jnp.zeros(prepared.vocab_size)
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  state = jax.jit(init)(prepared.index, prepared.pretrained, vocab=vocab)
  for own, stage in config.stages:
    if not stage.steps:
      continue
    state = states.start_stage(state, config, stage)
    before = parts(state.params)
    questions, index = material[own](state.params)
    next_state = train.step_function(config, stage, questions, index)
    records = []
    for place in range(3):
      state, sums = next_state(state, place)
      records.append(sums)
    values = keeper.averages(records)
    for loss, _ in stage.losses:
      assert np.isfinite(values[loss]), loss
    assert np.isfinite(values['loss'])
    trained = {component for component, _ in stage.trains}
    assert moved(before, parts(state.params)) == trained, own


def test_the_tables_list_every_choice():
  assert named('`candidates`') == set(stages.CANDIDATES)
  assert named('`operator`') == set(ranker.OPERATORS)
  assert named('`estimator`') == set(stages.ESTIMATORS)
  assert named('`cost`') == set(stages.COSTS)
  above = {'answer', 'expected_cost'}  # explained in the text
  assert named('`losses.NAME`') | above == set(objective.TERMS)
  marginals = {m for row in table('`reader.kind`') for m in row[3].split(', ')}
  assert named('`marginal`') == marginals


def test_the_table_of_readers_is_correct():
  rows = table('`reader.kind`')
  assert [row[0].strip('`') for row in rows] == list(readers.KINDS)
  for kind, source, answer, marginals, each, *can in rows:
    own = kind.strip('`')
    published = source != 'scratch'
    selects = own == 'sentences'  # always with citations
    config = base.ReaderConfig(
      kind=own, weights='x' if published else '', citations=selects
    )
    reader = readers.make(config)
    if selects:
      assert not reader.points and 'sentences' in answer
    else:
      assert answer == ('span' if reader.points else 'generated'), own
    assert marginals == ', '.join(reader.marginals), own
    found = (reader.joint_log_likelihood, reader.attention, reader.relevance)
    assert each == 'yes'
    assert can == ['no' if has is None else 'yes' for has in found], own


@pytest.mark.parametrize('words, error', table('flags'))
def test_incompatible_choices_raise_the_listed_error(words, error, parse):
  own = words.strip('`').replace('STAGE', '--config.stages.joint').split()
  values = parse(['--config=experiments/quickstart.py', *own])
  with pytest.raises(ValueError, match=re.escape(error)):
    configs.build(values)


def test_the_table_of_systems_links_to_their_commands():
  headings = re.findall(r'^###? (.*)$', PAGE, flags=re.MULTILINE)
  anchors = {
    re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }
  links = re.findall(r'\]\(#([^)]*)\)', PAGE)
  assert len(links) > len(table('system')) and set(links) <= anchors
