"""The configuration of the question generator."""

import dataclasses

KINDS = ('fid', 't5', 'causal')
# What a model with published weights is told before it reads a document.
INSTRUCTION = 'Write a question that this text answers.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
  """The model that writes questions, its training, and what is kept."""

  kind: str = 'fid'  # kind of model, as of a reader that writes
  weights: str = ''  # 't5', 'causal': pretrained weights
  width: int = 128  # 'fid': width of token states
  num_layers: int = 2  # 'fid': transformer layers of encoder and decoder
  num_heads: int = 4  # 'fid': attention heads
  mlp_dim: int = 256  # 'fid': width inside a feed-forward layer
  # training steps; 0 = published weights as they are
  steps: int = 600
  batch_size: int = 32  # pairs of document and question per training step
  learning_rate: float = 2e-3  # peak of the learning rate; cosine decay to 0
  max_tokens: int = 32  # maximum tokens per question
  samples: int = 8  # questions drawn per document, before any is dropped
  temperature: float = 1.0  # of the draws; logits are divided by it
  top_k: int = 20  # draw from the k most probable tokens; 0 = all
  top_p: float = 0.95  # draw from the fewest tokens of this total probability
  # keep a question if BM25 finds its document among the first k; 0 = keep all
  round_trip: int = 10
  # file of questions to use instead of a model; '' = none
  path: str = ''

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if self.kind not in KINDS:
      raise _error('kind', f'one of {", ".join(KINDS)}', repr(self.kind))
    if bool(self.weights) != (self.kind != 'fid') and not self.path:
      wanted = "'' for kind 'fid'" if self.weights else 'set for this kind'
      raise _error('weights', wanted, repr(self.weights))
    for name in ('width', 'num_layers', 'num_heads', 'mlp_dim'):
      if getattr(self, name) < 1:
        raise _error(name, 'at least 1', getattr(self, name))
    for name in ('batch_size', 'max_tokens', 'samples'):
      if getattr(self, name) < 1:
        raise _error(name, 'at least 1', getattr(self, name))
    for name in ('steps', 'learning_rate', 'top_k', 'round_trip'):
      if not getattr(self, name) >= 0:
        raise _error(name, 'at least 0', getattr(self, name))
    if not self.temperature > 0:
      raise _error('temperature', 'above 0', self.temperature)
    if not 0 < self.top_p <= 1:
      raise _error('top_p', 'above 0 and at most 1', self.top_p)


def _error(field: str, wanted: str, got: object) -> ValueError:
  return ValueError(
    f'generator.{field} must be {wanted}, got {got}. '
    f'Set --config.generator.{field}.'
  )
