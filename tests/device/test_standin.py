"""The stand-in refuses what a GPU refuses, allows what it allows, and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from standin import NAME, stand_in

HOST = torch.ones(3, 3)
INDEX = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a: a @ HOST,
        lambda a: HOST + a,
        lambda a: torch.cat([a, HOST]),
        lambda a: a.index_select(0, INDEX),
        lambda a: a.gather(0, INDEX[None]),
        lambda a: torch.where(HOST > 0, a, a),
        lambda a: HOST.add_(a),
        lambda a: a.index_add_(0, INDEX, HOST[:2]),
        lambda a: torch.nn.functional.linear(a, HOST),
        lambda a: torch.mm(a, a, out=HOST),
        lambda a: a[0] @ torch.tensor([1.0, 2.0, 3.0]),
    ],
)
def test_tensors_of_two_devices_are_refused(device, mixed):
    with pytest.raises(RuntimeError, match="same device"):
        mixed(torch.ones(3, 3, device=NAME))


def test_what_a_gpu_allows_is_allowed(device):
    a, number = torch.ones(3, 3, device=NAME), torch.tensor(2.0)
    for value in (a * number, number * a, a * 2, torch.where(a > 0, a, 0.0), a[INDEX], a.masked_fill(a > 0, number)):
        assert value.device == torch.device(NAME, 0)
    a[INDEX] = 5.0
    a[0] = number
    assert a.cpu().tolist() == [[2.0] * 3, [5.0] * 3, [1.0] * 3]


def test_what_belongs_to_the_host_is_refused(device):
    a = torch.ones(3, 3, device=NAME)
    for look in (a.numpy, lambda: np.asarray(a)):
        with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
            look()
    for draw in (torch.randn, torch.rand):
        with pytest.raises(RuntimeError, match="device type for generator"):
            draw(3, device=NAME, generator=torch.Generator())
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.ones(2, 2, dtype=torch.long, device=NAME) @ torch.ones(2, 2, dtype=torch.long, device=NAME)


def test_new_memory_holds_anything_and_runs_out(device):
    assert bool(torch.empty(3, device=NAME).isnan().all())
    before = device.used
    held = torch.zeros(1000, device=NAME)
    view = held[10:]
    assert device.used == before + 4000
    del held
    assert device.used == before + 4000
    del view
    assert device.used == before
    device.limit = before + 3999
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1000, device=NAME)


def test_doubles_are_refused_as_by_mps_only():
    with stand_in():
        assert float(torch.ones(2, dtype=torch.float64, device=NAME).sum()) == 2
    with stand_in(as_mps=True):
        for make in (
            lambda: torch.ones(2, dtype=torch.float64, device=NAME),
            lambda: torch.ones(2, device=NAME).double(),
            lambda: torch.ones(2, dtype=torch.float64).to(NAME),
            lambda: torch.ones(2, device=NAME).sum(dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="float64"):
                make()
        with pytest.raises(NotImplementedError, match="MPS"):
            torch.linalg.eigh(torch.eye(2, device=NAME))


def test_launches_and_waits_are_counted(device):
    a = torch.ones(4, 4, device=NAME)
    device.reset()
    b = (a @ a).T[1:].add_(1)
    assert (device.launches, device.waits) == (2, 0), device.operations
    assert float(b[0, 0]) == 5
    assert (device.launches, device.waits) == (2, 1), device.waiting
    b.cpu()
    a[INDEX]
    b[b > 2]
    assert (device.launches, device.waits) == (6, 4), device.operations + device.waiting


def test_gradients_pass_and_threads_see_the_device(device):
    from threading import Thread

    a = torch.ones(3, device=NAME, requires_grad=True)
    thread = Thread(target=lambda: (a * torch.arange(3, device=NAME)).sum().backward())
    thread.start()
    thread.join()
    assert a.grad is not None
    assert a.grad.tolist() == [0, 1, 2]
