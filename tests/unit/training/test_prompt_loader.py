"""Images that are read ahead: the same bits, the same errors, no image that is not needed, no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from toy_training import ToyPolicy
from virft.data.images import load_image
from virft.errors import DataError
from virft.models.load import LoadedModel, load_model
from virft.models.renderer import RenderedPrompt, Renderer
from virft.models.tiny import TINY_NAME
from virft.models.vision import FeatureCache, ImageFeatures
from virft.training.policy_runner import PolicyRunner
from virft.training.prompt_loader import PromptLoader, default_num_workers
from virft.types import Augmentation, Detections, ImageSize, Sample

SIZE = ImageSize(90, 70)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(TINY_NAME)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.effect_noise(SIZE, 40 + number).convert("RGB").save(path)
        flip = Augmentation(crop=(5, 5, 80, 60), horizontal_flip=bool(number % 2), saturation=1.1)
        made.append(
            Sample(
                id=f"{number}",
                task="detection",
                images=(str(path),),
                image_sizes=(SIZE,),
                query="fox",
                target=Detections(),
                augmentation=flip if number > 1 else None,
            )
        )
    return made


class Reader:
    """Renders samples, and records the thread in which each image is read."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.threads: list[str] = []
        self._renderer = Renderer(loaded, self._load)

    def _load(self, path: str, augmentation: Augmentation | None) -> Image.Image:
        self.threads.append(threading.current_thread().name)
        return load_image(path, augmentation)

    def __call__(self, sample: Sample) -> RenderedPrompt:
        return self._renderer.render(sample, "Detect fox.")


def always(one: RenderedPrompt) -> bool:
    return True


@pytest.fixture
def reader(tiny: LoadedModel) -> Reader:
    return Reader(tiny)


@pytest.fixture
def loader(reader: Reader) -> Iterator[PromptLoader]:
    made = PromptLoader(reader, always, num_workers=2)
    yield made
    made.close()


def ids(prompts: Sequence[RenderedPrompt]) -> list[str]:
    return [one.prompt.sample_id for one in prompts]


def test_prefetched_prompts_have_the_bits_of_those_rendered_in_the_calling_thread(
    loader: PromptLoader, reader: Reader, tiny: LoadedModel, samples: list[Sample]
) -> None:
    loader.prefetch(lambda: samples)
    found = loader.load(list(samples))
    assert len(reader.threads) == 4 and all(one.startswith("images") for one in reader.threads)
    for one, sample in zip(found, samples, strict=True):
        alone = Reader(tiny)(sample)
        assert one.prompt == alone.prompt
        assert torch.equal(one.positions, alone.positions)
        assert torch.equal(one.vision.pixel_values, alone.vision.pixel_values)
        assert torch.equal(one.vision.per_image["grid_thw"], alone.vision.per_image["grid_thw"])
    assert len(reader.threads) == 4, "an image is read once"


def test_without_workers_images_are_read_in_the_calling_thread_and_nothing_ahead(
    reader: Reader, samples: list[Sample]
) -> None:
    loader = PromptLoader(reader, always, num_workers=0)
    loader.prefetch(lambda: samples)
    assert reader.threads == []
    assert ids(loader.load(samples)) == ["0", "1", "2", "3"]
    assert reader.threads == [threading.current_thread().name] * 4
    loader.close()


def test_samples_that_were_not_prefetched_are_rendered(loader: PromptLoader, samples: list[Sample]) -> None:
    loader.prefetch(lambda: samples[:2])
    assert ids(loader.load(samples[2:])) == ["2", "3"]
    # groups of dynamic sampling come between a prefetched step and that step
    assert ids(loader.load(samples[:2])) == ["0", "1"]
    other = replace(samples[3], augmentation=None)
    loader.prefetch(lambda: samples[3:])
    (one,) = loader.load([other])
    assert one.prompt.images[0].augmentation is None


def test_a_faulty_image_is_an_error_of_its_own_step(
    loader: PromptLoader, reader: Reader, samples: list[Sample]
) -> None:
    Path(samples[1].images[0]).write_bytes(b"no image")
    with pytest.raises(DataError) as expected:
        _ = reader(samples[1]).vision
    loader.prefetch(lambda: samples)
    assert ids(loader.load(samples[2:])) == ["2", "3"]
    with pytest.raises(DataError) as found:
        loader.load(samples)
    assert str(found.value) == str(expected.value) != ""


