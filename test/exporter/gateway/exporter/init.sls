{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/exporter/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.follow

{%- if plan %}

exporter package:
  pkg.installed:
    - pkgs: [{{ os.package }}]

exporter numbers:
  gateway.file:
    - name: /etc/gateway/exporter/metrics
    - source: salt://gateway/exporter/files/metrics.jinja
    - template: jinja

exporter unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-exporter.service
    - source: salt://gateway/exporter/files/gateway-exporter.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

# It runs only where the virtual IP is.
exporter service:
  gateway_service.running:
    - name: gateway-exporter
    - target: gateway-virtual-ip.target
    - reads:
      - /etc/gateway/exporter/metrics
      - /etc/systemd/system/gateway-exporter.service
    - require:
      - pkg: exporter package
      - gateway: exporter numbers
      - gateway: exporter unit
{%- endif %}
