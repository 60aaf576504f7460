// Uses pads as readers do, in Chromium; ../test_pad.py compares the numbers with PyTorch's.
import fs from 'node:fs';
import {chromium} from 'playwright-core';
import {insert} from './jupyter.mjs';

const job = JSON.parse(fs.readFileSync('pad.json', 'utf8'));
const axe = fs.readFileSync('node_modules/axe-core/axe.min.js', 'utf8');
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
});
let failed = false;
function say(ok, words) {
  console.log(`${ok ? 'ok   ' : 'FAIL '} ${words}`);
  failed ||= !ok;
}
// Until all is shown that follows from what was done: a change of the page's theme comes to the pad
// at the end of a transition, and a pad shows at the next frame
const wait = tab =>
  tab.evaluate(async () => {
    const frames = async () => {
      for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
    };
    const roots = [...document.querySelectorAll('.mnist-mb-pad')].map(pad => pad.shadowRoot);
    await frames();
    const moving = [document, ...roots].flatMap(root => root?.getAnimations() ?? []);
    await Promise.allSettled(moving.map(animation => animation.finished));
    await frames();
  });
const ink = (tab, nth = 0) =>
  tab.evaluate(
    nth => document.querySelectorAll('.mnist-mb-pad')[nth].pad.ink.reduce((a, v) => a + v, 0),
    nth,
  );
const at = (tab, name, nth = 0) =>
  tab.evaluate(
    ([name, nth]) => document.querySelectorAll('.mnist-mb-pad')[nth].pad.d[name].textContent,
    [name, nth],
  );

// A tab that notes whatever should not happen
async function open(file, options = {}) {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const tab = await context.newPage();
  tab.setDefaultTimeout(600_000); // for what hangs
  tab.bad = [];
  await tab.exposeFunction('report', text => tab.bad.push(text));
  await tab.addInitScript(() =>
    addEventListener('securitypolicyviolation', e => report(`CSP: ${e.violatedDirective}`)),
  );
  tab.on('console', m => ['error', 'warning'].includes(m.type()) && tab.bad.push(m.text()));
  tab.on('pageerror', e => tab.bad.push(`${e}`));
  tab.on('dialog', d => {
    tab.bad.push(`dialog ${d.message()}`);
    d.dismiss();
  });
  tab.on('request', r => /^(file|data):/.test(r.url()) || tab.bad.push(`asks for ${r.url()}`));
  if (options.offline) await tab.route(/^http/, r => r.abort());
  await tab.goto(`file://${job.folder}/${file}`, {waitUntil: 'load'});
  return tab;
}
// The moves are sent without waiting, so that several come between two frames, as from a quick pen
async function stroke(tab, points, nth = 0, pointerType = 'mouse', button = 'left') {
  const canvas = tab.locator('canvas.pad').nth(nth);
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  tab.cdp ??= await tab.context().newCDPSession(tab);
  const places = points.map(([x, y]) => ({x: box.x + x * box.width, y: box.y + y * box.height}));
  const send = (type, place) =>
    tab.cdp.send('Input.dispatchMouseEvent', {
      type,
      ...place,
      pointerType,
      button,
      buttons: type === 'mouseReleased' ? 0 : button === 'left' ? 1 : 4,
      clickCount: 1,
    });
  await Promise.all([
    send('mousePressed', places[0]),
    ...places.map(place => send('mouseMoved', place)),
    send('mouseReleased', places.at(-1)),
  ]);
}
async function clean(tab, words, axeToo = true) {
  say(
    !tab.bad.length,
    `${words}: nothing on the console, no request, no violation of the policy${tab.bad.length ? `; ${tab.bad.slice(0, 3)}` : ''}`,
  );
  if (!axeToo) return;
  await tab.evaluate(axe);
  const {violations} = await tab.evaluate(() => axe.run(document));
  const what = violations.map(
    v => `${v.id} ${v.nodes[0].html.slice(0, 90)} ${v.nodes[0].any[0]?.message ?? ''}`,
  );
  say(!what.length, `${words}: axe finds ${what.length ? what : 'nothing'}`);
}

