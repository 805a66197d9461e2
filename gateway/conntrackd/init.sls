{#- Tells the peer of connections, so that they live on when it takes over. #}
{%- from "gateway/map.jinja" import os, plan, sandbox with context %}

include:
  - gateway.valid
{%- if plan and plan.sync.enabled %}
{%- set conntrackd = os.conntrackd %}
  # Connections are tracked, and conntrackd's own packets are let in.
  - gateway.kernel
  - gateway.firewall

conntrackd packages:
  pkg.installed:
    - pkgs: {{ conntrackd.packages | tojson }}

conntrackd unit settings:
  file.managed:
    - name: /etc/systemd/system/{{ conntrackd.service }}.service.d/gateway.conf
    - source: salt://gateway/conntrackd/files/unit.conf.jinja
    - template: jinja
    - makedirs: True
    - context:
        sandbox: {{ sandbox | tojson }}

# Of a folder of settings that is new, neither systemd nor Salt says that it has to be read.
conntrackd unit settings are read:
  cmd.run:
    - name: systemctl daemon-reload && systemctl show -P DropInPaths {{ conntrackd.service }}
    - unless: systemctl show -P DropInPaths {{ conntrackd.service }} | grep -q /gateway.conf
    - require:
      - file: conntrackd unit settings

conntrackd configuration as it was:
  gateway.original_kept:
    - name: {{ conntrackd.config }}
    - shipped: True
    - require:
      - pkg: conntrackd packages

conntrackd configuration check:
  file.managed:
    - name: /usr/lib/gateway/check-conntrackd
    - source: salt://gateway/conntrackd/files/check-conntrackd
    - mode: '0755'
    - makedirs: True

conntrackd configuration:
  gateway.checked_file:
    - name: {{ conntrackd.config }}
    - source: salt://gateway/conntrackd/files/conntrackd.conf.jinja
    - check: /usr/lib/gateway/check-conntrackd
    - require:
      - gateway: conntrackd configuration as it was
      - file: conntrackd configuration check

# It cannot read a configuration anew. A restart loses no connection: they are in the kernel.
conntrackd service:
  service.running:
    - name: {{ conntrackd.service }}
    - enable: True
    - require:
      - sls: gateway.firewall
      - cmd: conntrackd unit settings are read
    - watch:
      - gateway: conntrackd configuration
      - file: conntrackd unit settings

state sync:
  file.managed:
    - name: /usr/lib/gateway/sync
    - source: salt://gateway/conntrackd/files/sync
    - mode: '0755'
    - makedirs: True

state sync unit:
  file.managed:
    - name: /etc/systemd/system/gateway-sync.service
    - source: salt://gateway/conntrackd/files/gateway-sync.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

state sync service:
  service.running:
    - name: gateway-sync
    - enable: True
    - require:
      - service: conntrackd service
    - watch:
      - file: state sync
      - file: state sync unit
{%- elif plan %}
  - gateway.conntrackd.clean
{%- endif %}
