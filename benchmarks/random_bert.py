"""A folder with a small BERT of random weights, in published form.

Benchmarks that need a published encoder, but not its quality, use it where no
weights are installed.
"""

import collections
import json
import pathlib
from collections.abc import Sequence

SIZES = {'width': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128}
SPECIAL = ('[PAD]', '[CLS]', '[SEP]', '[UNK]')


def write(folder: pathlib.Path, texts: Sequence[str], size: int = 4000) -> None:
  """Writes weights, sizes and a tokenizer of the most frequent words.

  Args:
    folder: a new folder.
    texts: of which the tokenizer knows the words.
    size: tokens of the vocabulary.
  """
  import jax
  import tokenizers
  from tokenizers import models, normalizers, pre_tokenizers, processors

  from rag_jax.nn import bert, bert_weights, weights

  normalizer = normalizers.BertNormalizer()
  splitter = pre_tokenizers.BertPreTokenizer()
  counts = collections.Counter(
    word
    for text in texts
    for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
  )
  words = sorted(counts, key=lambda word: (-counts[word], word))
  letters = sorted(set(''.join(words)))
  pieces = [*SPECIAL, *letters, *(f'##{x}' for x in letters), *words]
  vocabulary = {x: i for i, x in enumerate(list(dict.fromkeys(pieces))[:size])}
  made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
  made.normalizer, made.pre_tokenizer = normalizer, splitter
  made.add_special_tokens(list(SPECIAL))
  made.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B:1 [SEP]:1',
    special_tokens=[(x, vocabulary[x]) for x in ('[CLS]', '[SEP]')],
  )
  folder.mkdir(parents=True)
  made.save(str(folder / 'tokenizer.json'))
  sizes = bert.BertConfig(
    vocab_size=len(vocabulary), max_positions=512, **SIZES
  )
  params = bert.init(jax.random.key(0), sizes)
  state = bert_weights.to_state_dict(params, sizes)
  weights.write(folder / 'model.safetensors', state)
  about = bert_weights.describe(sizes, 'bert', 0)
  about |= {'architectures': ['BertModel']}
  (folder / 'config.json').write_text(json.dumps(about))


def use(values, folder: pathlib.Path) -> None:
  """Sets the embedded facts and such a BERT in an experiment.

  Args:
    values: the experiment, from its `get_config`.
    folder: of the BERT; it is written if it is not there.
  """
  from rag_jax.data import facts, pipeline

  if not folder.exists():
    found = facts.load()
    texts = [pipeline.document_text(x) for x in found.documents]
    texts += [x.text for own in found.splits.values() for x in own]
    write(folder, texts)
  values.data.path = 'facts'
  values.data.tokenizer = str(folder)
  for part in (values.query_encoder, values.reader):
    part.update(SIZES, weights=str(folder))