// Real digits: fed in as they are, then traced with the pointer
let tab = await open('pad.html');
await tab.getByRole('checkbox').uncheck();
const fed = await tab.evaluate(images => {
  const {pad} = document.querySelector('.mnist-mb-pad');
  return images.map(text =>
    Array.from(pad.take(Uint8Array.from(atob(text), c => c.charCodeAt(0))).logits),
  );
}, job.images);
await tab.getByRole('checkbox').check();
const traced = [];
for (const strokes of job.strokes) {
  await tab.evaluate(() => document.querySelector('.mnist-mb-pad').pad.c.clear.click());
  for (const points of strokes) await stroke(tab, points);
  traced.push(
    await tab.evaluate(() => {
      const {pad} = document.querySelector('.mnist-mb-pad');
      pad.show();
      const {
        ink,
        result: {pixels, logits, speaks, best},
      } = pad;
      const right = ink.map((_, i) => (i % 140 < 20 ? 0 : ink[i - 20])); // four pixels of MNIST
      const moved = [true, false].map(centering => {
        Object.assign(pad, {ink: right, centering}).show();
        return Array.from(pad.result.logits);
      });
      Object.assign(pad, {ink, centering: true}).show();
      return {
        moved,
        ink: btoa(String.fromCharCode(...ink)),
        pixels: Array.from(pixels),
        logits: Array.from(logits),
        speaks: Array.from(speaks),
        best,
      };
    }),
  );
}
fs.writeFileSync('seen.json', JSON.stringify({fed, traced}));
const sums = await tab.evaluate(() => {
  const {probs, exps, shifted, logits, best} = document.querySelector('.mnist-mb-pad').pad.result;
  return [
    probs.reduce((a, b) => a + b),
    Math.max(...exps),
    Math.max(...shifted),
    logits[best] - Math.max(...logits),
  ];
});
say(
  Math.abs(sums[0] - 1) < 1e-9 && sums[1] === 1 && sums[2] === 0 && sums[3] === 0,
  'probabilities add to 1, and the largest logit is shifted to 0',
);

// What is written is what was computed, once the bars have moved there
const written = await tab.evaluate(async () => {
  const {result, root} = document.querySelector('.mnist-mb-pad').pad;
  await Promise.allSettled(root.shadowRoot.getAnimations().map(({finished}) => finished));
  return [...root.shadowRoot.querySelectorAll('tbody tr')].map((row, i) => {
    const [logit, shifted, exp, prob] = [...row.querySelectorAll('td')].map(cell =>
      cell.textContent.replace('−', '-'),
    );
    const bar = row.querySelector('i');
    const {paddingLeft, paddingRight, fontSize} = getComputedStyle(bar.parentElement);
    const room =
      bar.parentElement.getBoundingClientRect().width -
      parseFloat(paddingLeft) -
      parseFloat(paddingRight) -
      4.6 * parseFloat(fontSize);
    return [
      logit - result.logits[i],
      shifted - result.shifted[i],
      parseFloat(exp) - result.exps[i],
      parseFloat(prob.replace('>', '')) - result.probs[i],
      bar.getBoundingClientRect().width / room - result.probs[i],
      (row.className === 'best') - (result.best === i),
    ];
  });
});
const heads = await tab.locator('thead th').allTextContents();
say(
  `${heads}` === 'class,logit,shifted (÷\u00a0T),exp,probability' &&
    written.length === 10 &&
    written.flat().every(v => Math.abs(v) < 0.0051),
  'the table shows the numbers, the bars and the leading class',
);
await tab.getByRole('button', {name: 'Clear'}).click();
await tab.getByRole('button', {name: 'Example', exact: true}).click();
await wait(tab);
const random = await ink(tab);
await tab.getByRole('button', {name: 'Undo'}).click();
await wait(tab);
say(
  random > 0 && (await ink(tab)) === 0 && (await at(tab, 'hint')) === 'draw here',
  'a random example comes, and Undo takes it away',
);

