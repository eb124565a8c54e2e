"""Table 2: filters found by least squares, and the pairs that are called alike."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import correlate

from ghostnas.errors import InputError
from ghostnas.paper import drawing, maps, redundancy
from ghostnas.paper.subjects import Subject

SIZE = 16


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (count, SIZE, SIZE))


def test_a_map_made_by_a_3x3_filter_is_found_by_it_and_not_by_1x1() -> None:
    pair = noise(2)
    kernel = np.random.default_rng(1).normal(size=(3, 3))
    pair[1] = correlate(pair[0], kernel, mode="constant")
    errors = {d: redundancy.fit_errors(pair, d)[0, 1] for d in (1, 3, 5)}
    assert errors[1] > 0.01
    assert errors[3] < 1e-9
    assert errors[5] < 1e-9


def test_the_error_is_that_of_the_best_filter() -> None:
    pair = noise(2)
    found = redundancy.fit_errors(pair, 3)[0, 1]
    rows = np.lib.stride_tricks.sliding_window_view(np.pad(pair[0], 1), (3, 3)).reshape(-1, 9)
    kernel, *_ = np.linalg.lstsq(rows, pair[1].ravel())
    assert found == pytest.approx(np.mean((rows @ kernel - pair[1].ravel()) ** 2))
    for seed in range(20):
        other = kernel + np.random.default_rng(seed).normal(0, 0.05, 9)
        assert np.mean((rows @ other - pair[1].ravel()) ** 2) > found


def test_larger_filters_never_leave_more() -> None:
    errors = [redundancy.fit_errors(noise(4), d) for d in redundancy.KERNELS]
    for smaller, larger in pairwise(errors):
        assert (larger <= smaller + 1e-12).all()


def test_the_most_alike_pairs_share_no_map_and_blank_maps_are_left_out() -> None:
    found_maps = noise(10)
    found_maps[7] = correlate(found_maps[2], np.full((3, 3), 0.1), mode="constant")
    found_maps[9] = 0.0
    found = redundancy.find(found_maps)
    assert {found.pairs[0].first, found.pairs[0].second} == {2, 7}
    used = [at for pair in found.pairs for at in (pair.first, pair.second)]
    assert len(set(used)) == 6
    assert 9 not in used
    assert found.blank == 1
    for pair in found.pairs:
        assert pair.mse[1] >= pair.mse[3] >= pair.mse[5] >= pair.mse[7]


def test_too_few_maps_that_vary_are_refused() -> None:
    with pytest.raises(InputError, match="of 5 maps vary"):
        redundancy.find(noise(5))


def test_a_network_with_random_weights_is_called_untrained_in_the_picture() -> None:
    seen = maps.look(Subject(network="resnet9", width=0.25), None, None, 32, 10)
    found = redundancy.of(seen)
    assert redundancy.to_json(found, seen)["trained"] is False
    assert "untrained" in redundancy.text(found, seen)
    assert "untrained" in drawing.svg(redundancy.figure1(found, seen))
