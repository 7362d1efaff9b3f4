"""Books: what a story sets up about its strangers it keeps to, and comes back to at its end."""

from camelid import desk
from camelid.desk.phrases import canonical


def test_a_story_keeps_to_what_it_set_up():
    world = desk.world("small")
    for story, _ in zip(desk.sources(world)["Books"].documents(), range(100), strict=False):
        told = {}
        for fact in story.passing:
            assert told.setdefault((fact.subject, fact.relation), fact.value) == fact.value
        assert len({fact.subject for fact in story.passing}) == 2
        for fact in story.passing:
            assert story.text.count(canonical(fact)) >= 2
        assert len(story.text.split(". ")) >= 30
