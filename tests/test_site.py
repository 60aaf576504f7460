"""The site and the documents: what can be checked as text, and, with Quarto, the built pages."""
import ast
import json
import re
import shutil
import struct
import subprocess
import sys
from base64 import b64decode
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from mnist_mb import _modidx

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
CHAPTERS = [p for p in NOTEBOOKS if p.name[0].isdigit()]
MACHINE = re.compile(r'(?<![\w./~])/(?:root|work|tmp|home|Users)/\w')
# Files of Bootstrap; a theme of one of these names would take its place
BOOTSTRAP = {'accordion', 'alert', 'badge', 'breadcrumb', 'buttons', 'card', 'carousel', 'close',
             'containers', 'dropdown', 'forms', 'functions', 'grid', 'helpers', 'images', 'maps',
             'mixins', 'modal', 'nav', 'navbar', 'offcanvas', 'pagination', 'placeholders',
             'popover', 'progress', 'reboot', 'root', 'spinners', 'tables', 'toasts', 'tooltip',
             'transitions', 'type', 'utilities', 'variables'}


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def text(path):
    return path.read_text(encoding='utf-8')


def words(markdown):
    "The words of a text, however it is wrapped; of links and pictures, what is shown."
    markdown = re.sub(r'<!--.*?-->|<[^>]+>', '', markdown, flags=re.S)
    markdown = re.sub(r'!?\[([^][]*)\]\([^)]*\)', r'\1', markdown)
    return re.findall(r'\w+', re.sub(r'^``` *\w*$|_', ' ', markdown, flags=re.M))


def as_document(notebook):
    "What a document that nbdev makes of a notebook shows, in Markdown."
    for i, cell in enumerate(cells(notebook)):
        src = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            yield re.sub(r'^> .*\n?', '', src, flags=re.M) if i == 0 else src
        elif not re.search(r'^#\| *(hide|default_exp)', src, re.M):
            if not re.search(r'^#\| *echo: *false', src, re.M):
                yield re.sub(r'^#\|.*\n', '', src, flags=re.M)
            yield from (''.join(out['text']) for out in cell['outputs'] if 'text' in out)


def test_every_notebook_is_in_the_sidebar_once():
    listed = re.findall(r'\b[\w-]+\.ipynb', text(ROOT/'nbs/sidebar.yml'))
    assert sorted(listed) == [p.name for p in NOTEBOOKS]
    numbered = [name for name in listed if name[0].isdigit()]
    assert numbered == sorted(numbered)


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_begins_as_the_others_do(path):
    first, links, *rest = cells(path)[:10]
    title = ''.join(first['source'])
    assert re.match(rf'# {path.name[:2]} · \S.*\n\n> \S', title), title
    repo, branch = settings()['git_url'], settings()['branch']
    colab = repo.replace('https://github.com', 'https://colab.research.google.com/github')
    assert ''.join(links['source']) == (
        f'[Open in Colab]({colab}/blob/{branch}/nbs/{path.name}) · '
        f'[Download the notebook]({repo}/raw/{branch}/nbs/{path.name})')
    at = '' if branch == 'main' else f'@{branch}'  # a release, which has a tag
    assert any(''.join(cell['source']).endswith(f'pip install -q git+{repo}{at}') for cell in rest)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_in_a_notebook_that_a_reader_should_not_see(path):
    for cell in cells(path):
        src = ''.join(cell['source'])
        assert not MACHINE.search(src), src[:200]
        assert ':::' not in src, f'Quarto markup, which Jupyter shows as text: {src[:100]}'
        assert not re.search(r'^#\| *exports.*^#\| *code-fold', src, re.M | re.S), 'folded twice'
        for out in cell.get('outputs', []):
            data = out.get('data', {})
            assert out['output_type'] != 'error' and out.get('name') != 'stderr', src[:200]
            shown = ''.join(''.join(t) for t in [out.get('text', ''), *data.values()] if t)
            if any(kind.startswith('image/') for kind in data):
                assert '#| fig-cap' in src and '#| fig-alt' in src, src[:200]
            else:
                assert not MACHINE.search(shown), shown[:200]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_figures_have_twice_the_resolution(path):
    "Stored by the command of CONTRIBUTING.md, which sets `InlineBackend.figure_formats`."
    figures = [out for cell in cells(path) for out in cell.get('outputs', [])
               if 'image/png' in out.get('data', {})]
    for out in figures:
        pixels = struct.unpack('>I', b64decode(''.join(out['data']['image/png']))[16:20])[0]
        width = out['metadata'].get('image/png', {}).get('width', pixels)
        assert 2*width <= pixels <= 2*width + 1, f'{pixels} pixels, shown {width} wide'


