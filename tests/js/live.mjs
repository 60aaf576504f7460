// Uses the figures that move as readers do, in Chromium; ../test_live.py writes the pages.
import fs from 'node:fs';
import {chromium} from 'playwright-core';
import {insert} from './jupyter.mjs';

const job = JSON.parse(fs.readFileSync('live.json', 'utf8'));
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

// A tab that notes whatever should not happen, among it pixels that are read from a canvas
async function open(file, options = {}) {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const tab = await context.newPage();
  tab.setDefaultTimeout(300_000); // for what hangs
  tab.bad = [];
  await tab.exposeFunction('report', text => tab.bad.push(text));
  await tab.addInitScript(() => {
    addEventListener('securitypolicyviolation', e => report(`CSP: ${e.violatedDirective}`));
    CanvasRenderingContext2D.prototype.getImageData = () => report('reads a canvas');
    const Stream = globalThis.DecompressionStream;
    globalThis.unpacked = 0;
    globalThis.DecompressionStream = class extends Stream {
      constructor(format) {
        super(format);
        globalThis.unpacked++;
      }
    };
  });
  tab.on('console', m => ['error', 'warning'].includes(m.type()) && tab.bad.push(m.text()));
  tab.on('pageerror', e => tab.bad.push(`${e}`));
  tab.on('request', r => /^(file|data|about):/.test(r.url()) || tab.bad.push(`asks: ${r.url()}`));
  await tab.goto(`file://${job.folder}/${file}`, {waitUntil: 'load'});
  return tab;
}
async function clean(tab, words) {
  say(!tab.bad.length, `${words}: nothing on the console, no request (${tab.bad.slice(0, 3)})`);
  await tab.evaluate(axe);
  const {violations} = await tab.evaluate(() => axe.run(document));
  const what = violations.map(v => `${v.id} ${v.nodes[0].html.slice(0, 90)}`);
  say(!what.length, `${words}: axe finds ${what.length ? what : 'nothing'}`);
}

// The nth figure's state, which it keeps for tests; what its parts say
const state = (tab, nth = 0) =>
  tab.evaluate(nth => {
    const {run, set, playing, before, strokes, example} =
      document.querySelectorAll('.mnist-mb-live')[nth].live;
    const {steps, images, losses, checks, marks} = run;
    return {steps, images, losses, checks, marks, set, playing, before, strokes, example};
  }, nth);
const at = (tab, name, nth = 0) =>
  tab.locator('.mnist-mb-live').nth(nth).locator(`.${name}`).first().textContent();
const ready = (tab, nth = 0) =>
  tab.waitForFunction(n => document.querySelectorAll('.mnist-mb-live')[n].live.run?.checks, nth);
const stopped = (tab, nth = 0) =>
  tab.waitForFunction(n => !document.querySelectorAll('.mnist-mb-live')[n].live.playing, nth);
const press = (tab, name, nth = 0) =>
  tab.locator('.mnist-mb-live').nth(nth).getByRole('button', {name, exact: true}).click();
const select = (tab, name, value, nth = 0) =>
  tab.locator('.mnist-mb-live').nth(nth).getByRole('combobox', {name}).selectOption(value);
const look = (tab, name) => tab.locator(`canvas.${name}`).first().screenshot();
const same = (a, b) => Buffer.compare(a, b) === 0;
const places = tab =>
  tab.evaluate(() =>
    [...document.querySelector('.mnist-mb-live').shadowRoot.querySelectorAll('.all *')]
      .filter(e => !e.matches('i, option, span, small, .status, .state, .train'))
      .map(e => {
        const {x, y, width, height} = e.getBoundingClientRect();
        return `${e.tagName} ${[x, y, width, height].map(Math.round)}`;
      }),
  );

const phone = {viewport: {width: 390, height: 844}, hasTouch: true, isMobile: true};
async function stroke(tab, points, pointerType = 'mouse') {
  const box = await tab.locator('canvas.pad').first().boundingBox();
  const cdp = await tab.context().newCDPSession(tab);
  const send = (type, [x, y]) =>
    cdp.send('Input.dispatchMouseEvent', {
      type,
      x: box.x + x * box.width,
      y: box.y + y * box.height,
      pointerType,
      button: 'left',
      buttons: Number(type !== 'mouseReleased'),
      clickCount: 1,
    });
  await Promise.all([
    send('mousePressed', points[0]),
    ...points.map(point => send('mouseMoved', point)),
    send('mouseReleased', points.at(-1)),
  ]);
}
const SEVEN = [[0.25, 0.2], [0.5, 0.2], [0.72, 0.2], [0.6, 0.5], [0.45, 0.85]]; // prettier-ignore

