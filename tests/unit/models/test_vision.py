"""Vision inputs and features; the feature cache is bounded, without gradient, least recently used first out."""

from __future__ import annotations

import torch

from virft.models.vision import FeatureCache, ImageFeatures, VisionInputs

KILOBYTE = 256  # numbers of float32


def features(value: float, numbers: int = KILOBYTE) -> ImageFeatures:
    return ImageFeatures(tokens=(torch.full((numbers,), value),))


def grid(*rows: list[int]) -> dict[str, torch.Tensor]:
    return {"grid_thw": torch.tensor(rows)}


def value(found: ImageFeatures) -> float:
    return found.tokens[0][0].item()


def test_an_image_is_encoded_once() -> None:
    cache = FeatureCache()
    assert value(cache.get("a", lambda: features(1.0))) == 1.0
    assert value(cache.get("a", lambda: features(2.0))) == 1.0
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    cache = FeatureCache(max_bytes=2048)
    for key in "ab":
        cache.get(key, lambda: features(1.0))
    cache.get("a", lambda: features(9.0))
    cache.get("c", lambda: features(1.0))  # b goes
    assert value(cache.get("a", lambda: features(2.0))) == 1.0
    assert value(cache.get("b", lambda: features(2.0))) == 2.0


def test_one_entry_is_cached_even_if_it_exceeds_the_limit() -> None:
    cache = FeatureCache(max_bytes=10)
    cache.get("a", lambda: features(1.0))
    assert value(cache.get("a", lambda: features(2.0))) == 1.0


def test_cached_features_have_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)
    found = FeatureCache().get("a", lambda: ImageFeatures(tokens=(weight * 2,)))
    assert not found.tokens[0].requires_grad


def test_num_bytes_includes_deepstack_features() -> None:
    tensor = torch.zeros(3, 5)
    # (1 + 2) x 15 numbers x 4 bytes
    assert ImageFeatures(tokens=(tensor,), deep=((tensor,), (tensor,))).num_bytes == 180


def test_detached_features_have_the_same_values() -> None:
    weight = torch.ones(1, requires_grad=True)
    found = ImageFeatures(tokens=(weight * 3,), deep=((weight * 4,),)).detach()
    assert (found.tokens[0].item(), found.deep[0][0].item()) == (3.0, 4.0)
    assert not (found.tokens[0].requires_grad or found.deep[0][0].requires_grad)


def test_inputs_move_to_a_device() -> None:
    inputs = VisionInputs(pixel_values=torch.zeros(4, 2), per_image=grid([1, 2, 2])).to(torch.device("meta"))
    assert inputs.pixel_values.device.type == inputs.per_image["grid_thw"].device.type == "meta"


def test_split_undoes_join() -> None:
    joined = VisionInputs.join(
        [
            VisionInputs(pixel_values=torch.zeros(16, 6), per_image=grid([1, 4, 4])),
            VisionInputs(pixel_values=torch.ones(8, 6), per_image=grid([1, 2, 2], [1, 2, 2])),
        ]
    )
    assert joined.pixel_values.sum(1).tolist() == [0.0] * 16 + [6.0] * 8
    assert joined.per_image["grid_thw"].tolist() == [[1, 4, 4], [1, 2, 2], [1, 2, 2]]
    assert joined.num_images == 3
    a, b, c, d, e, f = (torch.tensor([float(i)]) for i in range(6))
    first, second = ImageFeatures(tokens=(a, b, c), deep=((d, e, f),)).split([1, 2])
    assert (first.tokens, first.deep) == ((a,), ((d,),))
    assert (second.tokens, second.deep) == ((b, c), ((e, f),))
