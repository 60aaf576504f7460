// Uses pads as readers do, in Chromium: see ../pad.py, which compares the numbers with PyTorch's.
import fs from 'node:fs';
import {chromium} from 'playwright-core';

const job = JSON.parse(fs.readFileSync('pad.json', 'utf8'));
const axe = fs.readFileSync('node_modules/axe-core/axe.min.js', 'utf8');
const browser = await chromium.launch({executablePath: job.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking']});
let failed = false;
function say(ok, words) {
  console.log(`${ok ? 'ok   ' : 'FAIL '} ${words}`);
  failed ||= !ok;
}
const wait = tab => tab.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 40))));
const ink = (tab, nth = 0) => tab.evaluate(nth => document.querySelectorAll('.mnist-mb-pad')[nth].pad.ink.reduce((a, v) => a + v, 0), nth);
const at = (tab, name, nth = 0) => tab.evaluate(([name, nth]) => document.querySelectorAll('.mnist-mb-pad')[nth].pad.d[name].textContent, [name, nth]);

// A tab that notes whatever should not happen
async function open(file, options = {}) {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const tab = await context.newPage();
  tab.bad = [];
  await tab.exposeFunction('report', text => tab.bad.push(text));
  await tab.addInitScript(() => addEventListener('securitypolicyviolation', e => report(`CSP: ${e.violatedDirective}`)));
  tab.on('console', m => ['error', 'warning'].includes(m.type()) && tab.bad.push(m.text()));
  tab.on('pageerror', e => tab.bad.push(`${e}`));
  tab.on('dialog', d => { tab.bad.push(`dialog ${d.message()}`); d.dismiss(); });
  tab.on('request', r => /^(file|data):/.test(r.url()) || tab.bad.push(`asks for ${r.url()}`));
  if (options.offline) await tab.route(/^http/, r => r.abort());
  await tab.goto(`file://${job.folder}/${file}`, {waitUntil: 'load'});
  return tab;
}
// The moves are sent without waiting, so that several come between two frames, as from a quick pen
async function stroke(tab, points, nth = 0, pointerType = 'mouse') {
  const canvas = tab.locator('canvas.pad').nth(nth);
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  tab.cdp ??= await tab.context().newCDPSession(tab);
  const places = points.map(([x, y]) => ({x: box.x + x*box.width, y: box.y + y*box.height}));
  const send = (type, place) => tab.cdp.send('Input.dispatchMouseEvent', {type, ...place, pointerType, button: 'left', buttons: Number(type !== 'mouseReleased'), clickCount: 1});
  await Promise.all([send('mousePressed', places[0]), ...places.map(place => send('mouseMoved', place)), send('mouseReleased', places.at(-1))]);
}
async function clean(tab, words, axeToo = true) {
  say(!tab.bad.length, `${words}: nothing on the console, no request, no violation of the policy${tab.bad.length ? `; ${tab.bad.slice(0, 3)}` : ''}`);
  if (!axeToo) return;
  await tab.evaluate(axe);
  const {violations} = await tab.evaluate(() => axe.run(document));
  const what = violations.map(v => `${v.id} ${v.nodes[0].html.slice(0, 90)} ${v.nodes[0].any[0]?.message ?? ''}`);
  say(!what.length, `${words}: axe finds ${what.length ? what : 'nothing'}`);
}

// Real digits: fed in as they are, then traced with the pointer
let tab = await open('pad.html');
await tab.getByRole('checkbox').uncheck();
const fed = await tab.evaluate(images => {
  const {pad} = document.querySelector('.mnist-mb-pad');
  return images.map(text => Array.from(pad.take(Uint8Array.from(atob(text), c => c.charCodeAt(0))).logits));
}, job.images);
await tab.getByRole('checkbox').check();
const traced = [];
for (const strokes of job.strokes) {
  await tab.getByRole('button', {name: 'Clear'}).click();
  for (const points of strokes) await stroke(tab, points);
  await wait(tab);
  traced.push(await tab.evaluate(() => {
    const {pad} = document.querySelector('.mnist-mb-pad'), {ink, result: {pixels, logits, speaks, best}} = pad;
    const right = ink.map((_, i) => i % 140 < 20 ? 0 : ink[i - 20]);  // four pixels of MNIST
    const moved = [true, false].map(centring => {
      Object.assign(pad, {ink: right, centring}).show();
      return Array.from(pad.result.logits);
    });
    Object.assign(pad, {ink, centring: true}).show();
    return {moved, ink: btoa(String.fromCharCode(...ink)), pixels: Array.from(pixels), logits: Array.from(logits), speaks: Array.from(speaks), best};
  }));
}
fs.writeFileSync('seen.json', JSON.stringify({fed, traced}));
const sums = await tab.evaluate(() => {
  const {probs, exps, shifted, speaks, logits, best} = document.querySelector('.mnist-mb-pad').pad.result;
  return [probs.reduce((a, b) => a + b), Math.max(...exps), Math.max(...shifted), logits[best] - Math.max(...logits)];
});
say(Math.abs(sums[0] - 1) < 1e-9 && sums[1] === 1 && sums[2] === 0 && sums[3] === 0, 'probabilities add to 1, and the largest logit is shifted to 0');