// However many events come, the pad is computed and shown once for each frame at most
const count = await tab.evaluate(async () => {
  const {c} = document.querySelector('.mnist-mb-pad').pad;
  const context = c.pad.getContext('2d');
  const put = context.putImageData;
  const frame = () => new Promise(requestAnimationFrame);
  const counts = [];
  let shown = 0;
  context.putImageData = (...args) => (shown++, put.apply(context, args));
  await frame();
  for (const events of [1, 50]) {
    shown = 0;
    for (let i = 0; i < events; i++)
      c.temperature.dispatchEvent(new Event('input', {bubbles: true}));
    await frame();
    await frame();
    counts.push(shown);
  }
  delete context.putImageData;
  return counts;
});
say(`${count}` === '1,1', `one event or fifty between two frames are shown once (${count})`);

// The loss, the temperature, the switch
await tab.getByRole('button', {name: 'example: '}).first().click();
await wait(tab);
const colors = await at(tab, 'speaksText');
say(
  /^logit −?[\d.]+ = for [\d.]+ \(blue\), against −?[\d.]+ \(orange\), biases −?[\d.]+$/.test(
    colors,
  ),
  `the text says which color is which: ${colors}`,
);
const label = await tab.getByRole('combobox').evaluate(s => s.value);
const {loss, p} = await tab.evaluate(() => {
  const {result, meant} = document.querySelector('.mnist-mb-pad').pad;
  return {loss: result.loss, p: result.probs[meant]};
});
say(
  Math.abs(loss + Math.log(p)) < 1e-9 && (await at(tab, 'loss')).includes(loss.toFixed(4)),
  `the loss of an example of a ${label} is −ln of its probability`,
);
const temperature = tab.getByRole('slider', {name: 'temperature', exact: true});
const spoken = await temperature.getAttribute('aria-valuetext');
const heard = await tab.evaluate(async () => {
  const {status} = document.querySelector('.mnist-mb-pad').pad.d;
  const slider = document.querySelector('.mnist-mb-pad').pad.c.temperature;
  const frames = async () => {
    for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
  };
  let changes = 0;
  await frames();
  new MutationObserver(() => changes++).observe(status, {childList: true, characterData: true});
  const counts = [];
  for (const kind of ['input', 'input', 'input', 'change']) {
    slider.value = Number(slider.value) + 0.2;
    slider.dispatchEvent(new Event(kind, {bubbles: true}));
    await frames();
    counts.push(changes);
  }
  return counts;
});
say(
  spoken === '1.00' && `${heard}` === '0,0,0,1',
  `the slider is called temperature, says ${spoken}, and is announced when it is let go (${heard})`,
);
await temperature.fill('1');
await wait(tab);
const hot = await tab.evaluate(() => document.querySelector('.mnist-mb-pad').pad.result);
const e = Object.values(hot.logits).map(v => Math.exp(v / 10));
const total = e.reduce((a, b) => a + b);
say(
  Object.values(hot.probs).every((v, i) => Math.abs(v - e[i] / total) < 1e-9),
  'a temperature of 10 divides the logits by 10',
);
await temperature.fill('0');

