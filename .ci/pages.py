"""The site's pages, as far as they can be checked without Quarto; `pages.py [--shots FOLDER]`.

The notebooks are processed for the site and read; then `pages/check.mjs` renders them much as
Quarto does (MathJax, Bootstrap with our themes) and looks at every page in headless Chromium.
Writes nothing into the checkout; `--shots` keeps a picture of every page, size and theme.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import yaml

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'.ci/pages'))
sys.dont_write_bytecode = True
from chapters import cells_of  # noqa: E402

proc = root/'_proc'
OPTIONS = {'code-fold', 'code-summary', 'echo', 'fig-alt', 'fig-cap', 'label', 'output', 'tbl-cap'}
# Files that spell out the project's own addresses
ADDRESSES = ('nbs/_quarto.yml', 'nbs/404.qmd', 'nbs/llms.txt', '.ci/pages/links.txt',
             'CITATION.cff')
OWN = re.compile(r'https?://[^\s)>"\'`]*mnist[-_]mb[^\s)>"\'`]*')
MACHINE = re.compile(r'(?<![\w./~])/(?:root|work|tmp|home|Users)/\w')


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def process(tmp):
    "What nbdev makes of nbs/, moved away; it would install Quarto, so here is a stand-in."
    stub = tmp/'bin'/'quarto'
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\n')
    stub.chmod(0o755)
    shutil.rmtree(proc, ignore_errors=True)
    path = os.pathsep.join([str(stub.parent), str(Path(sys.executable).parent), os.environ['PATH']])
    run = subprocess.run(['nbdev_proc_nbs'], cwd=root, env=os.environ | {'PATH': path}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode or run.stdout.strip():
        sys.exit(f'nbdev_proc_nbs says, with exit code {run.returncode}:\n{run.stdout}')
    return Path(shutil.move(proc, tmp/'proc'))


def in_cell(cell):
    "What must not be in a processed cell."
    src = ''.join(cell['source'])
    if cell['cell_type'] != 'code':
        return
    options = re.findall(r'^\s*# *\| *([\w-]+)', src, re.M)
    yield from (f'leftover directive `#| {name}`' for name in options if name not in OPTIONS)
    if MACHINE.search(src):
        yield f"a machine's path in code: {MACHINE.search(src)[0]}…"
    for out in cell['outputs']:
        data = out.get('data', {})
        text = ''.join(''.join(t) for t in [out.get('text', ''), *data.values()] if t)
        if out['output_type'] == 'error' or out.get('name') == 'stderr':
            yield f"{out.get('name', 'an error')} in the output: {text[:80]!r}"
        if 'ShowDocRenderer' in text or re.search(r'\bshowdoc\.\w+ object at 0x', text):
            yield f'a raw show_doc object: {text[:80]!r}'
        if not any(k.startswith('image/') for k in data) and MACHINE.search(text):
            yield f"a machine's path in the output: {MACHINE.search(text)[0]}…"
        if any(k.startswith('image/') for k in data):
            yield from (f'a figure without {o}' for o in ('fig-cap', 'fig-alt') if o not in options)


def in_notebook(path):
    "What is wrong in a processed notebook, each with the start of its cell."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        src = re.sub(r'^#\|.*\n', '', ''.join(cell['source']), flags=re.M)
        for finding in in_cell(cell):
            yield f'{path.name}: {finding}, in the cell {src[:50]!r}'


def reading(path):
    "The words of a chapter's text; 230 of them are read in a minute."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return sum(len(''.join(c['source']).split()) for c in cells if c['cell_type'] == 'markdown')


def in_settings(folder):
    "What in the site's own files disagrees with the notebooks or with settings.ini."
    listed = re.findall(r'\b[\w-]+\.ipynb', (folder/'sidebar.yml').read_text(encoding='utf-8'))
    there = sorted(p.name for p in folder.glob('*.ipynb'))
    there.sort(key=lambda name: name != 'index.ipynb')
    if listed != there:
        yield f'nbs/sidebar.yml lists {listed}, the notebooks are {there}'
    cfg = settings()
    ours = (cfg['doc_host'] + cfg['doc_baseurl'], cfg['git_url'])
    for path in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        begins = [cell['source'] for cell in cells[:9]]
        if not all(cell['source'] in begins for cell in cells_of(path.name)):
            yield f'{path.name} does not begin as a chapter should: run .ci/pages/chapters.py'
    quarto = yaml.safe_load((folder/'_quarto.yml').read_text(encoding='utf-8'))
    html, web = quarto['format']['html'], quarto['website']
    themes = [name for theme in html['theme'].values() for name in theme if name != 'default']
    others = (html['css'], web['favicon'], web['image'], *quarto['project']['resources'])
    for name in (*themes, *others):
        if not (folder/name).is_file():
            yield f'nbs/_quarto.yml names {name}, which nbdev does not hand to Quarto'
    cite = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    home = (root/'nbs/index.ipynb').read_text(encoding='utf-8')
    for name, want in (('version', cfg['version']), ('url', ours[0]), ('repository-code', ours[1])):
        if str(cite[name]) != want:
            yield f'CITATION.cff has {name} {cite[name]}, settings.ini {want}'
    if f'version = {{{cfg["version"]}}}' not in home:
        yield f"the home page's entry to cite does not have version {cfg['version']}"
    for page, question in re.findall(r'/(\w+)\.html\) \| (.*?) \|', home):
        if f'/{page}.html.md): {question}\n' not in (folder/'llms.txt').read_text(encoding='utf-8'):
            yield f'nbs/llms.txt does not list {page} with its question, {question!r}'
    for path in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        words, page = reading(path), re.sub(r'^\d+_', '', path.stem)
        said = re.search(rf'/{page}\.html\).*\| (\d+) min', home)
        if not said or not 0.85 < int(said[1])/(words/230) < 1.15:
            yield f'the home page should say {words/230:.0f} min for {page}: it has {words} words'
    for path in map(root.joinpath, ADDRESSES):
        for url in OWN.findall(path.read_text(encoding='utf-8')):
            if not any(url == base or url.startswith((f'{base}/', f'{base}.git')) for base in ours):
                yield f'{path.relative_to(root)}: {url} is no address that settings.ini gives'


def browser_tools(tmp):
    "A folder with `pages/` and the packages that it needs; None where there is no browser."
    for tool, found in (('Chromium', chromium()), ('npm', shutil.which('npm'))):
        if not found:
            print(f'note: no {tool} here, so the pages are not looked at in a browser')
            return None
    env = tmp/'npm'
    shutil.copytree(root/'.ci/pages', env)
    quiet = ['--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
    run = subprocess.run(['npm', 'ci', *quiet, f'--cache={tmp}/npm-cache'], cwd=env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode:
        sys.exit(f'npm ci fails:\n{run.stdout}')
    return env


def chromium():
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None)


def browse(tmp, folder, shots):
    "Look at the pages in Chromium; True if all is well, None where it can't be done."
    env = browser_tools(tmp)
    if env is None:
        return None
    cfg, quarto = settings(), yaml.safe_load((folder/'_quarto.yml').read_text(encoding='utf-8'))
    html = quarto['format']['html']
    after = html.get('include-after-body') or []
    job = {
        'root': str(root), 'proc': str(folder), 'chromium': chromium(),
        'profile': str(tmp/'profile'), 'shots': shots, 'site': cfg['doc_host'] + cfg['doc_baseurl'],
        'repo': cfg['git_url'],
        'branch': cfg['branch'], 'theme': html['theme'], 'css': html['css'],
        'after': [part['text'] for part in after],
    }
    (env/'job.json').write_text(json.dumps(job))
    return subprocess.run(['node', 'check.mjs'], cwd=env, timeout=300).returncode == 0


def main():
    shots = None
    if '--shots' in sys.argv:
        shots = os.path.abspath(sys.argv[sys.argv.index('--shots') + 1])
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        folder = process(tmp)
        notebooks = sorted(folder.glob('*.ipynb'))
        findings = [f for path in notebooks for f in in_notebook(path)]
        findings += in_settings(folder)
        print(*findings, sep='\n', end='\n' if findings else '')
        print(f'{len(notebooks)} processed notebooks: {len(findings)} findings', flush=True)
        seen = browse(tmp, folder, shots)
    if findings or seen is False:
        sys.exit(1)


if __name__ == '__main__':
    main()
