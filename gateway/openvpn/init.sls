{%- from "gateway/map.jinja" import os, plan with context %}

include:
  - gateway.valid

{%- if plan %}
{%- if plan.vpn.servers %}

openvpn package:
  pkg.installed:
    - name: {{ os.openvpn.package }}

openvpn configuration check:
  file.managed:
    - name: /usr/lib/gateway/check-openvpn
    - source: salt://gateway/openvpn/files/check-openvpn
    - mode: '0755'
    - makedirs: True
{%- endif %}
{%- for server in plan.vpn.servers %}

openvpn configuration of {{ server.name }}:
  gateway.checked_file:
    - name: {{ os.openvpn.folder }}/{{ server.instance }}.conf
    - source: salt://gateway/openvpn/files/server.conf.jinja
    - context:
        server_name: '{{ server.name }}'
    # It holds the keys, unless they are paths on the node.
    - mode: '0600'
    - show_changes: {{ plan.vpn.pki.values() | selectattr('pillar', 'defined') | list == [] }}
    - check: /usr/lib/gateway/check-openvpn
    - require:
      - pkg: openvpn package
      - file: openvpn configuration check

openvpn unit settings of {{ server.name }}:
  file.managed:
    - name: /etc/systemd/system/{{ os.openvpn.service }}{{ server.instance }}.service.d/gateway.conf
    - source: salt://gateway/openvpn/files/unit.conf
    - makedirs: True

openvpn server {{ server.name }}:
  service.running:
    - name: {{ os.openvpn.service }}{{ server.instance }}
    - enable: True
    - require:
      - file: openvpn unit settings of {{ server.name }}
    - watch:
      - gateway: openvpn configuration of {{ server.name }}
{%- endfor %}

no other openvpn servers of ours:
  gateway.openvpn_servers_only:
    - name: {{ os.openvpn.folder }}
    - service: {{ os.openvpn.service }}
    - instances: {{ plan.vpn.servers | map(attribute='instance') | list | tojson }}
{%- endif %}
