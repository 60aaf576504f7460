"""Each exercise, as the reader meets it: the check says 'not solved yet', and with the solution in
the notebook 'right'. A solved exercise breaks nothing that follows."""
import re

import pytest
from running import NOTEBOOKS, SOLUTION, read, runs, shown, solve

GIVEN = [path for path in NOTEBOOKS
         if any(SOLUTION.search(cell.source) for cell in read(path).cells)]


def said(cell):
    return ' '.join(text for _, text in shown(cell)).strip(' \n\'"')


@pytest.mark.slow
@pytest.mark.parametrize('path', GIVEN, ids=lambda path: path.stem)
def test_stubs_and_solutions(path):
    _, pairs = runs()[path].result()  # without an error anywhere
    for i, (before, after) in enumerate(pairs, 1):
        assert said(before).startswith('not solved yet'), f'exercise {i}: {said(before)}'
        assert re.match(r'right\b', said(after)), f'exercise {i}: {said(after)}'


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.stem[:2] <= '09'],
                         ids=lambda path: path.stem)
def test_every_exercise_has_a_solution(path):
    nb = read(path)
    text = '\n'.join(cell.source for cell in nb.cells if cell.cell_type == 'markdown')
    asked = re.findall(r'^### \d\. ', text.partition('## Exercises')[2], re.M)
    assert len(asked) == len(solve(nb)) >= 1
