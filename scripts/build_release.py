"""Build the source archive and the wheel of the checked-out commit twice, and fail unless both have the same bytes.

    python scripts/build_release.py dist      # `make dist`

Each build is made from a separate clone in a separate folder, so that no uncommitted file and no path of the machine is
in it. The wheel is built from the archive, which proves that the archive is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(checkout: Path, folder: Path) -> dict[str, bytes]:
    """Build archive and wheel of a checkout's commit; return their bytes by name. ``folder``: place of the clone."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(checkout), str(folder)], check=True)
    committed_s = subprocess.run(
        ["git", "-C", str(folder), "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True
    ).stdout.strip()
    out = folder / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # Without a .gitignore, bytecode files next to the sources would count as changes of the commit.
    environment |= {"SOURCE_DATE_EPOCH": committed_s, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"build_release.py: the build failed\n{done.stdout}{done.stderr}")
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def main() -> None:
    """Build twice, compare, and save one of the builds in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        first = build(ROOT, Path(scratch) / "a")
        second = build(ROOT, Path(scratch) / "a folder of another name" / "b")
    if different := [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]:
        raise SystemExit(f"build_release.py: two builds of one commit differ in {', '.join(sorted(different))}")
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    for name, data in first.items():
        (given.out / name).write_bytes(data)
        print(f"{hashlib.sha256(data).hexdigest()}  {name}  {len(data) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
