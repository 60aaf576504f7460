// Figures that move: a network that trains in the page, and three small ones. The Python module
// `live` puts this file into a page after net.js, both within one function; there the two texts
// below are the style sheet, live.css, and a name for this version of the code.
const STYLE = 'LIVE_CSS';
const CODE = 'LIVE_CODE';

// --- The digits: 4,000 to train on, then 1,000 new ones
//
// Four pixels to a byte, then a label for each image; deflated, and written as text. A page unpacks
// them once, whichever of its figures has them.
const TRAIN = 4000;
const SHARED = Symbol.for('mnist-mb-digits');

async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = bytes.length / 197;
  const levels = new Uint8Array(784 * count);
  for (let i = 0; i < levels.length; i++) levels[i] = (bytes[i >> 2] >> (2 * (i & 3))) & 3;
  const labels = bytes.slice(196 * count);
  const byLabel = Uint32Array.from(labels.keys()).subarray(0, TRAIN);
  byLabel.sort((a, b) => labels[a] - labels[b] || a - b);
  return {levels, labels, byLabel};
}

function digitsOfPage() {
  const text = document.querySelector('.mnist-mb-digits')?.textContent;
  if (text && !globalThis[SHARED]) globalThis[SHARED] = unpack(text);
  return globalThis[SHARED];
}

// The images of these rows as a network gets them: four levels of gray, from 0 to 255/256
function pixels({levels}, rows, scale = 1) {
  const x = new Float64Array(784 * rows.length);
  rows.forEach((row, i) => {
    for (let k = 0; k < 784; k++) x[784 * i + k] = ((levels[784 * row + k] * 85) / 256) * scale;
  });
  return x;
}

// --- A run: the loop of chapter 03, in the order of `fit` with seed 0
//
// What each mistake changes: a line of the loop, how it then reads, and what it says of itself
const MISTAKES = {
  none: [],
  'gradients not cleared': [5, 'p.grad.zero_()', 'left out'],
  'pixels to 255': [1, 'preds = model(256*xb)', 'not from 0 to 1'],
  'sorted by label': [0, 'xb, yb = x[rows], y[rows]', 'in order'],
  'labels one row late': [0, 'xb, yb = x[rows], y[rows - 1]', 'wrong labels'],
  'no ReLU': [1, 'preds = model(xb)', 'without its ReLU'],
};

function newRun(digits) {
  const model = newModel(1);
  const run = {digits, model, grad: newGrad(model), random: generator(0), at: 0};
  run.order = randperm(TRAIN, run.random);
  return Object.assign(run, {steps: 0, images: 0, losses: [], checks: [], marks: []});
}

const scaled = ({mistake}) => (mistake === 'pixels to 255' ? 256 : 1);
const hasReLU = ({mistake}) => mistake !== 'no ReLU';

// The minibatch that comes next, and what the network makes of it
function look(run, set) {
  const order = set.mistake === 'sorted by label' ? run.digits.byLabel : run.order;
  const rows = order.subarray(run.at, run.at + set.rows);
  const late = set.mistake === 'labels one row late' ? TRAIN - 1 : 0;
  const target = Uint8Array.from(rows, row => run.digits.labels[(row + late) % TRAIN]);
  const pass = forward(layersOf(run.model, hasReLU(set)), pixels(run.digits, rows, scaled(set)));
  const guesses = argmax(pass.at(-1));
  const right = guesses.filter((guess, i) => guess === target[i]).length;
  return {rows, target, pass, guesses, right, loss: nll(logSoftmax(pass.at(-1)), target)};
}

// One turn of the loop; what is returned is the minibatch as it was before its step
function learn(run, set) {
  const batch = look(run, set);
  backward(run.model, run.grad, batch.pass, batch.target, hasReLU(set));
  step(run.model, run.grad, set.rate);
  if (set.mistake !== 'gradients not cleared') zero(run.grad);
  run.steps++;
  run.images += batch.rows.length;
  run.losses.push(batch.loss);
  run.at += batch.rows.length;
  if (run.at >= TRAIN) {
    run.order = randperm(TRAIN, run.random);
    run.at = 0;
  }
  return batch;
}

// Loss, right answers and dead units on the new images: units that give 0 for every one of them
function check(run, set) {
  const {digits, model} = run;
  const rows = Uint32Array.from(digits.labels.keys()).subarray(TRAIN);
  const target = digits.labels.subarray(TRAIN);
  const x = pixels(digits, rows, scaled(set));
  const [, h, logits] = forward(layersOf(model, hasReLU(set)), x);
  const alive = new Set();
  h.forEach((v, i) => v === 0 || alive.add(i % model.b1.length));
  const dead = Array.from(model.b1.keys()).filter(k => !alive.has(k));
  const right = argmax(logits).filter((guess, i) => guess === target[i]).length;
  return {step: run.steps, loss: nll(logSoftmax(logits), target), right, dead};
}

