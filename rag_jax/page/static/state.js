// The data of the page, and its state, which the address keeps:
// #view=questions&outcome=wrong&q=SPLIT:ID

const START = {
  view: 'overview', // one of the tabs
  split: '', // shown in 'confidence', and filter of questions; '' = all
  outcome: '', // filter: wrong, abstained, right
  fate: '', // filter: what happened to the gold document
  pair: '', // filter: first, other, both (right in which of two runs)
  find: '', // words to search for
  q: '', // the question, as SPLIT:ID
};

let data = null;
let state = { ...START };

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  state = { ...START };
  for (const name of Object.keys(START)) {
    if (given.has(name)) state[name] = given.get(name);
  }
}

// The address of a state.
function address(changes) {
  const next = { ...state, ...changes };
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(next)) {
    if (value !== START[name]) given.set(name, value);
  }
  return '#' + given.toString();
}

// Changes the state. `replace` leaves no step in the browser's history.
function go(changes, replace = false) {
  const target = address(changes);
  if (replace || target === (location.hash || '#')) {
    history.replaceState(null, '', target);
    render();
  } else {
    location.hash = target;
  }
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes])
    .stream()
    .pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

// Adds what the data imply: the question of each key in each run.
function link(found) {
  found.runs.forEach((run, number) => {
    run.number = number;
    run.byKey = new Map();
    for (const question of run.questions) {
      question.key = `${question.split}:${question.id}`;
      run.byKey.set(question.key, question);
    }
  });
  return found;
}

function documentOf(place) {
  const [id, title, text, codes] = data.documents[place];
  return { id, title: title || id, text, codes };
}