// The keyboard alone, and what a screen reader hears
await tab.getByRole('button', {name: 'Clear'}).click();
await tab.locator('canvas.pad').focus();
for (let i = 0; i < 4; i++) await tab.keyboard.press('Tab');
await tab.keyboard.press('Enter');
await wait(tab);
const chosen = await ink(tab);
say(
  chosen > 0 &&
    /It reads \S+, with probability [>\d.]+; loss/.test(
      await tab.getByRole('status').textContent(),
    ),
  'an example is chosen with the keyboard, and the result is announced',
);
await tab.locator('canvas.pad').focus();
await tab.getByRole('checkbox').uncheck();
await wait(tab);
const middle = await tab.evaluate(() =>
  Array.from(document.querySelector('.mnist-mb-pad').pad.result.pixels),
);
await tab.locator('canvas.pad').focus();
await tab.keyboard.press('ArrowRight');
await wait(tab);
const moved = await tab.evaluate(() =>
  Array.from(document.querySelector('.mnist-mb-pad').pad.result.pixels),
);
say(
  middle.every((v, i) => i % 28 === 27 || Math.abs(moved[i + 1] - v) < 1e-9),
  'an arrow key moves the drawing by one pixel, and with the switch off the network sees it',
);
await tab.keyboard.press('Delete');
const cleared = await ink(tab);
await tab.keyboard.press('Control+z');
await tab.keyboard.press('Control+z');
say(
  cleared === 0 && (await ink(tab)) === chosen,
  'Delete clears; Ctrl Z twice brings back what was there before the move',
);
// What Undo gives back; what has the focus
const active = () =>
  tab.evaluate(
    () => document.querySelector('.mnist-mb-pad').shadowRoot.activeElement?.className || 'no pad',
  );
const state = () =>
  tab.evaluate(() => {
    const {ink, meant, c} = document.querySelector('.mnist-mb-pad').pad;
    return `${meant} ${c.meant.value} ${ink.reduce((a, v, i) => (31 * a + v * i) % 1000003, 7)}`;
  });
const undoButton = tab.getByRole('button', {name: 'Undo'});
const clearButton = tab.getByRole('button', {name: 'Clear'});
const third = tab.getByRole('button', {name: 'example: '}).nth(2);
await clearButton.click();
await stroke(
  tab,
  [
    [0.3, 0.3],
    [0.7, 0.7],
  ],
  0,
  'mouse',
  'middle',
);
say((await ink(tab)) === 0, 'only the left button of a mouse draws');
await third.focus();
await tab.keyboard.press('Enter');
const byKey = await active();
await third.click();
const byPointer = await active();
say(
  byKey === 'no pad' && byPointer === 'pad',
  'an example chosen by pointer hands the focus to the pad, by keyboard it does not',
);
const start = await state();
for (let i = 0; i < 60; i++) await tab.keyboard.press('ArrowDown');
const pushed = await ink(tab);
await undoButton.click();
say(
  pushed === 0 && (await state()) === start,
  'sixty moves with a key are one for Undo, and bring back what left the pad',
);
await clearButton.click();
const empty = await state();
await undoButton.click();
const again = await state();
await tab.getByRole('combobox').selectOption('7');
await undoButton.click();
say(
  empty.startsWith('-1 -1') && again === start && (await state()) === start,
  `Undo brings back the digit that was meant with the ink (${start})`,
);
await tab.locator('canvas.pad').focus();
await tab.keyboard.press('Delete');
await tab.keyboard.press('Control+Shift+z');
const shifted = await ink(tab);
await tab
  .locator('canvas.pad')
  .evaluate(pad =>
    pad.dispatchEvent(new KeyboardEvent('keydown', {key: 'Z', ctrlKey: true, bubbles: true})),
  );
say(shifted === 0 && (await state()) === start, 'Ctrl Z undoes with caps lock, and not with shift');
const pen = await tab.locator('canvas.pad').boundingBox();
await tab.mouse.move(pen.x + 40, pen.y + 40);
await tab.mouse.down();
await tab.mouse.move(pen.x + 60, pen.y + 200);
const drawn = await state();
const unmoved = [];
for (const key of ['ArrowLeft', 'Delete', 'Control+z']) {
  await tab.keyboard.press(key);
  unmoved.push((await state()) === drawn);
}
await tab.mouse.up();
say(unmoved.every(Boolean) && (await state()) === drawn, 'keys do nothing during a stroke');

