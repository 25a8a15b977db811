"""A folder with a small BERT of random weights, in published form.

Benchmarks that need a published encoder, but not its quality, use it where no
weights are installed.
"""

import json
import pathlib
from collections.abc import Sequence

SIZES = {'width': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128}


def write(folder: pathlib.Path, texts: Sequence[str], size: int = 4000) -> None:
  """Writes weights, sizes and a tokenizer of the texts.

  Args:
    folder: a new folder.
    texts: of which the tokenizer learns word pieces.
    size: tokens of the vocabulary.
  """
  import jax
  from tokenizers import implementations, processors

  from rag_jax.nn import bert, bert_weights, weights

  made = implementations.BertWordPieceTokenizer()
  made.train_from_iterator(texts, vocab_size=size, show_progress=False)
  made.post_processor = processors.BertProcessing(
    *((x, made.token_to_id(x)) for x in ('[SEP]', '[CLS]'))
  )
  folder.mkdir(parents=True)
  made.save(str(folder / 'tokenizer.json'))
  sizes = bert.BertConfig(
    vocab_size=made.get_vocab_size(), max_positions=512, **SIZES
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
