"""``python -m virft``, for launchers that want a module: ``accelerate launch -m virft predict ...``."""

from virft.cli.main import run

run()
