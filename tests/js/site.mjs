// Looks at the built site in Chromium as readers do; ../test_site.py starts it, with site.json.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {chromium} from 'playwright-core';

const job = JSON.parse(fs.readFileSync('site.json', 'utf8'));
const axe = fs.readFileSync('node_modules/axe-core/axe.min.js', 'utf8');
// What Quarto's own parts of the page are found guilty of; none of it serious
const KNOWN = ['aria-allowed-role', 'region'];
const TYPES = {css: 'text/css', html: 'text/html', js: 'text/javascript', svg: 'image/svg+xml'};

const {pathname: base, origin} = new URL(job.site);
const server = http.createServer((request, response) => {
  const file = decodeURIComponent(new URL(request.url, origin).pathname);
  const local = path.join(job.folder, file.slice(base.length));
  if (!file.startsWith(base) || !fs.existsSync(local)) {
    response.writeHead(404).end();
    return;
  }
  const type = TYPES[path.extname(local).slice(1)] ?? 'application/octet-stream';
  response.writeHead(200, {'Content-Type': type}).end(fs.readFileSync(local));
});
await new Promise(done => server.listen(0, '127.0.0.1', done));
const address = `http://127.0.0.1:${server.address().port}${base}/`;

const found = [];
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
});
async function open(name, options) {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const tab = await context.newPage();
  tab.say = text => found.includes(`${name}: ${text}`) || found.push(`${name}: ${text}`);
  tab.on('console', m => m.type() === 'error' && tab.say(`the console says ${m.text()}`));
  tab.on('pageerror', e => tab.say(`the console says ${e}`));
  await tab.route(
    url => !`${url}`.startsWith(address) && url.protocol.startsWith('http'),
    route => {
      tab.say(`asks for ${route.request().url()}`);
      route.abort();
    },
  );
  await tab.goto(address + name, {waitUntil: 'load'});
  return tab;
}

// In the page: what a reader would stumble over; and what the others need to know of it
function inspect() {
  const bad = [];
  const all = [...document.body.querySelectorAll('[id]')].map(e => e.id);
  for (const id of new Set(all.filter((id, i) => all.indexOf(id) !== i)))
    bad.push(`the id ${id} is there twice`);
  const text = document.querySelector('main').cloneNode(true);
  text.querySelectorAll('pre, code, script, style').forEach(e => e.remove());
  for (const [mark] of text.textContent.matchAll(/:::|\]\(https?:|\\[([]|\$\$|\\\w+\{/g))
    bad.push(`markup is shown as text: ${mark}`);
  for (const pre of document.querySelectorAll('pre'))
    if (pre.textContent.includes('](https')) bad.push('a link is shown as text in code');
  for (const image of document.images) {
    if (!image.naturalWidth) bad.push(`the picture ${image.getAttribute('src')} is not there`);
    if (!image.alt) bad.push(`the picture ${image.getAttribute('src')} has no alt`);
    if (image.closest('figure') && !image.closest('a'))
      bad.push(`the picture ${image.getAttribute('src')} can't be enlarged`);
    if (image.loading === 'lazy') bad.push(`${image.getAttribute('src')} is blank on paper`);
  }
  for (const formula of document.querySelectorAll('main .math.display'))
    if (formula.scrollWidth > formula.clientWidth + 1)
      bad.push(`the formula ${formula.textContent.slice(0, 40)} is cut`);
  if (document.querySelector('#TOC a') && !document.querySelector('.contents a'))
    bad.push('a phone has no table of contents');
  const meta = name => document.querySelector(`meta[property="${name}"]`)?.content;
  return {
    bad,
    ids: all,
    links: [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href')),
    card: meta('og:image'),
    canonical: document.querySelector('link[rel=canonical]')?.href,
    formulas: document.querySelectorAll('math').length,
  };
}

// In the page: blocks of code and output, and how many of them the column cuts
function blocks() {
  const shown = [...document.querySelectorAll('main pre')].filter(e => e.clientWidth);
  return [shown.length, shown.filter(e => e.scrollWidth > e.clientWidth + 1).length];
}

// In the page: pictures whose words a phone shows too small to be read
function tiny() {
  const shown = [...document.querySelectorAll('main figure img')].filter(e => e.clientWidth);
  return shown.filter(e => e.clientWidth < 0.8 * e.getAttribute('width')).map(e => e.src);
}

// In the page: what sticks out at the right and can't be scrolled within something smaller
function tooWide() {
  const width = document.documentElement.clientWidth;
  const inside = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
      const fits = p.getBoundingClientRect().right <= width + 1;
      if (fits && getComputedStyle(p).overflowX !== 'visible') return true;
    }
    return false;
  };
  if (document.scrollingElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !inside(e))
    .map(e => `<${e.localName} class="${e.className}"> ${e.textContent.trim().slice(0, 40)}`)
    .slice(-2);
}

const settled = tab =>
  tab.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50))));

