"""Cleaning up: the first error stays, every step is done, what fails besides is a note."""

from __future__ import annotations

import inspect

import pytest

import qwenvl.cleanup
import wsi.cleanup
from wsi.cleanup import clean_up, cleaning_up


def fails(words: str) -> None:
    raise OSError(words)


def test_the_first_error_is_raised_and_the_others_are_notes() -> None:
    done: list[str] = []
    with (
        pytest.raises(ValueError, match="the first") as caught,
        cleaning_up(lambda: fails("second"), lambda: done.append("third"), lambda: fails("fourth")),
    ):
        raise ValueError("the first")
    assert done == ["third"]
    assert [note.rpartition(" ")[2] for note in caught.value.__notes__] == ["second", "fourth"]


def test_an_error_of_cleaning_up_alone_is_raised() -> None:
    done: list[str] = []
    with (
        pytest.raises(OSError, match="close") as caught,
        cleaning_up(lambda: fails("close"), lambda: done.append("unlink"), lambda: fails("rmdir")),
    ):
        pass
    assert done == ["unlink"]
    assert "rmdir" in caught.value.__notes__[0]
    clean_up(None)


def test_both_foundations_have_the_same_text() -> None:
    one, other = (inspect.getsource(each).split('"""', 2)[2] for each in (wsi.cleanup, qwenvl.cleanup))
    assert one == other
