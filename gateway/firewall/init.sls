{%- from "gateway/map.jinja" import os, plan with context %}

include:
  - gateway.valid

{%- if plan %}
{%- set ruleset = salt['gateway.ruleset']() %}

firewall packages:
  pkg.installed:
    - pkgs: {{ os.firewall.packages + (os.firewall.set_packages if ruleset.sets else []) }}

firewall loader:
  file.managed:
    - name: /usr/lib/gateway/firewall
    - source: salt://gateway/firewall/files/firewall
    - mode: '0755'
    - makedirs: True

firewall rules:
  gateway.firewall:
    - ruleset: {{ ruleset | tojson }}
    - peers: {{ plan.peers | map(attribute='internal') | list | tojson }}
    - confirm_timeout: {{ plan.firewall.confirm_timeout }}
    - require:
      - pkg: firewall packages
      - file: firewall loader

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