// --- A drawing becomes an image as MNIST's makers made theirs
//
// Strokes are lists of points. The longer side of the drawing gets 20 pixels, its line one width
// whatever its size, and its center of mass goes to the middle.
const PEN = 1.15;

function drawLine(image, [x0, y0], [x1, y1]) {
  const dx = x1 - x0;
  const dy = y1 - y0;
  const square = dx * dx + dy * dy || 1;
  image.forEach((old, i) => {
    const x = (i % 28) + 0.5 - x0;
    const y = Math.floor(i / 28) + 0.5 - y0;
    const t = Math.min(1, Math.max(0, (x * dx + y * dy) / square));
    const ink = Math.min(1, PEN + 0.5 - Math.hypot(x - t * dx, y - t * dy));
    if (ink > old) image[i] = ink;
  });
}

function asMnist(strokes) {
  const points = strokes.flat();
  const [left, top] = [0, 1].map(k => Math.min(...points.map(p => p[k])));
  const [right, bottom] = [0, 1].map(k => Math.max(...points.map(p => p[k])));
  const zoom = (20 - 2 * PEN) / Math.max(right - left, bottom - top, 0.1);
  const draw = (x, y) => {
    const image = new Float64Array(784);
    const place = p => [(p[0] - x) * zoom + 14.5, (p[1] - y) * zoom + 14.5];
    for (const stroke of strokes)
      stroke.forEach((p, i) => drawLine(image, place(stroke[Math.max(0, i - 1)]), place(p)));
    return image;
  };
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const first = draw(x, y);
  const mass = first.reduce((a, v) => a + v, 0);
  const mean = place => first.reduce((a, v, i) => a + v * (place(i) + 0.5), 0) / mass - 14.5;
  return draw(x + mean(i => i % 28) / zoom, y + mean(i => Math.floor(i / 28)) / zoom).map(
    v => (v * 255) / 256,
  );
}

// --- What stands on the page
//
// A figure is a template of this file; names and numbers go in as text
const picture = (name, heading, below = '') =>
  `<figure><figcaption>${heading}</figcaption><canvas class="${name}" role="img"></canvas>
   ${below}<p class="note"></p></figure>`;
const key = (kind, text) => `<span class="key ${kind}">${text}</span>`;

function fill(all, template) {
  all.insertAdjacentHTML('beforeend', template);
  const parts = [...all.querySelectorAll('[class]')];
  return Object.fromEntries(parts.map(part => [part.classList[0], part]));
}

// The line below a picture, which is its name for screen readers
function say(canvas, text) {
  canvas.parentNode.querySelector('.note').textContent = text;
  canvas.setAttribute('aria-label', text);
}

const signed = (v, digits = 2) => v.toFixed(digits).replace('-', '−');
const count = v => v.toLocaleString('en');
const short = v => signed(v, v % 1 ? 1 : 0);

const bars = names =>
  names.map(name => `<li><b>${name}</b><span><i></i></span><span></span></li>`).join('');

// Bars from 0 to 1, or from −1 to 1 to both sides of the middle
function showBars(list, values, best) {
  const both = list.matches('.both');
  [...list.children].forEach((row, i) => {
    const [, track, number] = row.children;
    const {style} = track.firstChild;
    const width = (both ? 50 : 100) * Math.abs(values[i]);
    style.width = `${width}%`;
    if (both) style.marginLeft = `${50 - (values[i] < 0 ? width : 0)}%`;
    track.firstChild.className = values[i] < 0 ? 'below' : '';
    number.textContent = signed(values[i], 3);
    row.className = i === best ? 'best' : '';
  });
}

// --- Drawing on canvases
//
// A page whose text is light is dark. Canvases need colors as numbers; the style sheet gets them, too
const LIGHT = {paper: [255, 255, 255], blue: [11, 87, 164], orange: [190, 75, 0]};
const DARK = {paper: [21, 25, 29], blue: [138, 184, 242], orange: [255, 170, 100]};

function colorsOf(all) {
  const text = getComputedStyle(all.querySelector('.ink')).color; // numbers from 0 to 1
  const ink = text.match(/[\d.]+(e-\d+)?/g).map(v => Math.round(255 * v));
  const dark = ink[1] > 128;
  const colors = dark ? DARK : LIGHT;
  for (const [name, color] of Object.entries(colors))
    all.style.setProperty(`--${name}`, css(color));
  all.style.colorScheme = dark ? 'dark' : 'light';
  return {ink: ink.slice(0, 3), dark, ...colors};
}

const css = (color, alpha = 1) => `rgb(${color.join(' ')} / ${alpha})`;

// An empty canvas at the screen's own resolution, measured in pixels of the page
function sheet(canvas) {
  const {clientWidth: width, clientHeight: height} = canvas;
  const context = canvas.getContext('2d');
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  context.scale(devicePixelRatio, devicePixelRatio);
  context.font = '12px system-ui, sans-serif';
  return {context, width, height};
}

