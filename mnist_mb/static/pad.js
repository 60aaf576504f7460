// The drawing pad: what a person sees of a network's forward pass. The Python function `sketchpad`
// puts this file into a page after net.js, both within one function; there the two texts below are
// the style sheet, pad.css, and a name for this version of the code.
const STYLE = 'PAD_CSS';
const CODE = 'PAD_CODE';

const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// Weights travel as text: base64 of float32, row by row
function unpack({weight, bias, relu}) {
  const rows = weight.map(text => [...new Float32Array(bytes(text).buffer)]);
  return {weight: Float64Array.from(rows.flat()), bias, relu};
}

// The columns of the table. Log-probabilities are shifted logits, too: they differ from these by one
// number, which the largest of them has as well
function columns(logits, temperature) {
  const logProbs = logSoftmax(logits.map(v => v / temperature), logits.length); // prettier-ignore
  const largest = Math.max(...logProbs);
  const shifted = logProbs.map(v => v - largest);
  const [exps, probs] = [shifted, logProbs].map(column => column.map(v => Math.exp(v)));
  return {shifted, exps, probs, logProbs};
}

// What each pixel adds to logit k: its slope, back through the units that are on, times the pixel
function contributions(layers, results, k) {
  let slope = results.at(-1).map((_, i) => Number(i === k));
  for (let l = layers.length - 1; l >= 0; l--) {
    const {weight, bias, relu} = layers[l];
    if (relu) slope = slope.map((s, i) => (results[l + 1][i] > 0 ? s : 0));
    slope = times(slope, weight, bias.length);
  }
  return slope.map((s, i) => s * results[0][i]);
}

// --- From a drawing to 28 by 28 pixels
//
// The pad is a grid of cells, five to a pixel of MNIST each way, from 0 for paper to 255 for ink
const SIDE = 140;
const RADIUS = 5.5;

// A disc moves from one point to the next; its edge is one cell wide and soft
function brush(ink, [x0, y0], [x1, y1]) {
  const dx = x1 - x0;
  const dy = y1 - y0;
  const square = dx * dx + dy * dy || 1;
  const from = v => Math.max(0, Math.floor(v - RADIUS - 1));
  const to = v => Math.min(SIDE - 1, Math.ceil(v + RADIUS + 1));
  for (let y = from(Math.min(y0, y1)); y <= to(Math.max(y0, y1)); y++) {
    for (let x = from(Math.min(x0, x1)); x <= to(Math.max(x0, x1)); x++) {
      const along = ((x + 0.5 - x0) * dx + (y + 0.5 - y0) * dy) / square;
      const t = Math.min(1, Math.max(0, along));
      const distance = Math.hypot(x + 0.5 - x0 - t * dx, y + 0.5 - y0 - t * dy);
      const value = 255 * Math.min(1, Math.max(0, RADIUS + 0.5 - distance));
      if (value > ink[y * SIDE + x]) ink[y * SIDE + x] = value;
    }
  }
}

// For each of the larger cells: which of the smaller ones it covers, and how much each one counts
function shares(size, wanted) {
  return Array.from({length: wanted}, (_, i) => {
    const step = size / wanted;
    const low = i * step;
    const high = low + step;
    const list = [];
    for (let j = Math.floor(low); j < Math.min(size, high); j++)
      list.push([j, (Math.min(high, j + 1) - Math.max(low, j)) / step]);
    return list;
  });
}

function resample(ink, {left, top, width, height}, columns, rows) {
  const small = new Float64Array(columns * rows);
  const across = shares(width, columns);
  shares(height, rows).forEach((down, y) => {
    for (const [i, a] of down)
      across.forEach((part, x) => {
        for (const [j, b] of part)
          small[y * columns + x] += a * b * ink[(top + i) * SIDE + left + j];
      });
  });
  return small;
}

function boundingBox(ink) {
  let left = SIDE;
  let right = -1;
  let top = SIDE;
  let bottom = -1;
  ink.forEach((value, i) => {
    if (value === 0) return;
    const x = i % SIDE;
    const y = (i - x) / SIDE;
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  });
  return right < 0 ? null : {left, top, width: right - left + 1, height: bottom - top + 1};
}