// --- The room
async function theRoom() {
  let tab = await open('room.html');
  await ready(tab);
  say(
    (await at(tab, 'state')) === 'step 0 · 0 images' &&
      /^The first minibatch: 8 of 50 right, loss 2\.29$/.test(await at(tab, 'note')),
    'before the first step the first minibatch is there, with its guesses',
  );
  const before = [await look(tab, 'batch'), await look(tab, 'weights'), await look(tab, 'loss')];
  await press(tab, 'One step');
  const once = [await look(tab, 'batch'), await look(tab, 'weights'), await look(tab, 'loss')];
  const one = await state(tab);
  say(
    same(before[0], once[0]) && !same(before[1], once[1]) && !same(before[2], once[2]),
    'after one step: that minibatch as it was before it, other weights, a dot',
  );
  say(
    one.steps === 1 && one.losses.length === 1 && one.checks.length === 2,
    `one step is one (${one.steps}), and the new images are asked`,
  );
  for (let i = 0; i < 12; i++) await press(tab, 'One step');
  const many = await state(tab);
  say(many.checks.length === 14, 'after each single step the new images are asked');
  await press(tab, 'Reset');
  const again = await state(tab);
  say(
    again.steps === 0 && again.before.length === 14 && again.losses.length === 0,
    'Reset begins again and keeps the line of the run before',
  );
  say(/gray: the run before/.test(await at(tab, 'all')), 'the gray line is named');

  // In the pace to watch: Pause, what is shown at most three times a second, and what is announced
  await tab.evaluate(() => {
    const {e} = document.querySelector('.mnist-mb-live').live;
    globalThis.seen = {batch: 0, status: 0, frames: 0};
    const note = e.batch.parentNode.querySelector('.note');
    for (const [name, part] of Object.entries({batch: note, status: e.status, frames: e.state}))
      new MutationObserver(() => globalThis.seen[name]++).observe(part, {childList: true});
  });
  const start = Date.now();
  await press(tab, 'Train');
  await tab.waitForTimeout(3000);
  await press(tab, 'Pause');
  const paused = await state(tab);
  const clock = await tab.evaluate(() => document.querySelector('.mnist-mb-live').live.clock);
  // The integral of 0.6 steps a second that double every 1.15 seconds, by the room's own clock:
  // Pause comes late where the machine is busy
  const few = (0.69 * (2 ** (clock / 1.15) - 1)) / Math.LN2;
  await tab.waitForTimeout(300);
  say(
    paused.steps >= 1 &&
      Math.abs(paused.steps - few) < 2.5 &&
      (await state(tab)).steps === paused.steps,
    `${clock.toFixed(1)} seconds are ${paused.steps} steps, and Pause ends them`,
  );
  await press(tab, 'Train');
  await stopped(tab);
  const took = (Date.now() - start) / 1000;
  const end = await state(tab);
  const seen = await tab.evaluate(() => globalThis.seen);
  say(
    end.steps === 240 && end.images === 12_000 && (await at(tab, 'train')) === 'Train on',
    `it stops after three epochs: ${end.steps} steps in ${took.toFixed(1)} s`,
  );
  say(
    Math.abs(end.checks.at(-1).loss - 0.3303) < 1e-4 && end.checks.at(-1).right === 909,
    `it ends where PyTorch does: loss ${end.checks.at(-1).loss}, ${end.checks.at(-1).right}`,
  );
  say(
    /^New images: loss 0\.33, reads 909 of 1,000/.test(await at(tab, 'loss + .note')),
    'and says so below the chart',
  );
  say(
    seen.batch <= 3.1 * took + 3 && seen.status <= took / 5 + 3,
    `the minibatch is drawn ${seen.batch} times and ${seen.status} things said in ${took.toFixed(1)} s`,
  );
  say(
    /^step 240, loss 0\.33, reads 909 of 1,000, 0 units dead$/.test(await at(tab, 'status')),
    `a screen reader hears: ${await at(tab, 'status')}`,
  );

  // Fast, and what a rate that is too high does for good
  await select(tab, 'pace', 'fast');
  await press(tab, 'Reset');
  const quick = Date.now();
  await press(tab, 'Train');
  await stopped(tab);
  const speed = 240 / ((Date.now() - quick) / 1000);
  say((await state(tab)).steps === 240, `fast: ${speed.toFixed(0)} steps a second, all drawn`);

  // Nothing is cut, and nothing stands elsewhere than before the training
  const fresh = await open('room.html');
  await ready(fresh);
  for (const width of [390, 768, 1600, 1280]) {
    for (const page of [fresh, tab]) await page.setViewportSize({width, height: 900});
    const [still, moved] = [await places(fresh), await places(tab)];
    const wide = await fresh.evaluate(() => document.scrollingElement.scrollWidth);
    const jumps = still.filter((place, i) => place !== moved[i]);
    say(
      wide <= width && still.length > 50 && !jumps.length,
      `${width} px: the page is ${wide} wide, and nothing jumps (${jumps.slice(0, 3)})`,
    );
  }
  const pauseAfter = (tab, steps) =>
    tab.evaluate(async steps => {
      const {live} = document.querySelector('.mnist-mb-live');
      while (live.run.steps <= steps) await new Promise(requestAnimationFrame);
      live.e.train.click();
    }, steps);
  await select(tab, 'rate', '5');
  await press(tab, 'Train on');
  await pauseAfter(tab, 300);
  const killed = await state(tab);
  await select(tab, 'rate', '0.1');
  await press(tab, 'Train');
  await pauseAfter(tab, killed.steps + 50);
  const dead = await state(tab);
  say(
    dead.checks.at(-1).dead.length > 40 && dead.marks.length === 2 && dead.losses.length > 350,
    `a changed rate does not reset: ${dead.checks.at(-1).dead.length} units are dead, and stay so`,
  );
  say(/\d\d of 50 are dead/.test(await at(tab, 'weights + .note')), 'dead units are counted');

  // The loop's lines, for each choice
  const line = i =>
    tab.evaluate(i => {
      const part = document
        .querySelector('.mnist-mb-live')
        .shadowRoot.querySelectorAll('.loop code')[i];
      const span = part.firstChild;
      return `${part.className} ${span.textContent} ${getComputedStyle(span).textDecorationLine}`;
    }, i);
  say(
    (await line(4)) === 'other p -= p.grad*0.1 none',
    `the rate is in its line: ${await line(4)}`,
  );
  await select(tab, 'rate', '0.5');
  const lines = {};
  for (const [mistake, i] of Object.entries({
    none: 0,
    'gradients not cleared': 5,
    'pixels to 255': 1,
    'sorted by label': 0,
    'labels one row late': 0,
    'no ReLU': 1,
  })) {
    await select(tab, 'mistake', mistake);
    await press(tab, 'Reset');
    lines[mistake] = await line(i);
  }
  say(
    lines.none === ' xb, yb = x[rows], y[rows] none' &&
      lines['gradients not cleared'] === 'other p.grad.zero_() line-through' &&
      lines['pixels to 255'] === 'other preds = model(256*xb) none' &&
      lines['sorted by label'].startsWith('other xb') &&
      lines['labels one row late'] === 'other xb, yb = x[rows], y[rows - 1] none' &&
      lines['no ReLU'].startsWith('other preds'),
    'each mistake marks its line, and the missing one is struck out',
  );
  await select(tab, 'mistake', 'sorted by label');
  for (const rows of [1, 10, 250]) {
    await select(tab, 'rows', `${rows}`);
    await press(tab, 'Reset');
    await press(tab, 'One step');
    const {images, losses} = await state(tab);
    say(images === rows && losses.length === 1, `${rows} rows: ${await at(tab, 'note')}`);
  }
  await select(tab, 'rows', '50');
  await press(tab, 'Reset');
  await press(tab, 'Train');
  await stopped(tab);
  const sorted = await state(tab);
  say(
    sorted.steps === 240 && sorted.losses.at(-1) < 0.5 && sorted.checks.at(-1).right < 200,
    `sorted by label: the last minibatch is right, new images are not (${sorted.checks.at(-1).right})`,
  );
  await clean(tab, 'the room');

  // With the keyboard alone
  await tab.context().close();
  tab = fresh;
  const names = [];
  for (let i = 0; i < 8; i++) {
    await tab.keyboard.press('Tab');
    names.push(
      await tab.evaluate(() => {
        const {activeElement: part} = document.querySelector('.mnist-mb-live').shadowRoot;
        return part?.labels?.[0]?.firstChild.textContent.trim() ?? part?.textContent;
      }),
    );
    if (names.at(-1) === 'One step') await tab.keyboard.press('Enter');
    if (names.at(-1) === 'rate') await tab.keyboard.press('ArrowDown');
  }
  const keys = await state(tab);
  say(
    `${names}` === 'Train,One step,Reset,rate,rows,pace,mistake,Another' &&
      keys.steps === 1 &&
      keys.set.rate === 1,
    `all is reached and used with the keyboard: ${names}`,
  );
  const letters = await tab.evaluate(() => {
    globalThis.keys = 0;
    document.addEventListener('keydown', () => globalThis.keys++);
  });
  await tab.keyboard.press('s');
  say(
    letters === undefined && (await tab.evaluate(() => globalThis.keys)) === 0,
    'keys stay in the figure that has the focus',
  );

  // Themes, print, motion, out of sight
  const dark = () => tab.evaluate(() => document.querySelector('.mnist-mb-live').live.colors.dark);
  const themes = [await dark()];
  for (const [name, value] of [
    ['className', 'quarto-dark'],
    ['style', 'color: oklch(0.3 0.1 250)'],
    ['style', 'color: color(srgb 0.9 0.9 0.9)'],
  ]) {
    const light = await look(tab, 'weights');
    await tab.evaluate(([name, value]) => (document.body[name] = value), [name, value]);
    await tab.waitForTimeout(500);
    themes.push(await dark(), same(light, await look(tab, 'weights')));
  }
  say(
    `${themes}` === 'false,true,false,false,false,true,false',
    `figures follow the page's theme, in any notation (${themes})`,
  );
  await tab.evaluate(() => document.body.removeAttribute('style'));
  await tab.emulateMedia({media: 'print'});
  say(
    (await tab.locator('.mnist-mb-live > img').isVisible()) &&
      !(await tab.locator('.all').isVisible()) &&
      !(await tab.locator('.mnist-mb-live > p').isVisible()),
    'on paper: the picture of three moments',
  );
  await tab.emulateMedia({media: 'screen', reducedMotion: 'reduce'});
  await tab.waitForTimeout(300);
  await press(tab, 'Reset');
  const calm = await tab.evaluate(async () => {
    const {e} = document.querySelector('.mnist-mb-live').live;
    let shown = 0;
    new MutationObserver(() => shown++).observe(e.state, {childList: true});
    const start = performance.now();
    e.train.click();
    while (document.querySelector('.mnist-mb-live').live.playing)
      await new Promise(requestAnimationFrame);
    return [shown, (performance.now() - start) / 1000];
  });
  say(
    calm[0] <= 2 * calm[1] + 3 && (await state(tab)).steps === 240,
    `with little motion: shown ${calm[0]} times in ${calm[1].toFixed(1)} s`,
  );
  await tab.emulateMedia({reducedMotion: 'no-preference'});
  await select(tab, 'pace', 'fast');
  await select(tab, 'rows', '1');
  await press(tab, 'Reset');
  await press(tab, 'Train');
  await tab.evaluate(() => scrollTo(0, 1e5));
  await tab.waitForTimeout(300);
  const away = (await state(tab)).steps;
  await tab.waitForTimeout(500);
  const later = await state(tab);
  await tab.evaluate(() => scrollTo(0, 0));
  await tab.waitForFunction(n => document.querySelector('.mnist-mb-live').live.run.steps > n, away);
  say(
    later.playing && later.steps === away,
    `out of sight it waits (${away}, ${later.steps}), in sight it goes on`,
  );

  // A rate from Python that no network survives
  tab = await open('wild.html');
  await ready(tab);
  await select(tab, 'pace', 'fast');
  await press(tab, 'Train');
  await stopped(tab);
  const wild = await state(tab);
  say(
    wild.steps < 240 &&
      /loss no number any more: Reset/.test(await at(tab, 'note')) &&
      !tab.bad.length,
    `a loss that is no number ends it, after ${wild.steps} steps (${tab.bad.slice(0, 2)})`,
  );
  await press(tab, 'Reset');
  say((await state(tab)).losses.length === 0, 'and Reset begins again');
  return `speed ${speed.toFixed(0)} steps a second; watched ${took.toFixed(1)} s`;
}