// What is written is what was computed
const written = await tab.evaluate(() => {
  const {result, root} = document.querySelector('.mnist-mb-pad').pad;
  return [...root.shadowRoot.querySelectorAll('tbody tr')].map((row, i) => {
    const [logit, shifted, exp, prob] = [...row.querySelectorAll('td')].map(cell => cell.textContent.replace('−', '-'));
    return [logit - result.logits[i], shifted - result.shifted[i], parseFloat(exp) - result.exps[i], parseFloat(prob.replace('>', '')) - result.probs[i],
      row.querySelector('i').style.width.slice(0, -1)/60 - result.probs[i], (row.className === 'best') - (result.best === i)];
  });
});
say(written.length === 10 && written.flat().every(v => Math.abs(v) < 0.0051), 'the table shows the numbers, the bars and the leading class');
await tab.getByRole('button', {name: 'Clear'}).click();
await tab.getByRole('button', {name: 'Random example'}).click();
await wait(tab);
const random = await ink(tab);
await tab.getByRole('button', {name: 'Undo'}).click();
await wait(tab);
say(random > 0 && await ink(tab) === 0 && await at(tab, 'hint') === 'draw here', 'a random example comes, and Undo takes it away');

// How long a prediction and its drawing take
const times = async () => (await tab.evaluate(() => {
  const {pad} = document.querySelector('.mnist-mb-pad');
  return Array.from({length: 60}, () => { const start = performance.now(); pad.show(); return performance.now() - start; }).slice(10).sort((a, b) => a - b);
}))[25];
const quick = await times(), cdp = await tab.context().newCDPSession(tab);
await cdp.send('Emulation.setCPUThrottlingRate', {rate: 4});
const slow = await times();
await cdp.send('Emulation.setCPUThrottlingRate', {rate: 1});
say(quick < 16, `a prediction and its drawing take ${quick.toFixed(1)} ms, ${slow.toFixed(1)} ms with the processor slowed down 4 times`);

// The loss, the temperature, the switch
await tab.getByRole('button', {name: 'example: '}).first().click();
await wait(tab);
const label = await tab.getByRole('combobox').evaluate(s => s.value);
const {loss, p} = await tab.evaluate(() => { const {result, meant} = document.querySelector('.mnist-mb-pad').pad; return {loss: result.loss, p: result.probs[meant]}; });
say(Math.abs(loss + Math.log(p)) < 1e-9 && (await at(tab, 'loss')).includes(loss.toFixed(4)), `the loss of an example of a ${label} is −ln of its probability`);
await tab.getByRole('slider').fill('1');
await wait(tab);
const hot = await tab.evaluate(() => document.querySelector('.mnist-mb-pad').pad.result);
const e = Object.values(hot.logits).map(v => Math.exp(v/10)), total = e.reduce((a, b) => a + b);
say(Object.values(hot.probs).every((v, i) => Math.abs(v - e[i]/total) < 1e-9), 'a temperature of 10 divides the logits by 10');
await tab.getByRole('slider').fill('0');

// The keyboard alone, and what a screen reader hears
await tab.getByRole('button', {name: 'Clear'}).click();
await tab.locator('canvas.pad').focus();
for (let i = 0; i < 4; i++) await tab.keyboard.press('Tab');
await tab.keyboard.press('Enter');
await wait(tab);
const chosen = await ink(tab);
say(chosen > 0 && /It reads \S+, with probability [>\d.]+; loss/.test(await tab.getByRole('status').textContent()), 'an example is chosen with the keyboard, and the result is announced');
await tab.locator('canvas.pad').focus();
await tab.getByRole('checkbox').uncheck();
await wait(tab);
const middle = await tab.evaluate(() => Array.from(document.querySelector('.mnist-mb-pad').pad.result.pixels));
await tab.locator('canvas.pad').focus();
await tab.keyboard.press('ArrowRight');
await wait(tab);
const moved = await tab.evaluate(() => Array.from(document.querySelector('.mnist-mb-pad').pad.result.pixels));
say(middle.every((v, i) => i % 28 === 27 || Math.abs(moved[i + 1] - v) < 1e-9), 'an arrow key moves the drawing by one pixel, and with the switch off the network sees it');
await tab.keyboard.press('Delete');
const cleared = await ink(tab);
await tab.keyboard.press('Control+z');
await tab.keyboard.press('Control+z');
say(cleared === 0 && await ink(tab) === chosen, 'Delete clears; Ctrl Z twice brings back what was there before the move');
await clean(tab, 'a saved page');

