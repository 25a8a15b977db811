"""Everything of `rag_jax.ops` in all the places that JAX code runs."""

import functools
import pathlib
import subprocess
import sys
import warnings

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


@functools.cache
def compiled(name):
  """`slope` of an entry of the table, compiled once for all tests."""
  return jax.jit(slope(EVERYTHING[name]))


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

  @pytest.mark.long
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
    z = 0.1 * z
    for _ in range(5):
      z = z - jnp.linalg.pinv(jax.hessian(inner)(z)) @ jax.grad(inner)(z)
    np.testing.assert_allclose(jax.nn.softmax(z), target, atol=1e-5)

  def test_the_dtype_of_the_input_is_kept(self):
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
      for name in EVERYTHING:
        value = jax.eval_shape(
          EVERYTHING[name], Z.astype(dtype), X.astype(dtype)
        )
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
  @pytest.mark.long
  def test_a_program_is_exported_for_any_shape(self, name):
    shape = export.symbolic_shape('b, k', constraints=['k >= 4'])
    floats, bools = (
      jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, bool)
    )
    program = compiled(name)
    exported = export.export(program)(floats, floats, bools)
    for one, two in zip(
      exported.call(Z, X, WHERE), program(Z, X, WHERE), strict=True
    ):
      np.testing.assert_allclose(one, two, atol=1e-5)

  @ALL
  def test_strict_promotion_and_no_debris_of_nan(self, name):
    function = slope(EVERYTHING[name])
    wanted = compiled(name)(Z, X, WHERE)
    with (
      jax.numpy_dtype_promotion('strict'),
      jax.numpy_rank_promotion('raise'),
      jax.debug_nans(True),
    ):
      # One program, so that nothing of the table above is looked at.
      found = jax.jit(function)(DIRTY_Z, DIRTY_X, WHERE)
      half = Z.astype(jnp.bfloat16), X.astype(jnp.bfloat16)
      jax.jit(EVERYTHING[name])(*half)
    for one, two in zip(found, wanted, strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)

  @ALL
  @pytest.mark.long
  def test_without_a_compiler(self, name):
    function = slope(EVERYTHING[name])
    wanted = compiled(name)(Z, X, WHERE)
    with jax.disable_jit():
      found = function(Z, X, WHERE)
    for one, two in zip(found, wanted, strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)


def edge_scores(params, cache, frontier):
  return params[:, None, None] + jnp.sin(
    frontier.children.astype(jnp.float32)
  ), cache


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
      tree, codes = trie.build(self.CODES), jnp.asarray(self.CODES)
      options = {
        'allowed': jnp.array([True, True, False, True, True]),
        'lookahead': trie.max_below(tree, jnp.zeros((2, 5))),
      }
      shared = {'step_fn': edge_scores, 'batch_size': 2}
      search = functools.partial(beam.search, **shared, **options)
      found = jax.jit(lambda x: search(x, (), tree, beam_size=3))(jnp.zeros(2))
      exact = functools.partial(beam.score_all, **shared, **options)
      scores = jax.jit(lambda x: exact(x, (), tree, codes))(jnp.zeros(2))
      np.testing.assert_allclose(
        found.scores, jax.lax.top_k(scores, 3)[0], atol=1e-5
      )
      assert (beam.regret(found, scores, k=3) == 0).all()

      def all_codes(params, cache, frontier):
        return jnp.zeros((*frontier.codes.shape, 3)), cache

      found = beam.search(
        (), (), tree, beam_size=5, logits=True, batch_size=2, step_fn=all_codes
      )
      assert np.asarray(found.where).all()
      words = lexical.build(
        np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4, pair_weight=0.5
      )
      query = lexical.with_pairs(words, jnp.array([[1, 2]]))
      np.testing.assert_allclose(
        lexical.score_all(words, query),
        lexical.score(words, query, jnp.array([[0, 1]])),
        rtol=1e-6,
      )

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


