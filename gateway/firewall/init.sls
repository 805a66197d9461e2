{#- First of all: what comes after it may forward, listen and take the virtual IP. So a failure here is
   the end of the run (failhard). #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/firewall/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid

{%- if plan %}
{%- set ruleset = pillar.gateway_run.ruleset %}

firewall packages:
  pkg.installed:
    - pkgs: {{ os.packages + (os.set_packages if ruleset.sets else []) }}
    # With `state_aggregate` all other packages, and what they start, would come before the rules.
    - aggregate: False
    - failhard: True

firewall loader:
  gateway.file:
    - names:
      - /usr/lib/gateway/firewall:
        - source: salt://gateway/firewall/files/firewall
      - /usr/lib/gateway/firewall-guard:
        - source: salt://gateway/firewall/files/firewall-guard
    - mode: '0755'
    - failhard: True

firewall rules:
  gateway_firewall.loaded:
    - ruleset: {{ ruleset | tojson }}
    - peers: {{ plan.peers | map(attribute='internal') | list | tojson }}
    - confirm_timeout: {{ plan.firewall.confirm_timeout }}
    - failhard: True
    - require:
      - pkg: firewall packages
      - gateway: firewall loader

firewall units:
  gateway.file:
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
  gateway_service.running:
    - name: gateway-firewall
    - units: [gateway-firewall.service]
    - failhard: True
    - require:
      - gateway: firewall units
      - gateway_firewall: firewall rules

firewall guard:
  gateway_service.running:
    - name: gateway-firewall-guard
    - reads:
      - /usr/lib/gateway/firewall-guard
      - /etc/systemd/system/gateway-firewall-guard.service
    - failhard: True
    - require:
      - gateway: firewall loader
      - gateway: firewall units
      - gateway_service: firewall at boot
{%- endif %}
