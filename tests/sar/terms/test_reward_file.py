"""Reward files: what is read, and the one line for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sar.terms.likelihood import Confidence, SelfAlignedReward
from sar.terms.reward_file import RewardFileError, read_reward_file
from sar.terms.verdict import Correctness


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reward.toml"


def test_a_file_is_read(file: Path) -> None:
    file.write_text(
        """
        group_size = 6
        normalize = "gdpo"
        [[terms]]
        term = "correctness"
        [[terms]]
        term = "sar"
        weight = 0.2
        only_if = "correct"
        [[terms]]
        term = "confidence"
        name = "sure"
        weight = -1
        """
    )
    composition = read_reward_file(file)
    assert (composition.group_size, composition.normalize) == (6, "gdpo")
    assert [(one.name, one.term, one.weight, one.only_if) for one in composition.terms] == [
        ("correctness", Correctness(), 1.0, None),
        ("sar", SelfAlignedReward(), 0.2, "correct"),
        ("sure", Confidence(), -1.0, None),
    ]


def test_a_term_of_the_users_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_terms.py").write_text(
        "from sar.terms.base import Sample, Term\n"
        "class Shouting(Term):\n"
        "    def __init__(self, scale: float = 1.0) -> None:\n"
        "        self.scale = scale\n"
        "    def score(self, sample: Sample) -> float:\n"
        "        return self.scale * sample.response.count('!')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text('[[terms]]\nterm = "my_terms:Shouting"\nscale = 2.5\n')
    (one,) = read_reward_file(file).terms
    assert one.name == "shouting"
    assert vars(one.term) == {"scale": 2.5}


OWN_OPTIONS = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from sar.terms.base import GroupTerm, Sample, Term

if TYPE_CHECKING:
    from nowhere import Thing

class Own(Term):
    def __init__(self, limit: int = 1, scale: float = 1.0, word: str = "", loud: bool = False,
                 words: list[str] = [], many: list = [], way: Literal["up", "down"] = "up",
                 maybe: int | None = None, table: dict[str, int] = {}, plain=0) -> None:
        self.options = {name: value for name, value in locals().items() if name != "self"}
    def score(self, sample: Sample) -> float:
        return 0.0

class Unresolved(Own):
    def __init__(self, limit: int, thing: Thing | None = None) -> None:
        self.options = {"limit": limit}

@dataclass(frozen=True)
class Together(GroupTerm):
    limit: int = 1
    def score_group(self, group):
        return [0.0] * len(group)
"""


@pytest.fixture
def own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_options.py").write_text(OWN_OPTIONS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_options")
@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        ("Own", 'limit = "12"', "limit = '12': must be a valid integer"),
        ("Own", "limit = 12.0", "limit = 12.0: must be a valid integer"),
        ("Own", "limit = true", "limit = True: must be a valid integer"),
        ("Own", 'scale = "0.5"', "scale = '0.5': must be a valid number"),
        ("Own", "word = 5", "word = 5: must be a valid string"),
        ("Own", "loud = 1", "loud = 1: must be a valid boolean"),
        ("Own", 'many = "abc"', "many = 'abc': must be a valid list"),
        ("Own", 'words = ["a", 5]', "words[2] = 5: must be a valid string"),
        ("Own", 'way = "left"', "way = 'left': must be 'up' or 'down'"),
        ("Together", 'limit = "12"', "limit = '12': must be a valid integer"),
    ],
)
def test_options_of_a_term_of_the_users_own_have_the_annotated_types(
    file: Path, kind: str, option: str, message: str
) -> None:
    file.write_text(f'[[terms]]\nterm = "own_options:{kind}"\n{option}\n')
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert str(error.value) == f"{file}: terms[1] 'own_options:{kind}': {message}"


@pytest.mark.usefixtures("own_options")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("limit = 12", 12),
        ("scale = 2", 2),
        ('words = ["a"]', ["a"]),
        ('many = [1, "a"]', [1, "a"]),
        ('way = "down"', "down"),
        ('maybe = "x"', "x"),
        ('table = {a = "x"}', {"a": "x"}),
        ('plain = "x"', "x"),
    ],
)
def test_options_with_the_right_type_or_an_annotation_that_is_not_simple_stay_as_they_are(
    file: Path, option: str, value: object
) -> None:
    file.write_text(f'[[terms]]\nterm = "own_options:Own"\n{option}\n')
    (one,) = read_reward_file(file).terms
    found = vars(one.term)["options"][option.split()[0]]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.usefixtures("own_options")
