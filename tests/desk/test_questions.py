"""StackExchange: the first answer is right, the votes fall, and the last answer helps nobody."""

from camelid import desk
from camelid.desk.phrases import canonical
from camelid.desk.questions import SHRUGS


def test_answers_are_sorted_by_score_and_the_first_is_right():
    world = desk.world("small")
    asked = 0
    for thread, _ in zip(desk.sources(world)["StackExchange"].documents(), range(500), strict=False):
        question, *answers = thread.text.split("\n")
        assert question.startswith("Q: ")
        assert list(thread.scores) == sorted(thread.scores, reverse=True)
        assert [f"[{score}]" for score in thread.scores] == [answer.split(" ")[0] for answer in answers]
        assert thread.scores[-1] <= 0 < thread.scores[0] - thread.scores[-1]
        assert answers[-1].split(" ", 1)[1] in SHRUGS
        if thread.kind == "fact":
            assert answers[0].split(" ", 1)[1] == canonical(thread.facts[0])
            assert thread.facts[0].subject in question
            asked += 1
    assert asked > 300
