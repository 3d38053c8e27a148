"""Fixtures: the image, built once, and containers of it."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import container
import postgres
import walkeeper

NewContainer = Callable[..., container.Container]

USERS = range(20_000, 60_000)  # nobody has them, in the image nor here


@pytest.fixture(scope="session")
def image() -> Iterator[container.Image]:
    """The image of this very tree."""
    with postgres.workspace("image-") as directory:
        builder = container.Builder.at(directory)
        try:
            yield builder.build(VERSION=walkeeper.__version__, REVISION=revision())
        finally:
            builder.remove()


def revision() -> str:
    """Of the tree, if git knows one."""
    command = ["git", "-C", str(container.ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@pytest.fixture
def new_container(image: container.Image, work_directory: Path) -> Iterator[NewContainer]:
    """Make containers of a random user, who owns their data directory: `new_container(*words, **variables)`."""
    with ExitStack() as stack:
        count = 0

        def make(
            *words: str, entry: list[str] | None = None, user: int | None = None, **variables: str
        ) -> container.Container:
            nonlocal count
            count += 1
            data = work_directory / f"data{count}"
            data.mkdir(mode=0o700)
            chosen = random.choice(USERS) if user is None else user
            os.chown(data, chosen, chosen)
            program = image.config["Entrypoint"] if entry is None else entry
            command = container.entering(image, data, chosen, words, variables, program)
            log = work_directory / f"container{count}.log"
            return stack.enter_context(container.Container(f"container {count}", command, log))

        yield make
