"""Each exercise, as the reader meets it: the check says 'not solved yet', and with the solution in
the notebook 'right'. A solved exercise breaks nothing that follows. Other right answers are right,
too, and each slip is named."""
import ast
import re
from functools import cache
from importlib import import_module
from math import nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from running import NOTEBOOKS, SOLUTION, read, shown, solve

from mnist_mb.exercises import verdict
from mnist_mb.training import PlainSGD, minibatches

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


# -- what the checks say to other answers

@cache
def chapter(stem):
    "The names of a chapter's exercises, without running what stands before them."
    path, = (path for path in NOTEBOOKS if path.stem == stem)
    names = {'__name__': '__main__'}
    for module in ('data', 'softmax', 'nll', 'training', 'exercises'):
        names |= vars(import_module(f'mnist_mb.{module}'))
    names['data'] = names['get_data']('drawn')
    names['train'], names['valid'], _ = names['data']
    names['x_train'], names['y_train'] = names['train']
    exercises = False
    for cell in read(path).cells:
        exercises |= cell.cell_type == 'markdown' and cell.source.startswith('## Exercises')
        if cell.cell_type != 'code' or re.search(r'^[%!]|^#\| *export', cell.source, re.M):
            continue
        body = [node for node in ast.parse(cell.source).body if isinstance(
            node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) or exercises]
        exec(compile(ast.Module(body, []), f'{stem}, {cell.id}', 'exec'), names)
    return names


def loop(model, batches, lr, forget=True, part=slice(None), soft=False, **kw):
    for xb, yb in batches:
        if forget:
            model.zero_grad()
        logits = model(xb)
        F.cross_entropy(logits.softmax(1) if soft else logits, yb, **kw).backward()
        for p in list(model.parameters())[part]:
            p.data -= lr*p.grad


def late(model, batches, lr, forget):
    for xb, yb in batches:
        if forget:
            model.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
    PlainSGD(model.parameters(), lr).step()


def by_grad(model, batches, lr):
    params = list(model.parameters())
    for xb, yb in batches:
        loss = -model(xb).log_softmax(1)[range(len(yb)), yb].mean()
        for p, grad in zip(params, torch.autograd.grad(loss, params)):
            p.data = p.data - lr*grad


def pieced(scale, before=True, between=False, limit=None):
    def answer(net, xb, yb, size):
        if before:
            net.zero_grad()
        for x, y in minibatches(xb, yb, limit or size, shuffle=False):
            if between:
                net.zero_grad()
            (F.cross_entropy(net(x), y)*scale(len(x), len(xb))).backward()
        return [p.grad for p in net.parameters()]
    return answer


def at_the_end(net, xb, yb, size):
    net.zero_grad()
    F.cross_entropy(torch.cat([net(x) for x in xb.split(size)]), yb).backward()
    return [p.grad for p in net.parameters()]


def in_place(w, v, grad, lr, beta):
    v.mul_(beta).add_(grad)
    return w.sub_(v, alpha=lr), v


def smooth(table):
    return table.loss.rolling(11, center=True, min_periods=1).mean()


def top_k(wrong=None):
    def answer(z, y, k):
        places = z.topk(k, largest=wrong != 'smallest').indices
        hits = {'last': places[:, -1:], 'first': places[:, :1]}.get(wrong, places) == y[:, None]
        count = hits.any(1).sum()
        return {'count': count, 'k': count/len(y)/k}.get(wrong, count/len(y))
    return answer


def bootstrap(times=400, pick=None, share=.025, score=None, rows=None):
    def answer(a, b):
        a, b = a.float(), b.float()
        if pick:
            a, b = a[a != b], b[a != b]
        n, ends = len(a), []
        for _ in range(times):
            i, j = torch.randint(n, (2, n))
            if rows == 'all':
                i = torch.randperm(n)
            j = j if rows == 'two' else i
            ends.append(score(a[i], b[j]) if score else (a[i].mean() - b[j].mean()).item())
        return torch.tensor(ends).quantile(torch.tensor([share, 1 - share])).tolist()
    return answer


def leaky(slope):
    def answer(x, G, w1, b1, w2):
        return ((G @ w2)*slope(x @ w1.T + b1)).T @ x
    return answer