// --- The first page: draw, train, draw again
async function firstPage() {
  let tab = await open('home.html');
  await ready(tab);
  const equal = await tab.locator('.bars li span:last-child').allTextContents();
  say(
    (await at(tab, 'verdict')) === 'It has learned nothing yet' &&
      equal.every(v => Math.abs(v - 0.1) < 0.03),
    `before: ten nearly equal bars (${equal})`,
  );
  await stroke(tab, SEVEN);
  say(/^It guesses \d \(0\.1\d\d\)$/.test(await at(tab, 'verdict')), await at(tab, 'verdict'));
  const blank = await places(tab);
  await tab.evaluate(() => (document.querySelector('.mnist-mb-live').live.set.pace = 'fast'));
  await press(tab, 'Train');
  await stopped(tab);
  const sevens = await at(tab, 'verdict');
  say(
    /^It reads 7 /.test(sevens) && /reads 91 of 100 new digits/.test(await at(tab, 'state')),
    `after: ${sevens}; ${await at(tab, 'state')}`,
  );
  say(`${await places(tab)}` === `${blank}`, 'nothing has jumped meanwhile');
  await press(tab, 'Clear');
  say(/^Blank, and still it says \d$/.test(await at(tab, 'verdict')), 'Clear empties the pad');
  await stroke(tab, [[0.5, 0.15], [0.5, 0.5], [0.5, 0.85]], 'pen'); // prettier-ignore
  say(/^It reads 1 /.test(await at(tab, 'verdict')), `with a pen: ${await at(tab, 'verdict')}`);
  await press(tab, 'Example');
  await press(tab, 'Example');
  say(/^It reads 2 /.test(await at(tab, 'verdict')), `an example: ${await at(tab, 'verdict')}`);
  await stroke(tab, SEVEN);
  const drawn = await state(tab);
  say(
    drawn.example === null && drawn.strokes.length === 1,
    'who draws over an example begins a drawing',
  );
  await clean(tab, 'the first page');
  tab = await open('home.html', {...phone, colorScheme: 'dark'});
  await ready(tab);
  const box = await tab.locator('canvas.pad').boundingBox();
  const bars = await tab.locator('.bars').boundingBox();
  const finger = await tab.context().newCDPSession(tab);
  const touch = (type, ...points) =>
    finger.send('Input.dispatchTouchEvent', {
      type,
      touchPoints: points.map(([x, y]) => ({x: box.x + x * box.width, y: box.y + y * box.height})),
    });
  await touch('touchStart', SEVEN[0]);
  for (const point of SEVEN) await touch('touchMove', point);
  await touch('touchEnd');
  const [scrolled, wide] = await tab.evaluate(() => [
    scrollY,
    document.scrollingElement.scrollWidth,
  ]);
  const fingered = await state(tab);
  say(
    fingered.strokes.length === 1 &&
      fingered.strokes[0].length > 3 &&
      scrolled === 0 &&
      wide <= 390,
    `390 px: a finger draws ${fingered.strokes[0]?.length} points, the page stays and is ${wide} wide`,
  );
  say(
    bars.x >= box.x + box.width && Math.abs(bars.y - box.y) < 60 && box.width >= 190,
    `390 px: the bars stand beside the pad of ${box.width} px`,
  );
  await clean(tab, 'the first page on a phone');
}

