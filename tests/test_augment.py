"""EDM's augmentation: what its labels say is what happens to the picture, and nothing where they say nothing."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from lab.models.augment import LABELS, _linear, augment, warp

H, W = 48, 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def coordinates(height: int = H, width: int = W) -> tuple[Tensor, Tensor]:
    """x and y of the pixels, from the centre."""
    y, x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    return x.expand(height, width), y[:, None].expand(height, width)


def blob(x: Tensor, y: Tensor, at: tuple[float, float] = (4.0, -3.0), std: tuple[float, float] = (2.0, 2.0)) -> Tensor:
    return torch.exp(-((x - at[0]) ** 2 / std[0] ** 2 + (y - at[1]) ** 2 / std[1] ** 2) / 2)


def centre(pictures: Tensor) -> list[complex]:
    """Centre of mass, x + i y, of each picture's middle: what is reflected at the edges stays out of it."""
    x, y = coordinates(*pictures.shape[2:])
    p = pictures.double()[:, 0] * (x**2 + y**2 < 18**2)
    mass = p.sum((1, 2))
    return [complex(a, b) for a, b in zip((p * x).sum((1, 2)) / mass, (p * y).sum((1, 2)) / mass, strict=True)]


def predicted(z: complex, label: list[float], sign: int = 1, A_scale=2**0.2, A_aniso=2**0.2, A_trans=1 / 8) -> complex:
    """Where Table 6 sends a point, from the labels alone: complex numbers, one transform a line, in its order.

    Args:
        sign: of a5, which the labels leave open.
    """
    a0, a1, a2, cos_less_1, sin, u, v, a6, a7 = label
    z = complex(z.real * (1 - 2 * a0), z.imag)
    z = complex(z.real, z.imag * (1 - 2 * a1))
    z *= A_scale**a2
    z *= complex(cos_less_1 + 1, -sin)  # Rotate(-a3)
    a5, a4 = sign * math.hypot(u, v), math.atan2(v, u)
    z *= cmath.exp(-1j * a4)
    z = complex(z.real * A_aniso**a5, z.imag / A_aniso**a5) * cmath.exp(1j * a4)
    return z + complex(A_trans * a6 * W, A_trans * a7 * H)


def blobs(n: int) -> Tensor:
    return blob(*coordinates()).float().expand(n, 1, H, W)


