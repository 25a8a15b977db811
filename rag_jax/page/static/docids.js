// Use of the codes of docids: by documents, and by what questions find first.

function codeChart(level, place) {
  const most = Math.max(...level.documents, 1);
  const mostFound = Math.max(...level.found, 1);
  const count = level.documents.length;
  const step = (WIDE - 2 * EDGE.right) / count;
  const middle = HIGH / 2 - 6;
  const rect = (style, code, y, height, text) => svg('rect', {
    class: style, x: EDGE.right + code * step, y, height,
    width: Math.max(step * 0.85, 0.5) }, svg('title', {}, text));
  const bars = [];
  for (let code = 0; code < count; code++) {
    const documents = level.documents[code];
    const found = level.found[code];
    const text = `code ${code}: ${documents} documents, first for ${found} `
      + 'questions';
    const up = (middle - 4) * (documents / most);
    const down = (middle - 4) * (found / mostFound);
    if (up) bars.push(rect('up', code, middle - up, up, text));
    if (down) bars.push(rect('down', code, middle + 1, down, text));
  }
  const [all, used] = level.perplexity;
  return el('figure', { class: 'chart' },
    el('figcaption', {}, `Level ${place + 1}: ${count} codes`),
    svg('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, role: 'img',
      'aria-label': `use of the codes at level ${place + 1}` },
    bars,
    svg('text', { class: 'tick end', x: WIDE - 4, y: 12 },
      `documents (most ${most})`),
    svg('text', { class: 'tick end', x: WIDE - 4, y: HIGH - 14 },
      `first for questions (most ${mostFound})`)),
    el('p', { class: 'reading' }, `perplexity: ${all} of documents, ${used} of `
      + 'what questions find first'));
}

function docids() {
  return data.runs.map((run) => {
    const head = data.runs.length > 1 ? el('h2', {}, runLabel(run)) : null;
    if (!run.docids) {
      return [head, note('There is no index.npz in the workdir, which rag-jax'
        + ' train writes.')];
    }
    return [
      head,
      note(`${run.docids.documents} documents. Bars above the line: documents`
        + ' with a code; below: questions whose first document has it. The'
        + ' perplexity is the number of equally used codes with the same'
        + ' entropy; a low one below the line alone is a sign that the search'
        + ' collapses to a few documents.'),
      el('div', { class: 'charts' }, run.docids.levels.map(codeChart)),
    ];
  });
}