// Pictures of 28 by 28 numbers from −1 to 1 beside each other: the stronger the more of a color
function mosaic(pictures, columns, gap, value, above, below = above) {
  const side = 28 + gap;
  const image = new ImageData(columns * side, Math.ceil(pictures / columns) * side);
  const pixel = new Uint32Array(image.data.buffer);
  const [positive, negative] = [above, below].map(([r, g, b]) => (b << 16) | (g << 8) | r);
  for (let n = 0; n < pictures; n++) {
    const corner = Math.floor(n / columns) * side * image.width + (n % columns) * side;
    for (let i = 0; i < 784; i++) {
      const at = corner + Math.floor(i / 28) * image.width + (i % 28);
      const v = value(n, i);
      const strength = 255 * Math.min(1, Math.abs(v));
      pixel[at] = (strength << 24) | (v < 0 ? negative : positive);
    }
  }
  const canvas = document.createElement('canvas');
  Object.assign(canvas, {width: image.width, height: image.height});
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

// The first fifty digits of a minibatch; a wrong one has the guess in its corner
function drawBatch(canvas, {levels}, {rows, guesses, target}, {ink, paper, blue, orange}) {
  const {context, width, height} = sheet(canvas);
  const shown = Math.min(50, rows.length);
  const most = width > 4 * height ? 17 : 10;
  const columns = Math.min(most, Math.ceil(shown / 2));
  const side = Math.min(width / columns, height / Math.ceil(shown / columns));
  const digits = mosaic(shown, columns, 6, (n, i) => levels[784 * rows[n] + i] / 3, ink);
  const inset = (side * 3) / 34;
  context.drawImage(
    digits,
    inset,
    inset,
    columns * side,
    (columns * side * digits.height) / digits.width,
  );
  Object.assign(context, {textAlign: 'center', lineWidth: 2});
  const corner = Math.max(12, side / 3);
  context.font = `bold ${0.85 * corner}px system-ui, sans-serif`;
  for (let n = 0; n < shown; n++) {
    const [x, y] = [(n % columns) * side, Math.floor(n / columns) * side];
    const right = guesses[n] === target[n];
    context.strokeStyle = context.fillStyle = css(right ? blue : orange);
    context.strokeRect(x + 2, y + 2, side - 4, side - 4);
    if (right) continue;
    context.fillRect(x + 1, y + 1, corner, corner + 1);
    context.fillStyle = css(paper);
    context.fillText(guesses[n], x + 1 + corner / 2, y + 0.85 * corner);
  }
}

// The weights of each hidden unit, on a fixed scale; dead units are crossed out
const STRONG = 0.15;

function drawWeights(canvas, {w1, b1}, dead, {ink, paper, dark, blue, orange}) {
  const {context, width, height} = sheet(canvas);
  // on black, weak colors would be lost
  const strength = dark ? w => Math.sign(w) * Math.sqrt(Math.abs(w)) : w => w;
  const weight = (n, i) => strength(w1[784 * n + i] / STRONG);
  const weights = mosaic(b1.length, 10, 1, weight, blue, orange);
  context.imageSmoothingEnabled = false;
  context.drawImage(weights, 0, 0, width, height);
  context.strokeStyle = css(ink, 0.8);
  context.fillStyle = css(paper, 0.55);
  const side = width / 10;
  for (const unit of dead) {
    const [x, y] = [(unit % 10) * side + 3, Math.floor(unit / 10) * side + 3];
    const far = side - 7;
    context.fillRect(x - 3, y - 3, side, side);
    context.stroke(new Path2D(`M${x},${y}l${far},${far}M${x + far},${y}l${-far},${far}`));
  }
}

// Strokes, or an example, or a hint
function drawPad(canvas, {levels}, strokes, example, {ink}) {
  const {context, width} = sheet(canvas);
  context.strokeStyle = context.fillStyle = css(ink);
  Object.assign(context, {lineWidth: width / 14, lineCap: 'round', lineJoin: 'round'});
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => `${x * width},${y * width}`);
    context.stroke(new Path2D(`M${points[0]}L${points.join(' ')}`));
  }
  Object.assign(context, {textAlign: 'center', font: '15px system-ui, sans-serif'});
  if (example !== null) {
    const digit = mosaic(1, 1, 0, (n, i) => levels[784 * example + i] / 3, ink);
    context.drawImage(digit, 0, 0, width, width);
  } else if (!strokes.length) context.fillText('draw here', width / 2, width / 2);
}

