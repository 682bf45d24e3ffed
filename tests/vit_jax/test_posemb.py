"""Position tables on another grid."""

import numpy as np
import pytest

from train_jax.errors import UserError
from vit_jax.posemb import infer_grid, resize_posemb

CASES = ["14_24", "24_14", "7_12", "4_6", "3_8", "16_37", "14_32"]


@pytest.mark.parametrize("kind", ["tok", "gap"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_original(data_dir, case, kind):
    with np.load(data_dir / "vit" / "interpolate_posembed.npz") as file:
        table, expected = file[f"{case}_{kind}/in"], file[f"{case}_{kind}/out"]
    old, new = map(int, case.split("_"))
    resized = resize_posemb(
        table, old_grid=(old, old), new_grid=(new, new), has_class_row=kind == "tok"
    )
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-6)
    if kind == "tok":
        np.testing.assert_array_equal(resized[:, 0], table[:, 0])


def bilinear(table, old, new):
    """The definition: corners on corners, linear in both directions."""
    grid = table[0].reshape(*old, -1).astype(np.float64)
    out = np.empty((*new, grid.shape[-1]))
    for i in range(new[0]):
        for j in range(new[1]):
            y = i * (old[0] - 1) / max(new[0] - 1, 1)
            x = j * (old[1] - 1) / max(new[1] - 1, 1)
            y0, x0 = min(int(y), old[0] - 1), min(int(x), old[1] - 1)
            y1, x1 = min(y0 + 1, old[0] - 1), min(x0 + 1, old[1] - 1)
            top = grid[y0, x0] * (1 - (x - x0)) + grid[y0, x1] * (x - x0)
            bottom = grid[y1, x0] * (1 - (x - x0)) + grid[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out.reshape(1, -1, grid.shape[-1])


@pytest.mark.parametrize(
    ("old", "new"), [((4, 6), (7, 5)), ((3, 8), (6, 4)), ((1, 5), (3, 9)), ((5, 5), (1, 1))]
)
def test_rectangular_grids(old, new):
    table = np.random.default_rng(0).standard_normal((1, old[0] * old[1], 3)).astype(np.float32)
    resized = resize_posemb(table, old_grid=old, new_grid=new, has_class_row=False)
    np.testing.assert_allclose(resized, bilinear(table, old, new), rtol=0, atol=1e-6)


def test_the_same_grid_changes_no_bit():
    table = np.random.default_rng(0).standard_normal((1, 17, 3)).astype(np.float32)
    same = resize_posemb(table, old_grid=(4, 4), new_grid=(4, 4), has_class_row=True)
    assert same.tobytes() == table.tobytes()


def test_a_linear_ramp_stays_one():
    """Bilinear interpolation reproduces what is linear; the corners stay where they were."""
    table = np.linspace(0, 1, 4, dtype=np.float32).repeat(5).reshape(1, 20, 1)
    resized = resize_posemb(table, old_grid=(4, 5), new_grid=(7, 2), has_class_row=False)
    np.testing.assert_allclose(resized[0, :, 0], np.linspace(0, 1, 7).repeat(2), atol=1e-6)


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(UserError, match="17 rows for patches, not the 16 of a 4x4 grid"):
        resize_posemb(
            np.zeros((1, 17, 2), np.float32),
            old_grid=(4, 4),
            new_grid=(6, 6),
            has_class_row=False,
        )


def test_only_squares_are_inferred():
    assert infer_grid(196, where="The model") == (14, 14)
    for rows in (0, 197, 24):
        with pytest.raises(UserError, match=f"The model .* {rows} patches, which is not a square"):
            infer_grid(rows, where="The model")
