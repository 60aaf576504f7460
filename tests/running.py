"""Notebooks as the tests run them: top to bottom in a Jupyter kernel, in an empty folder, once,
with each exercise solved after its check. On the real MNIST where $MNIST_MB_DATA names it, else on
drawn digits."""
import os
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
SOLUTION = re.compile(r'<details>\s*<summary>\s*Solution')
FENCED = re.compile(r'^```python\n(.*?)^```', re.M | re.S)
CHECK = re.compile(r'^\w*check\w*\(.*\)\s*\Z', re.M | re.S)


def read(path):
    return nbformat.read(path, 4)


def solve(nb):
    "Add a cell with each solution and one that checks it; pairs (check, check of the solution)."
    cells, pairs, check = [], [], None
    for cell in nb.cells:
        cells.append(cell)
        if cell.cell_type == 'code' and CHECK.search(cell.source):
            check = cell
        elif cell.cell_type == 'markdown' and SOLUTION.search(cell.source):
            code = FENCED.findall(cell.source)
            assert check and code, f'no check or no code: {cell.source[:100]}'
            added = [nbformat.v4.new_code_cell(src, metadata={'added': True})
                     for src in ('\n'.join(code), check.source)]
            cells += added
            pairs.append((check, added[1]))
            check = None
    nb.cells = cells
    return pairs


def run(nb):
    "Execute the notebook in place, and return it."
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'MNIST_MB_OFFLINE': '1'}
    if env.get('MNIST_MB_DATA'):
        env['MNIST_MB_DATA'] = os.path.abspath(env['MNIST_MB_DATA'])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(nb, timeout=1800, kernel_name='python3',
                                extra_arguments=['--log-level=ERROR'],
                                resources={'metadata': {'path': folder}})
        client.execute(env=env)
    return nb


def solved(path):
    "The notebook as it runs, and the pairs of `solve`."
    nb = read(path)
    pairs = solve(nb)
    return run(nb), pairs


def start(paths):
    """Run notebooks, the longest first, on half of the cores; path: a future of (notebook, pairs).

    They have processes of their own, since tests change what all threads of this one share: the
    environment, the working directory, functions.
    """
    pool = ProcessPoolExecutor(max(1, (os.cpu_count() or 1)//2), get_context('spawn'))
    paths = sorted(paths, key=lambda path: -path.stat().st_size)
    return {path: pool.submit(solved, path) for path in paths}


def shown(cell):
    "What a reader sees below a cell: pairs (kind, text); neighboring pieces of a stream are one."
    pieces = []
    for out in cell.get('outputs', []):
        if out.output_type == 'stream':
            if pieces and pieces[-1][0] == out.name:
                pieces[-1] = out.name, pieces[-1][1] + out.text
            else:
                pieces.append((out.name, out.text))
        elif out.output_type == 'error':
            pieces.append(('error', f'{out.ename}: {out.evalue}'))
        else:
            pieces += [(kind, text if kind.startswith('text/') else '')
                       for kind, text in sorted(out.data.items())]
    return pieces
