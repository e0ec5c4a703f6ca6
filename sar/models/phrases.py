"""The words of the toy word problems: owners, items, events, and filler.

In the templates, `{sum}` is an equation such as `3 + 4 = 7`, `{n}` is the number in an event, and
`{he}`, `{him}`, `{his}` are the owner's pronouns.
"""

from typing import NamedTuple

HE = ("He", "he", "him", "his")
SHE = ("She", "she", "her", "her")
MEN = (
    "Tom", "Ben", "Sam", "Leo", "Max", "Omar", "Ivan", "Raj",
    "Hugo", "Felix", "Noah", "Paul", "Luis", "Kofi", "Erik", "Adam",
)  # fmt: skip
WOMEN = (
    "Mia", "Ana", "Lily", "Zoe", "Emma", "Nora", "Priya", "Sara",
    "Ruth", "Lena", "Yuki", "Ella", "Maya", "Rosa", "Ines", "Kate",
)  # fmt: skip
NAMES = dict.fromkeys(MEN, HE) | dict.fromkeys(WOMEN, SHE)
ITEMS = (
    "apples", "pears", "plums", "lemons", "cookies", "muffins", "candies", "marbles",
    "pencils", "crayons", "stickers", "stamps", "coins", "cards", "books", "shells",
    "stones", "balloons", "beads", "buttons", "flowers", "tickets", "toys", "eggs",
)  # fmt: skip
HOLDERS = ("box", "boxes"), ("bag", "bags"), ("basket", "baskets"), ("jar", "jars")


class Move(NamedTuple):
    """Templates for one arithmetic step."""

    symbol: str
    events: tuple[str, ...]
    """Sentences of the question that tell what happens."""
    steps: tuple[str, ...]
    """Sentences of the response that compute the result."""
    questions: tuple[str, ...]
    """Sentences that ask for the result of the last step."""


HOW_MANY_NOW = (
    "How many {items} does {name} have now?",
    "How many {items} does {he} have in the end?",
    "How many {items} are there now?",
)
OWNER_STEPS = (
    "{name} has {sum} {items}.",
    "Now {he} has {sum} {items}.",
    "This makes {sum} {items}.",
)

STARTS = (
    "{name} has {n} {items}.",
    "{name} starts with {n} {items}.",
    "In the morning {name} has {n} {items}.",
    "{name} owns {n} {items}.",
)
GROUPS = Move(
    "*",
    (
        "{name} has {n} {holders} with {value} {items} in each.",
        "{name} fills {n} {holders} with {value} {items} each.",
        "There are {value} {items} in a {holder} and {name} has {n} {holders}.",
    ),
    OWNER_STEPS,
    HOW_MANY_NOW,
)
MOVES = (
    Move(
        "+",
        (
            "{He} buys {n} more.",
            "{friend} gives {him} {n} more {items}.",
            "Then {he} finds {n} {items}.",
            "{He} gets {n} more from {friend}.",
        ),
        OWNER_STEPS,
        HOW_MANY_NOW,
    ),
    Move(
        "-",
        (
            "{He} gives {n} {items} to {friend}.",
            "{He} loses {n} of them.",
            "Then {he} sells {n} {items}.",
            "{friend} takes {n} of {his} {items}.",
        ),
        (*OWNER_STEPS, "{name} keeps {sum} {items}."),
        (*HOW_MANY_NOW, "How many {items} are left?"),
    ),
    Move(
        "*",
        ("A week later {he} has {n} times as many.", "{His} {items} become {n} times as many."),
        OWNER_STEPS,
        HOW_MANY_NOW,
    ),
    Move(
        "/",
        (
            "{He} shares them equally among {n} friends.",
            "{He} splits the {items} equally between {n} friends.",
        ),
        ("Each friend gets {sum} {items}.", "One friend gets {sum} {items}."),
        ("How many {items} does each friend get?", "How many {items} go to one friend?"),
    ),
    Move(
        "/",
        (
            "{He} puts them equally into {n} {holders}.",
            "{He} packs all {items} into {n} equal {holders}.",
        ),
        ("Each {holder} holds {sum} {items}.", "One {holder} has {sum} {items}."),
        ("How many {items} are in each {holder}?", "How many {items} does one {holder} hold?"),
    ),
)

OPENINGS = (
    "Okay, let me think about this step by step.",
    "Let us go through the problem slowly and carefully.",
    "Alright, this is a problem about {items}.",
    "First I want to understand what the question is asking.",
    "To solve this, we have to look at every number in turn.",
    "Hmm, let me read the question one more time.",
)
RESTATEMENTS = (
    "The problem tells us this: {fact}",
    "So what do we know? {fact}",
    "We are told the following. {fact}",
    "I read here: {fact}",
)
HEDGES = (
    "Wait, is that right? Yes, I think it is.",
    "Hmm, I should check this before I go on.",
    "That seems to be correct, as far as I can see.",
    "So far, so good.",
    "I am fairly sure about this, but let me make sure.",
    "This is an important step, so let us keep it in mind.",
    "Maybe there is another way to see it, but this one works well.",
)
REPEATS = (
    "To say it again: {step}",
    "In other words: {step}",
    "Let me repeat that: {step}",
    "As we have just seen: {step}",
)
CLOSINGS = (
    "So, after going through all of it, we have found the result.",
    "Let me double check. Yes, everything fits, so I am done.",
    "Putting all of this together, we can now give the final answer.",
    "That means the answer to the question is {answer}, I believe.",
    "Therefore, as shown above, the result is {answer}.",
)