class TestNotFinite:
  """The rule in the docstring of `selection`, over everything."""

  @ALL
  @pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf, 1e30])
  def test_masked_slots_may_hold_anything(self, name, junk):
    function = compiled(name)
    z, x = (jnp.where(WHERE, each, junk) for each in (Z, X))
    for one, two in zip(
      function(z, x, WHERE), function(Z, X, WHERE), strict=True
    ):
      np.testing.assert_allclose(one, two, atol=1e-5)

  @ALL
  def test_a_row_without_anything_real_is_zero(self, name):
    value, gradient = compiled(name)(DIRTY_Z, DIRTY_X, jnp.zeros_like(WHERE))
    assert (value == 0).all() and (gradient == 0).all()

  @ALL
  @pytest.mark.parametrize('where', [None, WHERE])
  def test_nan_is_nan_and_stays_in_its_row(self, name, where):
    function = compiled(name)
    clean = function(Z, X, where)
    value, gradient = function(Z.at[1, 2].set(jnp.nan), X, where)
    assert np.isnan(value[1])
    if name not in ('top_k', 'gumbel_top_k'):  # they have no gradient
      real = slice(None) if where is None else np.asarray(where[1])
      assert np.isnan(gradient[1][real]).all()
    assert not np.isnan(gradient[1][~np.asarray(WHERE[1])]).any() or (
      where is None
    )
    others = np.array([0, 2, 3])
    np.testing.assert_allclose(value[others], clean[0][others], atol=1e-5)
    np.testing.assert_allclose(gradient[others], clean[1][others], atol=1e-5)

  @pytest.mark.parametrize(
    'name', [*LOSSES, *(f'estimators.{each}' for each in ESTIMATORS)]
  )
  def test_what_the_reader_says_may_not_be_nan_either(self, name):
    if name in ('log_weights', 'docid_nll', 'margin_ranking'):
      pytest.skip('it takes nothing of the reader')
    function = EVERYTHING[name]
    drawn = jax.vmap(lambda x: function(Z[0], x))(jnp.full((1, 7), jnp.nan))
    assert np.isnan(drawn).all()

  @ALL
  def test_a_score_of_minus_infinity_is_a_document_less(self, name):
    if name in ('docid_nll', 'list_mle', 'prefix_margin', *OF_K):
      pytest.skip('it says that what is impossible happens, or is of k')
    if name.startswith('estimators.') and 'enumerate' not in name:
      pytest.skip('draws among fewer are other draws')
    function = EVERYTHING[name]
    teachers = ('pdist', 'loop', 'adist', 'replug')
    if name.startswith('fenchel_young') or name in teachers:
      x = X.at[:, 6].set(-1e3)  # the teacher has it at 0
      x = X.at[:, 6].set(1e3) if name == 'loop' else x
    else:
      x = X
    if 'capped' in name:
      pytest.skip('a choice of k gives to the last too')
    value, gradient = slope(function)(Z.at[:, 6].set(-jnp.inf), x, None)
    less, slopes = slope(function)(Z[:, :6], x[:, :6], None)
    np.testing.assert_allclose(value, less, atol=1e-5)
    np.testing.assert_allclose(gradient[:, :6], slopes, atol=1e-5)
    assert (gradient[:, 6] == 0).all()

  @pytest.mark.parametrize('name', OPERATORS)
  def test_infinities_as_the_rule_says(self, name):
    operator = OPERATORS[name]
    high = operator(jnp.array([1.0, jnp.inf, 0.5, 0.0]))
    low = operator(jnp.full(4, -jnp.inf))
    even = operator(jnp.full(4, jnp.finfo(jnp.float32).min))
    if name in ONE:
      assert np.isnan(high).all() and np.isnan(low).all()
      np.testing.assert_allclose(even, 0.25)
    else:
      assert high[1] >= 1
      for weights in (high, low, even):
        np.testing.assert_allclose(weights.sum(), K, atol=1e-5)

  def test_a_real_minus_infinity_comes_before_masked_slots(self):
    z = jnp.array([5.0, -jnp.inf, 3.0])
    where = jnp.array([False, True, True])
    for name in OF_K:
      np.testing.assert_allclose(
        OPERATORS[name](z, where=where), [0, 1, 1], err_msg=name
      )

  @pytest.mark.parametrize(
    'scores',
    [
      [1e8, 1.0, 1.5, 0.0],
      [1e4, 0.5, 0.5001, 0.4],
      [1.0, np.inf, 0.5, -np.inf],
      [np.inf, np.inf, np.inf, 0.0],
      [-np.inf, -3.4028235e38, -np.inf, -np.inf],
      [-0.0, 0.0, -1e-45, 1e-45],
      [3e38, -3e38, -3.1e38, -np.inf],
    ],
  )
  @pytest.mark.parametrize('k', [1, 2, 3])
  def test_the_k_best_are_those_of_lax(self, scores, k):
    z = jnp.array(scores, jnp.float32)
    order = np.asarray(jax.lax.top_k(z, k)[1])
    wanted = np.isin(np.arange(4), order)
    np.testing.assert_array_equal(ops.top_k(z, k=k), wanted)
    capped = np.asarray(ops.capped_simplex(z, k=k))
    np.testing.assert_allclose(capped.sum(), k, rtol=1e-6)
    assert capped[wanted].min() >= capped[~wanted].max()
    # To `relaxed_top_k`, scores 1e18 apart are infinitely far apart.
    if len(set(scores)) == 4 and 1e-45 not in scores and 3e38 not in scores:
      cold = ops.relaxed_top_k(z, k=k, temperature=1e-6)
      np.testing.assert_allclose(cold, wanted, atol=1e-5)

  def test_relaxed_top_k_against_its_formula(self):
    rng = np.random.default_rng(0)
    for scale, heat in ((1, 1.0), (5, 0.1), (15, 0.5), (15, 1.0), (40, 0.3)):
      scores = scale * rng.normal(size=9).astype(np.float32)
      left, total = scores.astype(np.float64), np.zeros(9)
      for _ in range(3):
        logs = left / heat - np.logaddexp.reduce(left / heat)
        total += np.exp(logs)
        rest = [np.logaddexp.reduce(np.delete(logs, i)) for i in range(9)]
        left = left + np.array(rest)  # log(1 - a_i), from the others' sum
      found = ops.relaxed_top_k(jnp.asarray(scores), k=3, temperature=heat)
      np.testing.assert_allclose(found, total, atol=2e-4)

  def test_losses_of_what_is_impossible(self):
    half, inf = jnp.array([0.5, 0.5, 0.0]), jnp.inf
    marginal = losses.sequence_marginal
    assert np.isnan(marginal(half, jnp.array([jnp.nan, -1, -1])))
    assert marginal(half, jnp.full(3, -inf)) == inf
    np.testing.assert_allclose(
      marginal(half, jnp.array([-inf, -1, -1])), 1 + np.log(2), rtol=1e-6
    )
    gold = jnp.array([1.0, 0.0, 0.0])
    for name in ('softmax', 'sparsemax', 'entmax15'):
      z = jnp.array([-inf, 1.0, 1.0])
      loss = functools.partial(losses.fenchel_young, operator=name)
      assert loss(z, gold) == inf
      np.testing.assert_allclose(
        jax.grad(loss)(z, gold), [-1, 0.5, 0.5], atol=1e-6
      )
      assert np.isnan(loss(jnp.zeros(3), jnp.array([jnp.nan, 1, 0])))
    z = jnp.zeros(3)
    # Without the first document there is no answer: it should have it all.
    np.testing.assert_allclose(
      distillation.loop(z, jnp.array([-inf, -1, -2])), np.log(3), rtol=1e-6
    )
    assert distillation.replug(z, jnp.array([-inf, -1, -1])) == inf
    gains = jnp.array([3.0, 2.0, 1.0])
    last, first = jnp.array([2.0, 1.0, -inf]), jnp.array([-inf, 1.0, 2.0])
    np.testing.assert_allclose(
      losses.list_mle(last, gains), np.log1p(np.exp(-1)), rtol=1e-6
    )
    assert losses.list_mle(first, gains) == inf
    np.testing.assert_allclose(
      losses.list_mle(jnp.full(3, jnp.finfo(jnp.float32).min), gains),
      np.log(6),
      rtol=1e-6,
    )

  @pytest.mark.parametrize('real', [2, 3, 4])
  def test_a_set_of_all_that_can_be_drawn_is_exact(self, real):
    costs, where = jnp.arange(1.0, 6.0), jnp.arange(5) < real
    draw_set = functools.partial(
      estimators.leave_one_out_set, KEY, k=min(real, 4)
    )
    if real < 4:
      draw_set = functools.partial(
        estimators.leave_one_out_set, KEY, k=4, where=where
      )
    else:
      draw_set = functools.partial(draw_set, where=where)
    value, gradient = jax.value_and_grad(draw_set)(Z[0, :5], costs)
    exact = jax.value_and_grad(estimators.enumerate_all)
    wanted, slopes = exact(Z[0, :real], costs[:real])
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient[:real], slopes, atol=1e-5)

  def test_a_set_far_below_the_best(self):
    z = jnp.array([0.0, -100.0, -100.5, -101.0])
    value, gradient = jax.value_and_grad(
      lambda z: estimators.leave_one_out_set(KEY, z, jnp.arange(1.0, 5.0), k=3)
    )(z)
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def a_tree():
  return trie.build(np.array([[0, 0], [0, 1], [1, 0]]))


