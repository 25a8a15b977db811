"""A system whose reader selects sentences, from a folder to its answer."""

import functools

import jax
import pytest

from rag_jax import config as configs
from rag_jax import grounding, model
from rag_jax import workdir as workdirs
from rag_jax.ops import summary_metrics


@pytest.fixture(scope='module')
def system(tiny_values, tiny_folder, tmp_path_factory):
  """An untrained one; nearly every sentence is selected."""
  reader = {'kind': 'sentences', 'citations': True, 'threshold': 0.01}
  reader = tiny_values['reader'] | reader | {'max_answer_tokens': 60}
  # References may be longer than answers.
  data = {'max_document_tokens': 60, 'max_answer_tokens': 70}
  data = tiny_values['data'] | data
  config = configs.build(tiny_values | {'data': data, 'reader': reader})
  prepared = workdirs.open(config, tmp_path_factory.mktemp('run') / 'run')
  init = functools.partial(
    model.init, config=config.model, vocab_size=prepared.vocab_size
  )
  params = jax.jit(init)(
    jax.random.key(0), index=prepared.index, pretrained=prepared.pretrained
  )
  return prepared.trained(params)


def test_answers_are_sentences_of_the_documents_that_they_cite(system):
  [answer] = system.ask(['How much does the red cat weigh?'])
  sentences = summary_metrics.parse(answer.text)
  assert len(sentences) > 1 and not answer.abstained
  for sentence in sentences:
    [number] = sentence.citations
    source = answer.cited[number - 1]
    assert grounding.contains(source, sentence.text)
    assert sentence.text.count('.') == 1  # it is not all of the document
  assert {own.id for own in answer.cited} <= {
    own.document.id for own in answer.candidates if own.weight > 0
  }