async function judge(tab, how) {
  // A figure that moves has its names when it is in sight for the first time
  for (const figure of await tab.locator('.mnist-mb-live').all()) {
    await figure.scrollIntoViewIfNeeded();
    await settled(tab);
  }
  await tab.evaluate(axe);
  const {violations} = await tab.evaluate(() => axe.run(document, {resultTypes: ['violations']}));
  for (const {id, nodes, help} of violations.filter(v => !KNOWN.includes(v.id)))
    tab.say(
      `axe, ${how}: ${id} ${nodes.length} times: ${nodes[0].target} ` +
        `${nodes[0].any[0]?.message ?? help}`,
    );
}

// On paper nothing can be scrolled or opened
async function print(tab) {
  await tab.emulateMedia({media: 'print'});
  await tab.setViewportSize({width: 700, height: 900});
  await settled(tab);
  const lost = await tab.evaluate(() => {
    const wide = [...document.querySelectorAll('main pre')].filter(
      e => e.scrollWidth > e.clientWidth + 1,
    );
    const shut = [
      ...document.querySelectorAll('main details:not(.contents) > :not(summary)'),
    ].filter(e => !e.checkVisibility({contentVisibilityAuto: true}) || !e.offsetHeight);
    const bars = [...document.querySelectorAll('nav, header.navbar, button')].filter(
      e => e.offsetHeight,
    );
    return [wide, shut, bars].map(list => list.slice(0, 1).map(e => e.outerHTML.slice(0, 80)));
  });
  for (const what of lost.flat()) tab.say(`on paper ${what} is cut, shut or of no use`);
}

async function look(name) {
  const tab = await open(name);
  await tab.evaluate(() =>
    Promise.all([...document.images].map(image => image.decode().catch(() => {}))),
  );
  const page = await tab.evaluate(inspect);
  page.bad.forEach(tab.say);
  for (const width of [320, 390, 768, 1280]) {
    await tab.setViewportSize({width, height: 900});
    await settled(tab);
    for (const what of await tab.evaluate(tooWide)) tab.say(`at ${width} px too wide: ${what}`);
    page[width] = await tab.evaluate(blocks);
    if (width === 390)
      for (const src of await tab.evaluate(tiny)) tab.say(`${src} is too small on a phone`);
  }
  await judge(tab, 'light, 1280 px');
  await tab.keyboard.press('Tab');
  await tab.keyboard.press('Enter');
  await tab.keyboard.press('Tab');
  if (!(await tab.evaluate(() => document.activeElement.closest('main'))))
    tab.say('the keyboard does not come to the text with its first link');
  await print(tab);
  await tab.context().close();
  const dark = await open(name, {colorScheme: 'dark', viewport: {width: 390, height: 900}});
  if (!(await dark.evaluate(() => document.body.classList.contains('quarto-dark'))))
    dark.say('stays light where a reader wants it dark');
  await judge(dark, 'dark, 390 px');
  await dark.context().close();
  return page;
}

const names = fs
  .readdirSync(job.folder)
  .filter(f => f.endsWith('.html'))
  .sort();
const pages = Object.fromEntries(names.map(name => [name, null]));
const queue = [...names];
await Promise.all(
  [0, 1].map(async () => {
    while (queue.length) {
      const name = queue.shift();
      pages[name] = await look(name);
    }
  }),
);