// Nothing jumps: all that stands on the pad keeps its place and size, whatever is drawn
const places = () =>
  tab.evaluate(() =>
    [...document.querySelector('.mnist-mb-pad').shadowRoot.querySelectorAll('*')]
      .filter(e => !e.matches('i, option, td span, .hint, .unseen'))
      .map(e => {
        const {x, y, width, height} = e.getBoundingClientRect();
        return `${e.tagName}${e.matches('tr') ? '' : `.${e.className}`} ${[x, y, width, height].map(Math.round)}`;
      }),
  );
for (const width of [1280, 390]) {
  await tab.setViewportSize({width, height: 900});
  const jumps = new Set();
  await clearButton.click();
  await wait(tab);
  const still = await places();
  for (const of of [0, 1, 4, 8]) {
    await tab.getByRole('button', {name: 'example: '}).nth(of).click();
    await wait(tab);
    (await places()).forEach(
      (place, i) => place === still[i] || jumps.add(`${still[i]} -> ${place}`),
    );
  }
  say(
    !jumps.size,
    `${width} px: nothing jumps when an example comes${jumps.size ? `; ${[...jumps].slice(0, 4)}` : ''}`,
  );
}
const edges = await tab.evaluate(() =>
  ['canvas.pad', '.buttons', '.examples'].map(
    name =>
      document.querySelector('.mnist-mb-pad').shadowRoot.querySelector(name).getBoundingClientRect()
        .x,
  ),
);
await tab.setViewportSize({width: 320, height: 900});
const tops = await tab.evaluate(() =>
  [...document.querySelector('.mnist-mb-pad').shadowRoot.querySelectorAll('.pair canvas')].map(
    e => [e.getBoundingClientRect().y, e.clientWidth - e.clientHeight],
  ),
);
say(
  new Set(edges).size === 1 && `${tops[0]}` === `${tops[1]}` && tops[0][1] === 0,
  `390 px: pad, buttons and examples align (${edges}); 320 px: the two pictures stand side by side (${tops})`,
);
await tab.setViewportSize({width: 1280, height: 900});
await clean(tab, 'a saved page');

// Text colors of every notation; high contrast
const themes = [];
for (const [color, want] of Object.entries({
  'rgb(20 20 20)': 'light',
  '#eee': 'dark',
  'oklch(0.93 0.02 250)': 'dark',
  'oklch(0.3 0.1 250)': 'light',
  'oklab(0.9 0 0)': 'dark',
  'lab(90 5 5)': 'dark',
  'lab(20 5 5)': 'light',
  'lch(30 20 200)': 'light',
  'color(display-p3 0.9 0.9 0.85)': 'dark',
  'color(srgb 0.1 0.1 0.2)': 'light',
  'color-mix(in oklab, white 90%, black)': 'dark',
})) {
  await tab.evaluate(color => {
    document.querySelector('.mnist-mb-pad').style.color = color;
  }, color);
  await wait(tab);
  const got = await tab.evaluate(
    () => document.querySelector('.mnist-mb-pad').shadowRoot.firstChild.className,
  );
  if (got !== `all ${want}`) themes.push(`${color}: ${got}`);
}
say(
  !themes.length,
  `light text of any notation makes a dark pad${themes.length ? `; ${themes}` : ''}`,
);
const small = () =>
  tab.evaluate(() => {
    const {
      d,
      result: {speaks},
    } = document.querySelector('.mnist-mb-pad').pad;
    const largest = Math.max(...speaks.map(Math.abs));
    const {data} = d.speaks.getContext('2d').getImageData(0, 0, 28, 28);
    return Math.max(
      ...Array.from(speaks, (v, i) =>
        Math.abs(data[4 * i + 3] / 255 - (Math.abs(v) / largest) ** 0.6),
      ),
    );
  });