// Axes with ticks, and what draws on them
function chart(canvas, {x, y, xTicks, yTicks}, {ink, paper}) {
  const {context, width, height} = sheet(canvas);
  const [left, right, top, bottom] = [26, width - 14, 10, height - 20];
  const px = v => left + ((v - x[0]) / (x[1] - x[0])) * (right - left);
  const py = v => bottom - ((Math.min(v, y[1]) - y[0]) / (y[1] - y[0])) * (bottom - top);
  const text = (words, at, v, align) => {
    context.fillStyle = css(ink);
    Object.assign(context, {textAlign: align, strokeStyle: css(paper), lineWidth: 4});
    context.setLineDash([]);
    context.strokeText(words, at, v);
    context.fillText(words, at, v);
  };
  const line = (points, color, thick = 2, dash = []) => {
    Object.assign(context, {strokeStyle: color, lineWidth: thick, lineJoin: 'round'});
    context.setLineDash(dash);
    context.stroke(new Path2D(`M${points.map(([v, w]) => `${px(v)},${py(w)}`).join('L')}`));
  };
  const dot = ([v, w], color, radius = 5) => {
    context.fillStyle = color;
    context.beginPath();
    context.arc(px(v), py(w), radius, 0, 7);
    context.fill();
  };
  for (const v of yTicks) {
    line([[x[0], v], [x[1], v]], css(ink, 0.15), 1); // prettier-ignore
    text(short(v), left - 7, py(v) + 4, 'right');
  }
  for (const v of xTicks) {
    const half = context.measureText(short(v)).width / 2;
    text(short(v), Math.min(px(v), width - half), height - 4, 'center');
  }
  return {context, px, py, text, line, dot};
}

// Each minibatch's loss is a dot, one above 3 a tick at the edge; that of new images is a line
function drawLoss(canvas, run, before, colors) {
  const {ink, blue} = colors;
  const steps = Math.max(run.steps, before.at(-1)?.step ?? 0);
  const last = 80 * 2 ** Math.max(0, Math.ceil(Math.log2(steps / 80)));
  const axes = {x: [0, last], y: [0, 3], xTicks: [0, last / 2, last], yTicks: [0, 1, 2, 3]};
  const {context, px, py, text, line, dot} = chart(canvas, axes, colors);
  const along = checks => checks.map(({step: v, loss}) => [v, loss]);
  line([[0, Math.log(10)], [last, Math.log(10)]], css(ink, 0.55), 1, [4, 4]); // prettier-ignore
  for (const {step: v} of run.marks) line([[v, 0], [v, 3]], css(ink, 0.4), 1, [1, 3]); // prettier-ignore
  context.fillStyle = css(ink, 0.45);
  run.losses.forEach((loss, i) => {
    const above = loss > 3 ? 5 : 0;
    context.fillRect(px(i) - 1, py(loss) - 1 - above, 2 - above / 7, 2 + above);
  });
  if (before.length) line(along(before), css(ink, 0.4));
  line(along(run.checks), css(blue), 2.5);
  dot(along(run.checks).at(-1), css(blue), 3.5);
  text('2.30: a blind guess', px(last), py(2.3) - 5, 'right');
  text('step', px(last), py(0) - 5, 'right');
  run.marks.forEach(({step: v, words}, i) => {
    text(words, px(v) + 3, py(2.75 - 0.25 * (i % 3)), 'left');
  });
}

// --- The room: a run, its controls and its pictures
const EPOCHS = 3;
const EXAMPLES = [8, 11, 14, 7, 24, 46, 6, 2, 16, 3].map(i => TRAIN + i);
const CHOICES = {
  rate: [0.01, 0.1, 0.5, 1, 2, 5],
  rows: [1, 10, 50, 250],
  pace: ['watch', 'fast'],
  mistake: Object.keys(MISTAKES),
};
const calm = globalThis.matchMedia?.('(prefers-reduced-motion: reduce)');

const BATCH = picture(
  'batch',
  `This minibatch ${key('blue', 'right')}${key('orange', 'wrong: its guess')}`,
);
const READING = `<div class="reading"><p class="verdict"></p><canvas class="pad" role="img"></canvas>
  <ol class="bars">${bars([...'0123456789'])}</ol></div>`;
const STATE = '<p class="state"></p></div><p class="status" role="status"></p>';
const HOME = `${READING}<div class="buttons"><button class="train">Train</button>
  <button class="clear">Clear</button><button class="example">Example</button>
  <button class="reset">Reset</button>${STATE}${BATCH}`;
const ROOM = `<div class="buttons"><button class="train">Train</button>
  <button class="step">One step</button><button class="reset">Reset</button>${STATE}
  <div class="choices"></div><pre class="loop">${'<code></code>'.repeat(6)}</pre>${BATCH}
  ${picture('loss', `Loss ${key('dots', 'each minibatch')}${key('line blue', 'new images')}`)}
  ${picture('weights', 'Weights of the 50 hidden units')}
  <figure><figcaption>A digit it has not seen <button class="example">Another</button></figcaption>
  ${READING}</figure>`;