def linear(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


HERE = torch.zeros(1, 2, dtype=torch.float64)
IDENTITY = linear((1, 0), (0, 1))
QUARTER = linear((0, 1), (-1, 0))  # Rotate(-pi/2): right to up


# what the labels say


def test_zero_labels_are_an_untouched_picture_and_no_other():
    x = noise(2000, 1, 4, 4)
    out, labels = augment(x, seeded())
    assert (labels.shape, labels.dtype) == ((2000, LABELS), torch.float32)
    silent = (labels == 0).all(1)
    same = (out == x).flatten(1).all(1)
    assert torch.equal(silent, same)
    assert silent.float().mean() == pytest.approx(0.5 * 0.94 * 0.88**4, abs=0.04)


def test_labels_have_the_distributions_of_table_6():
    n, p = 40_000, 0.3
    labels = augment(noise(n, 1, 2, 2), seeded(1), p)[1].double()
    a0, a1, a2, cos_less_1, sin, u, v, a6, a7 = labels.unbind(1)
    frequency = 4 * math.sqrt(0.25 / n)  # four standard errors, of a frequency at most
    assert a0.mean() == pytest.approx(0.5, abs=frequency)
    assert a1.mean() == pytest.approx(p / 2, abs=frequency)
    assert set(a0.tolist()) == set(a1.tolist()) == {0, 1}
    for a in (a2, sin, u, a6):
        assert (a != 0).double().mean() == pytest.approx(p, abs=frequency)
    for one, other in ((cos_less_1, sin), (u, v), (a6, a7)):  # applied together
        assert torch.equal(one != 0, other != 0)
    for one, other in ((a0, a2), (a2, sin), (sin, u), (u, a6)):  # and apart from each other
        apart = (one != 0).double().mean() * (other != 0).double().mean()
        assert ((one != 0) & (other != 0)).double().mean() == pytest.approx(apart.item(), abs=frequency)
    many = n * p
    stretch = torch.hypot(u, v)[u != 0]
    for a in (a2[a2 != 0], a6[a6 != 0], a7[a7 != 0], math.sqrt(2) * u[u != 0], math.sqrt(2) * v[v != 0]):
        assert a.mean() == pytest.approx(0, abs=4 / math.sqrt(many))
        assert a.square().mean() == pytest.approx(1, abs=4 * math.sqrt(5 / many))
    for a in (a2[a2 != 0], a6[a6 != 0], a7[a7 != 0]):
        assert a.pow(4).mean() == pytest.approx(3, abs=4 * math.sqrt(96 / many))
        assert (a.abs() < 1).double().mean() == pytest.approx(math.erf(math.sqrt(0.5)), abs=4 * 0.47 / math.sqrt(many))
    assert stretch.pow(4).mean() == pytest.approx(3, abs=4 * math.sqrt(96 / many))
    correlation = torch.corrcoef(torch.stack([a6, a7, a2])[:, (a6 != 0) & (a2 != 0)]) - torch.eye(3)
    assert correlation.abs().max() < 4 / math.sqrt(many * p)
    for angle in (torch.atan2(sin, cos_less_1 + 1)[sin != 0], torch.atan2(v, u)[u != 0]):
        share = torch.histc(angle, 8, -math.pi, math.pi) / len(angle)
        torch.testing.assert_close(share, torch.full((8,), 0.125).double(), rtol=0, atol=4 * 0.33 / math.sqrt(many))


@pytest.mark.parametrize(("probability", "applied"), [(0.0, 0.0), (1.0, 1.0)])
def test_never_and_always(probability, applied):
    labels = augment(noise(500, 1, 2, 2), seeded(), probability)[1]
    assert (labels[:, 2:] != 0).float().mean() == applied
    assert labels[:, 0].mean() == pytest.approx(0.5, abs=0.1)


# what happens to the picture


def test_flips_are_exact():
    x = noise(300, 2, 5, 4)
    out, labels = augment(x, seeded(), 0.5)
    seen = set()
    for before, after, label in zip(x, out, labels.tolist(), strict=True):
        if not any(label[2:]):
            a0, a1 = label[:2]
            seen.add((a0, a1))
            before = before.flip(-1) if a0 else before
            assert torch.equal(after, before.flip(-2) if a1 else before)
    assert len(seen) == 4


# strengths for one transform at a time, and the labels that it leaves free
ONLY = {
    "scaling": {"A_aniso": 1.0, "A_trans": 0.0},
    "translation": {"A_scale": 1.0, "A_aniso": 1.0, "A_trans": 1 / 16},
    "anisotropy": {"A_scale": 1.0, "A_trans": 0.0},
    "all": {"A_trans": 1 / 16},
}


@pytest.mark.parametrize("strengths", ONLY.values(), ids=ONLY.keys())
def test_the_picture_goes_where_its_labels_say(strengths):
    """All transforms are applied, so a wrong order, direction, axis or unit of any of them moves the blob elsewhere."""
    start = blobs(128)
    out, labels = augment(start, seeded(), 1.0, **strengths)
    near, signs, z = 0, set(), centre(start[:1])[0]
    for found, label in zip(centre(out), labels.tolist(), strict=True):
        goals = {sign: predicted(z, label, sign, **strengths) for sign in (1, -1)}
        if max(abs(label[2]), math.hypot(*label[5:7])) > 1.3 or max(map(abs, goals.values())) > 9:
            continue  # the blob, or what is reflected, is too near the end of the middle
        near += 1
        sign = min(goals, key=lambda s: abs(goals[s] - found))
        signs.add(sign if abs(goals[1] - goals[-1]) > 0.2 else 0)
        assert abs(goals[sign] - found) < 0.03, label
    assert near > 20
    assert {1, -1} <= signs or strengths.get("A_aniso") == 1  # both are drawn


@pytest.mark.parametrize(
    ("a", "matrix"),
    [
        ((1, 0, 0, 0), ((1.5, 0), (0, 1.5))),
        ((0, math.pi / 2, 0, 0), ((0, 1), (-1, 0))),
        ((0, 0, 0, 1), ((2, 0), (0, 0.5))),
        ((0, 0, math.pi / 2, 1), ((0.5, 0), (0, 2))),
        ((0, 0, math.pi / 4, 1), ((1.25, 0.75), (0.75, 1.25))),
        ((2, math.pi / 2, 0, -1), ((0, 1.125), (-4.5, 0))),
    ],
)
def test_matrices_of_table_6(a, matrix):
    found = _linear(*torch.tensor(a, dtype=torch.float64)[:, None], A_scale=1.5, A_aniso=2.0)
    torch.testing.assert_close(found, linear(*matrix))


def test_rotation_alone_turns_anticlockwise_by_a3():
    start = blobs(64)
    out, labels = augment(start, seeded(), 1.0, A_scale=1, A_aniso=1, A_trans=0)
    flipped = [complex(4 * (1 - 2 * a0), -3 * (1 - 2 * a1)) for a0, a1 in labels[:, :2].tolist()]
    for before, after, label in zip(flipped, centre(out), labels.tolist(), strict=True):
        # y is downwards, so the eye sees the conjugate
        turned = cmath.phase(after.conjugate() / before.conjugate())
        assert math.cos(turned) - 1 == pytest.approx(label[3], abs=0.003)
        assert math.sin(turned) == pytest.approx(label[4], abs=0.003)


def test_quarter_turns_are_exact_and_shifts_by_pixels_nearly():
    x = noise(3, 2, 16, 16)
    turned = warp(x, QUARTER.expand(3, 2, 2), HERE.expand(3, 2))
    torch.testing.assert_close(turned, torch.rot90(x, 1, (-2, -1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(warp(x, IDENTITY, HERE.expand(3, 2)), x, rtol=0, atol=1e-5)
    z = blobs(1)
    shifted = warp(z, IDENTITY, torch.tensor([[3.0, -5.0]]).double())
    torch.testing.assert_close(shifted, z.roll((-5, 3), (-2, -1)), rtol=0, atol=2e-3)


MATRICES = {
    "bigger": linear((2, 0), (0, 2)),
    "smaller": linear((0.8, 0), (0, 0.8)),
    "wider": linear((1.5, 0), (0, 1 / 1.5)),
    "turned": linear((math.cos(0.5), math.sin(0.5)), (-math.sin(0.5), math.cos(0.5))),
    "sheared": linear((1.2, 0.4), (-0.1, 0.9)),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_warp_samples_the_picture_at_the_inverse(matrix):
    """A Gaussian blob is band-limited and known everywhere."""
    shift = torch.tensor([[2.3, -1.6]]).double()
    x, y = coordinates()
    back = torch.einsum("ij,jhw->ihw", torch.linalg.inv(matrix[0]), torch.stack([x - 2.3, y + 1.6]))
    picture = blob(x, y, std=(2.5, 1.5))[None, None]
    found = warp(picture, matrix, shift)
    assert (found - blob(back[0], back[1], std=(2.5, 1.5))).abs().max() < 0.01
    assert (found - picture).abs().max() > 0.1


def test_turning_there_and_back_loses_little():
    x, y = coordinates(32, 32)
    wave = torch.cos(2 * math.pi * (0.15 * x + 0.2 * y))  # a quarter of the sampling frequency
    picture = (wave * blob(x, y, (0, 0), (4, 4)))[None, None]
    turn = MATRICES["turned"]
    again = warp(warp(picture, turn, HERE), turn.mT, HERE)
    assert (again - picture).square().mean().sqrt() < 0.03 * picture.square().mean().sqrt()


def test_shrinking_does_not_alias():
    """A wave of .4 a pixel would be one of .8, which is .2 again, at half the size: it must go."""
    x, _ = coordinates(32, 32)
    wave = torch.cos(2 * math.pi * 0.4 * x)[None, None]
    small = warp(wave, linear((0.5, 0), (0, 0.5)), HERE)
    assert small[..., 10:-10, 10:-10].square().mean().sqrt() < 0.1 * wave.square().mean().sqrt()


@pytest.mark.parametrize(
    ("level", "dtype", "atol"), [(-1, torch.float32, 2e-6), (0.37, torch.float32, 1e-6), (-1, torch.float64, 1e-13)]
)
def test_reflection_fills_the_border(level, dtype, atol):
    x = torch.full((200, 1, 16, 12), level, dtype=dtype)
    out, labels = augment(x, seeded(), 1.0, A_trans=1.0)
    assert labels[:, 7:].abs().max() > 2  # far outside
    torch.testing.assert_close(out, x, rtol=0, atol=atol)


def test_what_leaves_at_an_edge_comes_back_from_it():
    """Shifted to the right by 6, the left 6 columns are the next 6, in mirror image."""
    picture = blob(*coordinates(), at=(3 - W / 2, 0.0))[None, None]
    shifted = warp(picture, IDENTITY, torch.tensor([[6.0, 0.0]]).double())
    torch.testing.assert_close(shifted[..., :6], shifted[..., 6:12].flip(-1), rtol=0, atol=0.02)


# how it behaves


def test_the_generator_decides_everything():
    x = noise(50, 1, 8, 8)
    torch.manual_seed(0)
    once, twice, other = augment(x, seeded(), 0.5), augment(x, seeded(), 0.5), augment(x, seeded(1), 0.5)
    assert torch.equal(once[0], twice[0])
    assert torch.equal(once[1], twice[1])
    assert not torch.equal(once[1], other[1])


@pytest.mark.parametrize("n", [1, 3, 17])
def test_a_picture_does_not_depend_on_those_after_it(n):
    x = noise(33, 1, 8, 8)
    everything, labels = augment(x, seeded(), 0.5)
    first, first_labels = augment(x[:n], seeded(), 0.5)
    assert torch.equal(first_labels, labels[:n])
    torch.testing.assert_close(first, everything[:n], rtol=0, atol=1e-5)


def test_as_many_numbers_are_drawn_whatever_happens():
    states = []
    for probability in (0.0, 0.12, 1.0):
        generator = seeded()
        augment(noise(20, 1, 4, 4), generator, probability)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_the_input_is_left_alone_and_its_dtype_kept():
    x = noise(40, 3, 8, 6)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given = x.to(dtype)
        out, labels = augment(given, seeded(), 0.5)
        assert (out.shape, out.dtype, labels.dtype) == (x.shape, dtype, dtype)
        assert torch.equal(given, x.to(dtype))
    assert [len(z) for z in augment(x[:0], seeded())] == [0, 0]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(1, 8, 8), {}, r"shape \(1, 8, 8\): give floating-point pictures, \(B, C, H, W\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), {}, r"x is torch.uint8 .* give floating-point pictures"),
        (torch.zeros(1, 1, 8, 8), {"probability": 1.5}, r"probability = 1.5: must be in \[0, 1\]"),
        (torch.zeros(1, 1, 8, 8), {"probability": -0.1}, r"probability = -0.1: must be in \[0, 1\]"),
        (torch.zeros(1, 1, 8, 8), {"probability": math.nan}, r"probability = nan: must be in \[0, 1\]"),
        (torch.zeros(1, 1, 8, 8), {"A_scale": 0.0}, r"A_scale = 0.0, .*: must be finite, and the first two above 0"),
        (torch.zeros(1, 1, 8, 8), {"A_aniso": -1.0}, r"A_aniso = -1.0, .*: must be finite, and the first two above 0"),
        (torch.zeros(1, 1, 8, 8), {"A_trans": math.nan}, r"A_trans = nan: must be finite, and the first two above 0"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(x, options, message):
    with pytest.raises(ValueError, match=message):
        augment(x, seeded(), **options)
