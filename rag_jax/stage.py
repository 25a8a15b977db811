"""A stage of training: its data, documents, losses and trained components.

An experiment is an ordered list of named stages. The main choices of a stage:
- `data`: the questions, if not those of the experiment;
- `candidates`: the documents that are ranked and read for a question;
- `losses`: the weight of each loss; absent = off;
- `trains`: the learning-rate multiplier of each component; absent = frozen;
- `marginal`: how the likelihood of the answer is marginalised over documents;
- `estimator`: the gradient estimator from the answer to the search.

docs/methods.md expresses published systems by these choices.
"""

import dataclasses

from rag_jax.components import ranker

COMPONENTS = ('query_encoder', 'id_decoder', 'ranker', 'reader')
CANDIDATES = {
  'beam': 'documents from the beam search',
  'beam+gold': 'those and the gold documents, which are read first',
  'sampled': 'documents from the beam search; those read are sampled from them',
  'all': 'every document of a small corpus',
  'gold': 'the gold documents, without a search',
  'gold+negative': 'the gold documents and one hard negative, without a search',
}
UNSEARCHED = ('gold', 'gold+negative')  # candidates without a search
ESTIMATORS = {
  'rescore': 'backpropagation through the weights of the documents',
  'straight_through': 'hard top k forward, relaxed top k backward',
  'gumbel_softmax': 'one Gumbel-softmax sample, relaxed backward',
  'leave_one_out': 'REINFORCE, with the other samples as the baseline',
  'leave_one_out_set': 'REINFORCE over a set of distinct documents',
  'expected_utility': 'expectation over samples without replacement',
  'top_k': 'exact expectation over the best documents read',
  'enumerate': 'exact expectation over all documents read',
  'none': 'no gradient to the search',
}
# Estimators of the loss expected_cost, from the cost of each document.
COST_ESTIMATORS = tuple(
  name
  for name in ESTIMATORS
  if name not in ('rescore', 'straight_through', 'none')
)
COSTS = ('nll', 'em', 'f1')
EVERYTHING = tuple((name, 1.0) for name in COMPONENTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One stage of training; see the module's docstring."""

  steps: int = 0  # training steps; 0 leaves the stage out
  batch_size: int = 32  # questions per step, over all devices
  learning_rate: float = 1e-3  # peak of the learning rate; cosine decay to 0
  # path of another data set to train the reader on; '' = `data.path`
  data: str = ''
  # which documents are ranked and read for a question
  candidates: str = 'beam+gold'
  # weight of each loss: `losses.answer`; 0 = off
  losses: tuple[tuple[str, float], ...] = ()
  # learning-rate multiplier of each component: `trains.reader`; 0 = frozen
  trains: tuple[tuple[str, float], ...] = EVERYTHING
  # number of documents that the reader reads; 0 = `search.read_size`
  read_size: int = 0
  passage_tokens: int = 0  # tokens read of a document; 0 = all
  # share of the questions that a reader with citations reads without their gold
  # documents, to learn that the answer is then empty
  without_gold: float = 0.0
  # share of the questions whose rare tokens the reader, and the network that
  # chooses the words of a second search, see exchanged at random, so that they
  # are copied from the documents
  renamed: float = 0.0
  renamed_numbers: bool = True  # whether tokens with a digit are among these
  # temperature at which the words of a second search are sampled; 0 = the best
  hop_noise: float = 0.0
  # the ranker's operator in this stage; '' = `ranker.operator`
  operator: str = ''
  # marginal of the loss 'answer'; '' = the default of the reader's kind
  marginal: str = ''
  # gradient estimator from the answer to the search
  estimator: str = 'rescore'
  cost: str = 'nll'  # cost of a document, for the loss 'expected_cost'
  samples: int = 2  # number of documents that an estimator samples
  # temperature of samples and of teacher distributions, nats
  temperature: float = 1.0
  # margin of the losses 'margin' and 'prefix_margin', nats
  margin: float = 1.0

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    for name in ('losses', 'trains'):
      own = getattr(self, name)
      pairs = own.items() if isinstance(own, dict) else own
      for key, value in pairs:
        if not value >= 0:
          raise ValueError(
            f'stages.STAGE.{name}.{key} must be at least 0, got {value}. '
            f'Set --config.stages.STAGE.{name}.{key}.'
          )
      kept = tuple((key, float(value)) for key, value in pairs if value)
      object.__setattr__(self, name, kept)
    self._check_names()
    for name in ('batch_size', 'samples'):
      if getattr(self, name) < 1:
        raise _error(name, 'at least 1', getattr(self, name))
    for name in (
      *('steps', 'read_size', 'passage_tokens'),
      *('learning_rate', 'hop_noise'),
    ):
      if not getattr(self, name) >= 0:
        raise _error(name, 'at least 0', getattr(self, name))
    if not 0 <= self.without_gold < 1:
      raise _error('without_gold', 'from 0 to below 1', self.without_gold)
    if not 0 <= self.renamed <= 1:
      raise _error('renamed', 'from 0 to 1', self.renamed)
    if not self.temperature > 0:
      raise _error('temperature', 'above 0', self.temperature)
    if self.estimator == 'leave_one_out' and self.samples < 2:
      raise _error('samples', "at least 2 for 'leave_one_out'", self.samples)

  def _check_names(self) -> None:
    for name, known in (
      ('candidates', CANDIDATES),
      ('estimator', ESTIMATORS),
      ('cost', COSTS),
    ):
      if getattr(self, name) not in known:
        choices = f'one of {", ".join(known)}'
        raise _error(name, choices, repr(getattr(self, name)))
    if self.operator:
      ranker.check_operator(self.operator, field='stages.STAGE.operator')
    for name, _ in self.trains:
      if name not in COMPONENTS:
        raise _error('trains', f'of {", ".join(COMPONENTS)}', repr(name))
    if self.data and self.candidates != 'gold':
      raise ValueError(
        "stages.STAGE.candidates must be 'gold' if stages.STAGE.data is set, "
        'because its documents are not in the index, got '
        f'{self.candidates!r}. Set --config.stages.STAGE.candidates=gold.'
      )

  def weight(self, loss: str) -> float:
    """The weight of a loss; 0 = off."""
    return dict(self.losses).get(loss, 0.0)

  def rate(self, component: str) -> float:
    """The learning-rate multiplier of a component; 0 = frozen."""
    return dict(self.trains).get(component, 0.0)

  @property
  def searches(self) -> bool:
    """Whether a step runs a search."""
    return self.candidates not in UNSEARCHED


def _error(field: str, wanted: str, got: object) -> ValueError:
  return ValueError(
    f'stages.STAGE.{field} must be {wanted}, got {got}. '
    f'Set --config.stages.STAGE.{field}.'
  )
