import numpy as np
import pytest
import torch

from camelid.nn.rope import TABLE, Rope, rotate
from camelid.nn.scaling import RopeScaling

PLAIN = Rope(8, 1e4, None, 64)


def turn(rope, positions, x, **more):
    where = np.array(positions)
    return rotate(x, rope.rotations(where, dtype=x.dtype, device=x.device, **more))


def test_scores_depend_on_distance_alone_however_far_away():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 8, dtype=torch.float64)
    scores = [
        (turn(PLAIN, [start + 5], q) * turn(PLAIN, [start], k)).sum(-1) for start in (0, 1, 1000, TABLE, 10_000_000)
    ]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], atol=1e-8, rtol=0)  # an angle of 1e7 has 1e-9 left in float64


def test_table_and_direct_computation_are_the_same_bits():
    near = np.array([0, 3, 17, 255, 256, TABLE - 1])
    direct = PLAIN.rotations(np.append(near, TABLE), dtype=torch.float32, device=torch.device("cpu"))
    table = Rope(8, 1e4, None, 64).rotations(near, dtype=torch.float32, device=torch.device("cpu"))
    assert torch.equal(table, direct[:, :-1])


def test_rotation_passes_gradcheck_and_turns_back():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: turn(PLAIN, [0, 9, 2, 500], y), (x,), atol=1e-8)
    out = turn(PLAIN, [0, 9, 2, 500], x)
    (back,) = torch.autograd.grad(out, x, out.detach())
    torch.testing.assert_close(back, x.detach(), atol=1e-14, rtol=0)  # the transpose of a rotation is its inverse


def test_low_precision_is_turned_in_float32():
    x = torch.randn(2, 2, 8).bfloat16()
    exact = turn(PLAIN, [100, 30_000], x.double())
    turned = turn(PLAIN, [100, 30_000], x)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, turn(PLAIN, [100, 30_000], x.float()).bfloat16())
    torch.testing.assert_close(turned.double(), exact, atol=0, rtol=2**-8)


def test_dynamic_scaling_gives_each_text_the_speeds_of_its_own_length():
    rope = Rope(8, 1e4, RopeScaling("dynamic", 2.0), 10)
    x = torch.randn(4, 1, 8, dtype=torch.float64)
    mixed = turn(rope, [3, 9, 9, 15], x, lengths=np.array([4, 10, 16, 16]))
    torch.testing.assert_close(mixed[:2], turn(PLAIN, [3, 9], x[:2]), atol=1e-15, rtol=0)
    assert not torch.allclose(mixed[2:], turn(PLAIN, [9, 15], x[2:]))
    with pytest.raises(ValueError, match="length"):
        turn(rope, [3, 9, 9, 15], x)