def run_search(**options):
  return beam.search(
    (), (), a_tree(), batch_size=1, beam_size=2, step_fn=edge_scores, **options
  )


class TestArguments:
  def test_lists_and_numpy_are_arrays_and_make_no_noise(self):
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      for scores in ([1.0, 0.5, -1.0], np.array([1.0, 0.5, -1.0])):
        weights = ops.sparsemax(scores)
        np.testing.assert_allclose(weights, [0.75, 0.25, 0])
        assert weights.dtype == jnp.float32
        ops.top_k(scores, k=np.int64(2), where=[True, True, False])
        losses.fenchel_young(scores, np.eye(3)[0])
        losses.sequence_marginal([0.5, 0.5, 0.0], scores)
        losses.list_mle(scores, [3, 2, 1])
        distillation.pdist(scores, scores)
        estimators.enumerate_all(scores, [1.0, 2.0, 3.0])

  def test_keys_of_both_styles(self):
    old = jax.random.PRNGKey(3)
    for name in ('gumbel_top_k', 'perturbed_top_k'):
      options = {'num_samples': 4} if name == 'perturbed_top_k' else {}
      call = functools.partial(getattr(ops, name), k=2, **options)
      np.testing.assert_array_equal(call(old, Z), call(KEY, Z))

  def test_no_slots_give_no_weights(self):
    for name in ONE:
      assert ONE[name](jnp.zeros((2, 0))).shape == (2, 0)
    for name in ('softmax', 'sparsemax'):
      loss = losses.fenchel_young(
        jnp.zeros((2, 0)), jnp.zeros((2, 0)), operator=name
      )
      np.testing.assert_array_equal(loss, [0, 0])

  @pytest.mark.parametrize('alpha', [1 + 1e-12, 1.0001, 1.005])
  def test_alpha_just_above_one_is_close_to_softmax(self, alpha):
    z, target = Z[0], jax.nn.softmax(X[0])
    np.testing.assert_allclose(
      ops.entmax(z, alpha=alpha), ops.softmax(z), atol=5 * (alpha - 1) + 1e-6
    )
    loss = functools.partial(losses.fenchel_young, targets=target)
    np.testing.assert_allclose(
      loss(z, operator='entmax', alpha=alpha),
      loss(z, operator='softmax'),
      atol=5 * (alpha - 1) + 1e-5,
    )
    own = ops.entmax(z, alpha=alpha)
    at_own = losses.fenchel_young(z, own, operator='entmax', alpha=alpha)
    np.testing.assert_allclose(at_own, 0, atol=1e-5)

  @pytest.mark.parametrize(
    'call, words',
    [
      (lambda: ops.gumbel_top_k(Z, KEY, k=2), 'rng must be one PRNG key'),
      (lambda: ops.perturbed_top_k(Z, KEY, k=2), 'rng must be one PRNG key'),
      (
        lambda: estimators.leave_one_out(Z, KEY, X, num_samples=2),
        'rng must be one PRNG key, got float32',
      ),
      (lambda: ops.softmax(KEY), 'floating point.*Pass the key as rng'),
      (lambda: ops.softmax(Z, axis=2), 'axis must be one of.*got 2'),
      (lambda: ops.top_k(Z, k=2, axis=-3), 'axis must be one of.*got -3'),
      (lambda: ops.softmax(1.0), 'no axis at all'),
      (lambda: ops.softmax('words'), 'scores must be an array, got str'),
      (lambda: ops.softmax(Z, where=[1, 0]), 'where must be bool'),
      (lambda: ops.top_k(Z, k=2.0), 'k must be an integer.*got 2.0'),
      (lambda: ops.top_k(jnp.zeros((2, 0)), k=1), r'scores \(0\), got 1'),
      (lambda: jax.jit(lambda k: ops.top_k(Z, k=k))(2), 'k must be an integer'),
      (lambda: ops.capped_simplex(Z, k=0), 'k must be between 1 and'),
      (lambda: ops.entmax(Z, alpha=[1.5, 2.0]), 'alpha must broadcast'),
      (
        lambda: losses.fenchel_young(Z, jnp.arange(4)),
        'targets must be floating point',
      ),
      (
        lambda: losses.fenchel_young(Z, jnp.arange(4.0)),
        r'targets must be weights of the shape of scores .*one_hot',
      ),
      (
        lambda: losses.fenchel_young(Z[0], Z),
        'targets must be weights of the shape of scores',
      ),
      (
        lambda: losses.fenchel_young(Z, X, operator='softmax', alpha=2.0),
        'softmax has no option alpha',
      ),
      (
        lambda: losses.fenchel_young(Z, X, operator='capped_simplex'),
        'k must be an integer',
      ),
      (
        lambda: losses.sequence_marginal(Z, X[:, :3]),
        r'weights \(4, 7\), log_likelihoods \(4, 3\)',
      ),
      (lambda: distillation.pdist(Z, jnp.arange(7)), 'floating point, got int'),
      (
        lambda: estimators.enumerate_all(Z, X[:, :2]),
        r'scores \(4, 7\), costs \(4, 2\)',
      ),
      (lambda: run_search(allowed=np.array([0, 2])), 'allowed must be bool'),
      (
        lambda: run_search(allowed=np.array([True, False])),
        r'allowed must be bool\[3\].*got \[2\]',
      ),
      (
        lambda: beam.score(
          (), (), a_tree(), jnp.zeros((1, 1, 1), int), step_fn=edge_scores
        ),
        r'codes must be docids \[B, K, 2\].*\[1, 1, 1\]',
      ),
      (
        lambda: trie.walk(a_tree(), jnp.zeros((1, 1, 1), int)),
        r'codes must be docids \[B, K, 2\]',
      ),
      (
        lambda: trie.build(np.array([[0], [1]]), where=np.array([True])),
        r'where must be bool\[2\].*got bool\[1\]',
      ),
      (lambda: trie.build(np.array([[0.5]])), 'codes must be integers'),
      (
        lambda: lexical.build(np.array([[0.5]]), vocab_size=2),
        'words must be integers',
      ),
      (
        lambda: lexical.score_all(
          lexical.build(np.array([[1]]), vocab_size=2), jnp.array([1])
        ),
        r'query must be words \[B, Q\]',
      ),
    ],
  )
  def test_a_mistake_is_one_clear_error(self, call, words):
    with pytest.raises(ValueError, match=words) as error:
      call()
    message = str(error.value).split('\n')[0]
    assert '--' not in message

  def test_errors_of_operators_know_of_no_flags(self):
    folder = pathlib.Path(ops.__file__).parent
    for path in folder.glob('*.py'):
      assert '--config' not in path.read_text(), path
