"""Train with real processes that talk over loopback, and see that they do what one does, and that
they end when one of them dies. Usage: distributed.py

Most processes are started by hand, without torchrun: it ends a process whose neighbour has died,
and here they must notice by themselves, as on several computers. A line a check; the exit code is 1
if one fails. Drawn digits, one thread a process.
"""
import atexit
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import torch

from mnist_mb import data, scaling, training

# Rounding decides about a ReLU whose input is 0 but for the last bit, and then a weight's gradient
# jumps. In float32 that happens now and then, in float64 hardly ever.
CLOSE = 1e-11  # largest difference of a weight in float64, after 63 steps; 3e-15 was seen
ALIKE = 5e-3  # in float32
BOUND = 30  # seconds until a process whose neighbour has died must have ended
failed = []


def fewer(splits, rows):
    return data.Splits([(x[:rows].double(), y[:rows]) for x, y in splits], 'few', 'here')


def child(rows, action, at, *args):
    "Prepare the command for few rows; `action` has the signals, 'rank:signal,…', of a step."
    steps, share, get_data = [], scaling.share, training.get_data

    def befallen(*given):
        steps.append(1)
        if len(steps) == int(at):
            for part in action.split(',') if action else ():
                rank, name = part.split(':')
                if rank == os.environ['RANK']:
                    os.kill(os.getpid(), getattr(signal, name))
        return share(*given)

    def note(what):
        if 'TURNS' in os.environ:
            with open(os.environ['TURNS'], 'a') as f:
                print(os.environ['RANK'], what, file=f)

    def few(name):
        note('begins')
        splits = get_data(name)
        note('ends')
        return fewer(splits, int(rows))

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    torch.set_default_dtype(torch.float64)
    scaling.share, training.get_data = befallen, few
    sys.argv[1:] = args


