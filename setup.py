"""The wheel carries the workflow: what a clone has beside the package is copied to ``medseg/_workflow`` in it.

Everything else of the build stands in pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# As they lie in a clone: the files of the rules name others relative to themselves.
CARRIED = ("Snakefile", "environment.yml", "workflow", "config", "profiles")


class BuildWithWorkflow(build_py):
    """Copies the package, and what it carries beside."""

    def run(self) -> None:
        """Build; an editable installation finds the workflow in the clone."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "medseg", "_workflow")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in CARRIED:
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy
            copy(name, target / name)


setup(cmdclass={"build_py": BuildWithWorkflow})
