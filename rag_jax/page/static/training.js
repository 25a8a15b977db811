// Curves over training: losses, gradients, support, evaluations.

const SHARES = ['beam_mass', 'beam_hits', 'gold_weight', 'gold_off_support',
  'docid_hits@1'];

function groupOf(name) {
  if (name.startsWith('gradient_norm/')) return 'Gradient that reaches each component (norm)';
  if (name.startsWith('health/')) return 'Health of the gradient, at each evaluation';
  if (SHARES.includes(name) || name === 'support') return 'Search and support';
  return 'Losses';
}

// Measure -> series of all runs, from the records of one split.
function seriesOf(split) {
  const found = new Map();
  for (const run of data.runs) {
    for (const [name, points] of Object.entries(run.curves[split] || {})) {
      if (!found.has(name)) found.set(name, []);
      found.get(name).push({ name: run.name, number: run.number, points });
    }
  }
  return found;
}

function curve(name, series) {
  const last = name.split('/').pop();
  const log = name.startsWith('gradient_norm/') || !(SHARES.includes(name)
    || name.startsWith('health/') || name === 'support' || name.includes('/'));
  const values = series.flatMap((s) => s.points.map((p) => p[1]));
  const positive = values.every((v) => v > 0);
  return lineChart({
    title: name.startsWith('gradient_norm/') ? last : name,
    x: 'step',
    series,
    log: log && positive,
    ranges: SHARES.includes(name) ? { y: [0, 1] } : {},
  });
}

function training() {
  const runs = data.runs;
  const splits = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  if (!splits.length) {
    return [note('There is no metrics.jsonl in the workdir, which rag-jax train'
      + ' writes.')];
  }
  const groups = new Map();
  for (const split of splits) {
    for (const [name, series] of seriesOf(split)) {
      const group = split === 'train' || name.startsWith('health/')
        ? groupOf(name) : `Evaluations of ${split}`;
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push([name, series]);
    }
  }
  const measured = splits.some((name) => name !== 'train');
  return [
    healthTable(runs),
    [...groups].map(([group, own]) => section(group,
      el('div', { class: 'charts' }, own
        .sort((a, b) => (b[0] === 'loss') - (a[0] === 'loss'))
        .map(([name, series]) => curve(name, series))))),
    measured ? null : note('Measures during training come with',
      ' --config.train.evaluate_every=STEPS.'),
  ];
}

// The rows of the system 'health' in the results.
function healthTable(runs) {
  const rows = runs.flatMap((run) => run.results
    .filter((row) => row[1] === 'health').map((row) => [run, row]));
  if (!rows.length) return null;
  const splits = [...new Set(rows.map(([, row]) => row[0]))];
  const metrics = [...new Set(rows.map(([, row]) => row[2]))];
  return section('Health of the gradient, at the end', table(
    ['', ...metrics],
    runs.flatMap((run) => splits.map((split) => [
      rowHead(split, runs.length > 1 ? [' ', runLabel(run)] : ''),
      ...metrics.map((metric) => {
        const row = resultOf(run, split, 'health', metric);
        return row ? short(row[3]) : '';
      }),
    ])), { class: 'numbers' }));
}