def test_the_api_page_lists_every_public_name():
    "In its module's table, with the first line of its docstring."
    shown = ''.join(''.join(out['data']['text/markdown']) for cell in cells(ROOT/'nbs/api.ipynb')
                    for out in cell.get('outputs', []))
    listed = {module: dict(re.findall(r'^\[<code>(\w+)</code>\]\([^)]*\) \| (.*)$', part, re.M))
              for module, part in re.findall(r'^## mnist_mb\.(\w+)\n(.*?)(?=^## |\Z)', shown,
                                             re.M | re.S)}
    for path in (ROOT/'mnist_mb').glob('[a-z]*.py'):
        tree, names = ast.parse(text(path)).body, listed.pop(path.stem)
        public = next(ast.literal_eval(node.value) for node in tree
                      if isinstance(node, ast.Assign) and node.targets[0].id == '__all__')
        assert names.keys() == set(public), path.stem
        for node in tree:
            if getattr(node, 'name', None) in names:
                assert ast.get_docstring(node).splitlines()[0] == names[node.name], node.name
    assert not listed


def sections(path):
    "Of each anchor that the site gives a heading, the text below it."
    markdown = '\n'.join(''.join(c['source']) for c in cells(path) if c['cell_type'] == 'markdown')
    _, *parts = re.split(r'^#+ (.*)$', markdown, flags=re.M)
    anchor = [re.sub(r'[^\w -]', '', h).strip().lower().replace(' ', '-') for h in parts[::2]]
    return dict(zip([re.sub('^[^a-z]+', '', a) for a in anchor], parts[1::2]))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_notebooks_lead_somewhere(path):
    anchors = {p.name: set(re.findall(r'<span id="([\w-]+)"', text(p).replace('\\"', '"')))
               | sections(p).keys() for p in NOTEBOOKS}
    for cell in cells(path):
        if cell['cell_type'] != 'markdown':
            continue
        for name, anchor in re.findall(r'\]\(([\w.-]*\.ipynb)?(?:#([\w-]+))?\)',
                                       ''.join(cell['source'])):
            assert not name or name in anchors, f'there is no {name}'
            assert not anchor or anchor in anchors[name or path.name], f'{name} has no #{anchor}'


TERMS = yaml.safe_load(text(ROOT/'nbs/terms.yml'))


@pytest.mark.parametrize('term, about', TERMS.items())
def test_a_term_leads_to_the_section_that_explains_it(term, about):
    page, anchor = about['place'].split('.html#')
    chapter = next(p for p in CHAPTERS if p.stem[3:] == page)
    assert anchor in sections(chapter), f'{chapter.name} has no #{anchor}: nbs/terms.yml'
    found = re.sub(r'[*`\s]+', ' ', sections(chapter)[anchor])
    named = all(re.search(rf'(?i)\b{word.removesuffix("s")}', found) for word in term.split())
    wrong = f'nbs/terms.yml: {about["place"]} says nothing of {term}'
    assert named or 'no chapter' in about['means'], wrong


def test_a_name_in_code_marks_means_one_thing():
    "nbdev makes links of such names, and of two with one name it takes the last."
    links = {}
    for names in _modidx.d['syms'].values():
        for name, (link, _) in names.items():
            if '._' not in name and len(name.split('.')) == 3:
                links.setdefault(name.split('.')[-1], []).append(link)
    assert not [name for name, where in links.items() if len(where) > 1]


@pytest.mark.parametrize('document, notebook', [('README.md', 'index.ipynb'),
                                                ('CONTRIBUTING.md', 'contributing.ipynb')])
def test_documents_say_what_their_notebooks_say(document, notebook):
    "Word for word, as nbdev_readme and nbdev_contributing left them, with every link."
    pieces = list(as_document(ROOT/'nbs'/notebook))
    want, got = [word for piece in pieces for word in words(piece)], words(text(ROOT/document))
    at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    there, here = ' '.join(want[at-5:at+9]), ' '.join(got[at-5:at+9])
    assert want == got, f'nbs/{notebook} has …{there}…, {document} …{here}…: run nbdev_prepare'
    links = {url for piece in pieces for url in re.findall(r'\]\(([^)]+)\)', piece)}
    found = set(re.findall(r'\]\(([^)]+)\)', text(ROOT/document)))
    assert {url for url in links if '.ipynb' not in url} <= found


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md'])
def test_pictures_of_documents_are_there_and_no_others(document):
    shown = set(re.findall(r'\w+_files/[\w./-]+\.png', text(ROOT/document)))
    assert all((ROOT/path).is_file() for path in shown)
    if document == 'README.md':
        there = {p.relative_to(ROOT).as_posix() for p in ROOT.glob('*_files/**/*.png')}
        assert there == shown


