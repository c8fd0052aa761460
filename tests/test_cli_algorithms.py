"""coopmpi algorithms: everything that is registered can be found, with keys and sources."""

import re
from importlib.resources import files

import pytest
from click.testing import CliRunner

from coopmpi import registry
from coopmpi.cli.algorithms import command
from coopmpi.errors import UserError
from coopmpi.report import catalogue

ALGORITHMS = sorted(registry.parts("algorithm"))
OTHER_KINDS = ("optimizer", "schedule", "period", "graph", "compress", "task", "compute", "network")


def invoke(*arguments, columns=1000):
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def flat(text):
    return " ".join(text.split())


def entry_keys(text):
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_overview_and_story_tell_source_keys_and_state(name):
    cls = registry.find("algorithm", name)
    overview, story = flat(invoke("--all")), flat(invoke(name))
    assert cls.source in overview and cls.source in story
    for key in cls.__struct_fields__:
        assert f"{key} = " in overview and f"{key} " in story
    for slot in cls.slots:
        assert slot.purpose in story
    used = story.partition("uses: ")[2].partition(" Cooperative SGD form")[0]
    for table in ("period", "mixing", "compress"):
        assert (f"[{table}]" in used) == getattr(cls, f"uses_{table}")
    assert flat(cls.__doc__.partition("\n\n")[0]) in story


@pytest.mark.parametrize("width", [60, 80, 120])
def test_each_algorithm_has_a_line_in_its_family(width):
    lines = invoke(columns=width).splitlines()
    assert max(map(len, lines)) <= width
    lines = lines[:next(i for i, line in enumerate(lines) if line.startswith("coopmpi algorithms"))]
    families = [line.partition(":")[0] for line in lines if line and not line.startswith(" ")]
    assert families == list(catalogue.FAMILIES)
    family, listed = None, {}
    for line in lines:
        if line.startswith(" "):
            listed[line.split()[0]] = family
            assert width < 80 or catalogue.headline(registry.find("algorithm", line.split()[0])) in line
        elif line:
            family = line.partition(":")[0]
    assert listed == {name: registry.find("algorithm", name).family for name in ALGORITHMS}


def test_story_says_types_and_defaults():
    story = flat(invoke("easgd"))
    assert "alpha unset number, > 0, <= 1" in story and "overlap false boolean" in story


def test_headline_is_one_sentence_of_its_own_for_each():
    lines = [catalogue.headline(cls) for cls in registry.parts("algorithm").values()]
    assert all(lines) and len(set(lines)) == len(lines)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_bibtex_of_one_algorithm_is_what_its_class_names(name):
    cited = registry.find("algorithm", name).bibtex
    assert cited and entry_keys(invoke(name, "--bibtex")) == list(cited)


def test_every_reference_is_whole_and_cited():
    text = (files("coopmpi") / "references.bib").read_text()
    entries = catalogue.references()
    assert list(entries) == entry_keys(text) == entry_keys(invoke("--bibtex"))
    assert set(entries) == {key for cls in registry.parts("algorithm").values() for key in cls.bibtex}
    for entry in entries.values():
        assert entry.count("{") == entry.count("}") and entry.endswith("}")
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} += \{{.+", entry, re.MULTILINE), entry


def test_parts_lists_all_that_is_registered():
    text = flat(invoke("--parts"))
    for kind in OTHER_KINDS:
        for name, cls in registry.parts(kind).items():
            assert name in text
            for key, default, _ in catalogue.keys(cls):
                assert f"{key} = {default}" in text
    for name in ("metropolis", "best-constant", "teacher", "cnn", "dirichlet", "conv"):
        assert name in text


def test_unknown_name_is_refused_with_the_nearest():
    for arguments in (["easdg"], ["easdg", "--bibtex"]):
        with pytest.raises(UserError, match="did you mean 'easgd'"):
            invoke(*arguments)


def test_what_is_no_algorithm_is_refused():
    with pytest.raises(UserError, match="subclass of coopmpi.step.algorithm.Algorithm"):
        invoke("coopmpi.vocabulary:Record")
    with pytest.raises(UserError, match="--parts"):
        invoke("easgd", "--parts")
