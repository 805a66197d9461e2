{#- Tells the peer of connections, so that they live on when it takes over. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/conntrackd/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
{%- if plan and plan.sync.enabled %}
  # Connections are tracked, and conntrackd's own packets are let in.
  - gateway.kernel
  - gateway.firewall
  - gateway.isolated

conntrackd packages:
  pkg.installed:
    - pkgs: {{ os.packages | tojson }}

conntrackd unit settings:
  gateway.file:
    - name: /etc/systemd/system/{{ os.service }}.service.d/gateway.conf
    - source: salt://gateway/conntrackd/files/unit.conf.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

conntrackd configuration as it was:
  gateway.original_kept:
    - name: {{ os.config }}
    - shipped: True
    - require:
      - pkg: conntrackd packages

conntrackd configuration check:
  gateway.file:
    - name: /usr/lib/gateway/check-conntrackd
    - source: salt://gateway/conntrackd/files/check-conntrackd
    - mode: '0755'

conntrackd configuration:
  gateway.checked_file:
    - name: {{ os.config }}
    - source: salt://gateway/conntrackd/files/conntrackd.conf.jinja
    - check: /usr/lib/gateway/check-conntrackd
    - see_network: True
    - require:
      - gateway: configuration checks change nothing
      - gateway: conntrackd configuration as it was
      - gateway: conntrackd configuration check

# It cannot read a configuration anew. A restart loses no connection: they are in the kernel.
conntrackd service:
  gateway_service.running:
    - name: {{ os.service }}
    - reads:
      - {{ os.config }}
      - /etc/systemd/system/{{ os.service }}.service.d/gateway.conf
    - require:
      - sls: gateway.firewall
      - gateway: conntrackd configuration
      - gateway: conntrackd unit settings

state sync:
  gateway.file:
    - name: /usr/lib/gateway/sync
    - source: salt://gateway/conntrackd/files/sync
    - mode: '0755'

state sync unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-sync.service
    - source: salt://gateway/conntrackd/files/gateway-sync.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

state sync service:
  gateway_service.running:
    - name: gateway-sync
    - reads:
      - /usr/lib/gateway/sync
      - /etc/systemd/system/gateway-sync.service
    - require:
      - gateway_service: conntrackd service
      - gateway: state sync
      - gateway: state sync unit
{%- elif plan %}
  - gateway.conntrackd.clean
{%- endif %}
