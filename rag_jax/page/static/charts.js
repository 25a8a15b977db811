// Line charts as SVG. A chart has a line of text that reads out the values at
// the pointer.

const WIDE = 360;
const HIGH = 210;
const EDGE = { left: 46, right: 12, top: 10, bottom: 34 };

// About four round numbers between two values.
function ticks(low, high) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => span / x <= 5);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * span; i++)
    found.push(i * step);
  return found.map((x) => Number(x.toPrecision(12)));
}

function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const decades = Math.log10(high / low);
  const every = Math.max(1, Math.ceil(decades / 5));
  const within = decades > 2 ? [1] : decades > 1 ? [1, 3] : [1, 2, 3, 5];
  const found = [];
  for (let i = first; 10 ** i <= high; i += every) {
    found.push(...within.map((x) => x * 10 ** i));
  }
  const shown = found.filter((x) => x >= low * 0.9999 && x <= high * 1.0001);
  return shown.length > 1 ? shown : [low, high];
}

function tickText(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(0);
  return String(Number(value.toPrecision(3)));
}

// From values to places on the chart.
function scale(low, high, from, to, log) {
  const f = log ? Math.log : (x) => x;
  const a = f(low);
  const b = f(high);
  return (x) => from + ((f(x) - a) / (b - a || 1)) * (to - from);
}

function range(points, axis, fixed, log) {
  if (fixed) return fixed;
  const values = points.map((p) => p[axis]).filter((x) => !log || x > 0);
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
  return [low, high];
}

function axes(x, y, ranges, chart) {
  const bottom = HIGH - EDGE.bottom;
  const parts = [];
  const yTicks = chart.log ? logTicks(...ranges.y) : ticks(...ranges.y);
  for (const value of yTicks) {
    parts.push(
      svg('line', {
        class: 'grid', x1: EDGE.left, x2: WIDE - EDGE.right,
        y1: y(value), y2: y(value),
      }),
      svg('text', { class: 'tick end', x: EDGE.left - 6, y: y(value) + 4 },
        tickText(value)),
    );
  }
  for (const value of ticks(...ranges.x)) {
    parts.push(
      svg('text', { class: 'tick middle', x: x(value), y: bottom + 15 },
        tickText(value)),
    );
  }
  parts.push(
    svg('text', { class: 'tick middle', x: WIDE / 2, y: HIGH - 3 }, chart.x),
  );
  return parts;
}

// A chart: {title, x, series: [{name, number, points}], log, ranges, extra}.
// `extra` makes further nodes from the two scales.
function lineChart(chart) {
  const all = chart.series.flatMap((s) => s.points);
  if (!all.length) return note(`${chart.title}: no values`);
  const log = chart.log && all.some((p) => p[1] > 0);
  const fixed = chart.ranges || {};
  const ranges = {
    x: range(all, 0, fixed.x, false),
    y: range(all, 1, fixed.y, log),
  };
  const x = scale(...ranges.x, EDGE.left, WIDE - EDGE.right, false);
  const y = scale(...ranges.y, HIGH - EDGE.bottom, EDGE.top, log);
  const lines = chart.series.map((s) => {
    const shown = s.points.filter((p) => !log || p[1] > 0);
    const places = shown.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`);
    const style = `series series-${s.number % 6}`;
    const only = shown.length === 1
      ? svg('circle', { class: style, cx: x(shown[0][0]), cy: y(shown[0][1]), r: 3 })
      : null;
    return [svg('polyline', { class: style, points: places.join(' ') }), only];
  });
  const cursor = svg('line', { class: 'cursor', y1: EDGE.top, y2: HIGH - EDGE.bottom });
  const picture = svg(
    'svg',
    { viewBox: `0 0 ${WIDE} ${HIGH}`, role: 'img', 'aria-label': chart.title },
    axes(x, y, ranges, { ...chart, log }),
    chart.extra ? chart.extra(x, y) : [],
    lines,
    cursor,
  );
  const reading = el('p', { class: 'reading' }, last(chart));
  picture.addEventListener('pointermove', (event) => {
    const box = picture.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDE;
    reading.textContent = readOut(chart, x, place, cursor);
  });
  picture.addEventListener('pointerleave', () => {
    cursor.removeAttribute('x1');
    cursor.classList.remove('on');
    reading.textContent = last(chart);
  });
  return el('figure', { class: 'chart' },
    el('figcaption', {}, chart.title), picture, reading);
}

// The values that are nearest to a place, as text.
function readOut(chart, x, place, cursor) {
  const near = (points) =>
    points.reduce((a, b) =>
      Math.abs(x(b[0]) - place) < Math.abs(x(a[0]) - place) ? b : a);
  const shown = chart.series.filter((s) => s.points.length);
  const found = shown.map((s) => [s, near(s.points)]);
  const at = found[0][1][0];
  cursor.setAttribute('x1', x(at));
  cursor.setAttribute('x2', x(at));
  cursor.classList.add('on');
  return valuesText(chart, at, found);
}

function last(chart) {
  const shown = chart.series.filter((s) => s.points.length);
  const found = shown.map((s) => [s, s.points[s.points.length - 1]]);
  return valuesText(chart, found[0][1][0], found);
}

function valuesText(chart, at, found) {
  const values = found.map(([s, point]) => {
    const name = found.length > 1 ? `${s.name} ` : '';
    const more = s.reads ? s.reads(point) : '';
    return `${name}${Number(point[1].toPrecision(3))}${more}`;
  });
  return `${chart.x} ${Number(at.toPrecision(4))}: ${values.join(', ')}`;
}

// A horizontal bar for a value; `low` and `high` are the ends of its scale.
function bar(value, low, high, style = '') {
  if (value === null || value === undefined) return el('span', {}, '–');
  const share = (x) => `${(100 * (x - low)) / (high - low || 1)}%`;
  const zero = Math.min(Math.max(0, low), high);
  const from = Math.min(zero, value);
  return el(
    'span',
    { class: 'bar' },
    el('span', { class: 'track' },
      value === zero ? null : el('span', {
        class: `fill ${style}`,
        style: {
          left: share(from),
          width: `${(100 * Math.abs(value - zero)) / (high - low || 1)}%`,
        },
      })),
    el('span', { class: 'value' }, short(value)),
  );
}

// A difference with its interval, on a scale around zero.
function whisker(value, low, high, most) {
  const x = (v) => 60 + (56 * v) / most;
  return svg(
    'svg',
    { class: 'whisker', viewBox: '0 0 120 16', role: 'img',
      'aria-label': `${signed(value)}, from ${signed(low)} to ${signed(high)}` },
    svg('line', { class: 'grid', x1: 60, x2: 60, y1: 0, y2: 16 }),
    svg('line', { class: 'span', x1: x(low), x2: x(high), y1: 8, y2: 8 }),
    svg('circle', { class: 'dot', cx: x(value), cy: 8, r: 3.5 }),
  );
}