def test_a_sample_that_cannot_be_rendered_is_an_error_of_its_own_step(
    loader: PromptLoader, samples: list[Sample]
) -> None:
    narrow = replace(samples[0], image_sizes=(ImageSize(1000, 4),))
    loader.prefetch(lambda: [narrow])
    with pytest.raises(DataError, match="aspect ratio"):
        loader.load([narrow])

    def unreadable() -> list[Sample]:
        raise DataError("samples.jsonl:3: no JSON")

    loader.prefetch(unreadable)
    assert ids(loader.load(samples[:1])) == ["0"]


def test_an_image_that_was_replaced_by_one_of_another_size_is_refused(reader: Reader, samples: list[Sample]) -> None:
    Image.new("RGB", (40, 30)).save(samples[0].images[0])
    with pytest.raises(DataError, match="has 40 x 30 pixels upright; expected 90 x 70, as the sample says"):
        _ = reader(samples[0]).vision


class Tower(ToyPolicy):
    """A tower that looks at the pixels."""

    def encode_images(self, prompts: Any) -> Any:
        return [ImageFeatures(tokens=(one.pixel_values.mean(0, keepdim=True),)) for one in prompts]


def test_images_whose_features_are_cached_are_not_read(reader: Reader, samples: list[Sample]) -> None:
    policy: Any = Tower()
    runner = PolicyRunner(policy=policy, feature_cache=FeatureCache())
    loader = PromptLoader(reader, runner.needs_pixels, num_workers=1)
    first = runner.encode_images(loader.load(samples[:2]))
    loader.prefetch(lambda: samples[:2])
    again = runner.encode_images(loader.load(samples[:2]))
    assert len(reader.threads) == 2
    assert all(torch.equal(one.tokens[0], other.tokens[0]) for one, other in zip(first, again, strict=True))
    # an augmented image is another one each time
    runner.encode_images(loader.load(samples[2:]))
    runner.encode_images(loader.load(samples[2:]))
    assert len(reader.threads) == 6
    loader.close()


def test_an_image_whose_features_were_evicted_meanwhile_is_read_after_all(
    reader: Reader, samples: list[Sample]
) -> None:
    policy: Any = Tower()
    small = PolicyRunner(policy=policy, feature_cache=FeatureCache(max_bytes=1))
    loader = PromptLoader(reader, small.needs_pixels, num_workers=1)
    small.encode_images(loader.load(samples[:1]))
    cached, other = loader.load(samples[:1]), loader.load(samples[1:2])
    assert len(reader.threads) == 2
    small.encode_images(other)
    (found,) = small.encode_images(cached)
    assert len(reader.threads) == 3
    plain = PolicyRunner(policy=policy).encode_images(cached)
    assert torch.equal(found.tokens[0], plain[0].tokens[0])
    loader.close()


def test_close_ends_the_threads_and_drops_images_that_are_not_begun(tiny: LoadedModel, samples: list[Sample]) -> None:
    may_read = threading.Event()
    read = []

    def slow(path: str, augmentation: Augmentation | None) -> Image.Image:
        may_read.wait(10)
        read.append(path)
        return load_image(path, augmentation)

    renderer = Renderer(tiny, slow)
    loader = PromptLoader(lambda one: renderer.render(one, "?"), always, num_workers=1)
    loader.prefetch(lambda: samples)
    threading.Timer(0.1, may_read.set).start()
    loader.close()
    assert len(read) <= 1
    assert not [one for one in threading.enumerate() if one.name.startswith("images")]


def test_what_is_prefetched_twice_is_of_the_last_step_only(tiny: LoadedModel, samples: list[Sample]) -> None:
    may_read = threading.Event()
    read = []

    def slow(path: str, augmentation: Augmentation | None) -> Image.Image:
        may_read.wait(10)
        read.append(Path(path).stem)
        return load_image(path, augmentation)

    renderer = Renderer(tiny, slow)
    loader = PromptLoader(lambda one: renderer.render(one, "?"), always, num_workers=1)
    loader.prefetch(lambda: samples[:2])
    loader.prefetch(lambda: samples[2:])
    may_read.set()
    loader.load(samples[2:])
    assert "1" not in read
    loader.close()


def test_only_a_gpu_leaves_cores_for_reading_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    assert default_num_workers(torch.device("cpu")) == 0
    assert default_num_workers(torch.device("cuda", 0)) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")  # two cores each, one of them for the process itself
    assert default_num_workers(torch.device("cuda", 0)) == 1
