"""Everything of `rag_jax.ops` in all the places that JAX code runs."""

import functools
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import PartitionSpec

from rag_jax import ops
from rag_jax.ops import (
  beam,
  distillation,
  estimators,
  lexical,
  losses,
  trie,
)

KEY = jax.random.key(3)
K = 3  # of those that choose k

bind = functools.partial

# Weights that sum to 1: a real +inf, or nothing above -inf, makes a row NaN.
ONE = {
  'softmax': ops.softmax,
  'sparsemax': ops.sparsemax,
  'entmax15': ops.entmax15,
  'entmax(1.001)': bind(ops.entmax, alpha=1.001),
  'entmax(1.3)': bind(ops.entmax, alpha=1.3),
  'entmax(array)': lambda z, **o: ops.entmax(z, alpha=jnp.float32(1.7), **o),
}
# Weights that sum to k: +inf comes first, -inf last.
OF_K = {
  'capped_simplex': bind(ops.capped_simplex, k=K),
  'top_k': bind(ops.top_k, k=K),
  'relaxed_top_k': bind(ops.relaxed_top_k, k=K),
  'gumbel_top_k': bind(ops.gumbel_top_k, KEY, k=K),
  'perturbed_top_k': bind(ops.perturbed_top_k, KEY, k=K, num_samples=4),
}
OPERATORS = ONE | OF_K
# Weights that do not follow from the scores alone, or do so in steps.
ROUGH = ('top_k', 'gumbel_top_k', 'perturbed_top_k')


def _target(x, where):
  """Weights that x, the reader's side, stands for; NaN if a real one is."""
  if where is not None:
    x = jnp.where(where, x, -1e3)
  return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def _fenchel_young(z, x, where=None, *, total=1.0, **options):
  targets = total * _target(x, where)
  return losses.fenchel_young(z, targets, where=where, **options)


def _tokens(loss):
  def of(z, x, where=None):
    return loss(z, jnp.stack([x, x], axis=-1), where=where)

  return of


# (scores, what the reader says of the documents, where) -> a value a row.
LOSSES = {
  **{
    f'fenchel_young({name})': bind(_fenchel_young, operator=name)
    for name in ('softmax', 'sparsemax', 'entmax15')
  },
  **{
    f'fenchel_young(entmax, {alpha})': bind(
      _fenchel_young, operator='entmax', alpha=alpha
    )
    for alpha in (1.0, 1.001, 1.3)
  },
  'fenchel_young(capped_simplex)': bind(
    _fenchel_young, operator='capped_simplex', k=K, total=K
  ),
  'sequence_marginal': lambda z, x, where=None: losses.sequence_marginal(
    ops.softmax(z, where=where), x, where=where
  ),
  'token_marginal': _tokens(
    lambda z, x, where=None: losses.token_marginal(
      ops.softmax(z, where=where), x, where=where
    )
  ),
  'log_weights': lambda z, x, where=None: losses.log_weights(
    ops.softmax(z, where=where), where=where
  )[0].sum(-1),
  'docid_nll': lambda z, x, where=None: losses.docid_nll(z, where=where),
  'list_mle': losses.list_mle,
  'margin_ranking': lambda z, x, where=None: losses.margin_ranking(
    jnp.zeros_like(z[..., 0]), z, where=where
  ),
  'prefix_margin': lambda z, x, where=None: losses.prefix_margin(
    z, x, jnp.zeros_like(z), where=where
  ),
  'pdist': distillation.pdist,
  'loop': distillation.loop,
  'adist': distillation.adist,
  'replug': distillation.replug,
  'emdr2': distillation.emdr2,
  'emdr2_token': _tokens(distillation.emdr2_token),
}
ESTIMATORS = {
  'enumerate_all': estimators.enumerate_all,
  'rescore': bind(estimators.rescore, k=K),
  'straight_through': bind(estimators.straight_through, KEY),
  'leave_one_out': bind(estimators.leave_one_out, KEY, num_samples=3),
  'leave_one_out_set': bind(estimators.leave_one_out_set, KEY, k=K),
  'expected_utility': bind(estimators.expected_utility, KEY, k=K),
}