// As in Python: the longer side becomes 20 pixels, the center of mass goes to (14, 14)
function centered(ink, box) {
  const longer = Math.max(box.width, box.height);
  const fit = size => Math.max(1, Math.floor((20 * size) / longer + 0.5));
  const columns = fit(box.width);
  const rows = fit(box.height);
  const small = resample(ink, box, columns, rows);
  const picture = new Float64Array(784);
  let mass = 0;
  let x = 0;
  let y = 0;
  small.forEach((v, i) => {
    mass += v;
    x += v * (i % columns);
    y += v * Math.floor(i / columns);
  });
  const start = (mean, size) => Math.min(28 - size, Math.max(0, Math.ceil(13.5 - mean)));
  const left = start(x / mass, columns);
  const top = start(y / mass, rows);
  small.forEach((v, i) => {
    picture[(top + Math.floor(i / columns)) * 28 + left + (i % columns)] = v;
  });
  return picture;
}

// What the network gets: centered, or one pixel for each 5 by 5 cells wherever the digit stands
function seen(ink, centering) {
  const box = boundingBox(ink);
  const whole = {left: 0, top: 0, width: SIDE, height: SIDE};
  const picture = !box
    ? new Float64Array(784)
    : centering
      ? centered(ink, box)
      : resample(ink, whole, 28, 28);
  return picture.map(v => v / 256);
}

// --- What stands on the page
//
// Content goes in as text, never as HTML: names of classes are not ours
function make(tag, attributes = {}, ...content) {
  const part = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  part.append(...content);
  return part;
}

const number = v => v.toFixed(2).replace('-', '−');

function share(v) {
  if (v >= 0.9995 && v < 1) return '>0.999';
  return v >= 0.0005 ? v.toFixed(3) : v < 1e-99 ? '0' : v.toExponential(0);
}

// A grid of numbers as a picture: the larger, the more of its color; those below 0 have their own
function paint(canvas, values, largest, above, below = above, power = 1) {
  const context = canvas.getContext('2d');
  const image = context.createImageData(canvas.width, canvas.height);
  const {data} = image;
  for (let i = 0; i < values.length; i++) {
    const [r, g, b] = values[i] < 0 ? below : above;
    data[4 * i] = r;
    data[4 * i + 1] = g;
    data[4 * i + 2] = b;
    data[4 * i + 3] = 255 * Math.min(1, Math.abs(values[i]) / largest) ** power;
  }
  context.putImageData(image, 0, 0);
}

// On a dark page small values would be nearly black, so a power raises them
const COLORS = {
  light: {
    ink: [31, 36, 41],
    above: [11, 87, 164],
    below: [190, 75, 0],
    power: 1,
  },
  dark: {
    ink: [232, 236, 240],
    above: [138, 184, 242],
    below: [255, 170, 100],
    power: 0.6,
  },
};

// The pad stands on pages that it doesn't know. It takes their text's color, and where that is
// light, the page is dark. Each notation of a color has its own largest value.
function theme(root) {
  const [, kind, inside] = getComputedStyle(root).color.match(/(\w+)\((.*)\)/);
  const parts = inside.split(/[\s,/]+/).slice(kind === 'color' ? 1 : 0);
  const [a, b, c] = parts.map(text => parseFloat(text) || 0);
  const largest = kind.startsWith('rgb') ? 255 : kind.startsWith('l') ? 100 : 1;
  const brightness = /^(ok)?l/.test(kind) ? a : (a + b + c) / 3;
  return brightness > largest / 2 ? 'dark' : 'light';
}

function controls({names, examples}) {
  const button = text => make('button', {type: 'button'}, text);
  const option = (name, i) => make('option', {value: i}, name);
  const example = ({label}, i) =>
    make(
      'button',
      {
        type: 'button',
        'aria-label': `example: ${label === null ? i + 1 : names[label]}`,
      },
      make('canvas', {width: 28, height: 28}),
    );
  return {
    pad: make('canvas', {
      width: SIDE,
      height: SIDE,
      class: 'pad',
      tabindex: 0,
      role: 'application',
      'aria-label':
        'drawing pad: draw with mouse, finger or pen; arrow keys move, Delete clears, ' +
        'Ctrl Z undoes',
    }),
    clear: button('Clear'),
    undo: button('Undo'),
    random: button('Example'),
    centering: make('input', {type: 'checkbox', checked: ''}),
    temperature: make('input', {
      type: 'range',
      min: -1,
      max: 1,
      step: 0.02,
      value: 0,
      'aria-valuetext': '1.00',
    }),
    meant: make('select', {}, make('option', {value: -1}, '–'), ...names.map(option)),
    examples: examples.slice(0, 10).map(example),
  };
}

