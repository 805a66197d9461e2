{%- from "gateway/map.jinja" import os, plan with context %}

include:
  - gateway.valid

{%- if plan %}

firewall package:
  pkg.installed:
    - name: {{ os.firewall.package }}

firewall loader:
  file.managed:
    - name: /usr/lib/gateway/firewall
    - source: salt://gateway/firewall/files/firewall
    - mode: '0755'
    - makedirs: True

firewall rules file:
  gateway.checked_file:
    - name: /etc/gateway/firewall.rules
    - source: salt://gateway/firewall/files/firewall.rules.jinja
    - check: /usr/lib/gateway/firewall test
    - require:
      - pkg: firewall package
      - file: firewall loader

firewall rules:
  gateway.firewall_loaded:
    - name: /etc/gateway/firewall.rules
    - watch:
      - gateway: firewall rules file

firewall unit:
  file.managed:
    - name: /etc/systemd/system/gateway-firewall.service
    - source: salt://gateway/firewall/files/gateway-firewall.service

firewall at boot:
  service.running:
    - name: gateway-firewall
    - enable: True
    - require:
      - file: firewall unit
      - gateway: firewall rules
{%- endif %}
