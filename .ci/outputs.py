"""Run the notebooks in a Jupyter kernel on the real MNIST, and compare what they print with what is
stored. Usage: outputs.py MNIST [NOTEBOOK…]

Text has to be equal to the letter. Pictures are not compared, and neither are cells with the tag
nbval-ignore-output: timings.
"""
import copy
import difflib
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

root = Path(__file__).parent.parent


def shown(cell):
    "What a reader sees below a cell, as lines; neighbouring pieces of a stream are one."
    lines, last = [], None
    for out in cell.outputs:
        if out.output_type == 'stream' and out.name == last:
            lines[-1] += out.text
        elif out.output_type == 'stream':
            lines += [f'[{out.name}]', out.text]
        elif out.output_type == 'error':
            lines += [f'[{out.ename}] {out.evalue}']
        else:
            lines += [f'[{kind}]\n' + (text if kind.startswith('text/') else '')
                      for kind, text in sorted(out.data.items())]
        last = out.get('name')
    return '\n'.join(lines).splitlines()


def differences(nb, folder):
    "Run a notebook from top to bottom, and describe each cell whose output is another than stored."
    fresh = copy.deepcopy(nb)
    NotebookClient(fresh, timeout=900, resources={'metadata': {'path': folder}}).execute()
    for i, (old, new) in enumerate(zip(nb.cells, fresh.cells, strict=True)):
        if old.cell_type == 'code' and 'nbval-ignore-output' not in old.metadata.get('tags', []):
            diff = list(difflib.unified_diff(shown(old), shown(new), 'stored', 'run', lineterm=''))
            if diff:
                yield '\n'.join([f'cell {i}: {old.source.splitlines()[-1]}', *diff[2:]])


def check(path):
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = list(differences(nbformat.read(path, 4), folder))
    took = time.perf_counter() - start
    print(f'{path.stem:14} {took:5.0f} s, {len(found)} outputs differ', flush=True)
    return found, took


def finds_a_change():
    "A stored 3 where 1 + 1 is computed is noticed, and a stored 2 is not."
    found = []
    for text in ('2', '3'):
        out = nbformat.v4.new_output('execute_result', {'text/plain': text}, execution_count=1)
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1 + 1', outputs=[out])])
        found.append(len(list(differences(nb, str(root)))))
    return found == [0, 1]


def main():
    os.environ |= {'MNIST_MB_DATA': str(Path(sys.argv[1]).resolve()), 'MNIST_MB_OFFLINE': '1'}
    paths = [Path(p) for p in sys.argv[2:]] or list((root/'nbs').glob('*.ipynb'))
    assert finds_a_change(), 'a stored output that is wrong would not be noticed'
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(check, sorted(paths, key=lambda p: -p.stat().st_size)))
    print(f'note: {time.perf_counter() - start:.0f} s, two notebooks at a time')
    for found, _ in results:
        print(*found, sep='\n', end='\n' if found else '')
    sys.exit(any(found for found, _ in results))


if __name__ == '__main__':
    main()