function displays({layers, names}) {
  const picture = (label, width = 28, height = 28) =>
    make('canvas', {width, height, role: 'img', 'aria-label': label});
  const strip = ({bias: {length}}) =>
    picture('hidden activations', Math.min(50, length), Math.ceil(length / 50));
  const row = name =>
    make(
      'tr',
      {},
      make('th', {scope: 'row', class: name.length > 3 ? 'long' : ''}, name),
      ...'123'.split('').map(() => make('td')),
      make('td', {}, make('span'), make('i')),
    );
  const text = (tag, kind) => make(tag, {class: kind});
  return {
    seen: picture('what the network sees'),
    speaks: picture('pixels for and against'),
    strips: layers.slice(0, -1).map(strip),
    speaksText: text('p', 'note sum'),
    stripsText: layers.slice(1).map(() => text('p', 'note')),
    rows: names.map(row),
    verdict: text('p', 'verdict'),
    loss: text('span', 'loss'),
    degree: text('span', 'degree'),
    hint: text('div', 'hint'),
    status: make('p', {role: 'status', class: 'unseen'}),
  };
}

function layout(c, d) {
  const figure = (canvas, caption, note = '') =>
    make('figure', {}, make('figcaption', {}, caption), canvas, note);
  const heads = ['class', 'logit', 'shifted (÷\u00a0T)', 'exp', 'probability'];
  const head = make('tr', {}, ...heads.map(text => make('th', {scope: 'col'}, text)));
  return make(
    'div',
    {class: 'all'},
    make(
      'div',
      {class: 'draw'},
      c.pad,
      d.hint,
      make('div', {class: 'buttons'}, c.clear, c.undo, c.examples.length ? c.random : ''),
      make('div', {class: 'examples', role: 'group', 'aria-label': 'examples'}, ...c.examples),
    ),
    make(
      'div',
      {class: 'see'},
      d.verdict,
      make(
        'div',
        {class: 'pair'},
        figure(d.seen, 'The network sees'),
        figure(d.speaks, 'Pixels for and against'),
      ),
      d.speaksText,
      make('label', {}, c.centering, ' scale and center, as MNIST’s makers did'),
      ...d.strips.map((strip, i) => figure(strip, 'Hidden activations', d.stripsText[i])),
    ),
    make(
      'div',
      {class: 'numbers'},
      make('p', {}, make('label', {}, 'temperature ', c.temperature), ' T = ', d.degree),
      make(
        'div',
        {class: 'scroll'},
        make('table', {}, make('thead', {}, head), make('tbody', {}, ...d.rows)),
      ),
      make('p', {}, make('label', {}, 'You meant ', c.meant), ' ', d.loss),
    ),
    d.status,
  );
}

// --- From the ink to the loss, anew after each change
//
// All that is kept between two calls is the ink, the settings and the digit meant
function compute(pad) {
  const pixels = seen(pad.ink, pad.centering);
  const activations = forward(pad.layers, pixels);
  const logits = activations.at(-1);
  const out = columns(logits, pad.temperature);
  const [best] = argmax(logits, logits.length);
  const speaks = contributions(pad.layers, activations, best);
  const loss = pad.meant < 0 ? null : -out.logProbs[pad.meant];
  return {pixels, activations, logits, ...out, best, speaks, loss};
}

function showPictures({d, c, ink, root}, {pixels, activations, speaks, logits, best}) {
  const colors = COLORS[theme(root)];
  root.shadowRoot.firstChild.className = `all ${theme(root)}`;
  paint(c.pad, ink, 255, colors.ink);
  paint(d.seen, pixels, 1, colors.ink);
  const strength = Math.max(...speaks.map(Math.abs)) || 1;
  paint(d.speaks, speaks, strength, colors.above, colors.below, colors.power);
  const sum = sign => speaks.reduce((a, v) => a + (v * sign > 0 ? v : 0), 0);
  const parts = [sum(1), sum(-1), logits[best] - sum(1) - sum(-1)].map(number);
  d.speaksText.textContent =
    `logit ${number(logits[best])} = for ${parts[0]} (blue), against ${parts[1]} (orange), ` +
    `biases ${parts[2]}`;
  d.strips.forEach((strip, i) => {
    const hidden = activations[i + 1];
    const active = hidden.filter(v => v > 0).length;
    paint(strip, hidden, Math.max(...hidden.map(Math.abs)) || 1, colors.ink, colors.below);
    d.stripsText[i].textContent = `${active} of ${hidden.length} are above 0`;
  });
}

