"""The prompt grammar as a Jinja template, for clients that know chat templates and nothing of this project.

In: the templates of prompt_template.py, the name of BOS, and the special tokens of the backbone. Out: the text of
`chat_template` in tokenizer_config.json. A client renders it from plain fields and encodes the result without adding
special tokens; the ids are those of `Grammar.prefix`.

    [{"role": "user", "content": TEXT}]                                        tts
    [{"role": "system", "content": DESCRIPTION}, {"role": "user", ...}]        tts with a voice description
    [{"role": "user", ...}], ref_text=TEXT, ref_codes=[17, 4, ...]             clone

`ref_text` and `ref_codes` are keywords of the renderer (`apply_chat_template(..., ref_text=...)` of transformers,
`chat_template_kwargs` of vLLM). Control tokens are text in a rendered prompt, so text that spells one is refused here,
while `Grammar` encodes it as ordinary characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from titan_speech.tokenization.prompt_template import TEMPLATES, Task
from titan_speech.tokenization.vocabulary import NUM_CODES

_EXPRESSIONS = {
    "text_ids": "plain(message.content)",
    "description_ids": "plain(system.content)",
    "ref_text_ids": "plain(ref_text)",
    "ref_codes": "codes(ref_codes)",
}
"""What the template writes between the opening and the closing tokens of a block, by field of `Parts`."""

_MACROS = """\
{%- macro plain(text) -%}
{%- if text is not string or not text.strip() -%}
{{- raise_exception('expected a text that is not empty') -}}
{%- endif -%}
{%- if '<|' in text and '|>' in text -%}
{{- raise_exception('the text spells a control token <|...|>; remove it') -}}
{%- endif -%}
{%- for name in SPECIALS -%}
{%- if name in text -%}{{- raise_exception('the text spells the control token ' + name + '; remove it') -}}{%- endif -%}
{%- endfor -%}
{{- text -}}
{%- endmacro -%}
{%- macro codes(numbers) -%}
{%- if not numbers -%}
{{- raise_exception('ref_text needs ref_codes, the codes of the reference speech') -}}
{%- endif -%}
{%- for number in numbers -%}
{%- if number is not integer or number < 0 or number >= NUM_CODES -%}
{{- raise_exception('ref_codes: expected codes from 0 to LAST_CODE') -}}
{%- endif -%}
{{- '<|s_' ~ number ~ '|>' -}}
{%- endfor -%}
{%- endmacro -%}
{%- set roles = messages | map(attribute='role') | list -%}
{%- if roles not in [['user'], ['system', 'user']] -%}
{{- raise_exception('expected one user message, the text, and before it at most a system message, the description') -}}
{%- endif -%}
{%- set message = messages[-1] -%}
{%- set system = messages[0] if roles[0] == 'system' else none -%}
"""
_BRANCHES = """\
{%- if ref_text -%}
{%- if system -%}{{- raise_exception('a clone prompt has no voice description') -}}{%- endif -%}
CLONE
{%- elif system -%}
DESCRIBED
{%- else -%}
TTS
{%- endif -%}
"""


def chat_template(bos_token: str, special_tokens: Iterable[str]) -> str:
    """The Jinja template.

    Args:
        bos_token: the token that documents begin with.
        special_tokens: control tokens of the backbone's tokenizer, which no text may spell.
    """
    others = sorted(name for name in special_tokens if not (name.startswith("<|") and name.endswith("|>")))
    macros = _MACROS.replace("SPECIALS", json.dumps(others, ensure_ascii=False))
    macros = macros.replace("NUM_CODES", str(NUM_CODES)).replace("LAST_CODE", str(NUM_CODES - 1))
    branches = _BRANCHES.replace("CLONE", _branch(Task.CLONE, bos_token))
    branches = branches.replace("DESCRIBED", _branch(Task.TTS, bos_token, has_description=True))
    return macros + branches.replace("TTS", _branch(Task.TTS, bos_token)).rstrip("\n")


def _branch(task: Task, bos_token: str, has_description: bool = False) -> str:
    """One output expression per piece of the prefix."""
    template = TEMPLATES[task]
    pieces = [_quoted(bos_token)]
    for block in template.prefix:
        if has_description or not block.optional:
            pieces += [*map(_quoted, block.opening), _EXPRESSIONS[block.field], *map(_quoted, block.closing)]
    pieces += map(_quoted, template.start)
    return "".join(f"{{{{- {piece} -}}}}" for piece in pieces)


def _quoted(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
