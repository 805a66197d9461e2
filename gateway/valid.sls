{#- Every other SLS includes this one, and has no states of its own while there are errors. #}
{%- from "gateway/map.jinja" import errors with context %}

include:
  - gateway.loaded

{%- if errors %}

gateway pillar:
  gateway.refused:
    - errors: {{ errors | tojson }}
{%- endif %}