function showNumbers({d, names, meant, temperature, blank}, result) {
  const {logits, shifted, exps, probs, best, loss} = result;
  d.rows.forEach((row, i) => {
    const [, logit, shift, exp, {firstChild: text, lastChild: bar}] = row.children;
    for (const [cell, v] of [
      [logit, logits],
      [shift, shifted],
    ])
      cell.textContent = number(v[i]);
    for (const [cell, v] of [
      [exp, exps],
      [text, probs],
    ])
      cell.textContent = share(v[i]);
    bar.style.width = `calc(${probs[i].toFixed(4)} * (100% - 4.6em))`;
    row.className = i === best ? 'best' : '';
  });
  d.verdict.textContent =
    `${blank ? 'Blank, and still it says' : 'It reads'} ` +
    `${names[best]}, with probability ${share(probs[best])}`;
  d.loss.textContent =
    loss === null ? '' : `loss ${loss.toFixed(4)} nats, −ln of the probability of ${names[meant]}`;
  d.hint.textContent = blank ? 'draw here' : '';
  d.degree.textContent = number(temperature);
}

function show(pad) {
  pad.blank = pad.ink.every(v => v === 0);
  pad.result = compute(pad);
  showPictures(pad, pad.result);
  showNumbers(pad, pad.result);
}

// One `show` for each refresh of the screen, however many events come until then. A screen reader
// hears the verdict when a stroke has ended or the slider is let go.
function soon(pad, announce = false) {
  pad.announce ||= announce;
  pad.waiting ??= requestAnimationFrame(() => {
    pad.waiting = null;
    show(pad);
    const said = [pad.d.verdict.textContent, pad.d.loss.textContent].filter(Boolean);
    if (pad.announce) pad.d.status.textContent = said.join('; ');
    pad.announce = false;
  });
}

// --- What the reader does
//
// Ink and digit meant are kept for Undo, fifty times at most; changes of the same kind in a row
// count as one, such as moves with a held key
function change(pad, action, kind = null) {
  if (kind === null || kind !== pad.kind)
    pad.past = [...pad.past.slice(-49), {ink: pad.ink.slice(), meant: pad.meant}];
  pad.kind = kind;
  action(pad.ink);
}

function setMeant(pad, meant) {
  pad.c.meant.value = pad.meant = meant;
}

function place(ink, image) {
  ink.forEach((_, i) => {
    const x = Math.floor((i % SIDE) / 5);
    const y = Math.floor(i / SIDE / 5);
    ink[i] = image[28 * y + x];
  });
}

// By whole pixels of MNIST
function move(ink, dx, dy) {
  const old = ink.slice();
  const inside = v => v >= 0 && v < SIDE;
  ink.forEach((_, i) => {
    const x = (i % SIDE) - 5 * dx;
    const y = Math.floor(i / SIDE) - 5 * dy;
    ink[i] = inside(x) && inside(y) ? old[y * SIDE + x] : 0;
  });
}

function take(pad, {label, image}) {
  change(pad, ink => place(ink, image));
  setMeant(pad, label ?? -1);
  soon(pad, true);
}

// Mouse, finger and pen: one at a time, also outside of the canvas
function followPointer(pad) {
  const canvas = pad.c.pad;
  let last = null;
  const at = ({clientX, clientY}) => {
    const {left, top, width, height} = canvas.getBoundingClientRect();
    return [((clientX - left) * SIDE) / width, ((clientY - top) * SIDE) / height];
  };
  const line = point => {
    brush(pad.ink, last, point);
    last = point;
  };
  canvas.addEventListener('pointerdown', event => {
    if (pad.pointer !== null || event.button !== 0) return;
    pad.pointer = event.pointerId;
    canvas.setPointerCapture(pad.pointer);
    last = at(event);
    change(pad, () => line(last));
    soon(pad);
  });
  canvas.addEventListener('pointermove', event => {
    if (event.pointerId !== pad.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const e of events.length ? events : [event]) line(at(e));
    soon(pad);
  });
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture'])
    canvas.addEventListener(end, event => {
      if (event.pointerId !== pad.pointer) return;
      pad.pointer = null;
      soon(pad, true);
    });
}

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

