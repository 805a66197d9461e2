{#- Where daemons look at a new configuration. Each SLS with a checked_file includes it. #}
{%- from "gateway/map.jinja" import plan with context %}

include:
  - gateway.valid

{%- if plan %}

configuration checks change nothing:
  gateway.file:
    - name: /usr/lib/gateway/isolated
    - source: salt://gateway/files/isolated
    - mode: '0755'
{%- endif %}
