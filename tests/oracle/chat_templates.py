#!/usr/bin/env python3
"""Records what Jinja 2 makes of the chat templates in tests/chat, for tests/chat.rs to compare.

    python3 -m pip install jinja2
    python3 tests/oracle/chat_templates.py

Jinja 2 is set up as the `transformers` package does it. The date is the one that
src/chat/mod.rs states. Writes tests/chat/cases.txt, which is committed.
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).resolve().parent.parent / "chat"


class Generation(jinja2.ext.Extension):
    """A block that marks what the model said; its content passes through."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = datetime.datetime(2024, 7, 26).strftime
    return env


def message(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = {
    "empty": [],
    "hello": [message("user", "Hello!")],
    "system": [message("system", "You drive a boat."), message("user", "Turn left, please.")],
    "turns": [
        message("user", "  What is 2+2?  "),
        message("assistant", "\n4\n"),
        message("user", "And \"3+3\"?"),
        message("assistant", "<think>\nLet me see.\n</think>\n\n6"),
        message("user", "Danke schön, 谢谢, 🤖 {{ not a tag }} {% nor this %}"),
    ],
    "long": [
        message("system", "Be brief. /no_think "),
        message("user", "one"),
        message("assistant", "two"),
        message("user", "three"),
        message("assistant", "four"),
        message("user", ""),
        message("assistant", "six"),
        message("user", "seven"),
    ],
    "tools": [
        message("user", "How warm is it?"),
        message("assistant", "I will ask."),
        message("tool", "{\"celsius\": 21.5}"),
        message("tool", "{\"humid\": true}"),
        message("assistant", "<think>hm</think>It is 21.5 degrees."),
        message("user", "<tool_response>old</tool_response>"),
    ],
    "twice": [message("user", "first"), message("user", "second")],
}

# Each is rendered with the conversation "turns"; what Jinja refuses must be refused.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}
{{ 7.5 // 2 }}|{{ -7.5 % 2 }}|{{ 1e3 }}|{{ 1.0 }}|{{ 1e20 }}|{{ 1.5e-7 }}|{{ 0.1 + 0.2 }}|{{ 1/3 }}
{{ 1 ~ 2 ~ 'a' ~ none ~ true ~ undefined_name ~ 1.0 }}
{{ 'a' + 'b' ~ 1 + 2 }}
{{ 2 + 3 ~ 4 * 5 }}
{{ -2 ** 2 }}|{{ -1|abs }}|{{ +3 }}|{{ 2 ** 3 ** 2 }}
{{ 1 if true }}|{{ 1 if false }}|{{ 1 if false else 2 if false else 3 }}
{{ 'x' if undefined_name else 'y' }}
{{ not true or true and false }}|{{ not (1 == 2) }}|{{ not 1 == 2 }}
{{ 1 == 1.0 }}|{{ true == 1 }}|{{ 'a' == "a" }}|{{ [1, 2] == [1, 2] }}|{{ {'a': 1} == {'a': 1.0} }}|{{ none == false }}
{{ 1 < 2 }}|{{ 'a' < 'b' }}|{{ 'B' < 'a' }}|{{ 2 >= 2.0 }}|{{ 1 != 2 }}
{{ 1 in [1, 2] }}|{{ 3 not in [1, 2] }}|{{ 'a' in 'cat' }}|{{ 'k' in {'k': 1} }}|{{ 'x' in undefined_name }}
{{ 'a' or 'b' }}|{{ '' or 'b' }}|{{ 'a' and 'b' }}|{{ 0 and 'b' }}|{{ none or false }}
{{ [1, 'a', none, true, 1.5, "it's", 'say "x"', [2], {'k': 'v'}] }}
{{ {'a': 1, 'b': [1, 2]} }}|{{ {} }}|{{ [] }}
{{ 'line\nnext\ttab\\ \'q\' \x41 \u00e9 \q' }}
{{ "a" "b" 'c' }}
{{ [1,2,3,4,5][1:3] }}|{{ [1,2,3,4,5][::-1] }}|{{ [1,2,3,4,5][-2:] }}|{{ 'hello'[1:-1] }}|{{ 'hello'[::2] }}|{{ [1,2,3][5:] }}
{{ [1,2,3][-1] }}|{{ [1,2,3][5] }}|{{ 'abc'[0] }}|{{ 'abc'[-1] }}|{{ {'a': 1}['b'] }}|{{ [1,2,3,4][3:0:-2] }}
{{ messages[0].role }}|{{ messages[0]['role'] }}|{{ messages[0].missing }}|{{ messages.0.role }}
{{ messages[99].role }}
{{ undefined_name.attr }}
{{ undefined_name + 1 }}
{{ undefined_name() }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ none + 1 }}
{{ [1] + [2] }}|{{ 'ab' * 3 }}|{{ [1] * 2 }}|{{ 3 * 'x' }}
{{ 1 / 0 }}
{{ 1 < 'a' }}
{{ '  x '|trim }}|{{ 'abc'|upper }}|{{ 'ABC'|lower }}|{{ 'hELLO wORLD'|capitalize }}|{{ 'hELLO wORLD-foo (bar)'|title }}|{{ "it's"|title }}
{{ 'xxabcxx'|trim('x') }}|{{ 'a,b'|replace(',', ';') }}|{{ 'aaa'|replace('a', 'b', 2) }}|{{ 'ab'|replace('', '-') }}
{{ [3,1,2]|sort }}|{{ ['b','A','c']|sort }}|{{ ['b','A','c']|sort(case_sensitive=true) }}|{{ [3,1,2]|sort(reverse=true) }}|{{ messages|sort(attribute='role')|map(attribute='role')|list }}
{{ [1,2,3]|first }}|{{ [1,2,3]|last }}|{{ []|first }}|{{ 'abc'|first }}|{{ [1,2,3]|length }}|{{ 'äb'|length }}|{{ {'a':1}|count }}
{{ [1,2,3]|join }}|{{ [1,2,3]|join(', ') }}|{{ messages|join('/', attribute='role') }}|{{ 'abc'|join('-') }}
{{ [1,2,3]|sum }}|{{ [1.5,2]|sum }}|{{ [1,2,3]|max }}|{{ ['b','A']|min }}|{{ []|max }}|{{ [[1,2],[3]]|sum(start=[]) }}
{{ 'abc'|reverse }}|{{ [1,2,3]|reverse|list }}|{{ 'abc'|list }}|{{ {'a':1,'b':2}|list }}
{{ undefined_name|default('d') }}|{{ none|default('d') }}|{{ ''|default('d', true) }}|{{ ''|d('x', boolean=true) }}|{{ undefined_name|default }}
{{ '3.7'|int }}|{{ '42'|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ 3.9|int }}|{{ '1.5'|float }}|{{ 'x'|float }}|{{ none|int }}|{{ true|int }}
{{ 2.5|round }}|{{ 3.5|round }}|{{ 2.567|round(2) }}|{{ 2.1|round(method='ceil') }}|{{ 2.9|round(0, 'floor') }}|{{ 42|round }}
{{ {'b':1,'a':2}|dictsort|tojson }}|{{ {'b':1,'a':2}|items|list|tojson }}|{{ {'b':1,'a':2}|dictsort(by='value')|tojson }}|{{ {'b':1,'a':2}|dictsort(reverse=true)|tojson }}|{{ {'B':1,'a':2}|dictsort(true)|tojson }}
{{ [1,2,2,1,'a','A']|unique|list }}|{{ [1,0,2]|select|list }}|{{ [1,2,3]|select('odd')|list }}|{{ [1,2,3]|reject('odd')|list }}|{{ [1,2,3]|select('gt', 1)|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }}|{{ messages|rejectattr('role', 'eq', 'user')|map(attribute='role')|join(',') }}|{{ messages|selectattr('missing')|list }}
{{ ['a','b']|map('upper')|list }}|{{ [1,-2]|map('abs')|join(' ') }}|{{ messages|map(attribute='missing', default='x')|join }}|{{ ['ab','cd']|map('replace','b','x')|list }}
{{ {'a': [1, 2.5, none, true, 'q"\\\n é']}|tojson }}|{{ []|tojson }}|{{ {}|tojson }}
{{ {'b': [1, {'c': 2}], 'a': []}|tojson(indent=2) }}
{{ {'b': 1, 'a': 'x'}|tojson(sort_keys=true) }}|{{ {'b': 1, 'a': [1,2]}|tojson(separators=(',', ':')) }}|{{ 'a\tb\u0001'|tojson }}|{{ 1e20|tojson }}
{{ undefined_name|tojson }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(1, blank=true) }}|{{ 'a\nb'|indent('> ') }}
{{ 'one two  three'|wordcount }}|{{ 5|string + 'x' }}|{{ [1]|string }}|{{ 'a'|safe }}
{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '\n\na'.lstrip('\n') }}|{{ 'a\n '.rstrip() }}|{{ 'abcab'.rstrip('ab') }}
{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a b  c d'.split(none, 2) }}|{{ ''.split() }}|{{ ''.split(',') }}
{{ 'hello'.startswith('he') }}|{{ 'hello'.endswith('lo') }}|{{ 'hello'.startswith(('x', 'h')) }}|{{ 'hello'.endswith(('x', 'y')) }}
{{ 'hello'.upper() }}|{{ 'HELLO'.lower() }}|{{ "they're bill's".title() }}|{{ 'hELLO'.capitalize() }}|{{ 'a-b'.replace('-', '+') }}|{{ 'aaa'.replace('a', 'b', 1) }}
{{ ', '.join(['a', 'b']) }}|{{ 'hello'.find('l') }}|{{ 'hello'.rfind('l') }}|{{ 'hello'.find('z') }}|{{ 'hello'.count('l') }}|{{ 'éa'.find('a') }}
{{ '12'.isdigit() }}|{{ ''.isdigit() }}|{{ 'ab'.isalpha() }}|{{ 'a1'.isalnum() }}|{{ ' '.isspace() }}|{{ 'AB'.isupper() }}|{{ 'ab'.islower() }}
{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.py'.removesuffix('.py') }}|{{ 'a\nb\n'.splitlines() }}
{{ {'a': 1}.get('a') }}|{{ {'a': 1}.get('b') }}|{{ {'a': 1}.get('b', 2) }}|{{ {'a': 1}.keys()|list }}|{{ {'a': 1}.values()|list }}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}
{{ [1].append(2) }}
{{ 'abc'.nonsense() }}
{{ 'abc'|nonsense }}
{{ 'abc' is nonsense }}
{{ undefined_name is defined }}|{{ messages is defined }}|{{ undefined_name is undefined }}|{{ x is not defined }}|{{ tools is none }}|{{ tools is not none }}
{{ 'a' is string }}|{{ 1 is number }}|{{ 1.0 is float }}|{{ 1 is integer }}|{{ true is integer }}|{{ true is boolean }}|{{ true is number }}|{{ [] is sequence }}|{{ {} is mapping }}|{{ 'a' is iterable }}|{{ 1 is iterable }}|{{ {} is sequence }}
{{ true is true }}|{{ 1 is true }}|{{ false is false }}|{{ 3 is odd }}|{{ 3 is even }}|{{ 9 is divisibleby 3 }}|{{ 9 is divisibleby(2) }}|{{ 1 is eq 1 }}|{{ 1 is in [1] }}|{{ 'a' is upper }}|{{ range is callable }}
{{ 1 is eq 1 and 2 is eq 2 }}|{{ 'a' ~ 1 is defined }}|{{ not x is defined }}
{% if x is defined and x %}a{% elif true %}b{% else %}c{% endif %}
{% for i in range(3) %}{{ i }}{% endfor %}|{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}|{% for i in range(2, 4) %}{{ i }}{% endfor %}|{{ range(3)|list }}
{% for i in [] %}x{% else %}none{% endfor %}|{% for i in [1] %}x{% else %}none{% endfor %}|{% for c in 'ab' %}[{{ c }}]{% endfor %}|{% for i in undefined_name %}x{% else %}e{% endfor %}
{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};{% endfor %}
{% for i in [1,2,3] %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}
{% for i in [1,2,3,4] if i is even %}{{ i }}{{ loop.index }}{{ loop.last }} {% else %}none{% endfor %}
{% for i in [1,2,3,4] %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}|{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% for i in [1,2] %}{% for j in [3,4] %}{{ i }}{{ j }}{{ loop.index }} {% if j == 3 %}{% continue %}{% endif %}{% break %}{% endfor %}{{ loop.index }}|{% endfor %}
{% for i in [1,2] %}{% set x = i %}{% endfor %}{{ x }}
{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = x + 10 %}{{ x }},{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% set ns = namespace(a=1) %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}|{{ ns.missing }}
{% set x.y = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set c = 1, 2 %}{{ c|length }}|{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}
{% set a, b = [1, 2, 3] %}
{% set x %}text {{ 1 + 1 }}{% endset %}[{{ x }}]|{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}|{% set a = 5 %}{% with a = 1, b = a %}{{ b }}{% set a = 9 %}{% endwith %}{{ a }}
{% filter upper %}abc{{ 'd' }}{% endfilter %}|{% filter replace('a', 'b')|upper %}aaa{% endfilter %}
{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c='y') }}|{{ m() }}|{{ m(b=5, a=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro f(n) %}{% if n > 1 %}{{ n }}*{{ f(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ f(5) }}
{% set g = 7 %}{% macro m() %}{{ g }}{{ h }}{% endmacro %}{% set h = 8 %}{{ m() }}{% for g in [1] %}{{ m() }}{% endfor %}
{% macro m(x) %}{% for i in range(x) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ m(5)|upper }}{{ m(1) ~ 'z' }}
{% macro m(x, y=x) %}{{ y }}{% endmacro %}{{ m(3) }}
{# comment #}a{#- b -#} c {#
two lines #}
d
  {% if true %}  
  x
  {% endif %}  
y
  {%- if true -%}  
  x
  {%- endif -%}  
y
a   {{- 'b' -}}   c  {{ 'd' }}  e
  {%+ if true +%}
x
{% endif +%}
y
   {{ 'keeps indent' }}
	{% set x = 1 %}	{% set y = 2 %}
z
a {% if true %} b {% endif %} c
{% raw %}{{ not }} {% a tag %}{% endraw %}|{%- raw -%}  x {{ }}  {%- endraw -%}  |
{{ '{{' }} {{ '}}' }} {{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': {}} }}
{{ "%}" }}{% if "%}" %}x{% endif %}
{{ namespace(a=1).a }}|{{ dict(a=1, b='x') }}|{{ dict(a=1).a }}
{{ raise_exception('no') }}
{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %d at %H:%M:%S') }}|{{ strftime_now('%j %y %p %I %a %%') }}
{{ messages|length }} {{ messages[-1].content }}
{{ messages[1:]|map(attribute='role')|list }}|{{ messages[:1][0].content|trim }}|{{ messages|last|length }}
{% generation %}x{{ 1 }}{% endgeneration %}y
{% if %}
{% if 1 %}
{% endif %}
{% for x %}{% endfor %}
{% for x in [1] %}{% endif %}
{{ 1 + }}
{{ (1 }}
{{ [1, 2 }}
{{ 'unended }}
{{ 1
{% nonsense %}
{{ a b }}
{{ 1 | }}
{{ x is }}
{% set 1 = 2 %}
{% break %}
{{ ) }}
{{ 'a' 1 }}
{{ [1, 2,] }}|{{ {'a': 1,} }}|{{ (1, 2,)|length }}|{{ ()|length }}
{{ messages is sequence and messages[0] is mapping }}
{{ ('a' if true else 'b') ~ 'c' }}|{{ 'x' ~ ('a' if false else 'b') }}
{{ (messages|length - 1) - 1 }}|{{ messages|length - 1 }}|{{ 10 - 2 - 3 }}|{{ 2 * 3 % 4 }}
{{ 'a'.upper().lower() }}|{{ 'a b'.split()[1].upper() }}|{{ ('a' ~ 'b').upper() }}|{{ messages[0].content.strip() }}
{{ 9223372036854775807 }}|{{ 1_000 }}
{{ not }}
{{ true.foo }}|{{ none.foo }}|{{ 1 .foo }}
{{ none['x'] }}
{{ 'abc'.x }}|{{ [1].x }}
{{ {'items': 5}['items'] }}|{{ {1: 'a'}[1] }}|{{ {true: 'a'}[1] }}
{{ [[1, 2], [3]]|map('length')|list }}|{{ [[1, 2], [3]]|map('first')|list }}|{{ ['1', '2']|map('int')|sum }}
{{ none|length }}
{{ 5|length }}
{{ 5|join }}
{{ 'ab'|map('upper')|join('-') }}|{{ 'A b'|lower|replace(' ', '_')|upper }}
{{ loop }}
{% for i in [1] %}{{ loop.foo is defined }}{{ loop is defined }}{% endfor %}
{% for m in messages %}{{ m.role[0] }}{{ ' ' if not loop.last }}{% endfor %}
{{ 1 if messages else 2 }}{{ 1 if [] else 2 }}{{ 1 if {} else 2 }}{{ 1 if '' else 2 }}{{ 1 if 0.0 else 2 }}
{% set x = messages | selectattr('role', 'in', ['user', 'system']) | list %}{{ x|length }}
{% set content = messages[3].content %}{{ content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}|{{ content.split('</think>')[-1].lstrip('\n') }}
{{ 'éÀ'|upper }}|{{ 'ÉÀß'|lower }}|{{ 'straße'|upper }}|{{ '\u00a0x\u2003'|trim }}|{{ 'ǆ'|upper }}
{{ 'a' < 'b' and 'b' < 'c' }}|{{ 1 in [1] and 2 in [2] }}|{{ (1 < 2) == true }}
{{ [1, 2, 3] | map('string') | join(',') }}|{{ [true, none]|join(',') }}
"""


def blocks(text):
    """Snippets stand on a line each; those that need more are joined below."""
    lines = text.strip("\n").split("\n")
    joined = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("{# comment #}"):
            joined += ["\n".join(lines[at:at + 3]), "\n".join(lines[at + 3:at + 7]),
                       "\n".join(lines[at + 7:at + 11]), lines[at + 11],
                       "\n".join(lines[at + 12:at + 16]), lines[at + 16],
                       "\n".join(lines[at + 17:at + 19]) + "\n"]
            at += 19
        else:
            joined.append(line)
            at += 1
    return joined + ["a\r\nb\rc\n\n", "\n", "", "{{ 'a\nb' }}\n", "x{% if true %}\n\ny{% endif %}\n"]


def render(template, messages, add):
    try:
        return environment().from_string(template).render(
            messages=messages, add_generation_prompt=add, bos_token="<s>", eos_token="</s>",
            tools=None, documents=None)
    except Exception as error:  # whatever it is, the template is refused
        return error


def main():
    out = []

    def part(kind, text):
        data = text.encode()
        out.append(f"{kind} {len(data)}\n".encode() + data + b"\n")

    def result(value):
        if isinstance(value, Exception):
            part("refused", f"{type(value).__name__}: {value}")
        else:
            part("gives", value)

    for name, messages in CONVERSATIONS.items():
        part("conversation", name)
        for m in messages:
            part("role", m["role"])
            part("content", m["content"])
    n = 0
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        part("template", template)
        for name, messages in CONVERSATIONS.items():
            for add in (False, True):
                part("with" if not add else "prompting", name)
                result(render(template, messages, add))
                n += 1
    for snippet in blocks(SNIPPETS):
        part("template", snippet)
        part("with", "turns")
        result(render(snippet, CONVERSATIONS["turns"], False))
        n += 1
    (HERE / "cases.txt").write_bytes(b"".join(out))
    print(f"{n} cases")


if __name__ == "__main__":
    main()