const raised = await small();
await tab.evaluate(() => {
  document.querySelector('.mnist-mb-pad').style.color = '';
});
await wait(tab);
say(
  raised < 0.01 && (await small()) > 0.05,
  'on a dark page small contributions are raised by a power of 0.6, on a light one not',
);
await tab.emulateMedia({forcedColors: 'active'});
await tab.evaluate(() => document.activeElement.blur());
const contrast = await tab.evaluate(() => {
  const {shadowRoot} = document.querySelector('.mnist-mb-pad');
  const style = name => getComputedStyle(shadowRoot.querySelector(name));
  return [
    style('canvas.pad').outlineStyle,
    style('.pair canvas').outlineStyle,
    style('i').backgroundColor,
    getComputedStyle(document.body).color,
  ];
});
say(
  contrast[0] === 'solid' && contrast[1] === 'solid' && contrast[2] === contrast[3],
  `in high contrast the pictures have a border and the table bars (${contrast})`,
);
await tab.emulateMedia({forcedColors: 'none'});

// Dark and light, little motion, a phone and a finger
await tab.emulateMedia({colorScheme: 'dark', reducedMotion: 'reduce'});
await wait(tab);
const look = () =>
  tab.evaluate(() => {
    const {shadowRoot} = document.querySelector('.mnist-mb-pad');
    return [
      shadowRoot.firstChild.className,
      getComputedStyle(shadowRoot.querySelector('i')).transitionDuration,
    ];
  });
const dark = await look();
await tab.emulateMedia({colorScheme: 'light', reducedMotion: 'no-preference'});
await wait(tab);
const light = await look();
say(
  `${dark} ${light}` === 'all dark,0s all light,0.08s',
  `the pad follows the system's theme and its wish for less motion (${dark}, ${light})`,
);
tab = await open('pad.html', {
  viewport: {width: 390, height: 844},
  hasTouch: true,
  isMobile: true,
  colorScheme: 'dark',
});
const finger = await tab.context().newCDPSession(tab);
const box = await tab.locator('canvas.pad').boundingBox();
const touch = (type, ...points) =>
  finger.send('Input.dispatchTouchEvent', {
    type,
    touchPoints: points.map(([x, y], id) => ({
      x: box.x + x * box.width,
      y: box.y + y * box.height,
      id,
    })),
  });
await touch('touchStart', [0.5, 0.2]);
for (let y = 0.25; y < 0.85; y += 0.05)
  await touch('touchMove', [0.5, y], ...(y > 0.4 ? [[0.2, 0.5]] : []));
await touch('touchEnd');
await wait(tab);
const [scrolled, width, second] = await tab.evaluate(() => [
  scrollY,
  document.scrollingElement.scrollWidth,
  document.querySelector('.mnist-mb-pad').pad.ink[140 * 70 + 28],
]);
say(
  /It reads 1,/.test(await at(tab, 'verdict')) && scrolled === 0 && width <= 390 && second === 0,
  `390 px: a finger draws a 1, a second one nothing, the page doesn't scroll and is ${width} px wide`,
);
await clean(tab, 'a dark page on a phone');

