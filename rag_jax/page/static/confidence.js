// Confidence: risk and coverage with the certified point, reliability, and the
// calibrator.

const CALIBRATION = ['ECE', 'Brier', 'AUROC', 'AURC', 'EM@50%', 'EM@80%',
  'EM@100%', 'answered', 'refused', 'null AUROC', 'certified',
  'certified risk', 'ECE scaled'];

function confidenceOf(run, split) {
  return run.splits.find((own) => own.name === split);
}

// The point of a risk-coverage curve at a threshold.
function pointAt(curve, threshold) {
  const inside = curve.risk.filter((point) => point[2] >= threshold);
  return inside.length ? inside[inside.length - 1] : null;
}

function riskChart(found) {
  const marks = (x, y) => found.flatMap(([run, curve]) => {
    const own = run.certificate;
    if (!own || !own.promises || curve.field !== 'score') return [];
    const point = pointAt(curve, own.threshold);
    if (!point) return [];
    const style = `series series-${run.number % 6}`;
    return [
      svg('line', { class: `${style} dash`, x1: x(0), x2: x(1),
        y1: y(own.alpha), y2: y(own.alpha) }),
      svg('circle', { class: `${style} certified`, cx: x(point[0]),
        cy: y(point[1]), r: 5 },
      svg('title', {}, `certified: ${certificateText(own)}`)),
      svg('text', { class: 'tick end', x: x(point[0]) - 8, y: y(point[1]) - 8 },
        'certified'),
    ];
  });
  const most = Math.max(0.05, ...found.flatMap(([run, curve]) => [
    run.certificate && run.certificate.promises ? run.certificate.alpha : 0,
    ...curve.risk.map((p) => p[1])]));
  return lineChart({
    title: 'Risk and coverage: share of wrong answers, if only the most '
      + 'confident are given',
    x: 'coverage',
    series: found.map(([run, curve]) => ({
      name: run.name, number: run.number, points: curve.risk,
      reads: (point) => ` (threshold ${short(point[2])})`,
    })),
    ranges: { x: [0, 1], y: [0, most] },
    extra: marks,
  });
}

function reliabilityChart(found) {
  const bins = (x, y) => [
    svg('line', { class: 'diagonal', x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    found.map(([run, curve]) => curve.bins.map((bin) => svg('g', {
      class: `series series-${run.number % 6}` },
    svg('title', {}, `confidence ${short(bin.confidence)}, right `
      + `${short(bin.accuracy)} (${short(bin.low)} to ${short(bin.high)}), `
      + `${bin.count} questions`),
    svg('line', { x1: x(bin.confidence), x2: x(bin.confidence),
      y1: y(bin.low), y2: y(bin.high) }),
    svg('circle', { class: 'point', cx: x(bin.confidence), cy: y(bin.accuracy),
      r: 3.5 })))),
  ];
  return lineChart({
    title: 'Reliability: share of right answers at each confidence, with 95% '
      + 'intervals',
    x: 'confidence',
    series: found.map(([run, curve]) => ({
      name: run.name, number: run.number,
      points: curve.bins.map((bin) => [bin.confidence, bin.accuracy]),
    })),
    ranges: { x: [0, 1], y: [0, 1] },
    extra: bins,
  });
}

function certificateText(own) {
  const assumed = own.assumes ? ` Assumed: ${own.assumes}.` : '';
  const limit = `at most ${percent(own.alpha)} of the answers given are wrong, `
    + `with confidence ${percent(1 - own.delta)}`;
  if (!own.promises) {
    return `Nothing can be promised: no threshold shows that ${limit}, from `
      + `${own.questions} held-out questions.${assumed}`;
  }
  return `Of questions with a score of at least ${short(own.threshold)}, `
    + `${limit}. On the held-out questions, ${percent(own.share_answered)} are `
    + `answered: ${own.answered} of ${own.questions}, `
    + `${own.wrong} wrongly.${assumed}`;
}

function certificateBox(run) {
  const own = run.certificate;
  const name = data.runs.length > 1 ? [runLabel(run), ' '] : null;
  if (!own) {
    return note(name, 'No certificate: the run has no certificate.json, which '
      + 'rag-jax train writes for data with a calibration split.');
  }
  const tests = own.tests || [];
  return el('div', { class: own.promises ? 'promise' : 'promise none' },
    el('p', {}, name, certificateText(own)),
    tests.length
      ? el('details', {},
        el('summary', {}, `the ${tests.length} tests, in their order`),
        table(['threshold', 'answered', 'wrong', 'p'], tests.map((x) =>
          [short(x.threshold, 4), x.answered, x.wrong, short(x.p, 4)]),
        { class: 'numbers' }))
      : null);
}

function calibratorBox(run) {
  const own = run.calibrator;
  if (!own || !own.features) return null;
  const rows = own.features
    .map((name, place) => [name, own.weights[place]])
    .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const most = Math.max(...rows.map((row) => Math.abs(row[1])), 1e-9);
  return el('div', {},
    data.runs.length > 1 ? el('h3', {}, runLabel(run)) : null,
    note(own.fitted_on ? `Fitted on ${own.fitted_on} questions of the split `
      + `'${own.split}'. ` : '', 'Weights of standardised features, nats.'),
    table(['feature', 'weight'], rows.map(([name, weight]) =>
      [rowHead(name), bar(weight, -most, most, weight < 0 ? 'minus' : '')])));
}

function calibrationTable(runs, split) {
  const rows = runs.map((run) => [run, run.results.filter((row) =>
    row[0] === split && row[1] === 'answers' && CALIBRATION.includes(row[2]))]);
  const metrics = CALIBRATION.filter((metric) =>
    rows.some(([, own]) => own.some((row) => row[2] === metric)));
  if (!metrics.length) return null;
  return table(['', ...metrics], rows.map(([run]) => [
    rowHead(runLabel(run)),
    ...metrics.map((metric) =>
      withInterval(resultOf(run, split, 'answers', metric))),
  ]), { class: 'numbers' });
}

function confidence() {
  const runs = data.runs;
  const splits = [...new Set(runs.flatMap((run) =>
    run.splits.map((own) => own.name)))];
  if (!splits.length) {
    return [note('The run has no answers with a confidence, which it gets from'
      + ' a stage that trains the reader.')];
  }
  const split = splits.includes(state.split) ? state.split : splits[0];
  const found = runs.map((run) => [run, confidenceOf(run, split)])
    .filter(([, own]) => own);
  const fields = new Set(found.map(([, own]) => own.field));
  return [
    choice('split', splits.map((name) => [name, name]), split,
      (name) => go({ split: name === splits[0] ? '' : name })),
    el('div', { class: 'charts two' }, riskChart(found),
      reliabilityChart(found)),
    note(fields.has('score')
      ? 'Confidence is the score of the calibrator: the probability that the '
        + 'answer is right.'
      : 'Confidence is the probability of the answer by the reader: the run '
        + 'has no calibrator.json.'),
    calibrationTable(runs, split),
    section('Certificate', runs.map(certificateBox)),
    runs.some((run) => run.calibrator)
      ? section('Calibrator', runs.map(calibratorBox)) : null,
  ];
}
