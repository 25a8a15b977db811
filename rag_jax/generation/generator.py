"""The model that writes questions: training, sampling, its file.

It is a reader that writes, given one document and an instruction in place of
the question; what it writes is the question. A document of a training question
and this question are a training pair.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers as hf_tokenizers
from flax import traverse_util

from rag_jax import console, readers, types
from rag_jax.data import batches, pipeline, tokenizers
from rag_jax.generation import settings
from rag_jax.index import index as indexes
from rag_jax.nn import generate, published
from rag_jax.ops import metrics
from rag_jax.readers import base, fid

BATCH = 64  # documents per compiled call of `Generator.write`
LENGTH_STEP = 32  # tokens; lengths are rounded up to it, for fewer compilations
WARMUP = 50  # steps of linear warm-up
CLIP = 1.0  # maximum norm of a gradient

Params = dict[str, Any]
Report = Callable[[int, float], None]  # step and loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
  """A model that writes questions; from `train` or `load`.

  Attributes:
    config: the settings.
    data: configuration of the data: lengths of documents.
    seed: of parameters, batches and draws.
    tokenizer: of documents and questions.
    params: parameters of the reader.
  """

  config: settings.GeneratorConfig
  data: pipeline.DataConfig
  seed: int
  tokenizer: hf_tokenizers.Tokenizer
  params: Params

  @functools.cached_property
  def reader(self) -> base.Reader:
    """The functions of the model."""
    return make(self.config)

  def write(self, documents: Sequence[types.Document]) -> list[list[str]]:
    """Draws questions about documents.

    The questions of a document depend on the seed, its id and its text, not on
    the documents beside it.

    Args:
      documents: n documents.

    Returns:
      For each document at most `samples` different questions, in the order in
      which they were drawn. One that does not end within `max_tokens` is left
      out.
    """
    passages = _passages(self, documents)
    found: list[list[str]] = []
    draw = _drawing(self.config)
    for start in range(0, len(documents), BATCH):
      part = documents[start : start + BATCH]
      rows = passages[start : start + BATCH]
      rows = np.pad(rows, ((0, BATCH - len(rows)), (0, 0)), mode='edge')
      names = [zlib.crc32(d.id.encode('utf-8', 'surrogatepass')) for d in part]
      names += names[-1:] * (BATCH - len(part))
      drawn = draw(
        self.params,
        jax.random.key(self.seed),
        jnp.asarray(names, jnp.uint32),
        instruction(self),
        jnp.asarray(rows),
      )
      tokens = np.asarray(drawn)[: len(part)]
      found += [self._texts(row) for row in tokens]
    return found

  def _texts(self, tokens: np.ndarray) -> list[str]:
    """Different texts, none blank, of rows of tokens."""
    text = self.reader.text_inputs
    decode = tokenizers.decode if text is None else text.decode
    texts = (decode(self.tokenizer, row).strip() for row in tokens if row.any())
    return list(dict.fromkeys(filter(None, texts)))


def make(config: settings.GeneratorConfig) -> base.Reader:
  """The reader that writes questions."""
  sizes = ('width', 'num_layers', 'num_heads', 'mlp_dim')
  own = {name: getattr(config, name) for name in sizes}
  reader = readers.ReaderConfig(
    kind=config.kind,
    weights=config.weights,
    max_answer_tokens=config.max_tokens + 1,  # and the end token
    **(own if config.kind == 'fid' else {}),
  )
  if config.weights:
    fields = readers.make(reader).published_fields
    reader = dataclasses.replace(reader, **(fields() if fields else {}))
  return readers.make(reader)


def instruction(generator: Generator) -> jax.Array:
  """The tokens that the reader gets instead of a question, int32[1, Q]."""
  text = generator.reader.text_inputs
  if text is None:
    return jnp.array([[fid.BOS]])
  found = text.questions(
    generator.tokenizer,
    [settings.INSTRUCTION],
    max_tokens=64 + text.overhead,
  )
  return jnp.asarray(found)[:, found[0] != types.PAD]


def _passages(
  generator: Generator, documents: Sequence[types.Document]
) -> np.ndarray:
  """Documents as tokens of the model, int32[N, P]."""
  text, most = generator.reader.text_inputs, generator.data.max_document_tokens
  if text is None:
    return pipeline.encode_documents(
      generator.tokenizer, documents, generator.data
    ).tokens
  found, _ = text.passages(
    generator.tokenizer, documents, max_tokens=most + text.overhead
  )
  return found


def _targets(generator: Generator, questions: Sequence[str]) -> np.ndarray:
  """Questions as targets int32[n, 1, A]; one that is too long is padding."""
  text = generator.reader.text_inputs
  encode = tokenizers.encode_targets if text is None else text.answers
  return encode(
    generator.tokenizer,
    [(question,) for question in questions],
    max_answers=1,
    max_tokens=generator.config.max_tokens,
  )


@functools.cache
def _drawing(config: settings.GeneratorConfig) -> Callable[..., jax.Array]:
  """A compiled function: documents -> questions int32[B, samples, A]."""
  reader = make(config)
  how = generate.Sampling(
    temperature=config.temperature, top_k=config.top_k, top_p=config.top_p
  )

  @jax.jit
  def draw(params, rng, names, query, passages):
    count = len(passages)
    query = jnp.broadcast_to(query, (count, query.shape[1]))
    memory = reader.read(params, query, passages[:, None])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, names)

    def one(number):
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      return reader.sample_each(params, memory, own[:, None], how)[:, 0]

    drawn = jax.lax.map(one, jnp.arange(config.samples))
    return jnp.swapaxes(drawn, 0, 1)

  return draw


def train(
  config: settings.GeneratorConfig,
  data: pipeline.DataConfig,
  seed: int,
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
  questions: Sequence[types.Question],
  *,
  report: Report = lambda step, loss: None,
) -> Generator:
  """Trains a generator on questions and their gold documents.

  The loss is -log P(question | document), the mean over the questions of a
  batch.

  Args:
    config: the settings.
    data: configuration of the data.
    seed: of parameters, batches and draws.
    tokenizer: of the data; a model with published weights may have its own.
    documents: the corpus.
    questions: training questions; only those with a gold document, which fit
      into `max_tokens`, are used.
    report: called with step and loss, each step.

  Returns:
    The generator.

  Raises:
    ValueError: if no question can be used, or the weights cannot be read.

  Reference:
    Nogueira et al., Document Expansion by Query Prediction, 2019; Zhuang et
    al., Bridging the Gap Between Indexing and Retrieval for Differentiable
    Search Index with Query Generation, 2022.
  """
  generator = _untrained(config, data, seed, tokenizer)
  if not config.steps:
    return generator
  pairs = _pairs(generator, documents, questions)
  passages = jnp.asarray(_passages(generator, documents))
  lengths = np.asarray((passages != types.PAD).sum(axis=1))
  optimizer, step = _training(config)
  # A step overwrites its input, and published weights must stay.
  params = jax.tree.map(jnp.copy, generator.params)
  state = optimizer.init(params)
  given = batches.reading_batches(
    pairs, lengths, batch_size=config.batch_size, seed=seed
  )
  for number in range(config.steps):
    batch, longest = given[number]
    size = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, passages.shape[1])
    read = passages[batch.gold[:, 0], :size]
    params, state, loss = step(
      params, state, instruction(generator), read, batch.answers
    )
    report(number + 1, loss)
  return dataclasses.replace(generator, params=params)


def _untrained(config, data, seed, tokenizer) -> Generator:
  """A generator with initial or published parameters."""
  reader = make(config)
  weights, tokenizer = _published(config, tokenizer)
  params = reader.init(
    jax.random.key(seed),
    vocab_size=tokenizer.get_vocab_size(),
    pretrained=weights,
  )
  return Generator(
    config=config, data=data, seed=seed, tokenizer=tokenizer, params=params
  )


def _published(config, given) -> tuple[Params | None, hf_tokenizers.Tokenizer]:
  """Published weights and their tokenizer; `given` if they bring none."""
  load = make(config).load
  if load is None:
    return None, given
  loaded = load()
  if loaded.tokenizer is not None:
    return loaded.params, loaded.tokenizer
  path = published.own_tokenizer(config.weights)
  own = given if path is None else tokenizers.load_published(path)
  return loaded.params, own


def _pairs(
  generator: Generator,
  documents: Sequence[types.Document],
  questions: Sequence[types.Question],
) -> batches.Questions:
  """Training pairs: `answers` are questions, `gold` their first documents."""
  rows = {document.id: row for row, document in enumerate(documents)}
  asked = [
    (question.text, rows[question.document_ids[0]])
    for question in questions
    if question.document_ids and question.document_ids[0] in rows
  ]
  targets = _targets(generator, [text for text, _ in asked])
  kept = np.flatnonzero((targets != types.PAD).any((1, 2)))
  if 0 < kept.size < len(asked):
    console.note(
      f'{len(asked) - kept.size} of {len(asked)} training questions are longer '
      f'than {generator.config.max_tokens} tokens, and do not train the '
      'question generator (--config.generator.max_tokens).'
    )
  if not kept.size:
    raise ValueError(
      'generator.steps trains on questions with gold documents, of at most '
      f'{generator.config.max_tokens} tokens, got none. Set '
      '--config.generator.steps=0 with published weights, or '
      '--config.generator.path to a file of questions.'
    )
  return batches.Questions(
    query=np.ones((len(kept), 1), np.int32),
    answers=targets[kept],
    gold=np.asarray([row for _, row in asked], np.int32)[kept, None],
    cut=np.zeros(len(kept), bool),
  )


@functools.cache
def _training(config: settings.GeneratorConfig):
  """The optimiser, and a step (params, state, query, passages, targets)."""
  reader = make(config)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, config.learning_rate, min(WARMUP, config.steps), config.steps + 1
  )
  optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(schedule))

  def loss(params, query, passages, targets):
    query = jnp.broadcast_to(query, (len(passages), query.shape[1]))
    memory = reader.read(params, query, passages[:, None])
    scores = reader.log_likelihood(params, memory, targets)
    real = (targets != types.PAD).any((1, 2))
    total, count = metrics.total(-scores[:, 0].sum(-1), real)
    return total / jnp.maximum(count, 1)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, query, passages, targets):
    value, gradient = jax.value_and_grad(loss)(params, query, passages, targets)
    change, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, change), state, value

  return optimizer, step


def save(generator: Generator, path: pathlib.Path) -> None:
  """Writes the parameters of a trained generator, atomically."""
  flat = traverse_util.flatten_dict(generator.params, sep='/')
  indexes.write(path, {name: np.asarray(x) for name, x in flat.items()})


def load(
  config: settings.GeneratorConfig,
  data: pipeline.DataConfig,
  seed: int,
  tokenizer: hf_tokenizers.Tokenizer,
  path: pathlib.Path,
) -> Generator:
  """Reads what `save` wrote; the other arguments are those of `train`.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  flat = {name: jnp.asarray(x) for name, x in indexes.read(path, ()).items()}
  _, tokenizer = _published(config, tokenizer)
  return Generator(
    config=config,
    data=data,
    seed=seed,
    tokenizer=tokenizer,
    params=traverse_util.unflatten_dict(flat, sep='/'),
  )