// Two pads on a page of the site's kind, and names that are no code
tab = await open('two.html');
await stroke(tab, [
  [0.5, 0.2],
  [0.5, 0.8],
]);
await wait(tab);
const apart = [(await ink(tab, 0)) > 0, (await ink(tab, 1)) === 0];
const before = await at(tab, 'verdict', 0);
await stroke(
  tab,
  [
    [0.2, 0.5],
    [0.8, 0.5],
  ],
  1,
  'pen',
);
await wait(tab);
say(
  apart.every(Boolean) && (await ink(tab, 1)) > 0 && (await at(tab, 'verdict', 0)) === before,
  'two pads with different networks do not disturb each other',
);
const named = await tab.locator('.mnist-mb-pad').nth(1).locator('tbody th').allTextContents();
say(
  `${named}` === `${job.names}` &&
    (await tab.locator('.mnist-mb-pad').nth(1).locator('img:visible').count()) === 0,
  'names of classes are text, whatever is in them',
);
await tab.evaluate(() => {
  document.body.className = 'quarto-dark';
});
await wait(tab);
say(
  await tab.evaluate(() =>
    [...document.querySelectorAll('.mnist-mb-pad')].every(
      r => r.shadowRoot.firstChild.className === 'all dark',
    ),
  ),
  'pads follow the theme of the page',
);
await clean(tab, 'two pads');
// Keys that the pad has the focus for are not the page's, which searches at `s`
await tab.evaluate(() => {
  globalThis.keys = [];
  for (const kind of ['keydown', 'keyup'])
    document.addEventListener(kind, ({key}) => globalThis.keys.push(key));
});
for (const part of ['canvas.pad', 'select', 'input[type=range]']) {
  await tab.locator(part).first().focus();
  for (const key of ['s', '/', 'ArrowLeft']) await tab.keyboard.press(key);
}
const inside = await tab.evaluate(() => globalThis.keys.length);
await tab.evaluate(() => document.querySelector('.mnist-mb-pad').shadowRoot.activeElement.blur());
await tab.keyboard.press('s');
const outside = await tab.evaluate(() => globalThis.keys.length);
say(
  inside === 0 && outside === 2,
  `keys stay in the pad that has the focus (${inside}, ${outside})`,
);
tab = await open('fashion.html', {viewport: {width: 390, height: 844}});
const torn = await tab.evaluate(() =>
  [...document.querySelector('.mnist-mb-pad').shadowRoot.querySelectorAll('tbody th')].flatMap(th =>
    [...th.textContent.matchAll(/[^\s/-]+/g)]
      .filter(({0: word, index}) => {
        const range = document.createRange();
        range.setStart(th.firstChild, index);
        range.setEnd(th.firstChild, index + word.length);
        return range.getClientRects().length > 1;
      })
      .map(([word]) => word),
  ),
);
const wide = await tab.evaluate(() => {
  const s = document.querySelector('.mnist-mb-pad').shadowRoot.querySelector('.scroll');
  return [document.scrollingElement.scrollWidth, s.scrollWidth - s.clientWidth];
});
say(
  !torn.length && `${wide}` === '390,0',
  `390 px: no name of a class breaks inside a word (${torn}), and the table fits (${wide})`,
);
tab = await open('other.html');
await clean(tab, 'a saved page with names that look like code');

// Scripts off; Jupyter, which fills an element and runs its scripts again; nbconvert
tab = await browser.newPage({javaScriptEnabled: false});
await tab.goto(`file://${job.folder}/pad.html`);
say(
  (await tab.locator('.mnist-mb-pad img').isVisible()) &&
    (await tab.getByText('needs JavaScript').isVisible()),
  'with scripts off, a picture and a sentence',
);
tab = await open('lab.html');
for (const attached of [true, false]) await insert(tab, job.html, attached);
await stroke(
  tab,
  [
    [0.5, 0.2],
    [0.5, 0.8],
  ],
  1,
);
await wait(tab);
say(
  (await ink(tab, 0)) === 0 && (await ink(tab, 1)) > 0,
  'pads work where scripts are run again, as in JupyterLab',
);
await clean(tab, 'as in JupyterLab', false);
if (fs.statSync(`${job.folder}/nb.html`).size) {
  tab = await open('nb.html', {offline: true});
  await stroke(tab, [
    [0.5, 0.2],
    [0.5, 0.8],
  ]);
  await wait(tab);
  say(
    (await ink(tab)) > 0 && /It reads 1,/.test(await at(tab, 'verdict')),
    'a pad in a notebook works after saving, opening and nbconvert',
  );
}
await browser.close();
process.exit(failed ? 1 : 0);