def _value(operator):
  """A number a row of an operator, which its gradient can be taken of."""

  def of(z, x, where=None):
    weights = operator(z, where=where)
    index = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    return (weights * jnp.broadcast_to(index, z.shape)).sum(-1)

  return of


EVERYTHING = (
  {name: _value(operator) for name, operator in OPERATORS.items()}
  | LOSSES
  | {f'estimators.{name}': each for name, each in ESTIMATORS.items()}
)


ALL = pytest.mark.parametrize('name', EVERYTHING)
SMOOTH = [
  name
  for name in EVERYTHING
  if name not in ROUGH and not name.startswith('estimators.')
] + ['estimators.enumerate_all', 'estimators.rescore']


def draw(*shape, seed=0):
  return jnp.asarray(
    np.random.default_rng(seed).normal(size=shape), jnp.float32
  )


Z, X = draw(4, 7), -jnp.abs(draw(4, 7, seed=1))
WHERE = jnp.broadcast_to(jnp.arange(7) < 5, (4, 7))
DIRTY_Z, DIRTY_X = (jnp.where(WHERE, x, jnp.nan) for x in (Z, X))


def slope(function):
  """(scores, reader, where) -> values and their gradient in the scores."""

  def both(z, x, where):
    value, pull = jax.vjp(lambda z: function(z, x, where=where), z)
    return value, pull(jnp.ones_like(value))[0]

  return both


def compilations(run):
  """How many programs are compiled while something runs."""
  count = 0

  def listen(event, _, **kwargs):
    nonlocal count
    count += event == '/jax/core/compile/backend_compile_duration'

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    run()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return count


class TestEager:
  def test_the_count_sees_a_program(self):
    fresh = jax.jit(lambda x: x + 41)
    assert compilations(lambda: fresh(Z)) == 1
    assert compilations(lambda: fresh(Z)) == 0

  @ALL
  def test_nothing_compiles_after_the_first_call_of_a_shape(self, name):
    function = EVERYTHING[name]

    def run():
      function(Z, X, where=WHERE)
      jax.vmap(lambda z, x: function(z, x))(Z, X)
      jax.grad(lambda z: function(z, X).sum())(Z)

    run()
    run()  # a transformed program may be cached at its second use
    assert compilations(run) == 0

  def test_no_call_costs_much_more_than_softmax(self):
    names = ('sparsemax', 'entmax15', 'entmax(1.3)', 'capped_simplex')
    calls = {name: OPERATORS[name] for name in names}
    calls['fenchel_young'] = functools.partial(
      losses.fenchel_young, targets=jax.nn.softmax(X)
    )
    calls['jax.nn.softmax'] = jax.nn.softmax
    times = {name: [] for name in calls}
    for _ in range(30):
      for name, call in calls.items():
        start = time.perf_counter()
        jax.block_until_ready(call(Z))
        times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in times.items()}
    limit = 3 * medians.pop('jax.nn.softmax') + 1e-3
    assert max(medians.values()) < limit, medians

  def test_search_and_words_compile_once(self):
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    tree, table = trie.build(codes), jnp.array([0.0, 2.0, 1.0, 0.0])
    words = lexical.build(np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4)
    query = jnp.array([[2, 3]])

    def step_fn(params, cache, frontier):
      return params[frontier.children], cache

    def run():
      beam.search(table, (), tree, step_fn=step_fn, batch_size=1, beam_size=2)
      beam.score(table, (), tree, codes[None], step_fn=step_fn)
      beam.score_all(table, (), tree, codes, step_fn=step_fn, batch_size=1)
      lexical.score_all(words, query)
      lexical.score(words, query, jnp.array([[1]]))

    run()
    assert compilations(run) == 0