// The loop as it is now: what differs from chapter 03 is marked, what is missing is struck out
function showLoop({e, set, batch}) {
  const lines = [
    ['xb, yb = x[rows], y[rows]', `${set.rows} at random`],
    ['preds = model(xb)', `${batch.right} of ${batch.rows.length} right`],
    ['loss = loss_func(preds, yb)', batch.loss.toFixed(3)],
    ['loss.backward()', '39,760 derivatives'],
    [`p -= p.grad*${set.rate}`, 'a step against them'],
    ['p.grad.zero_()', 'and forget them'],
  ];
  const [changed, ...instead] = MISTAKES[set.mistake];
  if (instead.length) lines[changed] = instead;
  [...e.loop.children].forEach((line, i) => {
    const [code, comment] = ['span', 'small'].map(tag => document.createElement(tag));
    code.textContent = lines[i][0];
    comment.textContent = `# ${lines[i][1]}`;
    line.replaceChildren(code, comment);
    line.className = i === changed || (i === 4 && set.rate !== 0.5) ? 'other' : '';
  });
  e.loop.classList.toggle('forgetful', set.mistake === 'gradients not cleared');
}

function showBatch({e, run, batch, colors}) {
  drawBatch(e.batch, run.digits, batch, colors);
  const which = run.steps ? `Minibatch ${count(run.steps)}` : 'The first minibatch';
  const of = batch.rows.length;
  const loss = Number.isFinite(batch.loss) ? batch.loss.toFixed(2) : 'no number any more: Reset';
  const shown = of > 50 ? '; 50 of them are shown' : '';
  say(e.batch, `${which}: ${batch.right} of ${of} right, loss ${loss}${shown}`);
}

function showRun({e, run, before, colors}) {
  const {loss, right, dead} = run.checks.at(-1);
  drawLoss(e.loss, run, before, colors);
  const gray = before.length ? '; gray: the run before' : '';
  say(e.loss, `New images: loss ${loss.toFixed(2)}, reads ${right} of 1,000${gray}`);
  drawWeights(e.weights, run.model, dead, colors);
  const none = dead.length ? ': they give 0 for every image' : '';
  say(e.weights, `${dead.length} of 50 are dead${none}. Full color: ±${STRONG}`);
}

// What the network makes of the drawing, the example or blank paper
function showReading({e, home, run, set, strokes, example, image, colors}) {
  const x = image.map(v => v * scaled(set));
  const shares = softmax(forward(layersOf(run.model, hasReLU(set)), x).at(-1));
  const [best] = argmax(shares);
  const blank = !strokes.length && example === null;
  drawPad(e.pad, run.digits, strokes, example, colors);
  showBars(e.bars, shares, blank ? -1 : best);
  const label = run.digits.labels[example];
  const says = `It ${run.steps ? 'reads' : 'guesses'} ${best} (${shares[best].toFixed(3)})`;
  const verdict = best === label ? ': right' : `: wrong, it is ${label}`;
  const empty = run.steps ? `Blank, and still it says ${best}` : 'It has learned nothing yet';
  if (blank) e.verdict.textContent = empty;
  else e.verdict.textContent = says + (home ? '' : verdict);
  e.pad.setAttribute('aria-label', `${home ? 'drawing pad' : 'digit'}. ${e.verdict.textContent}`);
}

// A screen reader hears of a running training every five seconds
function showState({e, home, run, playing, until}, told) {
  const {loss, right, dead} = run.checks.at(-1);
  const finished = run.images >= until ? 'Train on' : 'Train';
  const steps = `step ${count(run.steps)}`;
  const reads = `reads ${Math.round(right / 10)} of 100 new digits`;
  e.train.textContent = playing ? 'Pause' : finished;
  e.state.textContent = `${steps} · ${home ? reads : `${count(run.images)} images`}`;
  const now = performance.now();
  if (!run.steps || (playing && now - told < 5000)) return told;
  const words = [
    steps,
    `loss ${loss.toFixed(2)}`,
    `reads ${right} of 1,000`,
    `${dead.length} units dead`,
  ];
  e.status.textContent = words.join(', ');
  return now;
}

function show(room, everything = true) {
  if (!room.run) return;
  room.told = showState(room, room.told);
  if (everything) showBatch(room);
  if (everything && !room.home) showLoop(room);
  if (!room.home) showRun(room);
  showReading(room);
}

// --- What happens in a room
function begin(room) {
  room.run = newRun(room.digits);
  room.run.checks.push(check(room.run, room.set));
  room.batch = look(room.run, room.set);
  Object.assign(room, {playing: false, clock: 0, until: EPOCHS * TRAIN});
}

// The new images are asked after each of the first ten steps, then after every 500 images
function turn(room) {
  const {run, set} = room;
  const before = Math.floor(run.images / 500);
  room.batch = learn(run, set);
  if (run.steps <= 10 || Math.floor(run.images / 500) > before) run.checks.push(check(run, set));
  if (run.images >= room.until || !Number.isFinite(room.batch.loss)) room.playing = false;
}