// --- Several on a page; digits once
async function severalFigures() {
  let tab = await open('several.html');
  for (const nth of [0, 1, 2]) {
    await tab.locator('.mnist-mb-live').nth(nth).scrollIntoViewIfNeeded();
    await ready(tab, nth);
  }
  await press(tab, 'One step', 0);
  await select(tab, 'rate', '2', 1);
  const [first, second, third] = [await state(tab, 0), await state(tab, 1), await state(tab, 2)];
  say(
    first.steps === 1 && second.steps === 0 && third.steps === 0 && first.set.rate === 0.5,
    'several figures do not disturb each other',
  );
  const held = await tab.evaluate(() => [
    document.querySelectorAll('.mnist-mb-digits').length,
    globalThis.unpacked,
  ]);
  say(`${held}` === '1,1', `a page holds the digits once and unpacks them once (${held})`);
  await clean(tab, 'several figures');

  // A room without digits waits for those of another, however the page gets them; scripts that are
  // run again, as in JupyterLab
  tab = await open('empty.html');
  await insert(tab, job.without);
  await tab.waitForFunction(() =>
    document
      .querySelector('.mnist-mb-live')
      .shadowRoot.querySelector('.state')
      .textContent.startsWith('Its digits'),
  );
  await insert(tab, job.with);
  await ready(tab, 0);
  await ready(tab, 1);
  await press(tab, 'One step', 0);
  say((await state(tab, 0)).steps === 1, 'a room without digits waits for those of another one');
  say(!tab.bad.length, `as in JupyterLab: nothing on the console (${tab.bad.slice(0, 3)})`);

  // In a frame that may do nothing, as in Colab
  tab = await open('frame.html');
  const frame = tab.frameLocator('iframe');
  await frame.getByRole('button', {name: 'One step'}).click();
  await frame.getByText('step 1 · 50 images').waitFor();
  say(
    !tab.bad.length,
    `in a sandboxed frame with a strict policy it works (${tab.bad.slice(0, 3)})`,
  );

  // Without scripts; a notebook that was saved and converted
  tab = await browser.newPage({javaScriptEnabled: false});
  await tab.goto(`file://${job.folder}/room.html`);
  say(
    (await tab.locator('.mnist-mb-live > img').isVisible()) &&
      (await tab.getByText('moves where JavaScript runs').isVisible()),
    'without scripts: the picture, and a sentence',
  );
  if (fs.statSync(`${job.folder}/nb.html`).size) {
    tab = await browser.newPage();
    await tab.route(/^http/, r => r.abort());
    await tab.goto(`file://${job.folder}/nb.html`, {waitUntil: 'load'});
    await ready(tab);
    await press(tab, 'One step');
    say((await state(tab)).steps === 1, 'a saved notebook that nbconvert made a page of works');
  }
}

