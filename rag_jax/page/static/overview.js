// Results of all runs: numbers with intervals, differences, provenance.

const HEADLINE = [
  ['answers', 'EM'],
  ['answers', 'F1'],
  ['after ranker', 'Hits@1'],
  ['answers', 'answered'],
  ['answers', 'ECE'],
  ['answers', 'AUROC'],
  ['answers', 'certified'],
];
const LISTED = 12; // differences that are shown before the others

// Rows of results: [split, system, metric, value, low, high, count].
function resultOf(run, split, system, metric) {
  return run.results.find(
    (row) => row[0] === split && row[1] === system && row[2] === metric);
}

function splitsOf(runs) {
  return [...new Set(runs.flatMap((run) => run.results.map((row) => row[0])))];
}

function withInterval(row) {
  if (!row) return '';
  return [
    short(row[3]), ' ',
    el('small', {}, `${short(row[4], 2)}–${short(row[5], 2)}`),
  ];
}

function tiles(run) {
  const splits = [...new Set(run.results.map((row) => row[0]))]
    .filter((name) => !name.includes(' / '));
  return splits.map((split) => {
    const rows = HEADLINE
      .map(([system, metric]) => resultOf(run, split, system, metric))
      .filter(Boolean).slice(0, 4);
    if (!rows.length) return null;
    return el('div', { class: 'tile' },
      el('h3', {}, split, ' ', el('small', {}, `${rows[0][6]} questions`)),
      el('dl', {}, rows.map((row) => el('div', {},
        el('dt', {}, row[2]),
        el('dd', {}, el('b', {}, short(row[3])),
          el('small', {}, `${short(row[4], 2)}–${short(row[5], 2)}`))))));
  });
}

function resultsTable(runs, split) {
  const rows = runs.flatMap((run) => run.results
    .filter((row) => row[0] === split).map((row) => [run, ...row]));
  const metrics = [...new Set(rows.map((row) => row[3]))];
  const systems = [...new Set(rows.map((row) => row[2]))];
  const groups = groupsOf(systems, rows, metrics);
  return groups.map(([names, columns]) => table(
    ['', ...columns],
    names.flatMap((system) => runs
      .filter((run) => rows.some((row) => row[0] === run && row[2] === system))
      .map((run) => [
        rowHead(system, runs.length > 1 ? [' ', runLabel(run)] : ''),
        ...columns.map((metric) => withInterval(
          resultOf(run, split, system, metric))),
      ])),
    { class: 'numbers' }));
}

// Systems with the same measures share a table.
function groupsOf(systems, rows, metrics) {
  const groups = [];
  for (const system of systems) {
    const own = metrics.filter((metric) =>
      rows.some((row) => row[2] === system && row[3] === metric));
    const same = groups.find(([, columns]) =>
      own.filter((x) => columns.includes(x)).length * 2 > own.length);
    if (same) {
      same[0].push(system);
      same[1].push(...own.filter((x) => !same[1].includes(x)));
    } else {
      groups.push([[system], [...own]]);
    }
  }
  return groups;
}

// Rows: [split, system, metric, means, value, low, high, p, better, worse, n].
function differenceTable(pair, first) {
  if (pair.note) return note(pair.note);
  const changed = pair.rows.filter((row) => row[8] || row[9]);
  if (!changed.length) return note('The runs are equal on every question.');
  const most = Math.max(...changed.map((r) => Math.max(-r[5], r[6], 1e-9)));
  const order = [...changed].sort((a, b) => important(b) - important(a));
  const rows = (some) => table(
    ['measure', first, pair.name, 'difference', '95% interval', 'p',
      'better / worse'],
    some.map((row) => [
      rowHead(`${row[1]} ${row[2]} `, el('small', {}, row[0])),
      short(row[3][0]), short(row[3][1]), signed(row[4]),
      el('td', { class: 'nowrap' }, whisker(row[4], row[5], row[6], most),
        el('small', {}, `${signed(row[5])} to ${signed(row[6])}`)),
      row[7] < 0.0005 ? '<.001' : short(row[7]),
      `${row[8]} / ${row[9]}`,
    ]), { class: 'numbers' });
  const more = order.slice(LISTED);
  return [
    rows(order.slice(0, LISTED)),
    more.length
      ? el('details', {}, el('summary', {}, `${more.length} more measures`),
        rows(more))
      : null,
    note('Difference: mean of the other run minus the first, with the interval',
      ' of the paired bootstrap. p: two-sided paired permutation test, not',
      ' corrected for multiple tests.'),
  ];
}

function important(row) {
  const place = HEADLINE.findIndex(
    ([system, metric]) => row[1] === system && row[2] === metric);
  return place < 0 ? 0 : HEADLINE.length - place;
}

function provenance(run) {
  const made = run.provenance;
  const commit = made.git
    ? `${made.git.commit.slice(0, 12)}${made.git.dirty ? ', changed files' : ''}`
    : 'not a git checkout';
  const rows = [
    ['folder', run.folder],
    ['command', made.command],
    ['date', made.date],
    ['seconds', made.seconds],
    ['version', made.version && `${made.version} (${commit})`],
    ['seed', made.seed],
    ['data', made.data && `${made.data.path}: ${made.data.documents} documents, `
      + `SHA-256 ${made.data.sha256.slice(0, 16)}...`],
    ['devices', made.devices && `${made.devices.count} ${made.devices.kind}`],
    ['platform', made.python && `Python ${made.python}, ${made.platform}`],
    ['packages', made.packages && Object.entries(made.packages)
      .map(([name, version]) => `${name} ${version}`).join(', ')],
  ];
  const config = Object.entries(run.config);
  return el('div', { class: 'made' },
    data.runs.length > 1 ? el('h3', {}, runLabel(run)) : null,
    el('table', { class: 'pairs' }, el('tbody', {}, rows
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => el('tr', {},
        rowHead(name), el('td', {}, String(value)))))),
    config.length
      ? el('details', {},
        el('summary', {}, `configuration (${config.length} fields)`),
        el('table', { class: 'pairs' }, el('tbody', {}, config.map(
          ([name, value]) => el('tr', {}, rowHead(name),
            el('td', {}, JSON.stringify(value)))))))
      : null);
}

function warnings(runs) {
  const found = runs.flatMap((run) => run.warnings.map((text) => [run, text]));
  if (!found.length) return null;
  return el('div', { class: 'warning', role: 'note' },
    el('h2', {}, 'Warnings'),
    el('ul', {}, found.map(([run, text]) => el('li', {},
      runs.length > 1 ? [runLabel(run), ' '] : null, text))));
}

function overview() {
  const runs = data.runs;
  const splits = splitsOf(runs);
  return [
    warnings(runs),
    runs.map((run) => el('div', { class: 'headline' },
      runs.length > 1 ? el('h2', {}, runLabel(run)) : null,
      el('div', { class: 'tiles' }, tiles(run)))),
    data.differences.map((pair) => section(
      `Differences: ${pair.name} against ${runs[0].name}`,
      differenceTable(pair, runs[0].name))),
    section('All results',
      note('Mean and 95% bootstrap interval.'),
      splits.map((split, place) => el('details', { open: place === 0 },
        el('summary', {}, split), resultsTable(runs, split)))),
    section('What made these results', runs.map(provenance)),
  ];
}
