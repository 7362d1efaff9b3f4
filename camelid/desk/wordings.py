"""How the instructions ask: wordings that occur in tuning, and others kept back as a harder test.

None of them occurs in the seven sources (tested). `{s}` is the subject; other fields belong to the task. A wording of a fact
that has no `{s}` takes the subject as the instruction's input.
"""

from __future__ import annotations

from collections.abc import Mapping

TUNING: Mapping[str, tuple[str, ...]] = {
    "home": ("Tell me where {s} lives.", "Name the town that {s} calls home.", "In which town would I find {s}?",
             "State the home of {s}.", "Say where this person lives."),
    "trade": ("Tell me what {s} works as.", "Name the trade of {s}.", "Which trade does {s} follow?",
              "State the work of {s}.", "Say what this person works as."),
    "pet": ("Tell me what pet {s} keeps.", "Name the animal that {s} keeps.", "Which animal would I see at home with {s}?",
            "State the pet of {s}.", "Say what pet this person keeps."),
    "food": ("Tell me what {s} likes to eat.", "Name the food that {s} likes.", "Which food would I give to {s}?",
             "State the food of {s}.", "Say what food this person likes."),
    "friend": ("Tell me who the friend of {s} is.", "Name the friend of {s}.", "Which person is a friend of {s}?",
               "State the friend of {s}.", "Say who is a friend of this person."),
    "region": ("Tell me where {s} lies.", "Name the region of {s}.", "In which region would I find {s}?",
               "State the region of {s}.", "Say in which region this town lies."),
    "flag": ("Tell me the colour of the flag of {s}.", "Name the colour of the flag of {s}.", "Which colour is the flag of {s}?",
             "State the flag of {s}.", "Say which flag this town has."),
    "market": ("Tell me what {s} sells.", "Name the food that {s} sells.", "Which food would I buy in {s}?",
               "State the market food of {s}.", "Say what this town sells."),
    "kind": ("Tell me what {s} is.", "Name the tool that is called {s}.", "Which tool is {s}?",
             "State what {s} is.", "Say what this thing is."),
    "material": ("Tell me what {s} is made of.", "Name the material of {s}.", "Which material is {s} made of?",
                 "State the material of {s}.", "Say what this thing is made of."),
    "colour": ("Tell me how {s} is painted.", "Name the paint of {s}.", "Which colour is {s} painted?",
               "State the paint of {s}.", "Say how this thing is painted."),
    "maker": ("Tell me who made {s}.", "Name the maker of {s}.", "Which person made {s}?",
              "State the maker of {s}.", "Say who made this thing."),
    "plus": ("What is {x} plus {y}?", "Add {x} and {y}.", "Work out {x} + {y}.", "Add the two numbers."),
    "minus": ("What is {x} minus {y}?", "Take {y} away from {x}.", "Work out {x} - {y}.",
              "Take the second number away from the first."),
    "more": ("Which is more, {x} or {y}?", "Compare {x} and {y}.", "Name the greater of {x} and {y}."),
    "count": ("Count from {x} to {y}.", "List the numbers from {x} to {y}.", "Give me all numbers from {x} to {y}."),
    "list": ("List {n} {c}.", "Give me {n} {c}.", "Name {n} {c}."),
    "reverse": ("Write the words in reverse order.", "Reverse the words.", "Put the last word first and the first last."),
    "replace": ("Replace {x} with {y}.", "Write {y} where the input has {x}.", "Change {x} to {y}."),
    "plural": ("Write the plural.", "Make it plural.", "Give the plural of the word."),
    "past": ("Write the sentence in the past.", "Put the sentence into the past.", "Say that it was in the past."),
    "last": ("Give the last word.", "Copy only the last word.", "Which word is last?"),
    "class": ("Classify the word.", "Which class does the word belong to?", "Sort the word into its class."),
    "sort": ("Classify the name.", "Is it a person, a town or a thing?", "Sort the name into its class."),
    "extract": ("Find in the text: {q}", "Read the text and answer: {q}", "From the text alone: {q}"),
}  # fmt: skip

KEPT_BACK: Mapping[str, tuple[str, ...]] = {
    "home": ("Please name the home of {s}.", "Which town does {s} live in?"),
    "trade": ("Please name the work of {s}.", "Which work does {s} do?"),
    "pet": ("Please name the pet of {s}.", "Which pet does {s} keep?"),
    "food": ("Please name the food of {s}.", "Which food does {s} like?"),
    "friend": ("Please name a friend of {s}.", "Who is the friend that {s} has?"),
    "region": ("Please name the region where {s} lies.", "Which region is {s} in?"),
    "flag": ("Please name the flag of {s}.", "Which flag does {s} have?"),
    "market": ("Please name what {s} sells.", "Which food does {s} sell?"),
    "kind": ("Please say what {s} is.", "Which kind of tool is {s}?"),
    "material": ("Please say what {s} is made of.", "Which material was used for {s}?"),
    "colour": ("Please say how {s} is painted.", "Which paint does {s} have?"),
    "maker": ("Please name the person who made {s}.", "Which person is the maker of {s}?"),
    "plus": ("Please add {x} and {y}.", "Tell me what {x} plus {y} is."),
    "minus": ("Please work out {x} minus {y}.", "Tell me what {x} minus {y} is."),
    "more": ("Please compare {x} with {y}.", "Tell me which is more, {x} or {y}."),
    "count": ("Please count from {x} to {y}.", "Write the numbers from {x} to {y}."),
    "list": ("Please list {n} {c}.", "Tell me {n} {c}."),
    "reverse": ("Please reverse the order of the words.",),
    "replace": ("Please put {y} in place of {x}.",),
    "plural": ("Please write the word in the plural.",),
    "past": ("Please write the past of the sentence.",),
    "last": ("Please give only the last word.",),
    "class": ("Please say which class the word has.",),
    "sort": ("Please sort the name into its class.",),
    "extract": ("Please answer from the text: {q}",),
}
