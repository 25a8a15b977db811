"""A stage of training as a value: what it asks, reads, minimises and trains.

An experiment is an ordered list of named stages. Each says which questions it
trains on (`data`), which documents they meet (`candidates`), which losses are
minimised with which weight (`losses`; absent = off) and which components move
at which multiple of the learning rate (`trains`; absent = frozen). How the
answer's loss reaches the search is `estimator`, and over what the answer's
likelihood is summed is `marginal`. docs/methods.md says which published system
is which choice.
"""

import dataclasses

from rag_jax.components import ranker

COMPONENTS = ('query_encoder', 'id_decoder', 'ranker', 'reader')
CANDIDATES = {
  'beam': 'what the beam finds',
  'beam+gold': 'that and the gold documents, which are always read',
  'sampled': 'what the beam finds; those read are drawn from it at random',
  'all': 'every document of a small corpus',
  'gold': 'the gold documents alone; nothing is searched',
  'gold+negative': 'these and one hard negative, the best of a search',
}
UNSEARCHED = ('gold', 'gold+negative')  # candidates without a search
ESTIMATORS = {
  'rescore': "through the weights of the candidates' scores",
  'straight_through': 'top k without replacement, soft backwards',
  'gumbel_softmax': 'one draw, soft backwards',
  'leave_one_out': 'REINFORCE, the other draws as baseline',
  'leave_one_out_set': 'REINFORCE over a set of distinct documents',
  'expected_utility': 'over documents drawn without replacement',
  'top_k': 'exactly, over the best of those that are read',
  'enumerate': 'exactly, over all that is read',
  'none': 'not at all',
}
# Estimators that take the cost of each document, and not its weight.
OF_COSTS = tuple(
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
  batch_size: int = 32  # questions a step, over all devices
  learning_rate: float = 1e-3  # peak of the learning rate; cosine decay to 0
  # path of other data to train the reader on; '' = the experiment's own
  data: str = ''
  candidates: str = 'beam+gold'  # which documents a question meets
  # weight of each loss: `losses.answer`; 0 = off
  losses: tuple[tuple[str, float], ...] = ()
  # learning-rate multiplier of each component: `trains.reader`; 0 = frozen
  trains: tuple[tuple[str, float], ...] = EVERYTHING
  read_size: int = 0  # documents that are read; 0 = `search.read_size`
  passage_tokens: int = 0  # tokens of a document that are read; 0 = all
  # the ranker's operator in this stage; '' = `ranker.operator`
  operator: str = ''
  # marginal of the loss 'answer'; '' = the first of the reader's kind
  marginal: str = ''
  estimator: str = 'rescore'  # how the answer's loss reaches the search
  cost: str = 'nll'  # cost of a document, for the estimator
  samples: int = 2  # documents that an estimator draws
  temperature: float = 1.0  # of draws and of teachers, nats
  margin: float = 1.0  # of the losses 'margin' and 'prefix_margin', nats

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
    for name in ('steps', 'read_size', 'passage_tokens', 'learning_rate'):
      if not getattr(self, name) >= 0:
        raise _error(name, 'at least 0', getattr(self, name))
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
        "stages.STAGE.candidates must be 'gold' where stages.STAGE.data names "
        f'other documents, which no search finds, got {self.candidates!r}. '
        'Set --config.stages.STAGE.candidates=gold.'
      )

  def weight(self, loss: str) -> float:
    """The weight of a loss; 0 = off."""
    return dict(self.losses).get(loss, 0.0)

  def rate(self, component: str) -> float:
    """The multiplier of a component's learning rate; 0 = frozen."""
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
