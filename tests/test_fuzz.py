"""Malformed inputs by the thousand: every one ends with a result or with a sentence, within seconds."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from benchmarks.fuzz import WORDS, Cases, outcome

ENDS = ("done", "refused", "failed")
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    before = os.getcwd()
    os.chdir(folder)
    yield Cases(folder)
    os.chdir(before)


@pytest.mark.parametrize("kind, number", [("words", 300), ("graph", 200), ("description", 300), ("data", 400),
                                          ("result", 100)])
def test_every_case_is_answered(cases, kind, number):
    @settings(max_examples=number, **SETTINGS)
    @given(some.randoms(use_true_random=False))
    def answered(draw):
        arguments = getattr(cases, f"_{kind}")(draw)
        end = outcome(arguments)
        assert end in ENDS, (arguments, end)

    answered()


TEXT = some.text(some.characters(exclude_characters="\0", exclude_categories=()), max_size=40)
VALUES = some.recursive(some.one_of(some.integers(), some.floats(), some.booleans(), TEXT.map(repr),
                                    some.sampled_from(WORDS)),
                        lambda inner: some.lists(inner, max_size=4), max_leaves=8).map(str)


def test_any_value_of_any_key_is_answered(cases):
    @settings(max_examples=600, **SETTINGS)
    @given(some.sampled_from(cases.keys), VALUES)
    def answered(key, value):
        end = outcome(["train", "--dry-run", f"--set={key}={value}"])
        assert end in ENDS, (key, value, end)

    answered()


def test_any_text_is_answered_as_run_description_mixing_and_trace(cases):
    @settings(max_examples=200, **SETTINGS)
    @given(TEXT)
    def answered(text):
        (cases.folder / "any.txt").write_text(text, errors="surrogatepass")
        for arguments in (["train", "--dry-run", "any.txt"], ["graph", "any.txt"],
                          ["simulate", "--dry-run", "--set=compute.kind=trace", "--set=compute.file=any.txt"]):
            end = outcome(arguments)
            assert end in ENDS, (arguments, text, end)

    answered()
