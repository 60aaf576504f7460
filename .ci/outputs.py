"""Run the notebooks in a Jupyter kernel on the real MNIST, and compare what they print with what is
stored. Usage: outputs.py MNIST [--write] [NOTEBOOK…]. With --write, store what they print; then
nbdev_clean.

Text has to be equal to the letter. Pictures are not compared, and neither are timings, which have
the tag nbval-ignore-output. Training magnifies the last bit, and processors differ in it, so the
kernel runs with the plain arithmetic that all x86-64 processors have in common. Timings are not
stored from such a run, but from an ordinary one (jupyter nbconvert --execute). Cells with the
directive notest, which measure and draw what was measured, are left out here as in nbdev_test.
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
PLAIN = {'ATEN_CPU_CAPABILITY': 'default', 'MKL_CBWR': 'COMPATIBLE', 'OMP_NUM_THREADS': '2'}


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


def run(nb):
    "The notebook as it is after a run from top to bottom, in an empty folder."
    fresh = copy.deepcopy(nb)
    measuring = [cell for cell in fresh.cells if cell.source.startswith('#| notest')]
    for cell in measuring:
        cell.metadata['tags'] = [*cell.metadata.get('tags', []), 'skip-execution']
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(fresh, timeout=900, resources={'metadata': {'path': folder}}).execute()
    for cell in measuring:
        cell.metadata['tags'].remove('skip-execution')
    return fresh


def timing(cell):
    return 'nbval-ignore-output' in cell.metadata.get('tags', [])


def differences(nb, fresh):
    "Describe each cell whose output is another than stored."
    for i, (old, new) in enumerate(zip(nb.cells, fresh.cells, strict=True)):
        if old.cell_type == 'code' and not timing(old):
            diff = list(difflib.unified_diff(shown(old), shown(new), 'stored', 'run', lineterm=''))
            if diff:
                yield '\n'.join([f'cell {i}: {old.source.splitlines()[-1]}', *diff[2:]])


def check(path, write):
    start, nb = time.perf_counter(), nbformat.read(path, 4)
    fresh = run(nb)
    found = list(differences(nb, fresh))
    if write:
        for old, new in zip(nb.cells, fresh.cells, strict=True):
            if timing(old) and old.outputs:
                new.outputs = old.outputs
        nbformat.write(fresh, path)
    print(f'{path.stem:14} {time.perf_counter() - start:5.0f} s, {len(found)} outputs differ'
          f'{" and are stored" if write else ""}', flush=True)
    return found


def finds_a_change():
    "A stored 3 where 1 + 1 is computed is noticed, and a stored 2 is not."
    found = []
    for text in ('2', '3'):
        out = nbformat.v4.new_output('execute_result', {'text/plain': text}, execution_count=1)
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1 + 1', outputs=[out])])
        found.append(len(list(differences(nb, run(nb)))))
    return found == [0, 1]


def main():
    mnist, *args = sys.argv[1:]
    cache = tempfile.TemporaryDirectory()  # digits drawn with another arithmetic differ in a pixel
    os.environ |= PLAIN | {'MNIST_MB_DATA': str(Path(mnist).resolve()), 'MNIST_MB_OFFLINE': '1',
                           'MNIST_MB_CACHE': cache.name}
    write = '--write' in args
    paths = [Path(p) for p in args if p != '--write'] or list((root/'nbs').glob('*.ipynb'))
    assert finds_a_change(), 'a stored output that is wrong would not be noticed'
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:  # the longest first
        paths.sort(key=lambda path: -path.stat().st_size)
        results = list(pool.map(lambda path: check(path, write), paths))
    print(f'note: {time.perf_counter() - start:.0f} s, two notebooks at a time')
    if not write:
        print(*(text for found in results for text in found), sep='\n')
        sys.exit(any(results))


if __name__ == '__main__':
    main()
