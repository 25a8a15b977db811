// One question: its words, the answer, and where the gold document was lost.

// A text with marks: [[start, end, class], ...].
function marked(text, spans) {
  const parts = [];
  let from = 0;
  for (const [start, end, style] of spans.sort((a, b) => a[0] - b[0])) {
    if (start < from || end > text.length) continue;
    parts.push(text.slice(from, start),
      el('mark', { class: style }, text.slice(start, end)));
    from = end;
  }
  parts.push(text.slice(from));
  return parts;
}

// Where the gold answers stand in a text. Characters are counted as Python
// counts them, so that the span of an answer fits.
function goldSpans(text, answers) {
  const found = [];
  const lower = text.toLowerCase();
  if (lower.length !== text.length) return found;
  for (const answer of answers) {
    const word = answer.toLowerCase().trim();
    for (let at = word ? lower.indexOf(word) : -1; at >= 0;
      at = lower.indexOf(word, at + word.length)) {
      found.push([at, at + word.length, 'gold']);
    }
  }
  return found;
}

// From a place in characters, as Python counts, to one in UTF-16 units.
function unitPlace(text, place) {
  return Array.from(text).slice(0, place).join('').length;
}

function passage(question, place, weight) {
  const own = documentOf(place);
  const cited = question.cited === place;
  let spans = [];
  if (own.text !== null) {
    spans = goldSpans(own.text, question.answers);
    if (cited && question.span && !question.abstained) {
      const [start, end] = question.span.map((x) => unitPlace(own.text, x));
      const clear = spans.filter(([a, b]) => b <= start || a >= end);
      const right = spans.length !== clear.length;
      spans = [...clear, [start, end, right ? 'answer gold' : 'answer']];
    }
  }
  const inTitle = cited && !question.span && !question.abstained
    && own.title.includes(question.answer);
  return el('div', { class: 'passage' },
    el('h4', {}, inTitle ? el('mark', { class: 'answer' }, own.title)
      : own.title, ' ', el('small', {},
      [roles(question, place), weight === null ? 'not read'
        : `weight ${short(weight)}`, own.id].filter(Boolean).join('; '))),
    own.text === null ? note('The text is not in the workdir.')
      : el('p', { class: 'text' }, marked(own.text, spans)));
}

function passages(question) {
  const read = question.candidates.filter((own) => own[5]);
  const weights = new Map(read.map((own) => [own[1], own[4]]));
  const places = [...new Set([
    ...(question.cited === null ? [] : [question.cited]),
    ...weights.keys(), ...question.gold])];
  if (!places.length) return note('Nothing was read.');
  return places.map((place) =>
    passage(question, place, weights.has(place) ? weights.get(place) : null));
}

function candidateTable(run, question) {
  const rows = question.candidates;
  if (!rows.length) return note('Nothing was retrieved.');
  const column = (place) => rows.map((row) => row[place]).filter((x) => x !== null);
  const ends = (place) => [Math.min(0, ...column(place)), Math.max(0, ...column(place))];
  const logs = ends(2);
  const scores = ends(3);
  const most = Math.max(1e-9, ...column(6).map(Math.abs));
  const helps = column(6).length > 0;
  const more = question.retrieved - rows.length;
  return [
    table(
      ['', 'document', run.scoring === 'log_softmax' ? 'log-probability'
        : 'docid score', 'ranker score', 'weight',
      helps ? el('th', { scope: 'col', title: 'log-probability of the gold '
        + 'answer with all documents read, minus that without this one' },
      'leave-one-out') : null].filter((x) => x !== null),
      rows.map(([place, id, log, score, weight, read, out]) => [
        String(place + 1),
        el('th', { scope: 'row', class: question.gold.includes(id) ? 'gold' : '' },
          documentOf(id).title,
          question.gold.includes(id) ? el('small', {}, ' gold') : null,
          read ? el('small', {}, ' read') : null),
        bar(log, ...logs), bar(score, ...scores, score < 0 ? 'minus' : ''),
        bar(weight, 0, 1, 'weight'),
        ...(helps ? [out === null ? '' : bar(out, -most, most,
          out < 0 ? 'minus' : '')] : []),
      ]), { class: 'bars' }),
    more > 0 ? note(`${more} more were retrieved.`) : null,
  ];
}

function grounding(question) {
  const own = question.grounding;
  if (!own) return null;
  const parts = [
    own.holds ? 'the cited document contains the answer'
      : 'the cited document does not contain the answer',
    own.changes ? `without it, the answer is "${own.without}"`
      : 'without it, the answer is the same',
    own.supported ? null : 'no document that was read contains the answer',
    typeof own.words === 'number'
      ? `${percent(own.words)} of its words stand in what was read` : null,
  ].filter(Boolean);
  return el('p', {}, `Grounding: ${parts.join('; ')}.`);
}

function featureTable(question) {
  if (!question.features) return null;
  return el('details', {}, el('summary', {}, 'features of the score'),
    table(['feature', 'value'], Object.entries(question.features)
      .map(([name, value]) => [rowHead(name), short(value)]),
    { class: 'numbers' }));
}

function verdict(run, question) {
  const words = {
    right: 'right', wrong: 'wrong', unknown: 'no gold answer is known',
    abstained: 'abstained',
  };
  const best = question.abstained && question.best
    ? `no answer (best: ${question.best})` : answerText(question);
  const rows = [
    ['answer', [best || 'no answer', ' ', sign(question.outcome), ' ',
      el('small', {}, words[question.outcome])]],
    ['gold', question.answerable
      ? question.answers.join(' / ') || 'unknown'
      : `none: the question has no answer${question.kind
        ? ` (${question.kind.replace('_', ' ')})` : ''}`],
    ['confidence', `${short(question.confidence)}`
      + (question.confidence === question.probability ? ''
        : ` (reader: ${short(question.probability)})`)
      + (question.certified ? '; certified' : '')],
  ];
  return el('dl', { class: 'verdict' }, rows.map(([name, value]) =>
    el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

function inRun(run, question) {
  const head = data.runs.length > 1 ? el('h3', {}, runLabel(run)) : null;
  if (!question) return el('article', {}, head, note('Not in this run.'));
  return el('article', {}, head,
    verdict(run, question),
    el('p', { class: 'why' }, question.why),
    grounding(question),
    el('h3', {}, 'Docid: path in the trie'), triePaths(run, question),
    el('h3', {}, 'Candidates'), candidateTable(run, question),
    el('h3', {}, 'Passages'),
    el('p', { class: 'legend' }, el('mark', { class: 'answer' }, 'answer given'),
      ' ', el('mark', { class: 'gold' }, 'gold answer')),
    passages(question),
    featureTable(question));
}

function questionPage(key, rows, place) {
  const found = data.runs.map((run) => [run, run.byKey.get(key)]);
  const [, question] = found.find(([, own]) => own);
  const button = (label, act, title, disabled = false) => el('button',
    { type: 'button', title, disabled, on: { click: act } }, label);
  return [
    el('div', { class: 'actions' },
      el('span', { class: 'back' },
        button('back to the list', () => go({ q: '' }), 'Escape')),
      button('previous', () => move(-1), 'k', place <= 0),
      button('next', () => move(1), 'j', place >= rows.length - 1),
      button('copy link', copyLink, 'c')),
    el('h2', { class: 'asked' }, question.question),
    el('p', { class: 'id' }, `${question.split} · ${question.id}`),
    el('div', { class: data.runs.length > 1 ? 'sides' : '' },
      found.map(([run, own]) => inRun(run, own))),
  ];
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    const box = el('textarea', {}, location.href);
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
  }
  say('Link copied');
}
