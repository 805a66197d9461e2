{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set os = pillar.gateway_run.os %}

include:
  - gateway.loaded

keepalived is stopped:
  gateway_service.off:
    - name: {{ os.keepalived.service }}

keepalived configuration is as it was:
  gateway.original_restored:
    - name: {{ os.keepalived.config }}
    - or_none: True
    - require:
      - gateway_service: keepalived is stopped

keepalived unit settings are gone:
  gateway.drop_in_gone:
    - name: /etc/systemd/system/{{ os.keepalived.service }}.service.d/gateway.conf
    - require:
      - gateway_service: keepalived is stopped
