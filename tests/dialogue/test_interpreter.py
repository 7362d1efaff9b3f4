"""The interpreter says what Jinja says, reaches nothing of Python, and does bounded work."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from camelid.dialogue.interpreter import MADE, MAX_CHARACTERS, STEPS, Refused, Unreadable, parsed, said

NAMES = {
    "messages": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "How many dates?\n"},
        {"role": "assistant", "content": ""},
    ],
    "bos_token": "<s>",
    "add_generation_prompt": True,
    "tools": None,
    "number": 7,
}
SNIPPETS = (
    "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% if true %}{% set y = 'in' %}{% endif %}{{ y }}{{ nothing }}|{{ messages[0].nothing }}|{{ messages[9] }}",
    "{% set ns = namespace(a=0, b='') %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}"
    "{{ loop.length }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% else %}none{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ m['role'] | upper }}{% endfor %}{% for m in [] %}x{% else %}e{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{{ messages[1:] | length }}{{ messages[-1]['role'] }}{{ 'abcdef'[1:4] }}{{ 'abc'[::-1] }}{{ messages[::2]|count }}",
    "{{ messages[0].content | trim }}|{{ messages[0].content.lstrip() }}|{{ messages[1].content.rstrip() + '!' }}",
    "{{ 'a' if number > 6 and number <= 7 else 'b' }}{{ 'c' if not number }}{{ number in [1, 7] }}{{ 'us' in 'user' }}",
    "{{ tools is none }}{{ tools is defined }}{{ x is defined }}{{ messages is string }}{{ messages[0] is mapping }}",
    "{{ number % 2 == 1 }}{{ number // 2 }}{{ -number }}{{ number is odd }}{{ 1 != 2 }}{{ 3 * 4 - 2 }}{{ 1 < 2 < 3 }}",
    "{{ x | default('d') }}{{ '' | default('e', true) }}{{ ['a', 'b'] | join('-') }}{{ 'aXa' | replace('X', 'Y') }}",
    "{{ 'k' in {'k': 1} }}{{ {'k': 'v'}['k'] }}{{ {'k': 'v'}.get('z', 'w') }}",
    "{% for k, v in {'a': 'b'}.items() %}{{ k ~ v }}{% endfor %}",
    "{{ 'A b'.split(' ')[1] }}{{ 'ab'.startswith('a') }}{{ 'user'.title() }}{{ 'x' ~ 1 ~ none ~ true }}{{ range(3) | list | length }}",
    "{% set text %}in {{ number }}{% endset %}{{ text }}\n  {% if true %}\n  kept\n  {% endif %}\nend\n",
    "{#- a note -#} {{- 'tight' -}} \n{%- set a, b = 1, 'two' -%} {{ a }}{{ b }}",
    "{{ 'abc' | first }}{{ 'abc' | last }}{{ '12' | int + 1 }}{{ ' x ' | trim | length }}{{ 'ab' | title }}",
)  # fmt: skip


@pytest.mark.parametrize("text", SNIPPETS)
def test_it_says_what_jinja_says(text):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    assert said(parsed(text), NAMES) == environment.from_string(text).render(**NAMES)


@pytest.mark.parametrize("text", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__class__ }}", "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}", "{{ self._TemplateReference__context }}", "{{ messages.append(1) }}",
    "{{ '%s' | format(messages) }}", "{{ '{0.__class__}'.format(1) }}", "{{ messages | attr('pop') }}", "{{ joiner() }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}{{ y.z }}", "{% macro m() %}{% endmacro %}", "{{ [messages] }}",
    "{{ raise_exception.__globals__ }}", "{{ (messages|map(attribute='role')) }}", "{{ namespace.__init__ }}", "{{ range.mro() }}",
    "{{ messages == [messages] }}", "{{ 2 ** 99999999 }}", "{{ 'x' * 99999999 }}", "{{ 'x' | center(99999999) }}", "{{ 'a' % 1 }}",
])  # fmt: skip
def test_what_it_does_not_know_ends_the_reading(text):
    """Either it says nothing (names that are not there), or it is refused; no object of Python is ever shown."""
    try:
        assert said(parsed(text), NAMES) == ""
    except Unreadable as error:
        assert str(error)


@pytest.mark.parametrize("text", [
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "{{ range(10**9) }}",
    "{% set ns = namespace(s='x' ) %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[0] ) %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(n=9) %}{% for i in range(900) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(s=[0] ) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s == ns.s }}",
    "{{ 'ab' | replace('a', 'b' ) }}{% set x = 'aaaaaaaaaa' * 3 %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000, "x" * (MAX_CHARACTERS + 1), "{{ " + "-" * 4000 + "1 }}",
    "{% for i in range(9000) %}{{ i }}{% endfor %}" * 9,
])  # fmt: skip
def test_work_is_bounded(text):
    with pytest.raises(Unreadable):
        said(parsed(text), NAMES)
    assert STEPS <= 10_000 and MADE <= 1 << 20


def test_a_template_may_refuse():
    with pytest.raises(Refused, match="turns must alternate"):
        said(parsed("{{ raise_exception('turns must ' ~ 'alternate') }}"), NAMES)
