{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

no routes of ours:
  gateway.routes:
    - routes: []

no routes at boot:
  service.dead:
    - name: gateway-routes
    - enable: False
    - require:
      - gateway: no routes of ours

routes files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-routes.service
      - /etc/gateway/routes
    - require:
      - service: no routes at boot
