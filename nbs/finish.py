"""What Quarto leaves to do on the site's pages; it runs this by itself after rendering.

Formulas become MathML here, so that no page needs a script to show them, and none asks a third
party for anything. An exported function appears once: its source is its entry. Pictures say how
large they are, so that nothing moves while a page loads, and a tap enlarges them. Phones get a
table of contents, too. Links to this site are relative, so that a copy of it leads to itself. The
first time that a page names a term of another page, it says what that is. The search knows these
terms and each name that the API page lists. What no page uses of themes and icons is left out.
"""
import html
import json
import logging
import os
import re
import struct
from pathlib import Path

import yaml
from fontTools import subset
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
# Not prose, then a term of another page
PROSE = (r'<(header|pre|a|em|strong|code|math|h\d|script|style|summary|figure|table|button|label'
         r'|svg)\b.*?</\1>|<[^>]+>|\b(%s)s?\b')
NAME = r'[A-Za-z_][\w-]*'
LINKS = re.compile(r'(<p><a href="https://colab[^>]*>.*?)</p>')
MINUTES = re.compile(r'<td><a href="(?:[^"]*/)?(\w+\.html)">[^<]*</a></td>'
                     r'(?:(?!</tr>).)*<td>(\d+)</td>\s*</tr>', re.S)
SHORT = re.compile(r'(?<!<pre>)<code>(?=[^<]*[- ])[^<]{1,24}</code>')
# Where a long name in a table is broken, if it must be; and a formula and what touches it
CELL = re.compile(r'(<td[^>]*>(?:<a [^>]*>)?<code>)([^<]*)')
TIED = re.compile(r'(\(?)(<span class="math inline">(?:(?!</span>).)*</span>)([.,;:!?)]*)', re.S)
# What a screen reader calls the bars of a page, and headers of a table that say nothing to it
BARS = {'class="navbar': 'This site', 'class="quarto-secondary': 'This chapter',
        'id="quarto-sidebar"': 'Chapters', 'class="page-navigation': 'Previous and next chapter'}
# The first stop of the keyboard leads over the bar and the chapters.
SKIP = '<a class="skip" href="#quarto-document-content">To the text</a>'
EMPTY = re.compile(r'<th\b((?! scope)[^>]*)></th>')
# What a Markdown page has no use for
HEAVY = re.compile(r'<script.*?</script>|<img [^>]*src="data:[^>]*>', re.S)


TERMS = yaml.safe_load(Path(__file__).with_name('terms.yml').read_text(encoding='utf-8'))
ONE = {term.removesuffix('s'): term for term in TERMS}


def mathml(kind, tex):
    "A formula of a page as MathML; its number, if it has one, at the right."
    if r'\tag' in tex:
        tex = rf'\begin{{equation}}{tex}\end{{equation}}'
    return latex.convert_with_local_state(tex, displaystyle=kind == 'display')


def formula(match):
    shown = mathml(match[1], html.unescape(match[2][2:-2]))
    plain[match[2]] = html.escape(html.unescape(TAGS.sub('', shown)), quote=False)
    return f'<span class="math {match[1]}">{shown}</span>'


def tied(match):
    "No line begins with the comma after a formula, or ends with the bracket before it."
    before, shown, after = match.groups()
    return f'<span class="tied">{match[0]}</span>' if before or after else shown


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


def define(page, name):
    "The first time that a page names a term of another page, it leads there, and says what it is."
    awaited = {one for one, term in ONE.items() if not TERMS[term]['place'].startswith(name)
               and not re.search(rf'<(em|strong)>{one}s?</', page)}  # which explains it itself

    def link(match):
        if (one := match[2]) not in awaited:
            return match[0]
        awaited.remove(one)
        place, means = TERMS[ONE[one]].values()
        said = html.escape(f'{ONE[one][0].upper()}{ONE[one][1:]}: {means}.')
        return f'<a class="term" href="{place}" data-tippy-content="{said}">{match[0]}</a>'

    start, end = page.index('<main'), page.index('</main>')
    prose = re.compile(PROSE % '|'.join(sorted(ONE, key=len, reverse=True)), re.S)
    return page[:start] + prose.sub(link, page[start:end]) + page[end:]


