{#- Where daemons look at a new configuration. Each SLS with a checked_file includes it. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan = pillar.gateway_run.plan %}

include:
  - gateway.valid

{%- if plan %}

configuration checks change nothing:
  gateway.file:
    - name: /usr/lib/gateway/isolated
    - source: salt://gateway/files/isolated
    - mode: '0755'
{%- endif %}
