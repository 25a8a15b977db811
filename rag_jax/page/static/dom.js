// Elements of the page. Texts become text nodes, so that HTML in the data is
// shown and never run.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'on') {
      for (const [event, act] of Object.entries(value)) {
        node.addEventListener(event, act);
      }
    } else if (name === 'style') {
      Object.assign(node.style, value);
    } else {
      node.setAttribute(name, value === true ? '' : value);
    }
  }
  node.append(...children.flat(9).filter((x) => x !== null && x !== undefined));
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function section(title, ...children) {
  return el('section', {}, el('h2', {}, title), ...children);
}

function note(...text) {
  return el('p', { class: 'note' }, ...text);
}

// A row of buttons, one of which is pressed: [[value, label, title], ...].
function choice(label, options, value, act) {
  return el(
    'div',
    { class: 'choice', role: 'group', 'aria-label': label },
    options.map(([own, text, title]) =>
      el(
        'button',
        {
          type: 'button',
          'aria-pressed': String(own === value),
          'data-value': own,
          title,
          on: { click: () => act(own) },
        },
        text,
      ),
    ),
  );
}

// A table in a box that scrolls sideways. Cells are texts or nodes.
function table(head, rows, attributes = {}) {
  const cell = (tag) => (content) => {
    if (content instanceof HTMLTableCellElement) return content;
    return el(tag, tag === 'th' ? { scope: 'col' } : {}, content);
  };
  return el(
    'div',
    { class: 'scroll', tabindex: '0' },
    el(
      'table',
      attributes,
      el('thead', {}, el('tr', {}, head.map(cell('th')))),
      el('tbody', {}, rows.map((row) => el('tr', {}, row.map(cell('td'))))),
    ),
  );
}

function rowHead(...content) {
  return el('th', { scope: 'row' }, ...content);
}

// .922 for 0.922, as in the terminal.
function short(value, digits = 3) {
  if (value === null || value === undefined) return '–';
  if (value === 0) return '0';
  if (value < 0) return '−' + short(-value, digits);
  if (Math.abs(value) >= 1) {
    const rest = Math.abs(value) >= 1000 ? 0 : digits - 1;
    return value.toFixed(Math.max(rest, 0));
  }
  const text = value.toFixed(digits);
  if (Math.abs(Number(text)) >= 1) return value.toFixed(digits - 1);
  return text.replace('0.', '.');
}

function signed(value, digits = 3) {
  return (value >= 0 ? '+' : '−') + short(Math.abs(value), digits);
}

function runLabel(run) {
  return el('span', { class: `run run-${run.number % 6}` }, run.name);
}

function percent(value) {
  return `${Number((100 * value).toFixed(1))}%`;
}