class TestDerivatives:
  @pytest.mark.parametrize('name', SMOOTH)
  def test_hessians_match_finite_differences(self, name):
    with jax.enable_x64(True):
      rng = np.random.default_rng(5)
      z, x = jnp.asarray(rng.normal(size=6)), -jnp.asarray(rng.random(6))

      def value(z):
        return EVERYTHING[name](z, x)

      assert value(z).dtype == jnp.float64
      step, eye = 1e-5, np.eye(6)

      def differences(function):
        return np.stack(
          [
            (function(z + step * e) - function(z - step * e)) / (2 * step)
            for e in eye
          ]
        )

      gradient = jax.jit(jax.grad(value))
      np.testing.assert_allclose(gradient(z), differences(value), atol=1e-7)
      wanted = differences(gradient)
      forward = jax.jit(jax.jacfwd(jax.grad(value)))(z)
      backward = jax.jit(jax.jacrev(jax.grad(value)))(z)
      np.testing.assert_allclose(forward, wanted, atol=1e-6)
      np.testing.assert_allclose(backward, wanted, atol=1e-6)

  @pytest.mark.parametrize('name', ['sparsemax', 'entmax15', 'softmax'])
  def test_the_hessian_of_a_fenchel_young_loss_is_the_jacobian(self, name):
    z, target = jnp.array([1.0, 0.6, -3.0]), jnp.array([0.0, 1.0, 0.0])

    def loss(z):
      return losses.fenchel_young(z, target, operator=name)

    p = np.asarray(OPERATORS[name](z))
    s = {'softmax': p, 'sparsemax': (p > 0).astype(float), 'entmax15': p**0.5}
    s = s[name]
    wanted = np.diag(s) - np.outer(s, s) / s.sum()
    np.testing.assert_allclose(jax.hessian(loss)(z), wanted, atol=1e-6)

  def test_a_step_of_maml_and_one_of_newton(self):
    target = jnp.array([0.2, 0.3, 0.5])

    def inner(z):
      return losses.fenchel_young(z, target, operator='softmax')

    z = jnp.array([1.0, 0.0, -1.0])
    outer = jax.grad(lambda z: inner(z - jax.grad(inner)(z)))(z)
    # d/dz f(z - f'(z)) = (I - H) f'(z - f'(z)), worked out by hand.
    p = jax.nn.softmax(z)
    hessian = jnp.diag(p) - jnp.outer(p, p)
    moved = jax.nn.softmax(z - (p - target)) - target
    np.testing.assert_allclose(outer, (jnp.eye(3) - hessian) @ moved, atol=1e-6)
    for _ in range(20):
      z = z - jnp.linalg.pinv(jax.hessian(inner)(z)) @ jax.grad(inner)(z)
    np.testing.assert_allclose(jax.nn.softmax(z), target, atol=1e-5)

  def test_the_dtype_of_the_input_is_kept(self):
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
      for name in EVERYTHING:
        value = EVERYTHING[name](Z.astype(dtype), X.astype(dtype))
        assert value.dtype == dtype, name


