"""Blank windows are computed once, and every window gets the output that the network gives it."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.predict import blank
from medseg.predict.blank import BlankOnce


class Counted:
    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return torch.stack([x.sum(1), x.cumsum(-1).sum(1)], dim=1)


def windows(*values: float | tuple[float, ...] | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(len(values), 2, 4, 5, generator=generator)
    for window, value in zip(out, values, strict=True):
        if value is not None:
            window[:] = torch.tensor(value if isinstance(value, tuple) else (value, value))[:, None, None]
    return out


def test_outputs_are_those_of_the_network_and_blank_windows_are_computed_once() -> None:
    network = Counted()
    once = BlankOnce(network)
    for batch in (
        windows(None, None),
        windows(0.5, None, 0.5),
        windows(0.5, 0.5),
        windows((0.5, 0.25), 0.5, None),
        windows((0.5, 0.25), -1.0),
    ):
        torch.testing.assert_close(once(batch), Counted()(batch), rtol=0, atol=0)
    assert (once.windows, once.blank) == (12, 8)
    # Of blank windows, the output of one value is kept.
    assert network.seen == 4 + 5


def test_few_outputs_are_kept() -> None:
    network = Counted()
    once = BlankOnce(network)
    values = [float(v) for v in range(2 * blank.KEPT)]
    for value in values:
        once(windows(value))
    once(windows(values[-1]))
    assert network.seen == len(values)
    once(windows(values[0]))
    assert network.seen == len(values) + 1
    # A batch of more values than are kept.
    batch = windows(*values, None)
    torch.testing.assert_close(once(batch), Counted()(batch), rtol=0, atol=0)


def test_a_window_with_one_channel_that_varies_is_not_blank() -> None:
    network = Counted()
    once = BlankOnce(network)
    batch = windows(1.0, 1.0)
    batch[1, 1, 2, 3] = 2.0
    torch.testing.assert_close(once(batch), Counted()(batch), rtol=0, atol=0)
    assert (network.seen, once.blank) == (2, 1)
