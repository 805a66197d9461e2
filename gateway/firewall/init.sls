{#- First of all: what comes after it may forward, listen and take the virtual IP. So a failure here is
   the end of the run (failhard). #}
{%- from "gateway/map.jinja" import os, plan, sandbox with context %}

include:
  - gateway.valid

{%- if plan %}
{%- set ruleset = salt['gateway.ruleset']() %}

firewall packages:
  pkg.installed:
    - pkgs: {{ os.firewall.packages + (os.firewall.set_packages if ruleset.sets else []) }}
    - failhard: True

firewall loader:
  file.managed:
    - names:
      - /usr/lib/gateway/firewall:
        - source: salt://gateway/firewall/files/firewall
      - /usr/lib/gateway/firewall-guard:
        - source: salt://gateway/firewall/files/firewall-guard
    - mode: '0755'
    - makedirs: True
    - failhard: True

firewall rules:
  gateway.firewall:
    - ruleset: {{ ruleset | tojson }}
    - peers: {{ plan.peers | map(attribute='internal') | list | tojson }}
    - confirm_timeout: {{ plan.firewall.confirm_timeout }}
    - failhard: True
    - require:
      - pkg: firewall packages
      - file: firewall loader

firewall units:
  file.managed:
    - names:
      - /etc/systemd/system/gateway-firewall.service:
        - source: salt://gateway/firewall/files/gateway-firewall.service.jinja
      - /etc/systemd/system/gateway-firewall-guard.service:
        - source: salt://gateway/firewall/files/gateway-firewall-guard.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
    - failhard: True

firewall at boot:
  service.running:
    - name: gateway-firewall
    - enable: True
    - failhard: True
    - require:
      - file: firewall units
      - gateway: firewall rules

firewall guard:
  service.running:
    - name: gateway-firewall-guard
    - enable: True
    - failhard: True
    - require:
      - service: firewall at boot
    - watch:
      - file: firewall loader
      - file: firewall units
{%- endif %}