// Slow enough at first to see each minibatch, then ever faster, up to 3,000 images a second
function frame(room, now) {
  if (!room.playing) return;
  room.next = requestAnimationFrame(next => frame(room, next));
  const seconds = Math.min(0.1, Math.max(0, now - room.now) / 1000);
  room.now = now;
  if (!room.visible) return;
  room.clock += seconds;
  const watch = Math.min(3000 / room.set.rows, 0.6 * 2 ** (room.clock / 1.15));
  const fast = room.set.pace === 'fast' || calm.matches;
  room.due = Math.min(room.due, 2) + seconds * (fast ? 1e4 : watch);
  const end = performance.now() + (fast ? 50 : 14);
  for (; room.due >= 1 && room.playing && performance.now() < end; room.due--) turn(room);
  if (room.playing && calm.matches && now - room.shown < 500) return;
  const everything = !room.playing || now - room.drawn > 334;
  Object.assign(room, {shown: now, drawn: everything ? now : room.drawn});
  show(room, everything);
}

function train(room) {
  room.playing = !room.playing;
  if (room.run.images >= room.until) room.until += EPOCHS * TRAIN;
  const now = performance.now();
  Object.assign(room, {now, due: 1, shown: now, drawn: 0});
  cancelAnimationFrame(room.next);
  room.next = requestAnimationFrame(next => frame(room, next));
  show(room);
}

function oneStep(room) {
  room.playing = false;
  turn(room);
  const {checks, steps} = room.run;
  if (checks.at(-1).step < steps) checks.push(check(room.run, room.set));
  show(room);
}

function reset(room) {
  if (room.run.steps) room.before = room.run.checks;
  begin(room);
  show(room);
}

function choose(room, name, value) {
  room.set[name] = Number(value) || value;
  if (!room.run.steps) begin(room);
  else if (name !== 'pace') room.run.marks.push({step: room.run.steps, words: `${name} ${value}`});
  show(room);
}

// The pad has strokes, or an example, or nothing
function read(room, strokes, example = null) {
  const image = example === null ? asMnist(strokes) : pixels(room.digits, [example]);
  Object.assign(room, {strokes, example, image});
  showReading(room);
}

// Mouse, finger and pen, one at a time
function followPen(room) {
  const {pad} = room.e;
  let pen = null;
  const at = ({clientX, clientY}) => {
    const {left, top, width} = pad.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / width];
  };
  pad.addEventListener('pointerdown', event => {
    if (pen !== null || event.button !== 0 || !room.run) return;
    pen = event.pointerId;
    pad.setPointerCapture(pen);
    read(room, [...room.strokes, [at(event)]]);
  });
  pad.addEventListener('pointermove', event => {
    if (event.pointerId !== pen) return;
    const stroke = room.strokes.at(-1);
    for (const [x, y] of (event.getCoalescedEvents?.() ?? [event]).map(at))
      if (Math.hypot(x - stroke.at(-1)[0], y - stroke.at(-1)[1]) > 0.015) stroke.push([x, y]);
    read(room, room.strokes);
  });
  for (const end of ['pointerup', 'pointercancel'])
    pad.addEventListener(end, event => {
      if (event.pointerId === pen) pen = null;
    });
}

function makeSelect(name, values, value) {
  const label = document.createElement('label');
  const select = document.createElement('select');
  for (const v of new Set([...values, value])) select.append(new Option(v, v, false, v === value));
  label.append(`${name} `, select);
  return label;
}

function roomFigure(all, {home, rate, rows, mistake, show: names}) {
  const set = {rate, rows, mistake, pace: 'watch'};
  const e = fill(all, home ? HOME : ROOM);
  const room = {all, e, home, set, before: [], show: () => show(room)};
  const on = (part, kind, action) => part?.addEventListener(kind, () => room.run && action());
  let example = 0;
  const next = () => read(room, [], EXAMPLES[example++ % EXAMPLES.length]);
  on(e.train, 'click', () => train(room));
  on(e.step, 'click', () => oneStep(room));
  on(e.reset, 'click', () => reset(room));
  on(e.clear, 'click', () => read(room, []));
  on(e.example, 'click', next);
  for (const name of names) {
    const label = makeSelect(name, CHOICES[name], set[name]);
    on(label.lastChild, 'change', () => choose(room, name, label.lastChild.value));
    e.choices.append(label);
  }
  if (home) followPen(room);
  room.see = async visible => {
    room.visible = visible;
    if (!visible || room.run) return;
    room.digits = await digitsOfPage();
    if (room.run) return;
    if (!room.digits) e.state.textContent = 'Its digits are in the first such figure: run its cell';
    else {
      begin(room);
      if (home) read(room, []);
      else next();
      show(room);
    }
  };
  document.addEventListener('mnist-mb-digits', () => room.see(room.visible));
  return room;
}

