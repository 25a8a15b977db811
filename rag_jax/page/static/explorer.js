// The list of questions, worst first, with filters and search.

const OUTCOMES = [
  ['', 'all'],
  ['wrong', 'wrong'],
  ['abstained', 'abstained'],
  ['right', 'right'],
];
const FATES = [
  ['', 'any'],
  ['not retrieved', 'not retrieved', 'the search did not find it'],
  ['not chosen', 'retrieved but not chosen', 'found, but not read, or with weight 0'],
  ['read wrongly', 'read wrongly', 'the reader read it; the answer is wrong'],
];
const SIGNS = { right: '✓', wrong: '✗', abstained: '–', unknown: '?' };
const PAGE = 100;

let listed = PAGE; // questions of the list that are drawn

function pairs(runs) {
  return [
    ['', 'any'],
    ['first', `${runs[0].name} right, ${runs[1].name} not`],
    ['other', `${runs[1].name} right, ${runs[0].name} not`],
    ['neither', 'both not right'],
  ];
}

function inPair(question) {
  const other = data.runs[1].byKey.get(question.key);
  const first = question.outcome === 'right';
  const second = other !== undefined && other.outcome === 'right';
  if (other === undefined) return false;
  if (state.pair === 'first') return first && !second;
  if (state.pair === 'other') return second && !first;
  return !first && !second;
}

function matches(question, words) {
  if (state.split && question.split !== state.split) return false;
  const fits = state.outcome === 'abstained' ? question.abstained
    : !state.outcome || question.outcome === state.outcome;
  if (!fits) return false;
  if (state.fate && question.fate !== state.fate) return false;
  if (state.pair && data.runs.length > 1 && !inPair(question)) return false;
  if (!words.length) return true;
  const text = [question.question, question.id, question.answer,
    ...question.answers].join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}

function selected() {
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  return data.runs[0].questions.filter((q) => matches(q, words));
}

function move(step) {
  const rows = selected();
  if (!rows.length) return;
  const place = rows.findIndex((q) => q.key === state.q);
  const next = place < 0 ? 0 : Math.min(Math.max(place + step, 0), rows.length - 1);
  go({ view: 'questions', q: rows[next].key }, true);
}

function sign(outcome) {
  return el('span', { class: `sign ${outcome}`, title: outcome }, SIGNS[outcome]);
}

function answerText(question) {
  if (question.abstained) return 'no answer';
  return question.answer;
}

function listRow(question) {
  const others = data.runs.slice(1).map((run) => run.byKey.get(question.key));
  return el('li', {},
    el('a', { href: address({ q: question.key }),
      'aria-current': question.key === state.q ? 'true' : null },
    sign(question.outcome),
    others.map((other) => sign(other ? other.outcome : 'unknown')),
    el('span', { class: 'words' }, question.question,
      el('small', {}, answerText(question))),
    el('small', {}, short(question.confidence, 2))));
}

function filters(runs) {
  const splits = [...new Set(runs[0].questions.map((q) => q.split))];
  const box = el('input', { type: 'search', id: 'find', value: state.find,
    placeholder: 'search questions and answers ( / )',
    'aria-label': 'search questions and answers',
    on: { input: (event) => go({ find: event.target.value, q: '' }, true) } });
  box.value = state.find;
  return el('div', { class: 'filters' }, box,
    line('answer', choice('answer', OUTCOMES, state.outcome,
      (outcome) => go({ outcome, q: '' }))),
    line('gold document', choice('gold document', FATES, state.fate,
      (fate) => go({ fate, q: '' }))),
    runs.length > 1
      ? line('runs', choice('runs', pairs(runs), state.pair,
        (pair) => go({ pair, q: '' })))
      : null,
    splits.length > 1
      ? line('split', choice('split', [['', 'all'],
        ...splits.map((name) => [name, name])], state.split,
      (split) => go({ split, q: '' })))
      : null);
}

function line(label, control) {
  return el('div', { class: 'line' }, el('span', {}, label), control);
}

function list(rows) {
  const drawn = rows.slice(0, listed);
  return el('div', { class: 'list' },
    el('p', { class: 'count' }, `${rows.length} of `
      + `${data.runs[0].questions.length} questions, worst first`, left()),
    el('ol', {}, drawn.map(listRow)),
    rows.length > listed
      ? el('button', { type: 'button', on: { click: () => {
        listed += PAGE;
        render();
      } } }, `${rows.length - listed} more`)
      : null);
}

// A note if the page has only a part of the questions.
function left() {
  const asked = Object.values(data.runs[0].asked).reduce((a, b) => a + b, 0);
  const shown = data.runs[0].questions.length;
  return asked > shown
    ? `; evenly spaced ones out of ${asked} in answers-SPLIT.jsonl` : '';
}

function questions() {
  const runs = data.runs;
  if (!runs[0].questions.length) {
    return [note('There is no answers-SPLIT.jsonl, which '
      + `${runs[0].command} writes.`)];
  }
  const rows = selected();
  const open = state.q && runs.some((run) => run.byKey.has(state.q));
  // Beside the list, the first question is open before one is chosen.
  const shown = open ? state.q : rows.length && rows[0].key;
  const place = rows.findIndex((q) => q.key === state.q);
  if (place >= listed) listed = place + PAGE;
  return [
    el('div', { class: open ? 'explorer open' : 'explorer' },
      el('div', { class: 'side' }, filters(runs), list(rows)),
      el('div', { class: 'detail', id: 'detail' },
        shown ? questionPage(shown, rows, place)
          : note('No question fits the filters.'))),
  ];
}
