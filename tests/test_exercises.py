"""Each exercise, as the reader meets it: the check says 'not solved yet', and with the solution in
the notebook 'right'. A solved exercise breaks nothing that follows."""
import re
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from running import NOTEBOOKS, read, run, shown

SOLUTION = re.compile(r'<details>\s*<summary>\s*Solution')
FENCED = re.compile(r'^```python\n(.*?)^```', re.M | re.S)
CHECK = re.compile(r'^\w*check\w*\(.*\)\s*\Z', re.M | re.S)


def with_solutions(nb):
    "The notebook with each solution executed and checked after it; pairs (check, check of it)."
    cells, pairs, check = [], [], None
    for cell in nb.cells:
        cells.append(cell)
        if cell.cell_type == 'code' and CHECK.search(cell.source):
            check = cell
        elif cell.cell_type == 'markdown' and SOLUTION.search(cell.source):
            code = FENCED.findall(cell.source)
            assert check and code, f'no check or no code: {cell.source[:100]}'
            again = nbformat.v4.new_code_cell(check.source)
            cells += [nbformat.v4.new_code_cell('\n'.join(code)), again]
            pairs.append((check, again))
            check = None
    nb.cells = cells
    return pairs


def said(cell):
    return ' '.join(text for _, text in shown(cell)).strip(' \n\'"')


PAIRS = {path: (nb, with_solutions(nb)) for path in NOTEBOOKS for nb in [read(path)]}
GIVEN = [path for path, (nb, pairs) in PAIRS.items() if pairs]


@pytest.fixture(scope='module')
def runs():
    "The notebooks that have exercises, run two at a time."
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(run, PAIRS[path][0], OMP_NUM_THREADS='1') for path in GIVEN}
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.parametrize('path', GIVEN, ids=lambda path: path.stem)
def test_stubs_and_solutions(runs, path):
    runs[path].result()  # no error anywhere, although all exercises are solved
    for i, (before, after) in enumerate(PAIRS[path][1], 1):
        assert said(before).startswith('not solved yet'), f'exercise {i}: {said(before)}'
        assert re.match(r'right\b', said(after)), f'exercise {i}: {said(after)}'


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.stem[:2] <= '09'],
                         ids=lambda path: path.stem)
def test_every_exercise_has_a_solution(path):
    text = '\n'.join(cell.source for cell in read(path).cells if cell.cell_type == 'markdown')
    asked = re.findall(r'^### \d\. ', text.partition('## Exercises')[2], re.M)
    assert len(asked) == len(PAIRS[path][1]) >= 1
