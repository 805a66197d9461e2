{%- from "gateway/map.jinja" import plan with context %}

include:
  - gateway.valid

{%- if plan %}

kernel settings:
  gateway.kernel_settings:
    - name: /etc/sysctl.d/60-gateway.conf
    - settings: {{ plan.kernel | tojson }}
{%- endif %}