// --- Chapter 01: three scores become shares
//
// In float32, as PyTorch has them: above 88.72 the exponential is infinite
function sharesOf(scores, {temperature, plus, shift}) {
  const {fround} = Math;
  const scaled = scores.map(v => fround(fround(v + plus) / temperature));
  const largest = shift ? Math.max(...scaled) : 0;
  const shifted = scaled.map(v => fround(v - largest));
  const exps = shifted.map(v => fround(Math.exp(v)));
  const sum = exps.reduce((a, v) => fround(a + v));
  return {shifted, exps, sum, shares: exps.map(v => fround(v / sum))};
}

function brief(v) {
  if (v === Infinity) return 'inf';
  return v >= 999 || (v > 0 && v < 1e-3) ? v.toExponential(1) : v.toPrecision(3);
}

const slider = (name, low, high, step, value) =>
  `<input type="range" class="${name}" aria-label="${name}" min="${low}" max="${high}"
   step="${step}" value="${value}">`;
const SCORE = `<tr><th scope="row"></th><td>${slider('score', -5, 5, 0.01, 0)}</td><td></td><td></td>
  <td></td><td class="share"><span><i></i></span><span></span></td></tr>`;
const SOFTMAX = `<table><thead><tr><td></td><td></td><th>score</th><th>exponent</th><th>exp</th>
  <th>share</th></tr></thead><tbody class="scores"></tbody></table><div class="choices">
  <label><input type="checkbox" class="plus"> +100 to all</label>
  <label><input type="checkbox" class="shift"> subtract the largest</label>
  <label>temperature ${slider('temperature', -1, 1, 0.01, 0)}</label>
  <output class="degree"></output></div><p class="note" role="status"></p>`;

function softmaxFigure(all, {scores}) {
  const e = fill(all, SOFTMAX);
  const inputs = Object.entries(scores).map(([name, score]) => {
    e.scores.insertAdjacentHTML('beforeend', SCORE);
    const [head, {firstChild: input}] = e.scores.lastChild.children;
    head.textContent = name;
    input.setAttribute('aria-label', `score of ${name}`);
    input.value = score;
    return input;
  });
  const update = () => {
    const values = inputs.map(input => Number(input.value));
    const temperature = 10 ** e.temperature.value;
    const set = {temperature, plus: e.plus.checked ? 100 : 0, shift: e.shift.checked};
    const {shifted, exps, sum, shares} = sharesOf(values, set);
    [...e.scores.children].forEach((row, i) => {
      const texts = [signed(values[i] + set.plus), signed(shifted[i]), brief(exps[i])];
      texts.forEach((text, k) => (row.children[k + 2].textContent = text));
      const [track, number] = row.lastChild.children;
      const broken = Number.isNaN(shares[i]);
      track.firstChild.className = broken ? 'broken' : '';
      track.firstChild.style.width = `${broken ? 100 : 100 * shares[i]}%`;
      number.textContent = broken ? 'nan' : shares[i].toFixed(3);
    });
    e.degree.textContent = `T = ${temperature.toFixed(2)}`;
    e.temperature.setAttribute('aria-valuetext', temperature.toFixed(2));
    e.note.textContent = Number.isFinite(sum)
      ? `The exponentials add up to ${brief(sum)}; each share is its part of them.`
      : 'Too large for float32, so exp gives inf, and inf/inf is not a number: nan.';
  };
  all.addEventListener('input', update);
  return {show: update};
}

// --- Chapter 02: the loss of a probability, and its gradient for ten logits; it is a 3
const gradientOf = p => Array.from({length: 10}, (_, c) => (c === 3 ? p - 1 : (1 - p) / 9));
const LOSS = `${picture('curve', 'Loss: −log p, in nats', slider('p', 0.001, 0.999, 0.001, 0.1))}
  <figure><figcaption>Gradient for the ten logits: p − truth</figcaption>
  <ol class="bars both">${bars([...'0123456789'])}</ol><p class="others note"></p></figure>`;

function lossFigure(all) {
  const e = fill(all, LOSS);
  const places = Array.from({length: 200}, (_, i) => ((i + 1) / 200) ** 2 * 0.999);
  const axes = {x: [0, 1], y: [0, 7], xTicks: [0, 0.5, 1], yTicks: [0, 1, 2, 3, 4, 5, 6, 7]};
  const figure = {};
  const show = () => {
    const p = Number(e.p.value);
    const {colors} = figure;
    const {line, dot} = chart(e.curve, axes, colors);
    const at = [p, -Math.log(p)];
    line(places.map(v => [v, -Math.log(v)]), css(colors.ink, 0.6)); // prettier-ignore
    line([[p, 0], at, [0, at[1]]], css(colors.blue), 1.5, [4, 3]); // prettier-ignore
    dot(at, css(colors.blue), 6);
    say(e.curve, `The right digit has p = ${p.toFixed(3)}: the loss is ${at[1].toFixed(2)}`);
    showBars(e.bars, gradientOf(p), 3);
    e.others.textContent = `It is a 3. The nine others share the rest: ${((1 - p) / 9).toFixed(3)} each`;
  };
  all.addEventListener('input', show);
  return Object.assign(figure, {show});
}

