import numpy as np

from convatlas.tracking.media import MATRIX_PIXELS, matrix_picture


def test_a_cell_of_the_matrix_is_as_dark_as_its_share_of_the_row() -> None:
    picture = matrix_picture([[3, 1], [0, 0]])
    half = MATRIX_PIXELS // 2
    assert picture.dtype == np.uint8
    assert picture.shape == (MATRIX_PIXELS, MATRIX_PIXELS)
    assert [int(picture[row, column]) for row in (0, half) for column in (0, half)] == [64, 191, 255, 255]


def test_a_matrix_of_many_classes_has_a_pixel_a_cell() -> None:
    assert matrix_picture(np.eye(1000, dtype=int).tolist()).shape == (1000, 1000)
