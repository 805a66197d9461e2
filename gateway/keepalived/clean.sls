{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

keepalived is stopped:
  service.dead:
    - name: {{ os.keepalived.service }}
    - enable: False

keepalived files are gone:
  file.absent:
    - names:
      - {{ os.keepalived.config }}
      - /etc/systemd/system/{{ os.keepalived.service }}.service.d/gateway.conf
    - require:
      - service: keepalived is stopped