class TestPlaces:
  @ALL
  def test_shard_map_checks_what_varies(self, name):
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec('x')
    function = slope(EVERYTHING[name])
    shared = jax.jit(
      jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)
    )(Z, X, WHERE)
    halves = [
      jax.jit(function)(Z[i:][:2], X[i:][:2], WHERE[i:][:2]) for i in (0, 2)
    ]
    for one, *parts in zip(shared, *halves, strict=True):
      np.testing.assert_allclose(one, np.concatenate(parts), atol=1e-5)
    # Scores that all devices share, and masks that they do not.
    jax.jit(
      jax.shard_map(
        lambda z, x, where: EVERYTHING[name](z, x, where=where),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), rows),
        out_specs=rows,
      )
    )(Z[:2], X[:2], WHERE)

  @ALL
  def test_a_program_is_exported_for_any_shape(self, name):
    shape = export.symbolic_shape('b, k', constraints=['k >= 4'])
    floats, bools = (
      jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, bool)
    )
    program = jax.jit(slope(EVERYTHING[name]))
    exported = export.export(program)(floats, floats, bools)
    for one, two in zip(
      exported.call(Z, X, WHERE), program(Z, X, WHERE), strict=True
    ):
      np.testing.assert_allclose(one, two, atol=1e-5)

  @ALL
  def test_strict_promotion_and_no_debris_of_nan(self, name):
    function = slope(EVERYTHING[name])
    wanted = jax.jit(function)(Z, X, WHERE)
    with (
      jax.numpy_dtype_promotion('strict'),
      jax.numpy_rank_promotion('raise'),
      jax.debug_nans(True),
    ):
      # One program, so that nothing of the table above is looked at.
      found = jax.jit(function)(DIRTY_Z, DIRTY_X, WHERE)
      EVERYTHING[name](Z.astype(jnp.bfloat16), X.astype(jnp.bfloat16))
    for one, two in zip(found, wanted, strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)

  @ALL
  def test_without_a_compiler(self, name):
    function = slope(EVERYTHING[name])
    wanted = jax.jit(function)(Z, X, WHERE)
    with jax.disable_jit():
      found = function(Z, X, WHERE)
    for one, two in zip(found, wanted, strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)


def edge_scores(params, cache, frontier):
  return params[:, None, None] + jnp.sin(frontier.children + 1.0), cache


class TestSearch:
  CODES = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 2], [2, 0, 0]])

  def search(self, params):
    return beam.search(
      params,
      (),
      trie.build(self.CODES),
      step_fn=edge_scores,
      batch_size=params.shape[0],
      beam_size=3,
    ).scores

  def test_search_and_scores_under_shard_map(self):
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec('x')
    codes = jnp.asarray(self.CODES)
    words = lexical.build(np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4)

    def run(params, query):
      return (
        self.search(params),
        beam.score_all(
          params,
          (),
          trie.build(self.CODES),
          codes,
          step_fn=edge_scores,
          batch_size=params.shape[0],
          chunk=2,
        ),
        lexical.score_all(words, query),
        lexical.score(words, query, jnp.zeros((query.shape[0], 1), jnp.int32)),
      )

    params, query = jnp.arange(4.0), jnp.array([[1, 0], [2, 3], [3, 3], [1, 2]])
    shared = jax.jit(
      jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows)
    )(params, query)
    for one, two in zip(shared, run(params, query), strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)

  def test_search_is_exported_for_any_batch(self):
    (batch,) = export.symbolic_shape('b')
    exported = export.export(jax.jit(self.search))(
      jax.ShapeDtypeStruct((batch,), jnp.float32)
    )
    params = jnp.arange(4.0)
    np.testing.assert_allclose(
      exported.call(params), self.search(params), atol=1e-5
    )

  def test_strict_promotion(self):
    with (
      jax.numpy_dtype_promotion('strict'),
      jax.numpy_rank_promotion('raise'),
      jax.debug_nans(True),
    ):
      assert np.isfinite(self.search(jnp.zeros(2))).all()

  def test_a_score_that_is_nan_shows(self):
    found = self.search(jnp.array([0.0, jnp.nan]))
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


class TestImport:
  def imported(self, module):
    code = f'import sys, {module}; print(*sys.modules)'
    return set(
      subprocess.check_output([sys.executable, '-c', code]).decode().split()
    )

  def test_operators_need_jax_and_numpy_alone(self):
    more = self.imported('rag_jax.ops') - self.imported('jax, jax.numpy')
    packages = {name.split('.')[0] for name in more}
    assert packages <= {'rag_jax'} | set(sys.stdlib_module_names), packages

  def test_they_take_little_longer_than_jax(self):
    def seconds(module):
      code = (
        'import time; start = time.perf_counter(); '
        f'import {module}; print(time.perf_counter() - start)'
      )
      return float(subprocess.check_output([sys.executable, '-c', code]))

    both = [(seconds('rag_jax.ops'), seconds('jax')) for _ in range(5)]
    ours, theirs = (min(each) for each in zip(*both, strict=True))
    assert ours < 1.2 * theirs, both
