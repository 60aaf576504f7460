"""What several test files share: the real MNIST where there is one, and one thread for PyTorch."""
import os

import pytest
import torch


@pytest.fixture(scope='session')
def mnist():
    "MNIST from the folder that $MNIST_MB_DATA names; the test is skipped where it names none."
    if not os.environ.get('MNIST_MB_DATA'):
        pytest.skip('needs the real MNIST: set MNIST_MB_DATA to a folder that has it')
    from mnist_mb.data import load_mnist
    return load_mnist(download=False)


@pytest.fixture(scope='session')
def drawn():
    "The digits that the computer draws, for tests that need some data, whichever."
    from mnist_mb.data import get_data
    return get_data('drawn')


@pytest.fixture(autouse=True)
def one_thread():
    "Tests share the machine with others, and a test that changes the number leaves no trace."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
