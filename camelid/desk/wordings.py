"""How the instructions ask: wordings that occur in tuning, and others kept back as a harder test.

None of them occurs in the seven sources (tested). `{s}` is the subject; other fields belong to the task. A wording
of a fact that has no `{s}` takes the subject as the instruction's input.
"""

from __future__ import annotations

from collections.abc import Mapping

TUNING: Mapping[str, tuple[str, ...]] = {
    "home": ("Tell me the home of {s}.", "Name the town that is home to {s}.", "State the home of {s}.",
             "In which town would I find {s}?", "Say where this person lives."),
    "trade": ("Tell me the trade of {s}.", "Name the work of {s}.", "State the trade of {s}.",
              "Which trade is followed by {s}?", "Say what this person works as."),
    "pet": ("Tell me the pet of {s}.", "Name the animal of {s}.", "State the pet of {s}.",
            "Which animal is kept by {s}?", "Say what pet this person keeps."),
    "food": ("Tell me the food of {s}.", "Name the food for {s}.", "State the food of {s}.",
             "Which food would I give to {s}?", "Say what food this person likes."),
    "friend": ("Tell me the friend of {s}.", "Name the friend of {s}.", "State the friend of {s}.",
               "Which person is often with {s}?", "Say who is a friend of this person."),
    "region": ("Tell me the region of {s}.", "Name the region of {s}.", "State the region of {s}.",
               "In which region would I find {s}?", "Say in which region this town lies."),
    "flag": ("Tell me the flag of {s}.", "Name the flag of {s}.", "State the flag of {s}.",
             "Which flag would I see over {s}?", "Say which flag this town has."),
    "market": ("Tell me the market food of {s}.", "Name what is sold in {s}.", "State the market food of {s}.",
               "Which food would I buy in {s}?", "Say what this town sells."),
    "kind": ("Tell me the kind of {s}.", "Name the tool called {s}.", "State the kind of {s}.",
             "Which tool is called {s}?", "Say what this thing is."),
    "material": ("Tell me the material of {s}.", "Name the material of {s}.", "State the material of {s}.",
                 "Which material was used for {s}?", "Say what this thing is made of."),
    "colour": ("Tell me the paint of {s}.", "Name the paint of {s}.", "State the paint of {s}.",
               "Which paint was used for {s}?", "Say how this thing is painted."),
    "maker": ("Tell me the maker of {s}.", "Name the maker of {s}.", "State the maker of {s}.",
              "Which person is the maker of {s}?", "Say who made this thing."),
    "plus": ("What is {x} plus {y}?", "Add {x} and {y}.", "Work out {x} + {y}.", "Add the two numbers."),
    "minus": ("What is {x} minus {y}?", "Take {y} away from {x}.", "Work out {x} - {y}.",
              "Take the second number away from the first."),
    "more": ("Which is more, {x} or {y}?", "Compare {x} and {y}.", "Name the greater of {x} and {y}."),
    "count": ("Count from {x} to {y}.", "List the numbers from {x} to {y}.", "Give me all numbers from {x} to {y}."),
    "list": ("List {n} {c}.", "Give me {n} {c}.", "Name {n} {c}."),
    "reverse": ("Write the words in reverse order.", "Reverse the words.",
                "Put the last word first and the first last."),
    "replace": ("Replace {x} with {y}.", "Write {y} where the input has {x}.", "Change {x} to {y}."),
    "plural": ("Write the plural.", "Make it plural.", "Give the plural of the word."),
    "past": ("Write the sentence in the past.", "Put the sentence into the past.", "Say that it was in the past."),
    "last": ("Give the last word.", "Copy only the last word.", "Which word is last?"),
    "class": ("Classify the word.", "Which class does the word belong to?", "Sort the word into its class."),
    "sort": ("Classify the name.", "Is it a person, a town or a thing?", "Sort the name into its class."),
    "extract": ("Find in the text: {q}", "Read the text and answer: {q}", "From the text alone: {q}"),
}  # fmt: skip

KEPT_BACK: Mapping[str, tuple[str, ...]] = {
    "home": ("Please give the home of {s}.", "I want to know the home of {s}."),
    "trade": ("Please give the trade of {s}.", "I want to know the trade of {s}."),
    "pet": ("Please give the pet of {s}.", "I want to know the pet of {s}."),
    "food": ("Please give the food of {s}.", "I want to know the food of {s}."),
    "friend": ("Please give the friend of {s}.", "I want to know the friend of {s}."),
    "region": ("Please give the region of {s}.", "I want to know the region of {s}."),
    "flag": ("Please give the flag of {s}.", "I want to know the flag of {s}."),
    "market": ("Please give the market food of {s}.", "I want to know the market food of {s}."),
    "kind": ("Please give the kind of {s}.", "I want to know the kind of {s}."),
    "material": ("Please give the material of {s}.", "I want to know the material of {s}."),
    "colour": ("Please give the paint of {s}.", "I want to know the paint of {s}."),
    "maker": ("Please give the maker of {s}.", "I want to know the maker of {s}."),
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
