// The way of a document through the docid trie, with the other codes.

// The probability of a code among those of its level; null if scores are no
// log-probabilities.
function chance(run, score, before) {
  if (run.scoring !== 'log_softmax' || score === null) return null;
  return Math.min(Math.exp(score - before), 1);
}

// What is below a prefix: 'Cuba', or 'Cuba +11' of twelve documents; and the
// same in full.
function belowTexts(run, prefix) {
  const [count, examples] = run.below[prefix] || [0, []];
  const names = examples.map((place) => documentOf(place).title);
  if (count < 2) return [names[0] || '', names[0] || ''];
  const more = count > names.length ? ', ...' : '';
  return [`${names[0]} +${count - 1}`,
    `${count} documents: ${names.join(', ')}${more}`];
}

function codeRow(run, prefix, code, score, before, own, ends) {
  const share = chance(run, score, before);
  const [name, full] = belowTexts(run, [...prefix, code].join('/'));
  return el('li', { class: own ? 'own' : '' },
    el('span', { class: 'code' }, String(code)),
    share === null
      ? el('span', { class: 'value' }, short(score))
      : bar(share, 0, 1, own ? 'own' : ''),
    el('span', { class: ends ? 'below leaf' : 'below', title: full }, name));
}

function levelList(run, path, place) {
  const [code, score, rank, best] = path.levels[place];
  const prefix = path.levels.slice(0, place).map((level) => level[0]);
  const before = place ? path.levels[place - 1][1] : 0;
  const ends = place === path.levels.length - 1;
  const rows = best.map(([other, value]) =>
    codeRow(run, prefix, other, value, before, other === code, ends));
  if (!best.some(([other]) => other === code)) {
    rows.push(el('li', { class: 'gap' }, `number ${rank}:`),
      codeRow(run, prefix, code, score, before, true, ends));
  }
  return el('div', { class: 'level' },
    el('h5', {}, `level ${place + 1}`),
    el('ol', {}, rows));
}

// The signals of the ranker's score, as text.
function partsText(parts) {
  return Object.entries(parts).map(([name, value]) =>
    `${name === 'lexical' ? 'words' : name} ${signed(value, 2)}`).join(', ');
}

function roles(question, place) {
  const found = [];
  if (question.gold.includes(place)) found.push('gold');
  if (question.cited === place) found.push('answer');
  const first = question.candidates[0];
  if (first && first[1] === place) found.push('first');
  return found.join(', ');
}

function triePath(run, question, path) {
  const own = documentOf(path.document);
  const total = path.levels.length
    ? path.levels[path.levels.length - 1][1] : null;
  return el('div', { class: 'path' },
    el('h4', {}, own.title, ' ',
      el('small', {}, `${roles(question, path.document)}; docid `
        + `${(path.docid || own.codes || []).join(' · ')}; `
        + `${run.scoring === 'log_softmax' ? 'log-probability' : 'score'} `
        + `${short(total)}`)),
    el('div', { class: 'levels' },
      path.levels.map((_, place) => levelList(run, path, place))),
    note(`Parts of the ranker's score: ${partsText(path.parts)}.`));
}

function triePaths(run, question) {
  if (!question.paths.length) {
    return note('The page has no docid-paths-SPLIT.jsonl of this run, which '
      + `${run.command} writes.`);
  }
  return question.paths.map((path) => triePath(run, question, path));
}