def finish(path, minutes):
    "Rewrite one page."
    def image(match):
        src, rest = match.groups()
        leads = 'playground.html#draw-a-digit' if path.name == 'index.html' else src
        if 'width=' not in rest:
            width, height = struct.unpack('>II', (path.parent/src).read_bytes()[16:24])
            rest += f' width="{width}" height="{height}"'
        return f'<a href="{leads}" class="zoom"><img src="{src}"{rest}></a>'

    page = path.read_text(encoding='utf-8')
    page = SCRIPT.sub('', page)
    page = TIED.sub(tied, FORMULA.sub(formula, page))
    page = SOURCE.sub(source, ENTRY.sub(entry, page))
    page = LINK.sub(r'\2<p class="source">\1</p>', page)
    page = PRIVATE.sub(r'\1', page)
    page = IMAGE.sub(image, anchors(page))
    page = EMPTY.sub(r'<td\1></td>', page)
    page = page.replace(' role="navigation"', ' role="button"')  # of links that open and shut
    page = re.sub('<body[^>]*>', rf'\g<0>{SKIP}', page, count=1)
    for nav, label in BARS.items():
        page = page.replace(f'<nav {nav}', f'<nav aria-label="{label}" {nav}')
    page = SHORT.sub(lambda match: match[0].replace('<code>', '<code class="short">'), page)
    page = CELL.sub(lambda m: m[1] + re.sub('(?<=_)|(?<=::)', '<wbr>', m[2]), page)
    home = HOME.search(page)
    if home and path.name != '404.html':  # which is shown at any address
        page = page.replace(f'<a href="{home[1]}', '<a href="')
        page = re.sub(r'<a href="">(.*?)</a>', r'\1', page)  # home's links to itself
        page = define(contents(page), path.name)
    if path.name in minutes:
        page = LINKS.sub(rf'\1 · {minutes[path.name]} minutes without exercises</p>', page, 1)
    path.write_text(page, encoding='utf-8')


def finish_search(path, names):
    "Formulas in what the search finds read as text; public names and terms are found."
    sections = json.loads(path.read_text(encoding='utf-8'))
    for section in sections:
        text = re.sub('Exported source|Open in Colab · Download the notebook', '', section['text'])
        section['text'] = TEX.sub(lambda match: plain.get(match[0], match[0]), text)
    found = {section['objectID']: section for section in sections
             if not section['href'].endswith('#what-you-can-now-do')}  # it repeats the others
    for href, name, sentence in NAMED.findall(names):
        about = {'section': name, 'text': html.unescape(TAGS.sub('', sentence))}
        found[href] = found[href.split('#')[0]] | {'objectID': href, 'href': href} | about
    for term, about in TERMS.items():
        entry = {'objectID': term, 'href': about['place'], 'section': term,
                 'text': f'{term}: {about["means"]}'}
        found[term] = found[about['place'].split('#')[0]] | entry
    path.write_text(json.dumps([*found.values()], ensure_ascii=False), encoding='utf-8')


def slim(site):
    "Of themes and icons, what pages and scripts name; they come with all that Bootstrap has."
    used, scripts = ({word for path in site.glob(kind)
                      for word in re.findall(NAME, path.read_text(encoding='utf-8'))}
                     for kind in ('*.html', 'site_libs/**/*.js'))
    used |= scripts
    begun = tuple(word for word in scripts if re.fullmatch(r'(?!bi)\w{2,}-', word))  # and glued on

    def rule(match):
        for selector in re.sub(r':not\([^()]*\)', '', match[1]).split(','):
            names = re.findall(rf'[.#]({NAME})', selector)
            if all(name in used or name.startswith(begun) for name in names):
                return match[0]
        return ''

    for path in site.glob('site_libs/bootstrap/*.css'):
        style = re.sub('--quarto-scss-export-[^;}]*;?', '', path.read_text(encoding='utf-8'))
        path.write_text(re.sub(r'([^{}]+)\{([^{}]*)\}', rule, style), encoding='utf-8')
    logging.getLogger('fontTools').setLevel(logging.ERROR)
    icons = site/'site_libs/bootstrap/bootstrap-icons'
    codes = re.findall(r'content: "\\(\w+)"', icons.with_suffix('.css').read_text(encoding='utf-8'))
    options = subset.Options(flavor='woff')
    font = subset.load_font(icons.with_suffix('.woff'), options)
    smaller = subset.Subsetter(options)
    smaller.populate(unicodes=[int(code, 16) for code in codes])
    smaller.subset(font)
    subset.save_font(font, icons.with_suffix('.woff'), options)


if __name__ == '__main__':
    site = Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR'])
    home = (site/'index.html').read_text(encoding='utf-8')
    for page in site.glob('*.html'):
        finish(page, dict(MINUTES.findall(home)))
    if (site/'api.html').exists():  # not where a single page is rendered
        names = (site/'api.html').read_text(encoding='utf-8').replace('<wbr>', '')
        finish_search(site/'search.json', names)
        slim(site)
    (site/'404.md').unlink(missing_ok=True)
    for document in site.glob('*.md'):
        document.write_text(HEAVY.sub('', document.read_text(encoding='utf-8')), encoding='utf-8')
