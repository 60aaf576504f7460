"""Each exercise, as the reader meets it: the check says 'not solved yet', and with the solution in
the notebook 'right'. A solved exercise breaks nothing that follows."""
import ast
import re

import pytest
from running import NOTEBOOKS, SOLUTION, read, shown, solve

GIVEN = [path for path in NOTEBOOKS
         if any(SOLUTION.search(cell.source) for cell in read(path).cells)]


def said(cell):
    return ' '.join(text for _, text in shown(cell)).strip(' \n\'"')


@pytest.mark.slow
@pytest.mark.parametrize('path', GIVEN, ids=lambda path: path.stem)
def test_stubs_and_solutions(notebooks, path):
    _, pairs = notebooks[path].result()  # without an error anywhere
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


def bound(tree):
    "The names that a cell binds outside of its functions."
    names = {node.id for node in ast.walk(tree)
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in ast.walk(tree)
              if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {alias.asname or alias.name.partition('.')[0] for node in ast.walk(tree)
                    if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.stem[:2].isdigit()],
                         ids=lambda path: path.stem)
def test_what_the_page_shows_runs_alone(path):
    "No cell that is shown needs a name that only cells without a place on the page bind."
    seen, unseen, missing = set(), set(), []
    for cell in read(path).cells:
        if cell.cell_type != 'code' or re.search(r'^[%!]', cell.source, re.M):
            continue
        tree, hidden = ast.parse(cell.source), re.search(r'^#\| *hide$', cell.source, re.M)
        if hidden and not isinstance(tree.body[0], ast.Import | ast.ImportFrom):
            unseen |= bound(tree) - seen
            continue
        seen |= bound(tree)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        missing += [(name, cell.source[:60]) for name in (used & unseen) - seen]
    assert not missing