// --- Chapter 03: steps along a slice of the loss
//
// The table has the loss at places t, evenly apart. Its slope is measured in that at t = 0, so that
// the first step is as long as the rate.
function lossAt({t, loss}, at) {
  const where = ((at - t[0]) / (t.at(-1) - t[0])) * (t.length - 1);
  const i = Math.min(t.length - 2, Math.floor(where));
  return loss[i] + (where - i) * (loss[i + 1] - loss[i]);
}

function slopeAt(table, at) {
  const d = table.t[1] - table.t[0];
  const [low, high] = [Math.max(table.t[0], at - d), Math.min(table.t.at(-1), at + d)];
  return (lossAt(table, high) - lossAt(table, low)) / (high - low);
}

const descend = (table, at, rate) => at + (rate * slopeAt(table, at)) / slopeAt(table, 0);
const RATES = [0.1, 0.5, 1, 1.5];
const SLICE = `<div class="buttons"><button class="train">Step</button><span>rate</span>
  ${RATES.map(rate => `<button class="rate">${rate}</button>`).join(' ')}</div>
  ${picture('curve', 'Loss along the gradient, after a step of length t')}`;

function sliceFigure(all, {table}) {
  const e = fill(all, SLICE);
  const buttons = [...all.querySelectorAll('.rate')];
  const [low, high] = [table.t[0], table.t.at(-1)];
  const tenths = v => Math.round(10 * v) / 10;
  const bottom = Math.floor(10 * Math.min(...table.loss)) / 10;
  const top = tenths(bottom + 0.3);
  const axes = {
    x: [low, high],
    y: [bottom, top],
    xTicks: [-1, 0, 1, 2],
    yTicks: [0, 1, 2, 3].map(i => tenths(bottom + i / 10)),
  };
  const inside = at => at >= low && at <= high;
  const state = {rate: 0.5, path: [0]};
  const show = () => {
    const {colors} = state;
    const {line, dot} = chart(e.curve, axes, colors);
    const at = state.path.at(-1);
    const points = state.path.filter(inside).map(v => [v, lossAt(table, v)]);
    const valley = table.t.map((v, i) => [v, table.loss[i]]);
    line(valley.filter(([, loss]) => loss <= top), css(colors.ink, 0.6)); // prettier-ignore
    line(points, css(colors.blue, 0.6), 1.5);
    points.forEach((point, i) => dot(point, css(colors.blue), i + 1 < points.length ? 3.5 : 6));
    const where = inside(at)
      ? `t = ${signed(at)}, loss ${lossAt(table, at).toFixed(3)}`
      : 'out of the picture, and the loss grows with each step';
    say(e.curve, `Rate ${state.rate}, step ${state.path.length - 1}: ${where}`);
    e.train.disabled = !inside(at);
    buttons.forEach((button, i) => button.setAttribute('aria-pressed', RATES[i] === state.rate));
  };
  e.train.addEventListener('click', () => {
    state.path.push(descend(table, state.path.at(-1), state.rate));
    show();
  });
  buttons.forEach((button, i) =>
    button.addEventListener('click', () => {
      Object.assign(state, {rate: RATES[i], path: [0]});
      show();
    }),
  );
  return Object.assign(state, {show});
}

// --- Into the page
//
// The shadow root keeps the page's styles and names apart from the figure's. What stood here for
// readers without scripts is shown on paper.
const FIGURES = {room: roomFigure, softmax: softmaxFigure, loss: lossFigure, slice: sliceFigure};

function mount(root) {
  const config = JSON.parse(root.querySelector('script').textContent);
  const shadow = root.attachShadow({mode: 'open'});
  const style = new CSSStyleSheet();
  style.replaceSync(STYLE);
  shadow.adoptedStyleSheets = [style];
  shadow.innerHTML = '<div class="all"><span class="ink"></span></div><slot></slot>';
  const all = shadow.firstChild;
  all.classList.add(config.home ? 'home' : config.figure);
  const figure = FIGURES[config.figure](all, config);
  const show = () => {
    figure.colors = colorsOf(all);
    figure.show();
  };
  show();
  // :host has a transition of its color, so that a change of the page's theme is an event
  root.addEventListener('transitionend', ({propertyName}) => propertyName === 'color' && show());
  new ResizeObserver(show).observe(all);
  new IntersectionObserver(entries => figure.see?.(entries.at(-1).isIntersecting)).observe(root);
  // Pages have keys of their own, such as `s` for a search, and can't see into the shadow root
  for (const name of ['keydown', 'keypress', 'keyup'])
    root.addEventListener(name, event => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
  root.live = figure; // for tests
}

// A notebook runs the script again with each output, and the script can't ask where it stands: it
// looks for every place that waits for a figure of this version and has none yet
for (const root of document.querySelectorAll(`.mnist-mb-live[data-code="${CODE}"]`))
  if (!root.shadowRoot) mount(root);
document.dispatchEvent(new Event('mnist-mb-digits'));
