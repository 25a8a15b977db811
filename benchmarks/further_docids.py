"""How many questions lead to a docid of their document, before any training.

  python launch.py --config=generated_questions:both --workdir=runs/both
  python benchmarks/further_docids.py --workdir=runs/both

A question leads to a docid if the quantiser gives it the same codes, but for
the last one, which is a number. Compared are documents with one docid each, and
with further docids from generated questions and from crops. A question whose
codes many docids have leads to many documents; the number of these docids is
printed, too.

With `--search`, also the search itself, without any training: Hits@1 and
Hits@10. A decoder has no influence yet, so it has no layers here.

The second part fits the quantiser to the documents that training questions ask
for. The others are added to these: their docids are those of a live index, and
the questions are those about them.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rag_jax import docid_search, further_keys, generated, model, store
from rag_jax.components import query_encoder
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.generation import cache, corpus_questions
from rag_jax.index import docids, further
from rag_jax.index import index as indexes

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A run with generated questions.'
)
SEARCH = flags.DEFINE_bool('search', False, 'Whether to search, untrained.')
MOST = (1, 3, 8)  # further docids of a document
SEARCHED = 3  # of them in the search


@functools.partial(jax.jit, static_argnames=('config', 'size'))
def embed(rng, tokens, texts, *, config, size):
  """Vectors of texts by the initial encoder."""
  return model.document_vectors(
    rng, config, tokens, vocab_size=size, texts=texts
  )


def counts(asked, codes):
  """How many of codes int[n, L] are those of each question, int[Q, L]."""
  every, number = np.unique(codes, axis=0, return_counts=True)
  known = dict(zip(map(tuple, every), number, strict=True))
  return np.array([known.get(tuple(own), 0) for own in asked])


@functools.partial(jax.jit, static_argnames='config')
def search(params, index, texts, *, config):
  """The documents that the beam search finds, int32[Q, K]."""
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, texts
  )
  found = docid_search.retrieve(params, config, index, encoding)
  return jnp.where(found.where, found.documents, -1)


def hits(config, tokens, codes, keys, splits, texts, *, size):
  """Prints Hits of the untrained search with up to `SEARCHED` further docids.

  Args:
    config: the experiment.
    tokens: int32[N, P], the documents.
    codes: int32[N, L], their own docids.
    keys: source -> (codes int[m, L - 1], documents int32[m], keys int[m, T]).
    splits: name -> rows of the gold documents int[Q].
    texts: name -> tokens of the questions int[Q, T].
    size: number of token ids.
  """
  decoder = dataclasses.replace(config.id_decoder, num_layers=0)
  own = dataclasses.replace(config.model, id_decoder=decoder)
  for source, parts in {'nothing': None, **keys}.items():
    index = indexes.from_codes(tokens, codes)
    if parts is not None:
      base, owners, kept = parts
      chosen = further.choose(codes[:, :-1], base, owners, most=SEARCHED)
      built = further.build(codes, base, kept, chosen)
      index = indexes.with_further(index, built)
    rng = model.init_key(config.seed)
    params = jax.jit(model.init, static_argnames=('config', 'vocab_size'))(
      rng, own, index, vocab_size=size
    )
    for name, gold in splits.items():
      found = search(params, index, jnp.asarray(texts[name]), config=own)
      same = np.asarray(found) == gold[:, None]
      shares = [same[:, :k].any(axis=1).mean() for k in (1, 10)]
      print(
        f'  {name}, further docids from {source}: Hits@1 {shares[0]:.3f}, '
        f'Hits@10 {shares[1]:.3f}',
        flush=True,
      )


def report(title, keys, own, encode, splits, texts):
  """Prints the share of questions that lead to a docid of their document.

  Args:
    title: of the table.
    keys: source -> (keys int[m, T], row of the document of each).
    own: int[N, L - 1], codes of the documents.
    encode: tokens -> their codes.
    splits: name -> rows of the gold documents int[Q].
    texts: name -> tokens of the questions int[Q, T].

  Returns:
    Source -> (codes of its keys, row of the document of each, keys).
  """
  print(title)
  codes = {source: encode(tokens) for source, (tokens, _) in keys.items()}
  for name, gold in splits.items():
    asked = encode(texts[name])
    first = (asked == own[gold]).all(axis=1)
    alike = counts(asked, own)
    print(
      f'  {name} ({len(gold)}): one docid {first.mean():.3f}, '
      f'{alike.mean():.1f} docids with the codes of a question'
    )
    for source, (_, owners) in keys.items():
      for most in MOST:
        chosen = further.choose(own, codes[source], owners, most=most)
        mine = chosen[:, gold]  # [F, Q]
        same = (codes[source][mine] == asked).all(axis=-1) & (mine >= 0)
        found = first | same.any(axis=0)
        each = (chosen >= 0).sum() / len(own)
        more = counts(asked, codes[source][chosen[chosen >= 0]])
        print(
          f'    and up to {most} from {source} ({each:.2f} on average) '
          f'{found.mean():.3f}, {(alike + more).mean():.1f} docids',
          flush=True,
        )
  return {name: (codes[name], own, kept) for name, (kept, own) in keys.items()}


def main(_):
  """Prints both tables."""
  folder = pathlib.Path(WORKDIR.value)
  config = store.read_config(folder)
  tokenizer = tokenizers.load(folder / store.TOKENIZER)
  documents = store.load_documents(folder)
  dataset = formats.load(
    config.data.path, format=config.data.format, **config.data.reading
  )
  rows = {document.id: row for row, document in enumerate(documents)}
  found = cache.read(folder / corpus_questions.QUESTIONS, list(rows))
  size = tokenizer.get_vocab_size()

  tokens = pipeline.encode_documents(tokenizer, documents, config.data).tokens
  vectors = functools.partial(
    embed,
    model.init_key(config.seed),
    jnp.asarray(tokens),
    config=config.model,
    size=size,
  )
  whole = np.asarray(vectors(jnp.asarray(tokens)))
  keys = {}
  for source in docids.FURTHER_FROM:
    own = dataclasses.replace(config.docid, further=1, further_from=source)
    keys[source] = further_keys.of(
      dataclasses.replace(config, docid=own),
      tokenizer,
      [found[name] for name in rows],
      tokens,
    )
  splits, texts = {}, {}
  for name, questions in dataset.splits.items():
    asked = [question for question in questions if question.document_ids]
    if name in ('train', 'calibration') or not asked:
      continue
    splits[name] = np.array([rows[q.document_ids[0]] for q in asked])
    texts[name] = generated.tokens_of(tokenizer, [q.text for q in asked])
  trained = {i for q in dataset.splits['train'] for i in q.document_ids}
  is_old = np.array([name in trained for name in rows])
  for title, kept in (('all documents', is_old | True), ('added', is_old)):
    _, quantiser = docids.fit(whole[kept], config.docid, seed=config.seed)

    def encode(tokens, quantiser=quantiser):
      own = np.asarray(vectors(jnp.asarray(tokens)))
      return docids.encode(quantiser, own, config.docid)

    if title == 'added':
      about = {name: ~is_old[gold] for name, gold in splits.items()}
      texts = {name: texts[name][own] for name, own in about.items()}
      splits = {name: splits[name][own] for name, own in about.items()}
      splits = {name: own for name, own in splits.items() if len(own)}
    codes = docids.encode(quantiser, whole, config.docid)
    coded = report(title, keys, codes, encode, splits, texts)
    docid = docids.append_uniqueness(codes)
    if SEARCH.value:
      hits(config, tokens, docid, coded, splits, texts, size=size)


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
