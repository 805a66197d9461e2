{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

keepalived is stopped:
  service.dead:
    - name: {{ os.keepalived.service }}
    - enable: False

keepalived configuration is gone:
  file.absent:
    - name: {{ os.keepalived.config }}
    - onlyif: grep -qs 'Managed by Salt (gateway)' {{ os.keepalived.config }}
    - require:
      - service: keepalived is stopped

keepalived configuration is as it was:
  gateway.original_restored:
    - name: {{ os.keepalived.config }}
    - require:
      - file: keepalived configuration is gone

keepalived unit settings are gone:
  gateway.drop_in_gone:
    - name: /etc/systemd/system/{{ os.keepalived.service }}.service.d/gateway.conf
    - require:
      - service: keepalived is stopped