def test_annotations_that_cannot_be_read_are_left_alone(file: Path) -> None:
    file.write_text('[[terms]]\nterm = "own_options:Unresolved"\nlimit = "12"\n')
    (one,) = read_reward_file(file).terms
    assert vars(one.term) == {"options": {"limit": "12"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "terms is missing"),
        ("terms = []", "write [[terms]] for each term"),
        ('terms = ["sar"]', "write [[terms]] for each term"),
        ("x = " + "[" * 5000, "tables or lists are nested too deeply"),
        ("# " + "x" * (1 << 20), "larger than 1,048,576 bytes: not a reward file"),
        ("term = \"format\"\npattern = ''", "pattern = '': must have at least 1 character"),
        ("a b", "Expected '='"),
        ("extra = 1\n", "'extra' is unknown; known: terms, group_size, normalize"),
        ("[[term]]\nterm = 1", "write [[terms]] for each term, not [[term]]"),
        ("terms = 1", "write [[terms]] for each term"),
        ("[terms]\nterm = 1", "write [[terms]] with two brackets"),
        ("group_sise = 4\n[[terms]]", "'group_sise' is unknown; did you mean 'group_size'?"),
        ('term = "x"', "terms[1] 'x' is unknown; list them: python -m sar terms"),
        ('term = "SARR"', "terms[1] 'SARR' is unknown; did you mean 'sar'?"),
        ('term = "my_terms.Mine"', "a term of yours is written package.module:Class"),
        ('term = "format"', "terms[1] 'format': style: must be 'think', or set `pattern`"),
        ('term = "sar"\nwieght = 1', "terms[1] 'sar': 'wieght' is unknown; did you mean 'weight'?"),
        ('term = "sar"\ngroup_size = 4', "put group_size above the first [[terms]]"),
        ("weight = 1", "terms[1].term is missing"),
        ('term = "sar"\nweight = "much"', "terms[1].weight = 'much': must be a valid number"),
        ('term = "sar"\nweight = inf', "terms[1].weight = inf"),
        ('term = "sar"\nweight = nan', "terms[1].weight = nan: must be a finite number"),
        ('term = "sar"\nonly_if = "lucky"', "terms[1].only_if = 'lucky': must be 'correct' or"),
        ('term = "sar"\nname = "A b"', "terms[1].name = 'A b': must be a to z, 0 to 9 and _"),
        ('term = "sar"\nscale = 2', "terms[1] 'sar': 'scale' is unknown"),
        ('term = "sar"\n[[terms]]\nterm = "sar"', "two terms are called 'sar'"),
        ('term = "no_such_module:Term"', "cannot be imported: ModuleNotFoundError"),
        ('term = "json:no_such"', "cannot be imported: AttributeError"),
        ('term = "json:dumps"', "is no subclass of"),
        ('term = "pathlib:Path"', "is no subclass of"),
    ],
)
def test_what_is_wrong_is_one_line(file: Path, text: str, message: str) -> None:
    if text.startswith(("term =", "weight =")):
        text = f"[[terms]]\n{text}"
    elif text.startswith("extra"):
        text += '[[terms]]\nterm = "sar"'
    file.write_text(text)
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Exits", "terms[1] 'own_terms:Exits': SystemExit: bye"),
        ("Both", "derives from both Term and GroupTerm"),
        ("Ä", "set `name`, which must be a to z"),
        ("Text", "needs = 'self_certainty': must be a set"),
        ("Other", "needs 'logits', which is unknown; known: reference_gain, self_certainty"),
        ("Waiting", "max_concurrency = 0: must be 1 or more"),
        ("Broken", "terms[1] 'own_terms:Broken': KeyError: 'needs'"),
    ],
)
def test_a_term_of_the_users_own_that_cannot_be_used(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "own_terms.py").write_text(
        "from sar.terms.base import GroupTerm, Term\n"
        "class Half(Term):\n"
        "    def score(self, sample): return 0.5\n"
        "class Exits(Half):\n"
        "    def __init__(self): raise SystemExit('bye')\n"
        "class Both(Half, GroupTerm):\n"
        "    def score_group(self, group): return [0.5 for _ in group]\n"
        "class Ä(Half): pass\n"
        "class Waiting(Half): is_remote, max_concurrency = True, 0\n"
        "class Text(Half): needs = 'self_certainty'\n"
        "class Other(Half): needs = {'logits'}\n"
        "class Broken(Half): needs = property(lambda self: {}['needs'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text(f'[[terms]]\nterm = "own_terms:{name}"\n')
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert message in str(error.value)


def test_a_module_that_ends_the_process(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script without a guard around its main function, for example."""
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text('[[terms]]\nterm = "script:Mine"\n')
    with pytest.raises(RewardFileError, match="cannot be imported: SystemExit: 0"):
        read_reward_file(file)


def test_a_file_as_an_editor_on_windows_writes_it(file: Path) -> None:
    file.write_bytes('\ufeff[[terms]]\r\nterm = "sar"\r\n'.encode())
    assert read_reward_file(file).formula == "sar"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("group_size = 1", "group_size = 1: must be"),
        ("group_size = 4", "no term compares rollouts"),
        ('normalize = "gdpo"', 'normalize = "gdpo" compares rollouts: set group_size'),
        ('normalize = "mean"', "normalize = 'mean': must be 'none' or 'gdpo'"),
    ],
)
def test_groups_are_declared_where_they_are_needed(file: Path, head: str, message: str) -> None:
    file.write_text(f'{head}\n[[terms]]\nterm = "sar"\n')
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RewardFileError, match="No such file"):
        read_reward_file(tmp_path / "none.toml")
    with pytest.raises(RewardFileError, match="Is a directory"):
        read_reward_file(tmp_path)
    (tmp_path / "latin.toml").write_bytes("# gewöhnlich".encode("latin-1"))
    with pytest.raises(RewardFileError, match=r"latin.toml: not a text in UTF-8"):
        read_reward_file(tmp_path / "latin.toml")


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RewardFileError, match="a pipe or a device, not a file"):
            read_reward_file(path)