# Per chapter and check: what begins the sentence, or stands in it, and answers that get it.
ANSWERS = {
    ('00_data', 'check_shares'): {
        'right': [lambda y: torch.bincount(y, minlength=10)/len(y),
                  lambda y: [(y == k).float().mean().item() for k in range(10)],
                  lambda y: np.bincount(y, minlength=10)/len(y)],
        'not solved yet': [lambda y: None],
        'these are counts': [lambda y: torch.bincount(y, minlength=10)],
        'do not occur': [lambda y: y.unique(return_counts=True)[1]/len(y)]},
    ('00_data', 'check_bookkeeping'): {
        'right': [lambda n, bs: (-(-n//bs), (n - 1) % bs + 1),
                  lambda n, bs: [-(-n//bs), (n - 1) % bs + 1]],
        'not solved yet': [lambda n, bs: None],
        'the short one counts': [lambda n, bs: (n//bs, n % bs or bs)],
        'two are asked': [lambda n, bs: -(-n//bs)]},
    ('00_data', 'check_cut'): {
        'right': [lambda x, y, bs: [*zip(x.split(bs), y.split(bs))],
                  lambda x, y, bs: zip(x.split(bs), y.split(bs))],
        'not solved yet': [lambda x, y, bs: None],
        'at the end is missing': [lambda x, y, bs: [*zip(x[:6].split(bs), y[:6].split(bs))]],
        'labels of other rows': [lambda x, y, bs: [(xb, y[:len(xb)]) for xb in x.split(bs)]]},
    ('03_training', 'check_train_loop'): {
        'right': [loop, by_grad],
        'not solved yet': [lambda *args: None],
        'pile up': [lambda *args: loop(*args, forget=False)],
        'it climbs': [lambda net, b, lr: loop(net, b, -lr)],
        'lr is missing': [lambda net, b, lr: loop(net, b, 1.)],
        'only the last loss': [lambda *args: late(*args, forget=True)],
        'one step': [lambda *args: late(*args, forget=False)],
        'biases': [lambda *args: loop(*args, part=slice(0, None, 2))],
        'last layer': [lambda *args: loop(*args, part=slice(2, None))],
        'is a sum': [lambda *args: loop(*args, reduction='sum')],
        'not probabilities': [lambda *args: loop(*args, soft=True)],
        'the right one has': [lambda net, b, lr: loop(net, b, lr/3)],
        'ZeroDivision': [lambda *args: 1/0]},
    ('03_training', 'check_gradient_in_parts'): {
        'right': [pieced(lambda k, n: k/n), pieced(lambda k, n: k/n, limit=3)],
        'not solved yet': [lambda *args: None],
        'old gradients': [pieced(lambda k, n: k/n, before=False)],
        'a sum of means': [pieced(lambda k, n: 1)],
        'divide by the number': [pieced(lambda k, n: k)],
        'a mean of means': [pieced(lambda k, n: 1/3)],
        '10 rows': [pieced(lambda k, n: k/n, limit=10), at_the_end],
        'forget once': [pieced(lambda k, n: k/n, between=True)],
        'last piece alone': [pieced(lambda k, n: 1, between=True)],
        'shape': [lambda *args: [torch.ones(3)]],
        'ends with': [lambda *args: 1/0, lambda *args: []]},
    ('03_training', 'check_momentum_step'): {
        'right': [in_place, lambda w, v, g, lr, b: [w - lr*(b*v + g), b*v + g]],
        'not solved yet': [lambda *args: None],
        'climbs': [lambda w, v, g, lr, b: (w + lr*(b*v + g), b*v + g)],
        'old v': [lambda w, v, g, lr, b: (w - lr*v, b*v + g)],
        'no memory': [lambda w, v, g, lr, b: (w - lr*g, g)],
        'along g': [lambda w, v, g, lr, b: (w - lr*g, b*v + g)],
        'returns the old v': [lambda w, v, g, lr, b: (w - lr*(b*v + g), v)],
        'v first': [lambda w, v, g, lr, b: (b*v + g, w - lr*(b*v + g))],
        'lr is in v': [lambda w, v, g, lr, b: (w - (b*v + lr*g), b*v + lr*g)],
        'nothing is forgotten': [lambda w, v, g, lr, b: (w - lr*(v + g), v + g)],
        '1 - beta': [lambda w, v, g, lr, b: (w - lr*(b*v + (1 - b)*g), b*v + (1 - b)*g)],
        'the new w and the new v': [lambda w, v, g, lr, b: w - lr*v],
        'shape': [lambda w, v, g, lr, b: (1, 2)],
        'ends with': [lambda *args: 1/0]},
    ('04_evaluation', 'check_top_k'): {
        'right': [top_k(), lambda z, y, k: np.mean([t in row[-k:] for row, t in zip(
            z.argsort(1).tolist(), y.tolist())])],
        'not solved yet': [lambda *args: None],
        'a count': [top_k('count')], 'whatever k is': [top_k('first')],
        'k smallest': [top_k('smallest')], 'only the k-th': [top_k('last')],
        'not by all k': [top_k('k')], 'ends with': [lambda *args: 1/0]},
    ('04_evaluation', 'check_rows'): {
        'right': [lambda p, half: p*(1 - p)*(1.96/half)**2,
                  lambda p, half: -(-p*(1 - p)*1.96**2//half**2)],
        'right: 2 for 1.96': [lambda p, half: p*(1 - p)*(2/half)**2],
        'not solved yet': [lambda *args: None],
        'not one': [lambda p, half: p*(1 - p)/half**2],
        'is for 90 %': [lambda p, half: p*(1 - p)*(1.645/half)**2],
        'each side': [lambda p, half: p*(1 - p)*(1.96/2/half)**2],
        'square it': [lambda p, half: p*(1 - p)*1.96/half],
        'worst case': [lambda p, half: (1.96/half)**2/4]},
    ('04_evaluation', 'check_bootstrap'): {
        'right': [bootstrap()],
        'not solved yet': [lambda a, b: None],
        'these are counts': [bootstrap(score=lambda a, b: (a - b).sum().item())],
        'also where both agree': [bootstrap(pick=True)],
        'one accuracy': [bootstrap(score=lambda a, b: a.mean().item())],
        'turned round': [bootstrap(score=lambda a, b: (b.mean() - a.mean()).item())],
        'with replacement': [bootstrap(rows='all')],
        'same rows for a and b': [bootstrap(rows='two')],
        '2.5 % at each end': [bootstrap(share=.05)],
        'stops with': [lambda a, b: 1/0]},
    ('05_tuning', 'check_rates'): {
        'right': [lambda low, high, steps: np.geomspace(low, high, steps),
                  lambda low, high, steps: torch.logspace(np.log10(low), np.log10(high), steps)],
        'not solved yet': [lambda *args: None],
        'equal steps': [lambda low, high, steps: torch.linspace(low, high, steps)],
        'divide by steps - 1': [lambda low, high, steps: [low*(high/low)**(k/steps)
                                                          for k in range(steps)]],
        'count from 0': [lambda low, high, steps: [low*(high/low)**((k + 1)/steps)
                                                   for k in range(steps)]],
        'from low to high': [lambda low, high, steps: np.geomspace(high, low, steps)]},
    ('05_tuning', 'check_suggest'): {
        'right': [lambda t: smooth(t).idxmin()/10],
        'right, though it lags': [lambda t: t.loss.ewm(alpha=0.1).mean().idxmin()/10,
                                  lambda t: t.loss.rolling(11).mean().idxmin()/10],
        'not solved yet': [lambda t: None],
        'that is the lowest point': [lambda t: smooth(t).idxmin()],
        'take a tenth': [lambda t: smooth(t).idxmin()/3],
        'not single losses': [lambda t: t.loss.idxmin()/10],
        'that is a loss': [lambda t: smooth(t).min()/10]},
    ('05_tuning', 'check_my_rate'): {
        'right': [lambda: 0.05, lambda: torch.tensor(0.03)],
        'not solved yet': [lambda: None, lambda: ...],
        'try a smaller one': [lambda: 0.5], 'try a larger one': [lambda: 0.0001],
        'ends with': [lambda: 'x']},
    ('07_speed', 'check_multiplications'): {
        'right': [lambda a, h, c, n: n*(2*a*h + 3*h*c), lambda a, h, c, n: n*h*(a + a + c + c + c)],
        'not solved yet': [lambda *args: None],
        'only the way forward': [lambda a, h, c, n: n*h*(a + c)],
        'gradient of the pixels': [lambda a, h, c, n: 3*n*h*(a + c)],
        'pass through the second': [lambda a, h, c, n: 2*n*h*(a + c)],
        'ends with': [lambda *args: 1/0]},
    ('07_speed', 'check_overhead'): {
        'right': [lambda n, a, t, b, u: (t - u)/(n/a - n/b),
                  lambda n, a, t, b, u: torch.tensor((u - t)/(n/b - n/a))],
        'not solved yet': [lambda *args: None],
        'difference of the steps': [lambda n, a, t, b, u: (t - u)/n],
        'its rows included': [lambda n, a, t, b, u: t/(n/a)],
        'of an epoch': [lambda n, a, t, b, u: n/a*(t - u)/(n/a - n/b)]},
    ('07_speed', 'check_leaky'): {
        'right': [leaky(lambda a: torch.where(a > 0, 1., .1)), leaky(lambda a: 1 - .9*(a <= 0))],
        'not solved yet': [lambda *args: None],
        'the plain ReLU': [leaky(lambda a: 1.*(a > 0))],
        'not there': [leaky(lambda a: 1.)],
        'times the activation': [leaky(lambda a: a.clamp(min=0) + .1*a.clamp(max=0))],
        'transpose': [lambda *args: leaky(lambda a: 1 - .9*(a < 0))(*args).T]},
    ('08_distributed', 'check_dealt'): {
        'right': [lambda n, size, drop: (n//size if drop else -(-n//size))*size,
                  lambda n, size, drop: n - n % size if drop else n + -n % size],
        'not solved yet': [lambda *args: None],
        'of one rank': [lambda n, size, drop: n//size if drop else -(-n//size)],
        'exchanged': [lambda n, size, drop: n + -n % size if drop else n - n % size],
        'some rows are repeated': [lambda n, size, drop: n - n % size if drop else n]},
    ('08_distributed', 'check_combine'): {
        'right': [lambda gs, n: sum(k*g for g, k in zip(gs, n))/sum(n),
                  lambda gs, n: torch.tensor(n)/sum(n) @ torch.stack(gs)],
        'not solved yet': [lambda *args: None],
        'plain average': [lambda gs, n: sum(gs)/len(gs)],
        'a sum over rows': [lambda gs, n: sum(k*g for g, k in zip(gs, n))],
        'number of ranks': [lambda gs, n: sum(k*g for g, k in zip(gs, n))/len(gs)]},
    ('08_distributed', 'check_bytes'): {
        'right': [lambda n, bs, p, size: -(-n//bs)*4*p*2*(size - 1)/size],
        'not solved yet': [lambda *args: None],
        'go round twice': [lambda n, bs, p, size: -(-n//bs)*4*p*(size - 1)/size],
        'has four bytes': [lambda n, bs, p, size: -(-n//bs)*2*p*(size - 1)/size],
        'a step too': [lambda n, bs, p, size: n//bs*4*p*2*(size - 1)/size]}}


@pytest.mark.parametrize('stem, check', ANSWERS, ids=lambda name: name)
def test_what_the_check_says(stem, check):
    for words, answers in ANSWERS[stem, check].items():
        for number, answer in enumerate(answers):
            got = chapter(stem)[check](answer)
            assert words in got, (words, number, got)
            assert got.startswith('right') == words.startswith('right'), (words, number)


CASES = [('right: it is', torch.tensor([1., 2.])), ('not right: turned', torch.tensor([2., 1.])),
         ('not right: nan', torch.tensor([nan, 2.]))]


@pytest.mark.parametrize('result, words', (
    (None, 'not solved yet'), (..., 'not solved yet'), ([1, 2], 'right: it is'),
    (np.array([[1., 2.]]), 'right: it is'), (torch.tensor([1, 2]).half(), 'right: it is'),
    (torch.tensor([1., 2.], requires_grad=True), 'right: it is'), ((2, 1), 'not right: turned'),
    ([nan, 2], 'not right: nan'), ([1, 3], r'not right: your result has 3 at \[1\], where .* 2$'),
    ([1, 2, 3], r'not right: the shape of your result is \(3,\), and should be \(2,\)'),
    ('x', 'not right: it ends with .*Error')))
def test_verdict(result, words):
    assert re.match(words, verdict(lambda: result, CASES))


def test_verdict_of_an_error_and_of_one_number():
    words = verdict(lambda: 1/0, CASES)
    assert words == 'not right: it ends with ZeroDivisionError: division by zero'
    assert verdict(lambda: 4, [('right', 3.)]) == (
        'not right: your result has 4, where the right one has 3')
