"""What every chapter begins with: `chapters.py` adds it where it is missing.

Under the title, links to run the chapter in Colab and to download it; before the first import, two
hidden cells that install the package where it is missing, as it is in Colab.
"""
import hashlib
import json
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).parents[2]
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
repo, branch = cfg['git_url'], cfg['branch']
colab = repo.replace('https://github.com', 'https://colab.research.google.com/github')


def cells_of(name):
    "The cells that chapter `name` should have: a line of links, imports, and the installation."
    links = (f'[Open in Colab]({colab}/blob/{branch}/nbs/{name}) · '
             f'[Download the notebook]({repo}/raw/{branch}/nbs/{name})')
    imports = ('#| hide\nimport sys\nfrom importlib.util import find_spec\n'
               'from subprocess import run')
    install = ("#| hide\nif find_spec('mnist_mb') is None:\n    run([sys.executable, '-m', 'pip', "
               f"'install', '-q',\n         'git+{repo}'], check=True)")
    for source in (links, imports, install):
        cell = {'id': hashlib.sha1((name + source).encode()).hexdigest()[:8], 'metadata': {},
                'source': source.splitlines(keepends=True)}
        if source == links:
            yield {'cell_type': 'markdown'} | cell
        else:
            cell |= {'outputs': []}
            yield {'cell_type': 'code', 'execution_count': None} | cell


def complete(path):
    "Add to the notebook what is missing; True if it was."
    nb = json.loads(path.read_text(encoding='utf-8'))
    cells, sources = nb['cells'], [cell['source'] for cell in nb['cells']]
    links, *hidden = (cell for cell in cells_of(path.name))
    before = len(cells)
    hidden = [cell for cell in hidden if cell['source'] not in sources]
    first = next(i for i, cell in enumerate(cells) if cell['cell_type'] == 'code')
    first += '#| default_exp' in ''.join(cells[first]['source'])
    cells[first:first] = hidden
    if links['source'] not in sources:
        cells.insert(1, links)
    nb['cells'] = [dict(sorted(cell.items())) for cell in cells]
    if len(cells) > before:
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    return len(cells) > before


if __name__ == '__main__':
    print('changed:', *(p.name for p in sorted((root/'nbs').glob('[0-9]*.ipynb')) if complete(p)))
