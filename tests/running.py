"""Notebooks as the tests run them: top to bottom in a Jupyter kernel, in an empty folder."""
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))


def run(nb, **env):
    "Execute the notebook in place; `env` is set in its kernel, with None taken out. Returns it."
    env = {k: v for k, v in (os.environ | {'PYTHONPATH': str(ROOT)} | env).items() if v is not None}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(nb, timeout=1800, kernel_name='python3',
                                resources={'metadata': {'path': folder}})
        client.execute(env=env)
    return nb


def read(path):
    return nbformat.read(path, 4)


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
