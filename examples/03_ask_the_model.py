"""Ask the built-in model about a scene it has not seen, and draw its boxes.

    python examples/03_ask_the_model.py [PICTURE]

Writes PICTURE (answer.png): targets in green, the model's boxes in red.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from virft.data.images import load_image
from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.evaluation.predict import generate_predictions
from virft.generation.hf_generator import HFGenerator
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.load import load_model
from virft.models.policy import make_policy
from virft.models.tiny import IMAGE_SIZE
from virft.report.render.images import draw_answer
from virft.scenes.sets import SceneKind
from virft.tasks import TASKS


def main(picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        write_test_scenes(
            data, task="detection", classes=["dog", "apple"], num_questions=1, kind=SceneKind.SAME_SPRITES,
            seed=0, negatives_frac=0.0, size=IMAGE_SIZE,
        )  # fmt: skip
        sample = Store(data)[0]
        loaded = load_model("virft-tiny")
        policy = make_policy(loaded, temperature=1.0)
        (((prediction, resized),),) = generate_predictions(
            [[sample]],
            render=make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False)),
            encode=policy.encode_images,
            generator=HFGenerator(policy, loaded.tokenizer),
            max_completion_tokens=128,
        )
        task, space = TASKS[sample.task], loaded.family.box_space
        reading = task.read_for(prediction.text, sample, thinking=False, space=space, resized=resized)
        print(f"Where is every {sample.query}?\n{prediction.text}\n{reading.answer}")
        image = load_image(sample.images[0])
        draw_answer(image, sample.target, reading.answer, task=sample.task, side=448).save(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "answer.png"))
