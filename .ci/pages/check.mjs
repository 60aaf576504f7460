// Renders the processed notebooks much as Quarto does, and looks at them in Chromium: see ../pages.py.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import MarkdownIt from 'markdown-it';
import * as sass from 'sass';
import {chromium} from 'playwright-core';

const job = JSON.parse(fs.readFileSync('job.json', 'utf8'));
const read = (...parts) => fs.readFileSync(path.join(...parts), 'utf8');
const join = source => [source ?? ''].flat().join('');
const escape = s => s.replace(/[&<>"]/g, c => ({'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;'}[c]));

// Markdown, as Pandoc reads it: formulas between dollars, identifiers of headings, attributes of links
const MATH = /(^```[\s\S]*?^```|(`+)(?!`)[\s\S]*?\2(?!`))|\$\$([\s\S]+?)\$\$|(?<![\\$])\$(?=\S)((?:\\.|[^$\\])+?)(?<=\S)\$(?!\d)/gm;
const md = new MarkdownIt({html: true, typographer: false});
const attributes = /^\{[^}\n]*\}/;
md.core.ruler.push('attributes', state => {
  for (const {children} of state.tokens.filter(t => t.children)) {
    children.forEach((t, i) => {
      const after = children[i + 1];
      if (t.type === 'link_close' && after?.type === 'text') after.content = after.content.replace(attributes, '');
    });
  }
});
function markdown(text, ids) {
  const formulas = [];
  const kept = text.replace(MATH, (all, code, _, display, inline) => code !== undefined ? all :
    `\uE000${formulas.push(display === undefined ?
      `<span class="math inline">\\(${escape(inline)}\\)</span>` :
      `<span class="math display">\\[${escape(display)}\\]</span>`) - 1}\uE001`);
  return md.render(kept)
    .replace(/<(h[1-6])>(.*?)<\/\1>/gs, (_, h, title) => {
      const given = title.match(/\s*\{#([\w-]+)[^}]*\}$/);
      let id = given?.[1] ?? (title.replace(/<[^>]*>|\uE000\d+\uE001/g, '').toLowerCase().replace(/&\w+;/g, '')
        .replace(/[^\p{L}\p{N}\s_.-]/gu, '').trim().replace(/\s+/g, '-').replace(/^[^\p{L}]+/u, '') || 'section');
      ids[id] = (ids[id] ?? -1) + 1;
      if (ids[id]) id += `-${ids[id]}`;
      return `<${h} id="${id}">${given ? title.slice(0, given.index) : title}</${h}>`;
    })
    .replace(/<table>/g, '<table class="table caption-top">')
    .replace(/\uE000(\d+)\uE001/g, (_, i) => formulas[i]);
}

const code = (text, language) =>
  `<div class="sourceCode"><pre class="sourceCode ${language}"><code>${escape(text)}</code></pre></div>`;
function output(out, option, ids) {
  const data = out.data ?? {};
  if (out.output_type === 'stream') return `<div class="cell-output cell-output-${out.name}"><pre><code>${escape(join(out.text))}</code></pre></div>`;
  const image = ['image/png', 'image/jpeg'].find(type => data[type]);
  if (image) return `<figure class="figure"${option.label ? ` id="${option.label}"` : ''}><p><img class="img-fluid figure-img" ` +
    `src="data:${image};base64,${join(data[image]).replace(/\s/g, '')}"${option['fig-alt'] ? ` alt="${escape(option['fig-alt'])}"` : ''}></p>` +
    `<figcaption>${markdown(option['fig-cap'] ?? '', ids)}</figcaption></figure>`;
  if (data['text/markdown']) return markdown(join(data['text/markdown']), ids);
  if (data['text/html']) return `<div class="cell-output cell-output-display">${
    join(data['text/html']).replace(/class="dataframe"/g, 'class="dataframe caption-top table table-sm table-striped small"')}</div>`;
  return `<div class="cell-output cell-output-display"><pre><code>${escape(join(data['text/plain']))}</code></pre></div>`;
}

function render(notebook) {
  const whole = read(job.proc, notebook), split = whole.split(/^---$/m);
  const {cells} = notebook.endsWith('.ipynb') ? JSON.parse(whole) : {cells: [{source: split[1]}, {cell_type: 'markdown', source: split.slice(2).join('---')}]};
  const ids = {}, front = join(cells[0].source), field = name => front.match(new RegExp(`^${name}: (.*(?:\\n  .*)*)`, 'm'))?.[1].replace(/\s+/g, ' ').replace(/^'|'$/g, '');
  const title = field('title'), name = field('output-file') ?? notebook.replace(/qmd$/, 'html');
  let depth = 0, body = `<h1 class="title">${escape(title)}</h1><div class="description">${escape(field('description') ?? '')}</div>`;
  for (const {cell_type, source, outputs} of cells.slice(1)) {
    let text = join(source);
    if (cell_type === 'markdown') {
      for (const part of text.split(/^(:::.*)$(?:\n+##? (.*)$)?/m)) {
        const div = part?.match(/^::: *(?:\{(.*)\}|([\w-]+))?$/);
        if (!div) body += markdown(part ?? '', ids);
        else if (div[1] ?? div[2]) depth++, body += `<div class="callout ${(div[1] ?? `.${div[2]}`).match(/(?<=\.)[\w-]+/g)?.join(' ')}">`;
        else depth--, body += '</div>';
      }
    } else if (cell_type === 'code') {
      const option = Object.fromEntries([...text.matchAll(/^#\| *([\w-]+): *"?(.*?)"?$/gm)].map(m => [m[1], m[2]]));
      text = text.replace(/^#\|.*\n?/gm, '');
      const shown = option.echo === 'false' ? '' : code(text, 'python');
      body += '<div class="cell">' + (option['code-fold'] ?
        `<details open class="code-fold"><summary>${option['code-summary'] ?? 'Code'}</summary>${shown}</details>` : shown);
      if (option.output !== 'false') body += outputs.map(out => output(out, option, ids)).join('');
      body += '</div>';
    }
  }
  const page = `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>${escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" id="theme" href="theme-light.css"><link rel="stylesheet" href="${job.css}">
<style>main { max-width: 850px; margin: 0 auto; padding: 1rem; } pre { overflow-x: auto; padding: .4em; }</style>
<script src="npm/mathjax/es5/tex-chtml-full.js" defer></script></head>
<body class="quarto-light"><main id="quarto-document-content">${body}</main>${job.after.join('')}</body></html>`;
  return {notebook, name, page, findings: depth ? [`${Math.abs(depth)} blocks of ::: not ${depth > 0 ? 'closed' : 'opened'}`] : []};
}

// The themes: sections of scss in Quarto's order, around Bootstrap
function theme(kind) {
  const files = [job.theme[kind] ?? []].flat().filter(f => f.endsWith('.scss')).map(f => read(job.proc, f));
  const section = (text, name) => text.match(new RegExp(`/\\*-- scss:${name} --\\*/([\\s\\S]*?)(?=/\\*-- scss:|$)`))?.[1] ?? '';
  const scss = [...files.map(f => section(f, 'defaults')), '@import "bootstrap/scss/bootstrap";', 
    'div.sourceCode { background: $code-block-bg } :not(pre) > code { background: $code-bg }', ...files.map(f => section(f, 'rules'))];
  return sass.compileString(scss.join('\n'), {loadPaths: ['node_modules'], quietDeps: true, logger: sass.Logger.silent}).css;
}

const findings = [];
const pages = fs.readdirSync(job.proc).filter(f => /\.(ipynb|qmd)$/.test(f)).sort().map(render);
const served = Object.fromEntries(pages.map(p => [`/${p.name}`, [p.page, 'text/html; charset=utf-8']]));
for (const kind of ['light', 'dark']) served[`/theme-${kind}.css`] = [theme(kind), 'text/css'];
const server = http.createServer((request, response) => {
  const url = decodeURIComponent(new URL(request.url, 'http://x').pathname);
  const file = url.startsWith('/npm/') ? path.join('node_modules', url.slice(5)) : path.join(job.proc, url);
  const type = {'.js': 'text/javascript', '.css': 'text/css', '.woff': 'font/woff'}[path.extname(file)] ?? 'application/octet-stream';
  if (served[url]) response.writeHead(200, {'Content-Type': served[url][1]}).end(served[url][0]);
  else if (fs.existsSync(file)) response.writeHead(200, {'Content-Type': type}).end(fs.readFileSync(file));
  else response.writeHead(404).end();
}).listen(0, '127.0.0.1');
await new Promise(resolve => server.once('listening', resolve));
const address = `http://127.0.0.1:${server.address().port}`;

const flags = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split(' ');
const context = await chromium.launchPersistentContext(job.profile, {executablePath: job.chromium, args: flags});
const axe = read('node_modules/axe-core/axe.min.js');

function inspect() {  // in the page: formulas, pictures, links and what else can be asked once
  const short = e => (e.textContent || e.outerHTML).trim().slice(0, 70);
  const maths = [...document.querySelectorAll('.math')], bad = [];
  for (const m of maths) {
    const error = m.querySelector('mjx-merror, [data-mjx-error]');
    const unknown = m.querySelector('mjx-assistive-mml')?.textContent.match(/\\[a-z]+/i);
    if (unknown) bad.push(`a formula has an unknown command, ${unknown[0]}`);
    if (error || !m.querySelector('mjx-container')) bad.push(`a formula does not typeset: ${error?.getAttribute('data-mjx-error') ?? ''} ${error?.title ?? ''} ${short(error ?? m)}`);
  }
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const {parentElement: at, data} = walker.currentNode;
    if (/\$|\\[a-z]{2,}/.test(data) && !at.closest('pre, code, script, style, mjx-container, svg')) bad.push(`a formula that is not seen as one: ${data.trim().slice(0, 70)}`);
    if (/:::|\{#|\{\.|\?\?/.test(data) && !at.closest('pre, code, script, style, mjx-container')) bad.push(`leftover markup: ${data.trim().slice(0, 70)}`);
  }
  const images = [...document.images];
  for (const i of images) if (!i.complete || !i.naturalWidth) bad.push(`a picture does not decode: ${i.alt || i.src.slice(0, 70)}`);
  const all = [...document.querySelectorAll('[id]')].map(e => e.id);
  for (const id of new Set(all.filter((id, i) => all.indexOf(id) !== i && !id.startsWith('MJX')))) bad.push(`the id ${id} is there twice`);
  return {bad, equations: maths.length, pictures: images.length, ids: all, links: [...document.querySelectorAll('main a[href]')].map(a => a.getAttribute('href'))};
}
function tooWide() {  // in the page: what sticks out and can't be scrolled within something smaller
  const width = document.documentElement.clientWidth, bad = [], wide = [];
  const inside = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible' && p.getBoundingClientRect().right <= width + 1) return true; };
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (!box.width || box.right <= width + 1 || e.closest('mjx-assistive-mml') || inside(e) || wide.some(w => w.contains(e))) continue;
    wide.push(e);
    bad.push(`<${e.localName}> reaches ${Math.round(box.right)} of ${width} px: ${e.textContent.trim().replace(/\s+/g, ' ').slice(0, 50)}`);
  }
  if (!bad.length && document.scrollingElement.scrollWidth > width) {
    const out = [...document.querySelectorAll('body *')].filter(e => Math.round(e.getBoundingClientRect().right) === document.scrollingElement.scrollWidth).map(e => e.localName);
    bad.push(`the page is ${document.scrollingElement.scrollWidth} px wide, of ${width}: ${out.slice(0, 3)}`);
  }
  return bad.slice(0, 3);
}
async function look(p) {
  const tab = await context.newPage();
  const find = text => p.findings.includes(text) || p.findings.push(text);
  tab.on('console', m => ['error', 'warning'].includes(m.type()) && find(`the console says: ${m.text()}`));
  tab.on('pageerror', e => find(`the console says: ${e}`));
  tab.on('request', r => r.url().startsWith(address) || /^(data|blob):/.test(r.url()) || find(`the page asks for ${r.url()}`));
  await tab.setViewportSize({width: 1280, height: 900});
  await tab.goto(`${address}/${p.name}`, {waitUntil: 'load'});
  await tab.evaluate(() => MathJax.startup.promise);
  await tab.evaluate(() => Promise.all([...document.images].map(i => i.decode().catch(() => {}))));
  Object.assign(p, await tab.evaluate(inspect));
  p.bad.forEach(find);
  await tab.evaluate(axe);
  for (const kind of ['light', 'dark']) {
    await tab.evaluate(kind => new Promise(done => {
      document.body.className = `quarto-${kind}`;
      const link = document.getElementById('theme');
      if (link.href.endsWith(`theme-${kind}.css`)) done();
      link.onload = done;
      link.href = `theme-${kind}.css`;
    }), kind);
    for (const width of [1280, 390]) {
      await tab.setViewportSize({width, height: 900});
      await tab.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50))));
      for (const text of await tab.evaluate(tooWide)) find(`at ${width} px ${text}`);
      if (job.shots) await tab.screenshot({path: path.join(job.shots, `${p.name}-${kind}-${width}.png`), fullPage: true});
      if (kind === 'dark' && width === 1280) continue;  // the dark colours are looked at on a phone's page
      const {violations} = await tab.evaluate(() => axe.run(document, {resultTypes: ['violations'], rules: {'target-size': {enabled: false}}}));
      for (const v of violations.filter(v => ['serious', 'critical'].includes(v.impact)))
        find(`axe, ${kind}, ${width} px: ${v.id}, ${v.nodes.length} times: ${v.nodes[0].target} ${v.nodes[0].any[0]?.message ?? v.help}`);
    }
  }
  await tab.close();
}

if (job.shots) fs.mkdirSync(job.shots, {recursive: true});
const queue = [...pages];
await Promise.all([0, 1].map(async () => { while (queue.length) await look(queue.shift()); }));
await context.close();
server.close();

// Links: between pages, to lines of this repository, and those outside, each of which links.txt gives a reason for
const known = read('links.txt').split('\n').filter(l => l.startsWith('http')).map(l => l.split(/\s/)[0]);
const byName = Object.fromEntries(pages.flatMap(p => [[p.name, p], [p.notebook, p]]));
function dead(link, from) {
  const inside = link === job.site ? 'index.html' : link.startsWith(`${job.site}/`) ? link.slice(job.site.length + 1) || 'index.html' : link;
  const [file, anchor] = inside.split('#');
  const hosted = [`${job.repo}/blob/${job.branch}/`, `${job.repo}/raw/${job.branch}/`,
    job.repo.replace('https://github.com', 'https://colab.research.google.com/github') + `/blob/${job.branch}/`].find(h => file.startsWith(h));
  if (hosted) {
    const local = path.join(job.root, file.slice(hosted.length));
    if (!fs.existsSync(local)) return 'no such file in the repository';
    const line = anchor?.match(/^L(\d+)$/)?.[1];
    return line > read(local).split('\n').length ? 'the file has fewer lines' : '';
  }
  if (/^https?:/.test(file)) return known.some(k => inside.startsWith(k)) ? '' : 'not in .ci/pages/links.txt';
  if (/^\w+:/.test(file)) return 'neither a page nor a web address';
  const to = file ? byName[file] : from;
  if (!to) return fs.existsSync(path.join(job.proc, file)) ? '' : 'no such page';
  return !anchor || to.ids.includes(decodeURIComponent(anchor)) ? '' : 'no such place on the page';
}
for (const p of pages) {
  for (const link of new Set(p.links)) {
    const why = dead(link, p);
    if (why) p.findings.push(`the link ${link}: ${why}`);
  }
  console.log(`${p.findings.length ? 'FAIL' : 'ok  '}  ${p.name.padEnd(16)} ${p.equations} equations, ${p.pictures} pictures, ${p.links.length} links; 390 and 1280 px, light and dark`);
  p.findings.forEach(f => console.log(`        ${f}`));
  findings.push(...p.findings);
}
process.exit(findings.length ? 1 : 0);
