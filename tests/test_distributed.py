"""Real processes, over loopback, train as one does, and end when one of them dies.

This file is also the program that they run. Nothing is timed: BOUND is for a hang alone.
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from mnist_mb.distributed import distributed_epoch, process_group, shard
from mnist_mb.training import Model, fit, train_epoch

ROOT = Path(__file__).parent.parent
BOUND = 300  # seconds
# Float64: a few dozen steps leave rounding near 1e-14; one row with a wrong weight shows at 1e-3.
CLOSE = 1e-9
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']


def trained(rows, bs, epoch_func):
    "Losses and weights after two epochs."
    g = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 784, generator=g, dtype=torch.double)
    y = torch.randint(10, (rows,), generator=g)
    model = Model(784, 20, 10).double()
    history = fit(model, (x, y), epochs=2, bs=bs, lr=0.1, progress=False, epoch_func=epoch_func)
    return history.train_loss.tolist(), model.state_dict()


def work(folder, cases, signals=(), timeout=60):
    "What each process does; before the twentieth step comes the signal with its rank, if any."
    def befallen(batches):
        for step, pair in enumerate(batches):
            if step == 20 and str(rank) in signals:
                os.kill(os.getpid(), getattr(signal, signals[str(rank)]))
            yield pair

    def epoch_func(model, batches, optimizer, loss_func):
        return distributed_epoch(model, befallen(batches), optimizer, loss_func)

    torch.set_num_threads(1)
    with process_group(timeout=timeout):
        rank = dist.get_rank()
        torch.manual_seed(rank)  # rank 0's weights count
        torch.save([trained(*case, epoch_func) for case in cases], f'{folder}/{rank}.pt')


@pytest.fixture
def start():
    "Start Python with arguments and environment variables; what is left at the end is killed."
    started = []

    def run(*args, **env):
        env = os.environ | {'MNIST_MB_OFFLINE': '1', 'OMP_NUM_THREADS': '1',
                            'PYTHONPATH': str(ROOT)} | env
        started.append(subprocess.Popen([sys.executable, *map(str, args)], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]
    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=BOUND)
    return process.returncode, out, err


def alone(size=1, **env):
    "The environment of rank 0 of `size`."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    return dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port) | env


def farthest(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize('n', [1, 2, 5, 50])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_shards(n, size):
    xb, yb = torch.arange(2*n).reshape(n, 2), torch.arange(n)
    shards = [shard(xb, yb, rank, size) for rank in range(size)]
    assert torch.equal(torch.cat([x for x, _, weight in shards if weight]), xb)
    assert torch.equal(torch.cat([y for _, y, weight in shards if weight]), yb)
    assert all(len(x) == len(y) > 0 for x, y, _ in shards)  # nobody is left out
    for x, _, weight in shards:
        assert weight == 0 or weight == pytest.approx(len(x)*size/n)
    lengths = [len(x)*bool(weight) for x, _, weight in shards]
    assert max(lengths) - min(lengths) <= 1


def test_a_group_of_one_is_train_epoch():
    found = []
    for epoch_func in (train_epoch, distributed_epoch):
        torch.manual_seed(1)
        with patch.dict(os.environ, alone()), process_group() as device:
            found.append(trained(101, 50, epoch_func))
        assert device == torch.device('cpu') and not dist.is_initialized()
    (losses, one), (others, other) = found
    assert losses == others and farthest(one, other) == 0


def test_each_process_takes_the_gpu_with_its_number():
    with patch.dict(os.environ, alone(LOCAL_RANK='2')), patch('torch.cuda.set_device') as chosen, \
            patch.multiple(dist, init_process_group=lambda *args, **kwargs: got.append(args),
                           destroy_process_group=lambda: None):
        got = []
        with process_group('cuda') as device:
            pass
    assert device == torch.device('cuda', 2) and chosen.call_args.args == (device,)
    assert got == [('nccl',)]


def test_who_does_not_come_is_waited_for_as_long_as_asked():
    start = time.monotonic()
    with patch.dict(os.environ, alone(size=2)), pytest.raises(RuntimeError) as caught:
        with process_group(timeout=1):
            pass
    assert time.monotonic() - start < 30 and not dist.is_initialized()
    assert 'GLOO_SOCKET_IFNAME' in caught.value.__notes__[0]


@pytest.mark.slow
def test_two_processes_train_as_one(start, tmp_path):
    "The last minibatch of 211 rows has one row: one process has none. Shards of 25 are uneven."
    cases = [(211, 10), (101, 25)]
    given = json.dumps(dict(folder=str(tmp_path), cases=cases))
    code, _, err = ended(start(*TORCHRUN, __file__, given))
    assert code == 0, err
    torch.manual_seed(0)
    ours = [trained(*case, train_epoch) for case in cases]
    one, other = (torch.load(tmp_path/f'{rank}.pt') for rank in (0, 1))
    for (losses, weights), first, second in zip(ours, one, other, strict=True):
        assert first[0] == second[0] == pytest.approx(losses, abs=CLOSE)
        assert farthest(first[1], second[1]) == 0
        assert farthest(first[1], weights) < CLOSE
    torch.manual_seed(0)
    assert farthest(Model(784, 20, 10).state_dict(), ours[0][1]) > 1e-3  # they did train


@pytest.mark.slow
def test_a_process_notices_that_another_is_gone(start, tmp_path):
    "Started by hand, as on several computers, where no torchrun ends it; both groups at once."
    left = {}
    for befalls, words in (('SIGSTOP', '(?i)timed out'), ('SIGKILL', 'Connection')):
        given = json.dumps(dict(folder=str(tmp_path), cases=[(500, 10)], signals={'1': befalls},
                                timeout=10))
        env = alone(size=2)
        left[words], _ = (start(__file__, given, **env | dict(RANK=rank, LOCAL_RANK=rank))
                          for rank in '01')
    for words, process in left.items():
        code, _, err = ended(process)
        assert code == 1 and 'RuntimeError' in err and re.search(words, err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_ends_when_a_process_is_killed(start, tmp_path):
    given = json.dumps(dict(folder=str(tmp_path), cases=[(500, 10)], signals={'1': 'SIGKILL'}))
    code, _, err = ended(start(*TORCHRUN, __file__, given))
    assert code == 1 and ('SIGKILL' in err or 'Signal 9' in err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_and_writes_under_torchrun_what_it_does_alone(start, tmp_path):
    command = ['-m', 'mnist_mb', 'train', '--data', 'drawn', '--epochs', '1', '--bs', '501']
    one, two, bad = [start(*how, *command, '--save', path) for how, path in (
        ([], tmp_path/'one.pt'), (TORCHRUN, tmp_path/'two.pt'),
        (TORCHRUN, 'no/such/folder/a.pt'))]
    one, two, bad = map(ended, (one, two, bad))
    assert one[0] == two[0] == 0, one[2] + two[2]
    told = [[re.sub(r'0\.\d+|\S+\.pt', '…', line) for line in run[1].splitlines()]
            for run in (one, two)]
    assert told[0] == told[1] and len(told[0]) == 5
    one, two = (torch.load(tmp_path/f'{k}.pt', weights_only=True) for k in ('one', 'two'))
    assert 0 < farthest(one, two) < 5e-3  # sums in another order: float32, and training magnifies
    code, out, err = bad
    assert code == 1 and out == '' and err.count("can't write no/such") == 1


if __name__ == '__main__':
    work(**json.loads(sys.argv[1]))
