"""What Quarto leaves to do on the site's pages; it runs this by itself after rendering.

Formulas become MathML here, so that no page needs a script to show them, and none asks a third
party for anything. An exported function appears once: its source is its entry. Pictures say how
large they are, so that nothing moves while a page loads, and a tap enlarges them. Phones get a
table of contents, too. Links to this site are relative, so that a copy of it leads to itself. The
search knows each name that the API page lists.
"""
import html
import json
import os
import re
import struct
from pathlib import Path

from math_core import LatexToMathML

latex = LatexToMathML()
TAGS = re.compile(r'<[^>]+>')
TEX = re.compile(r'\\\(.*?\\\)|\\\[.*?\\\]', re.S)
FORMULA = re.compile(rf'<span class="math (inline|display)">({TEX.pattern})</span>', re.S)
plain = {}  # of each formula in TeX, the text
# Of other hosts, and what stands in for a module loader that nothing on the pages needs
SCRIPT = re.compile(r'<script[^>]* src="https?://[^>]*></script>'
                    r'|<script[^>]*>define\(.jquery.*?</script>', re.S)
# What nbdev makes of an exported cell: link, heading, signature, docstring, cells with the source
SOURCE = re.compile(r'<details open="" class="code-fold">\s*<summary>Exported source</summary>'
                    r'(.*?)</details>', re.S)
ENTRY = re.compile(r'(<h\d [^>]*>([\w.]+)</h\d>)\s*<div class="code-copy.*?</div>\s*'
                   r'(?:<p>(?:(?!</p>).)*</p>\s*)*'
                   rf'((?:<div id="[\w-]+" class="cell">\s*{SOURCE.pattern}\s*</div>\s*)+)', re.S)
LINK = re.compile(r'<hr>\s*<p>(<a [^>]*>source</a>)</p>\s*'
                  r'((?:</section>\s*)*<section [^>]*>\s*<h\d [^>]*>.*?</h\d>)')
FOLDED = re.compile('_|plot_')
# Links to what has no entry
PRIVATE = re.compile(r'<a href="[^"]*\.html#_\w+">(<code>\w+</code>)</a>')
IMAGE = re.compile(r'(?<!zoom">)<img src="([^":]+\.png)"([^>]*)>')
# A function named as a class that stands before it, but for the capital: both have one anchor
TWICE = re.compile(r'data-anchor-id="(\w+)">(?=[A-Z])(\w+)<.*?data-anchor-id="\1-1">\1<', re.S)
NAMED = re.compile(r'<td[^>]*><a href="\./(\w+\.html#\w+)"><code>(\w+)</code></a></td>\s*'
                   r'<td[^>]*>(.*?)</td>', re.S)
TOC = re.compile(r'<nav id="TOC".*?(<ul>.*?</ul>)\s*(?:<div|</nav>)', re.S)
HOME = re.compile(r'<link rel="canonical" href="(.*/)[^/]*">')
# What a Markdown page has no use for
HEAVY = re.compile(r'<script.*?</script>|<img [^>]*src="data:[^>]*>', re.S)


def mathml(kind, tex):
    "A formula of a page as MathML; its number, if it has one, at the right."
    if r'\tag' in tex:
        tex = rf'\begin{{equation}}{tex}\end{{equation}}'
    return latex.convert_with_local_state(tex, displaystyle=kind == 'display')


def formula(match):
    shown = mathml(match[1], html.unescape(match[2][2:-2]))
    plain[match[2]] = html.escape(html.unescape(TAGS.sub('', shown)), quote=False)
    return f'<span class="math {match[1]}">{shown}</span>'


def source(match):
    "The code as it is; that of helpers and plots, which nobody has to read, folded."
    names = re.findall(r'^(?:def|class) (\w+)', TAGS.sub('', match[1]), re.M)
    if not names or not all(FOLDED.match(name) for name in names):
        return match[1]
    summary = f'<summary>The code of {", ".join(names)}</summary>'
    return f'<details class="code-fold">{summary}{match[1]}</details>'


def entry(match):
    "Without signature and docstring, where the source that follows shows them."
    heading, name, sources, _ = match.groups()
    shown = re.search(rf'\b(?:def|class) {name}\b', TAGS.sub('', sources))
    return f'{heading}\n{sources}' if shown and not FOLDED.match(name) else match[0]


def anchors(page):
    "The class's own anchor, with the capital; what nbdev links is the function."
    for name, capital in TWICE.findall(page):
        page = re.sub(rf'(?<!html)(["#-]){name}"', rf'\1{capital}"', page)
        page = page.replace(f'{name}-1"', f'{name}"')
    return page


def contents(page):
    "The table of contents again, for phones, where Quarto shows none."
    if not (toc := TOC.search(page)):
        return page
    links = re.sub(r' (?:id|class|data-scroll-target)="[^"]*"', '', toc[1])
    listed = f'<details class="contents"><summary>On this page</summary>{links}</details>'
    return re.sub(r'</header>(?=\s*<!-- WARNING)', lambda match: match[0] + listed, page)


def finish(path):
    "Rewrite one page."
    def image(match):
        src, rest = match.groups()
        leads = 'playground.html' if path.name == 'index.html' else src
        if 'width=' not in rest:
            width, height = struct.unpack('>II', (path.parent/src).read_bytes()[16:24])
            rest += f' width="{width}" height="{height}"'
        return f'<a href="{leads}" class="zoom"><img src="{src}"{rest}></a>'

    page = path.read_text(encoding='utf-8')
    page = SCRIPT.sub('', page)
    page = FORMULA.sub(formula, page)
    page = SOURCE.sub(source, ENTRY.sub(entry, page))
    page = LINK.sub(r'\2<p class="source">\1</p>', page)
    page = PRIVATE.sub(r'\1', page)
    page = IMAGE.sub(image, anchors(page))
    home = HOME.search(page)
    if home and path.name != '404.html':  # which is shown at any address
        page = page.replace(f'<a href="{home[1]}', '<a href="')
        page = contents(page)
    path.write_text(page, encoding='utf-8')


def finish_search(path, names):
    "Formulas in what the search finds read as text, and public names are found."
    sections = json.loads(path.read_text(encoding='utf-8'))
    for section in sections:
        text = section['text'].replace('Exported source', '')
        section['text'] = TEX.sub(lambda match: plain.get(match[0], match[0]), text)
    found = {section['objectID']: section for section in sections}
    for href, name, sentence in NAMED.findall(names):
        about = {'section': name, 'text': html.unescape(TAGS.sub('', sentence))}
        found[href] = found[href.split('#')[0]] | {'objectID': href, 'href': href} | about
    path.write_text(json.dumps([*found.values()], ensure_ascii=False), encoding='utf-8')


if __name__ == '__main__':
    site = Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR'])
    for page in site.glob('*.html'):
        finish(page)
    if (site/'api.html').exists():  # not where a single page is rendered
        finish_search(site/'search.json', (site/'api.html').read_text(encoding='utf-8'))
    (site/'404.md').unlink(missing_ok=True)
    for document in site.glob('*.md'):
        document.write_text(HEAVY.sub('', document.read_text(encoding='utf-8')), encoding='utf-8')
