{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

no firewall rules of ours:
  gateway.firewall_unloaded: []

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
      - /etc/gateway/firewall.rules
      - /var/lib/gateway/firewall.live
      - /usr/lib/gateway/firewall
    - require:
      - service: no firewall at boot