def check(what, ok, seen=''):
    print(f'{"ok  " if ok else "FAIL"}  {what}{f": {seen}" if seen else ""}', flush=True)
    if not ok:
        failed.append(what)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def start(command, **env):
    env = os.environ | {'MNIST_MB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'} | env
    process = subprocess.Popen([sys.executable, *command], env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    atexit.register(process.kill)  # if it is still there, standing still
    return process


def pair(rows, action, at, *args, others=None):
    "Two processes, started by hand; @ in `args` is the rank; the second may have `others` rows."
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    return [start([__file__, 'child', str(n), action, str(at), '--data', 'drawn',
                   *(arg.replace('@', str(rank)) for arg in args)], RANK=str(rank), **env)
            for rank, n in enumerate((rows, others or rows))]


def ended(processes, bound=BOUND + 30):
    "(exit code, standard output, standard error) of each; killed after `bound` seconds."
    end, results = time.monotonic() + bound, []
    for p in processes:
        try:
            out, err = p.communicate(timeout=max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
        results.append((p.returncode, out, err))
    return results


def alone(rows, **kw):
    "What the command prints on few rows in this process."
    few = fewer(data.get_data('drawn'), rows)
    torch.set_default_dtype(torch.float64)
    with redirect_stdout(io.StringIO()) as out, patch.object(training, 'get_data', lambda _: few):
        training.train(**kw)
    torch.set_default_dtype(torch.float32)
    return out.getvalue()


def farthest(one, other):
    "The largest difference between two files of weights, and how far the first has come."
    one, other = (torch.load(f, weights_only=True) for f in (one, other))
    torch.set_default_dtype(next(iter(one.values())).dtype)
    new = training._new_model(50, 1, 'cpu').state_dict()
    torch.set_default_dtype(torch.float32)
    return [max((one[k] - that[k]).abs().max().item() for k in one) for that in (other, new)]


def same_as_one(folder):
    rows, bs = 1021, 51  # shares of 26 and 25 rows; in the last minibatch, of 1 and 0
    a, b, other, turns = (folder/name for name in ('one.pt', 'rank0.pt', 'rank1.pt', 'turns'))
    said = alone(rows, save=str(a), bs=bs)
    with patch.dict(os.environ, TURNS=str(turns)):
        first, second = ended(pair(rows, '', 0, '--save', f'{folder}/rank@.pt', '--bs', str(bs)))
    gap, way = farthest(a, b) if b.exists() else (float('inf'), 0)
    check('two processes train as one does, an empty share included',
          first[0] == second[0] == 0 and gap < CLOSE < way,
          f'weights differ by {gap:.0e} at most, after moving by {way:.1f}')
    check('they print as one does', first[1].replace(str(b), str(a)) == said and not first[2])
    check('only rank 0 prints and writes', second[1:] == ('', '') and not other.exists(),
          second[1] + second[2])
    check('it gets the data first', turns.exists() and turns.read_text().split('\n')[:-1]
          == ['0 begins', '0 ends', '1 begins', '1 ends'])


def under_torchrun(folder):
    a, b, picture = folder/'alone.pt', folder/'torchrun.pt', folder/'torchrun.png'
    runs = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', free_port(),
            '-m', 'mnist_mb.training']
    args = ['--data', 'drawn', '--epochs', '1', '--bs', '501', '--save']  # 251 rows and 250
    one, = ended([start(['-m', 'mnist_mb.training', *args, str(a)])])
    two, = ended([start([*runs, *args, str(b), '--plot', str(picture)])])
    gap, way = farthest(a, b) if a.exists() and b.exists() else (float('inf'), 0)
    check('torchrun and python -m mnist_mb.training agree', gap < ALIKE < way/10,
          f'weights differ by {gap:.0e} at most, after moving by {way:.1f}')
    told = [[line.split()[0] for line in run[1].splitlines()[:4]] for run in (one, two)]
    check('torchrun prints what one process prints', told[0] == told[1]
          == ['data:', 'epoch', 'test', 'weights:'] and len(two[1].splitlines()) == 5, told[1])
    check('the learning curves are drawn', picture.exists())


def a_rank_dies(folder):
    files = ['--save', str(folder/'a.pt'), '--plot', str(folder/'a.png')]
    begin = time.monotonic()
    first, second = ended(pair(1003, '1:SIGKILL', 30, *files))  # 21 steps an epoch
    took = time.monotonic() - begin
    check(f'rank 1 is killed in the second epoch: rank 0 ends within {BOUND} s, code 1',
          first[0] == 1 and second[0] == -signal.SIGKILL and took < BOUND, f'{took:.0f} s')
    line = first[2].splitlines()
    check('it says why, in one line', len(line) == 1 and 'rank 0 of 2 stopped: another process '
          'has ended' in line[0], ' / '.join(line))
    check('it had finished one epoch, and no test', first[1].count('epoch') == 1
          and 'test' not in first[1])
    first, second = ended(pair(1003, '0:SIGKILL', 30, *files))
    check('rank 0 is killed: rank 1 ends and says why',
          second[0] == 1 and 'rank 1 of 2 stopped' in second[2], second[2].strip())
    run, = ended([start(['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port',
                         free_port(), __file__, 'child', '1003', '1:SIGKILL', '30',
                         '--data', 'drawn', *files])])
    check('torchrun ends too, and names the signal',
          run[0] == 1 and ('SIGKILL' in run[2] or 'Signal 9' in run[2]))
    first, second = ended(pair(1003, '0:SIGINT,1:SIGINT', 30, *files))
    check('Ctrl+C ends both, code 130', first[0] == second[0] == 130
          and first[2].endswith('mnist_mb_train: interrupted\n') and second[2] == '',
          first[2].replace('\n', ' / ') + second[2])
    check('nothing is written by any of them', not list(folder.iterdir()))


def stands_still(folder):
    "Start two processes, one of which will stop; what is returned checks how the other ended."
    begin, end = time.monotonic(), []
    processes = pair(1003, '1:SIGSTOP', 30, '--save', f'{folder}/@')
    waiting = Thread(target=lambda: end.append(processes[0].wait() and time.monotonic()))
    waiting.start()

    def judge():
        waiting.join(max(0, begin + BOUND + 15 - time.monotonic()))  # 15 s to start
        processes[1].kill()
        first, _ = ended(processes, 5)
        waiting.join()
        check(f'rank 1 stands still: rank 0 gives up within {BOUND} s', first[0] == 1
              and end[0] < begin + BOUND + 15 and 'does not answer' in first[2], first[2].strip())
        check('nothing is written by it', not list(folder.iterdir()))
    return judge


def one_line(folder):
    for args, others, why in [
            (['--data', 'nowhere'], None, 'there is no file or folder nowhere'),
            (['--save', str(folder/'no'/'a.pt')], None, 'there is no folder'),
            ([], 900, "rank 1: has Splits('few', rows: 900")]:
        results = ended(pair(1003, '', 0, *args, others=others))
        said = ''.join(out + err for _, out, err in results)
        check(f'an error is told once, and ends both ({why})',
              all(code == 1 for code, *_ in results) and why in said
              and len(said.splitlines()) == 1, said.strip())


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        tmp, begin = Path(tmp), time.monotonic()
        os.environ.setdefault('MNIST_MB_CACHE', str(tmp/'cache'))
        for name in ('same', 'dies', 'frozen'):
            (tmp/name).mkdir()
        under_torchrun(tmp/'same')
        frozen = stands_still(tmp/'frozen')  # rank 0 waits while the other checks run
        same_as_one(tmp/'same')
        a_rank_dies(tmp/'dies')
        one_line(tmp/'dies')
        frozen()
        print(f'note: {time.monotonic() - begin:.0f} s')
    sys.exit(bool(failed))


if __name__ == '__main__':
    if sys.argv[1:2] == ['child']:
        child(*sys.argv[2:])
        training.train()  # here, since it reads its arguments only when a script calls it
    else:
        main()