// Dark and light, little motion, a phone and a finger
await tab.emulateMedia({colorScheme: 'dark', reducedMotion: 'reduce'});
await wait(tab);
const look = () => tab.evaluate(() => { const {shadowRoot} = document.querySelector('.mnist-mb-pad'); return [shadowRoot.firstChild.className, getComputedStyle(shadowRoot.querySelector('i')).transitionDuration]; });
const dark = await look();
await tab.emulateMedia({colorScheme: 'light', reducedMotion: 'no-preference'});
await wait(tab);
const light = await look();
say(`${dark} ${light}` === 'all dark,0s all light,0.08s', `the pad follows the system's theme and its wish for less motion (${dark}, ${light})`);
tab = await open('pad.html', {viewport: {width: 390, height: 844}, hasTouch: true, isMobile: true, colorScheme: 'dark'});
const finger = await tab.context().newCDPSession(tab), box = await tab.locator('canvas.pad').boundingBox();
const touch = (type, ...points) => finger.send('Input.dispatchTouchEvent', {type, touchPoints: points.map(([x, y], id) => ({x: box.x + x*box.width, y: box.y + y*box.height, id}))});
await touch('touchStart', [0.5, 0.2]);
for (let y = 0.25; y < 0.85; y += 0.05) await touch('touchMove', [0.5, y], ...y > 0.4 ? [[0.2, 0.5]] : []);
await touch('touchEnd');
await wait(tab);
const [scrolled, width, second] = await tab.evaluate(() => [scrollY, document.scrollingElement.scrollWidth, document.querySelector('.mnist-mb-pad').pad.ink[140*70 + 28]]);
say(/It reads 1,/.test(await at(tab, 'verdict')) && scrolled === 0 && width <= 390 && second === 0, `390 px: a finger draws a 1, a second one nothing, the page doesn't scroll and is ${width} px wide`);
await clean(tab, 'a dark page on a phone');

// Two pads on a page of the site's kind, and names that are no code
tab = await open('two.html');
await stroke(tab, [[0.5, 0.2], [0.5, 0.8]]);
await wait(tab);
const apart = [await ink(tab, 0) > 0, await ink(tab, 1) === 0];
const before = await at(tab, 'verdict', 0);
await stroke(tab, [[0.2, 0.5], [0.8, 0.5]], 1, 'pen');
await wait(tab);
say(apart.every(Boolean) && await ink(tab, 1) > 0 && await at(tab, 'verdict', 0) === before, 'two pads with different networks do not disturb each other');
const heads = await tab.locator('.mnist-mb-pad').nth(1).locator('tbody th').allTextContents();
say(`${heads}` === `${job.names}` && await tab.locator('.mnist-mb-pad').nth(1).locator('img:visible').count() === 0, 'names of classes are text, whatever is in them');
await tab.evaluate(() => { document.body.className = 'quarto-dark'; });
await wait(tab);
say(await tab.evaluate(() => [...document.querySelectorAll('.mnist-mb-pad')].every(r => r.shadowRoot.firstChild.className === 'all dark')), 'pads follow the theme of the page');
await clean(tab, 'two pads');
tab = await open('other.html');
await clean(tab, 'a saved page with names that look like code');

// Scripts off; Jupyter, which fills an element and runs its scripts again; nbconvert
tab = await browser.newPage({javaScriptEnabled: false});
await tab.goto(`file://${job.folder}/pad.html`);
say(await tab.locator('.mnist-mb-pad img').isVisible() && await tab.getByText('needs JavaScript').isVisible(), 'with scripts off, a picture and a sentence');
tab = await open('lab.html');
for (const attached of [true, false]) {
  await tab.evaluate(([html, attached]) => {
    const host = document.createElement('div'), output = document.querySelector('#output');
    if (attached) output.append(host);
    host.innerHTML = html;
    for (const old of host.querySelectorAll('script')) {
      const script = document.createElement('script');
      for (const {name, value} of old.attributes) script.setAttribute(name, value);
      script.textContent = old.textContent;
      old.replaceWith(script);
    }
    if (!attached) output.append(host);
  }, [job.html, attached]);
}
await stroke(tab, [[0.5, 0.2], [0.5, 0.8]], 1);
await wait(tab);
say(await ink(tab, 0) === 0 && await ink(tab, 1) > 0, 'pads work where scripts are run again, as in JupyterLab');
await clean(tab, 'as in JupyterLab', false);
if (fs.statSync(`${job.folder}/nb.html`).size) {
  tab = await open('nb.html', {offline: true});
  await stroke(tab, [[0.5, 0.2], [0.5, 0.8]]);
  await wait(tab);
  say(await ink(tab) > 0 && /It reads 1,/.test(await at(tab, 'verdict')), 'a pad in a notebook works after saving, opening and nbconvert');
}
await browser.close();
process.exit(failed ? 1 : 0);
