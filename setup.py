"""Map the top folders of the repository to the packages `rlready.<folder>`.

`registry` and `testbed` are names that a user's own code is likely to have in site-packages
already. `rlready` itself is a namespace without code. Only this mapping needs a setup.py, as
pyproject.toml cannot search a folder for packages under another name; the rest stands there.
"""

from setuptools import find_packages, setup

FOLDERS = ("registry", "evaluators", "predictors", "testbed", "workflow")

setup(
    package_dir={f"rlready.{folder}": folder for folder in FOLDERS},
    packages=[
        f"rlready.{package}"
        for folder in FOLDERS
        for package in (folder, *(f"{folder}.{room}" for room in find_packages(folder)))
    ],
)