// Where links lead: to a page and a place on it, to a file of the repository and a line in it
const targets = new Set();
function dead(link, from) {
  // Quarto's script makes relative links absolute
  const url = new URL(link.replace(address, ''), `${job.site}/${from}`);
  const hosted = job.hosted.find(h => url.href.startsWith(h));
  if (hosted) {
    const local = path.join(job.root, url.href.slice(hosted.length).replace(/#.*/, ''));
    if (!fs.existsSync(local)) return 'there is no such file in the repository';
    const line = Number(url.hash.match(/^#L(\d+)/)?.[1] ?? 0);
    return line > fs.readFileSync(local, 'utf8').split('\n').length && 'the file has fewer lines';
  }
  if (!`${url.href}/`.startsWith(`${job.site}/`)) return false;
  const to = url.pathname.slice(base.length + 1) || 'index.html';
  if (!pages[to]) return !fs.existsSync(path.join(job.folder, to)) && 'there is no such page';
  const id = decodeURIComponent(url.hash.slice(1));
  if (!id) return false;
  if (!pages[to].ids.includes(id)) return 'there is no such place on the page';
  if (!/^cb\d/.test(id)) targets.add(`${to}#${id}`); // not lines of code
  return false;
}
for (const [name, {links, card, canonical}] of Object.entries(pages)) {
  for (const link of new Set(links)) {
    const leaves = name !== '404.html' && link.startsWith(`${job.site}/`);
    const why = leaves ? 'a copy of the site would lead away from itself' : dead(link, name);
    if (why) found.push(`${name}: the link ${link}: ${why}`);
  }
  if (card !== `${job.site}/card.png`) found.push(`${name}: the card is ${card}`);
  if (canonical !== `${job.site}/${name}`) found.push(`${name}: canonical is ${canonical}`);
}

// A fresh load of a link to a place shows it, below the bar at the top
const some = [...targets].filter((_, i, all) => i % Math.ceil(all.length / 40) === 0);
for (const target of some) {
  const tab = await open(target);
  await settled(tab);
  const [top, bar] = await tab.evaluate(id => {
    const place = document.getElementById(id);
    const seen = place.localName === 'section' ? place.querySelector('h2, h3, h4, h5') : place;
    return [
      seen.getBoundingClientRect().top,
      document.querySelector('#quarto-header').getBoundingClientRect().bottom,
    ];
  }, target.split('#')[1]);
  if (top < bar - 1 || top > 880) tab.say(`lands ${Math.round(top)} px from the top`);
  await tab.context().close();
}

// The search finds each public name, by its name
const search = await open('api.html');
const links = await search.$$eval('main td:first-child a[href*="#"]', all =>
  all.map(a => [a.textContent, a.hash]),
);
await search.keyboard.press('/');
for (const [name, hash] of links) {
  await search.fill('.aa-Input', '');
  await search.fill('.aa-Input', name);
  const seen = target =>
    [...document.querySelectorAll('.aa-Panel a[href]')].slice(0, 3).some(a => a.hash === target);
  const shown = await search.waitForFunction(seen, hash, {timeout: 5000}).catch(() => false);
  if (!shown) {
    search.say(`the search does not find ${name}`);
    break;
  }
}
if (links.length < 50) search.say(`only ${links.length} names`);

// Of a term, first its page, or the place on it that explains the term, which comes soon
for (const [term, place] of Object.entries(job.terms)) {
  await search.fill('.aa-Input', '');
  await search.fill('.aa-Input', term);
  const there = target => {
    const found = [...document.querySelectorAll('.aa-Panel a[href]')]
      .slice(0, 3)
      .map(a => new URL(a.href).pathname.split('/').pop() + new URL(a.href).hash);
    return found.includes(target) && found[0].split('#')[0] === target.split('#')[0];
  };
  const shown = await search.waitForFunction(there, place, {timeout: 5000}).catch(() => false);
  if (!shown) search.say(`the search for ${term} does not lead to ${place} first`);
}

await browser.close();
server.close();
const sum = key => Object.values(pages).reduce((total, page) => total + page[key], 0);
const cut = {};
for (const width of [390, 768, 1280]) {
  const [all, lost] = [0, 1].map(i =>
    Object.values(pages).reduce((n, page) => n + page[width][i], 0),
  );
  cut[width] = `${lost} of ${all} blocks cut at ${width} px`;
  if (width > 390 && lost > 0.02 * all) found.push(cut[width]);
}
console.log(
  `${names.length} pages, ${sum('formulas')} formulas, ${targets.size} places linked to, ` +
    `${some.length} of them loaded, ${Object.values(cut).join(', ')}`,
);
found.forEach(text => console.log(`FAIL ${text}`));
process.exitCode = Number(found.length > 0);