// --- The three small figures
async function smallFigures() {
  let tab = await open('small.html');
  const cell = (row, i) => tab.locator('.scores tr').nth(row).locator('td').nth(i).textContent();
  const shares = async () => [await cell(0, 4), await cell(1, 4), await cell(2, 4)];
  const dog = tab.getByRole('slider', {name: 'score of dog'});
  const at0 = await shares();
  await tab.getByLabel('+100 to all').check();
  const over = [await cell(0, 3), ...(await shares())];
  await tab.getByLabel('subtract the largest').check();
  const saved = await shares();
  await tab.getByLabel('+100 to all').uncheck();
  await dog.focus();
  await tab.keyboard.press('Home');
  const low = [await cell(0, 1), ...(await shares())];
  say(
    `${at0}` === '0.875,0.117,0.008' && `${over}` === 'inf,nan,nan,nan' && `${saved}` === `${at0}`,
    `softmax: ${at0}; with +100 ${over}; with the largest subtracted ${saved}`,
  );
  say(low[0] === '−5.00' && Number(low[1]) < 0.01, `a score is set with the keyboard: ${low}`);
  await tab.getByRole('slider', {name: 'temperature'}).fill('1');
  say((await at(tab, 'degree')) === 'T = 10.00', 'a temperature from 0.1 to 10');
  const p = tab.getByRole('slider', {name: 'p', exact: true});
  await p.fill('0.5');
  const half = await tab.locator('.mnist-mb-live').nth(1).locator('.note').allTextContents();
  const gradient = await tab.locator('.both li span:last-child').allTextContents();
  say(
    /the loss is 0\.69$/.test(half[0]) && gradient[3] === '−0.500' && gradient[0] === '0.056',
    `loss: ${half[0]}; gradient ${gradient.slice(2, 5)}`,
  );
  const ends = {};
  for (const [rate, steps] of [
    ['0.1', 3],
    ['0.5', 1],
    ['1', 3],
    ['1.5', 3],
  ]) {
    await press(tab, rate, 2);
    for (let i = 0; i < steps; i++)
      if (await tab.getByRole('button', {name: 'Step'}).isEnabled()) await press(tab, 'Step', 2);
    ends[rate] = await tab.locator('.mnist-mb-live').nth(2).locator('.note').textContent();
  }
  say(
    /step 3: t = 0\.2\d/.test(ends['0.1']) &&
      /step 1: t = 0\.50/.test(ends['0.5']) &&
      /step 3: t = 1\.00/.test(ends['1']) &&
      /out of the picture/.test(ends['1.5']) &&
      (await tab.getByRole('button', {name: 'Step'}).isDisabled()),
    `slice: ${Object.values(ends).join('; ')}`,
  );
  await clean(tab, 'the small figures');
  tab = await open('small.html', {...phone, colorScheme: 'dark'});
  const narrow = await tab.evaluate(() => document.scrollingElement.scrollWidth);
  say(narrow <= 390, `390 px: the small figures are ${narrow} wide`);
  await clean(tab, 'the small figures on a phone');
}

// Side by side, since a room that is watched leaves much time
const [speeds] = await Promise.all([theRoom(), firstPage(), severalFigures(), smallFigures()]);
console.log(speeds);
await browser.close();
process.exit(failed ? 1 : 0);
