// Tabs, keys, and drawing the page after each change of the address.

const VIEWS = [
  ['overview', 'Overview', overview],
  ['training', 'Training', training],
  ['confidence', 'Confidence', confidence],
  ['docids', 'Docids', docids],
  ['questions', 'Questions', questions],
];
const KEYS = [
  ['j, k', 'next and previous question'],
  ['/', 'search'],
  ['Esc', 'close the question, then clear the filters'],
  ['c', 'copy a link to what is shown'],
  ['1 to 5', 'the tabs'],
  ['?', 'this list'],
];

let drawn = {}; // view -> the state that it shows

function header() {
  return [
    el('h1', {}, 'rag_jax ', data.runs.map((run) => [runLabel(run), ' '])),
    el('nav', { 'aria-label': 'parts of the page' }, VIEWS.map(([name, title]) =>
      el('a', { href: address({ view: name, q: '' }),
        'aria-current': state.view === name ? 'page' : null }, title))),
    el('details', { class: 'keys' }, el('summary', { title: 'keys (?)' }, 'keys'),
      el('dl', {}, KEYS.map(([key, text]) =>
        el('div', {}, el('dt', {}, key), el('dd', {}, text))))),
  ];
}

// Draws the views that depend on the state anew, the others once.
function render() {
  readState();
  if (!VIEWS.some(([name]) => name === state.view)) state.view = 'overview';
  document.getElementById('header').replaceChildren(...header());
  const main = document.getElementById('main');
  if (!main.querySelector('.view')) {
    main.replaceChildren(...VIEWS.map(([name]) =>
      el('div', { class: 'view', id: `view-${name}` })));
  }
  for (const [name, , draw] of VIEWS) {
    const own = document.getElementById(`view-${name}`);
    const needs = name === 'questions' ? location.hash
      : name === 'confidence' ? state.split : '';
    if (drawn[name] !== needs) redraw(own, draw);
    drawn[name] = needs;
    own.hidden = name !== state.view;
  }
}

// Draws a view; keeps the focus in the search box and the place in the list.
function redraw(view, draw) {
  const list = view.querySelector('.list');
  const top = list ? list.scrollTop : 0;
  const box = view.querySelector('#find');
  const typed = box && box === document.activeElement ? box.selectionStart : null;
  view.replaceChildren(...[draw()].flat(9).filter(Boolean));
  const after = view.querySelector('.list');
  if (after) after.scrollTop = top;
  const current = view.querySelector('.list [aria-current]');
  if (current) current.scrollIntoView({ block: 'nearest' });
  if (typed !== null) {
    const own = view.querySelector('#find');
    own.focus();
    own.setSelectionRange(typed, typed);
  }
}

function say(text) {
  const box = document.getElementById('message');
  box.textContent = text;
  setTimeout(() => {
    if (box.textContent === text) box.textContent = '';
  }, 2000);
}

function escape() {
  const keys = document.querySelector('.keys');
  if (keys.open) keys.open = false;
  else if (state.q) go({ q: '' });
  else go({ find: '', outcome: '', fate: '', pair: '', split: '' });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === 'Escape') {
    if (typing) event.target.blur();
    escape();
    return;
  }
  if (typing) return;
  const acts = {
    j: () => move(1),
    k: () => move(-1),
    c: copyLink,
    '/': () => {
      if (state.view !== 'questions') {
        history.replaceState(null, '', address({ view: 'questions' }));
        render();
      }
      document.getElementById('find').focus();
    },
    '?': () => {
      const keys = document.querySelector('.keys');
      keys.open = !keys.open;
    },
  };
  VIEWS.forEach(([name], place) => {
    acts[String(place + 1)] = () => go({ view: name });
  });
  if (acts[event.key]) {
    event.preventDefault();
    acts[event.key]();
  }
}

async function start() {
  try {
    data = link(await unpack(document.getElementById('data').textContent));
  } catch (error) {
    document.getElementById('main').replaceChildren(
      note(`The data of the page cannot be read (${error.message}). A browser `
        + 'of 2023 or later reads it.'));
    return;
  }
  addEventListener('hashchange', () => {
    const before = state.view + (state.q ? '' : 'list');
    render();
    if (before !== state.view + (state.q ? '' : 'list')) scrollTo(0, 0);
  });
  addEventListener('keydown', onKey);
  render();
  document.body.classList.add('ready');
}

start();
