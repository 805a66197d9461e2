{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

no firewall rules of ours:
  gateway.firewall:
    - ruleset: {}

no firewall at boot:
  service.dead:
    - name: gateway-firewall
    - enable: False
    - require:
      - gateway: no firewall rules of ours

firewall files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-firewall.service
      - /var/lib/gateway/firewall
      - /usr/lib/gateway/firewall
    - require:
      - service: no firewall at boot
