"""Each notebook, run on the real MNIST, prints what is stored in it.

Training magnifies the last bit, and processors differ in it. So numbers with a decimal point may
differ as much as `CLOSE` allows, and whatever else is printed has to be the same. Pictures are not
compared, and neither are outputs that depend on the machine, which have the tag
nbval-ignore-output, and cells with the directive notest.
"""
import copy
import math
import re

import nbformat
import pytest
from running import NOTEBOOKS, read, run, shown

CLOSE = dict(rel_tol=0.005, abs_tol=0.006)  # 0.002 was seen between processors, of an accuracy
NUMBER = re.compile(r'[-+]?\d[\d,]*\.\d*(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+')


def skipped(cell):
    return ('nbval-ignore-output' in cell.metadata.get('tags', [])
            or re.search(r'^#\| *(notest|eval: *false)', cell.source, re.M))


def plain(text):
    "The text without its numbers, and without the spaces and lines that fill up columns."
    return re.sub(r'[\s-]+|(?<=\|):?-+:?(?=\|)', ' ', NUMBER.sub('#', text)).strip()


def alike(old, new):
    "Is the text the same, but for numbers that are close?"
    if old == new:
        return True
    numbers = [[float(v.replace(',', '')) for v in NUMBER.findall(text)] for text in (old, new)]
    return plain(old) == plain(new) and len(numbers[0]) == len(numbers[1]) and all(
        math.isclose(a, b, **CLOSE) for a, b in zip(*numbers))


def differences(nb, fresh):
    "Each cell that shows something else than is stored."
    for i, (old, new) in enumerate(zip(nb.cells, fresh.cells, strict=True)):
        if old.cell_type == 'code' and not skipped(old):
            a, b = shown(old), shown(new)
            if [kind for kind, _ in a] != [kind for kind, _ in b] or not all(
                    alike(x, y) for (_, x), (_, y) in zip(a, b)):
                yield f'cell {i}: {old.source.splitlines()[-1]}\nstored: {a}\nrun: {b}'


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_run_prints_what_is_stored(mnist, notebooks, path):
    fresh, _ = notebooks[path].result()
    fresh = nbformat.v4.new_notebook(cells=[c for c in fresh.cells if 'added' not in c.metadata])
    found = list(differences(read(path), fresh))
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('old, new, same', [
    ('0.969', '0.971', True), ('0.9526', '0.9626', False), ('2.30, 0.08', '2.30, 0.14', False),
    ('tensor([5, 0])', 'tensor([5, 1])', False), ('a 0.5', 'b 0.5', False),
    ('| 0.3 |\n|---:|', '| 0.30 |\n|----:|', True), ('1.5', '1.5 2.5', False),
    ('1e-7', '3e-7', True), ('12,345.5', '12,346.0', True)])
def test_what_counts_as_the_same(old, new, same):
    assert alike(old, new) == same


@pytest.mark.slow
def test_a_wrong_output_is_found():
    "A stored 3 where 1 + 1 is computed, and not a stored 2."
    for text, n in (('2', 0), ('3', 1)):
        out = nbformat.v4.new_output('execute_result', {'text/plain': text}, execution_count=1)
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1 + 1', outputs=[out])])
        assert len(list(differences(nb, run(copy.deepcopy(nb))))) == n