def test_addresses_are_those_of_the_settings():
    cfg = settings()
    ours = (cfg['doc_host'] + cfg['doc_baseurl'], cfg['git_url'])
    own = re.compile(r'https?://[^\s)>"\'`}]*mnist[-_]mb[^\s)>"\'`}]*')
    files = [ROOT/name for name in ('README.md', 'CONTRIBUTING.md', 'CITATION.cff', 'CHANGELOG.md',
                                    'nbs/_quarto.yml', 'nbs/404.qmd', 'nbs/llms.txt')]
    pages = {re.sub(r'^\d+_', '', p.stem) for p in NOTEBOOKS}
    for path in files:
        for url in own.findall(text(path)):
            base = next((b for b in ours if url.rstrip('.').startswith(b)), None)
            assert base, f'{path.name}: {url} is no address that settings.ini gives'
            page = re.match(re.escape(ours[0]) + r'/(\w+)\.html', url)
            assert not page or page[1] in pages, f'{path.name}: there is no page {url}'


def test_citation_and_license():
    cfg, cite = settings(), yaml.safe_load(text(ROOT/'CITATION.cff'))
    assert cite['url'] == cfg['doc_host'] + cfg['doc_baseurl']
    assert cite['repository-code'] == cfg['git_url']
    assert f'## {cfg["version"]}' in text(ROOT/'CHANGELOG.md')
    assert 'Apache License' in text(ROOT/'LICENSE')


def test_themes_bear_no_name_of_bootstraps():
    quarto = yaml.safe_load(text(ROOT/'nbs/_quarto.yml'))
    html = quarto['format']['html']
    names = {name for theme in html['theme'].values() for name in theme if name != 'default'}
    for name in (*names, html['css'], quarto['website']['favicon'], html['image']):
        assert (ROOT/'nbs'/name).is_file(), name
    assert not {Path(name).stem for name in names} & BOOTSTRAP


@pytest.mark.parametrize('schema, files', [
    ('vendor.github-workflows', sorted((ROOT/'.github/workflows').glob('*.yaml'))),
    ('vendor.citation-file-format', [ROOT/'CITATION.cff'])])
def test_schemas(schema, files):
    assert files
    command = [sys.executable, '-m', 'check_jsonschema', '--builtin-schema', schema, *files]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A copy of the checkout that git knows, after nbdev_docs, which writes the documents as well."
    if shutil.which('quarto') is None:
        pytest.skip('needs Quarto')
    tree = tmp_path_factory.mktemp('site')/'tree'
    ignore = shutil.ignore_patterns('.git', '_docs', '_proc', 'node_modules', '.venv', 'build')
    shutil.copytree(ROOT, tree, ignore=ignore)
    for command in (['git', 'init', '-q'], ['git', 'add', '-A'],
                    ['touch', 'nbs/index.ipynb', 'nbs/contributing.ipynb'], ['nbdev_docs']):
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, f'{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}'
    return tree


@pytest.mark.slow
def test_a_build_leaves_the_checkout_as_it_was(built):
    for command in (['git', 'diff'], ['git', 'ls-files', '--others', '--exclude-standard']):
        run = subprocess.run(command, cwd=built, capture_output=True, text=True)
        assert run.returncode == 0 and not run.stdout, run.stdout[:2000]


@pytest.mark.slow
def test_every_notebook_has_a_page(built):
    pages = {p.stem for p in (built/'_docs').glob('*.html')}
    assert pages == {re.sub(r'^\d+_', '', p.stem) for p in NOTEBOOKS} | {'404'}


@pytest.mark.slow
def test_pages_in_chromium(built, js, chromium):
    "Console, links, places, widths, axe, requests, formulas: js/site.mjs looks at every page."
    cfg = settings()
    repo, branch = cfg['git_url'], cfg['branch']
    colab = repo.replace('https://github.com', 'https://colab.research.google.com/github')
    job = {'folder': str(built/'_docs'), 'root': str(ROOT), 'chromium': chromium,
           'site': cfg['doc_host'] + cfg['doc_baseurl'],
           'hosted': [f'{repo}/{kind}/{branch}/' for kind in ('blob', 'raw', 'edit')]
           + [f'{colab}/blob/{branch}/']}
    job['terms'] = {term: about['place'] for term, about in TERMS.items()}
    (js/'site.json').write_text(json.dumps(job))
    run = subprocess.run(['node', 'site.mjs'], cwd=js, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