function clear(pad) {
  change(pad, ink => ink.fill(0));
  setMeant(pad, -1);
  soon(pad, true);
}

function undo(pad) {
  if (!pad.past.length) return;
  const {ink, meant} = pad.past.pop();
  pad.ink = ink;
  pad.kind = null;
  setMeant(pad, meant);
  soon(pad, true);
}

// Keys act on the drawing, but not while a stroke is being drawn
function press(pad, event) {
  const {key} = event;
  const control = event.ctrlKey || event.metaKey;
  if (pad.pointer !== null) return;
  if (control && !event.shiftKey && key.toLowerCase() === 'z') undo(pad);
  else if (control || event.altKey) return;
  else if (key === 'Delete' || key === 'Backspace') clear(pad);
  else if (key in ARROWS) {
    change(pad, ink => move(ink, ...ARROWS[key]), 'moves');
    soon(pad, true);
  } else return;
  event.preventDefault();
}

function react(pad) {
  const {c, examples} = pad;
  const on = (part, kind, action) =>
    part.addEventListener(kind, event => {
      action(event);
      soon(pad, kind !== 'input');
    });
  const choose = ({detail}, example) => {
    // clicks, so 0 for a key: only who points goes on with the arrow keys
    if (detail) c.pad.focus({preventScroll: true});
    take(pad, example);
  };
  c.pad.addEventListener('keydown', event => press(pad, event));
  // Pages have keys of their own, such as `s` for a search, and can't see into the shadow root
  for (const kind of ['keydown', 'keypress', 'keyup'])
    pad.root.addEventListener(kind, event => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
  on(c.clear, 'click', () => clear(pad));
  on(c.undo, 'click', () => undo(pad));
  c.examples.forEach((button, i) => on(button, 'click', event => choose(event, examples[i])));
  on(c.random, 'click', event =>
    choose(event, examples[Math.floor(Math.random() * examples.length)]),
  );
  on(c.centering, 'change', () => {
    pad.centering = c.centering.checked;
  });
  on(c.meant, 'change', () => change(pad, () => void (pad.meant = Number(c.meant.value)), 'meant'));
  on(c.temperature, 'input', () => {
    pad.temperature = 10 ** c.temperature.value;
    c.temperature.setAttribute('aria-valuetext', number(pad.temperature));
  });
  on(c.temperature, 'change', () => {});
}

// The shadow root keeps the page's styles and names apart from the pad's. It covers what stood here
// for readers without scripts.
function mount(root) {
  const config = JSON.parse(root.querySelector('script').textContent);
  const layers = config.layers.map(unpack);
  const examples = config.examples.map(({label, image}) => ({
    label,
    image: bytes(image),
  }));
  const pad = {
    root,
    names: config.names,
    layers,
    examples,
    ink: new Uint8ClampedArray(SIDE * SIDE),
    past: [],
    kind: null,
    pointer: null,
    centering: true,
    meant: -1,
    temperature: 1,
    waiting: null,
  };
  pad.c = controls(pad);
  pad.d = displays(pad);
  const sheet = new CSSStyleSheet();
  const shadow = root.attachShadow({mode: 'open'});
  sheet.replaceSync(STYLE);
  shadow.adoptedStyleSheets = [sheet];
  shadow.append(layout(pad.c, pad.d));
  followPointer(pad);
  react(pad);
  // :host has a transition of its color, so that a change of the page's theme is an event
  const recolor = () => {
    const {ink} = COLORS[theme(root)];
    pad.c.examples.forEach((button, i) => paint(button.firstChild, examples[i].image, 255, ink));
    soon(pad);
  };
  root.addEventListener('transitionend', ({propertyName}) => {
    if (propertyName === 'color') recolor();
  });
  recolor();
  show(pad);
  // for tests
  root.pad = Object.assign(pad, {
    show: () => show(pad),
    take: image => {
      take(pad, {label: null, image});
      show(pad);
      return pad.result;
    },
  });
}

// A notebook runs the script again with each output, and the script can't ask where it stands: it
// looks for every place that waits for a pad of this version and has none yet
for (const root of document.querySelectorAll(`.mnist-mb-pad[data-code="${CODE}"]`))
  if (!root.shadowRoot) mount(root);
