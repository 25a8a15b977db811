"""Keys that give documents further docids: questions about them, or crops."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import console, generated, model, parallel, types
from rag_jax.generation import cache
from rag_jax.index import docids, further, pseudo_queries
from rag_jax.index import index as indexes
from rag_jax.ops import token_table

BLOCK = 4096  # documents that are cropped at a time
CROPS = 3  # folded into the key of a run, for random numbers of their own


def of(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  questions: Sequence[Sequence[str]],
  tokens: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """The keys of documents, by `docid.further_from`.

  Args:
    config: the experiment; there are `generator.samples` crops of a document.
    tokenizer: of questions and documents.
    questions: of each of n documents.
    tokens: int32[n, P], the documents.

  Returns:
    Keys int32[m, T], and the row of the document of each, int32[m].
  """
  if config.docid.further_from == 'questions':
    counts = [len(own) for own in questions]
    texts = [text for own in questions for text in own]
    found = generated.tokens_of(tokenizer, texts)
  else:
    counts = [config.generator.samples] * len(tokens)
    found = _crops(config, tokens)
  return found, np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def _crops(config: configs.Config, tokens: np.ndarray) -> np.ndarray:
  """Crops as the loss `indexing` draws them, int32[n * samples, T]."""
  rng = jax.random.fold_in(model.init_key(config.seed), CROPS)
  samples, parts = config.generator.samples, []
  for start in range(0, len(tokens), BLOCK):
    block = jnp.asarray(tokens[start : start + BLOCK])
    rows = jnp.repeat(jnp.arange(len(block)), samples)
    places = start * samples + jnp.arange(len(rows))
    crops, _ = pseudo_queries.draw(
      rng, config.pseudo_queries, block, places, rows=rows
    )
    parts.append(np.asarray(crops))
  return np.concatenate(parts)


def make(
  config: configs.Config,
  dataset: types.Dataset,
  index: indexes.Index,
  quantiser: docids.Quantiser,
  tokenizer: hf_tokenizers.Tokenizer,
  workdir: pathlib.Path,
) -> indexes.Index:
  """`add`, with the questions that the generator of a workdir writes."""
  found: cache.Found = {}
  if generated.has_docids(config):
    found = generated.make(config, dataset, tokenizer, workdir)
  return add(config, index, quantiser, tokenizer, dataset.documents, found)


def add(
  config: configs.Config,
  index: indexes.Index,
  quantiser: docids.Quantiser,
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
  found: cache.Found,
) -> indexes.Index:
  """The index with further docids of its documents; prints how many.

  Args:
    config: the experiment; with `docid.further=0`, the index stays as it is.
    index: an index whose documents have one docid each.
    quantiser: of its docids.
    tokenizer: of questions and documents.
    documents: the corpus, by row; their own questions are keys, too.
    found: generated questions, by id of the document.
  """
  most = config.docid.further
  if not most:
    return index
  questions = [(*d.questions, *found.get(d.id, ())) for d in documents]
  tokens = np.asarray(index.tokens)
  keys, owners = of(config, tokenizer, questions, tokens)
  codes = np.asarray(index.codes, np.int32)
  base = np.zeros((0, codes.shape[1] - 1), np.int32)
  if len(keys):
    # By the encoder and its token weights that documents are encoded with.
    train = config.train
    on_host = parallel.divides_tables(train.parallel, train.mesh)
    vectors = model.document_vectors(
      model.init_key(config.seed),
      config.model,
      token_table.make(tokens, on_host=on_host),
      vocab_size=tokenizer.get_vocab_size(),
      texts=jnp.asarray(keys),
    )
    base = docids.encode(quantiser, np.asarray(vectors), config.docid)
  chosen = further.choose(codes[:, :-1], base, owners, most=most)
  has = (chosen >= 0).sum(axis=0)
  console.note(
    f'{has.sum()} further docids from {len(keys)} '
    f'{config.docid.further_from}; {(has == 0).sum()} of {len(has)} documents '
    f'have none, {(has == most).sum()} have {most} (--config.docid.further).'
  )
  return indexes.with_further(index, further.build(codes, base, keys, chosen))
