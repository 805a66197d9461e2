{#- Every other SLS includes this one, and has no states of its own while there are errors. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set errors = pillar.gateway_run.errors %}

include:
  - gateway.loaded

{%- if errors %}

gateway pillar:
  gateway.refused:
    - errors: {{ errors | tojson }}
{%- endif %}
