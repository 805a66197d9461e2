{#- Every other SLS includes this one, and has no states of its own while there are errors. #}
{%- from "gateway/map.jinja" import errors with context %}

include:
  - gateway.loaded

{%- if errors %}

gateway pillar:
  test.fail_without_changes:
    - comment: {{ (['Nothing was changed: the pillar of this site cannot be used.'] + errors) | join('\n') | tojson }}
{%- endif %}
