{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/openvpn/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.isolated

{%- if plan %}
{%- set pki = plan.vpn.pki %}
{%- set drained = salt['file.file_exists']('/var/lib/gateway/drained') %}
{%- set crl = {} %}
{%- if pki.crl is defined %}
{%- do crl.update({'path': pki.crl.path} if pki.crl.path is defined
                  else {'source': 'salt://gateway/openvpn/files/pem.jinja'}) %}
{%- endif %}
{%- if plan.vpn.servers and plan.vpn.error %}

# The servers that there are go on. All else of the site has nothing to do with it.
openvpn certificates:
  gateway.refused:
    - title: The VPN servers were left as they are. This node has no certificate for them.
    - errors: {{ ['gateway:vpn:pki:error: ' ~ plan.vpn.error] | tojson }}
{%- endif %}
{%- if plan.vpn.servers %}

openvpn package:
  pkg.installed:
    - pkgs: [{{ os.package }}]

openvpn configuration check:
  gateway.file:
    - name: /usr/lib/gateway/check-openvpn
    - source: salt://gateway/openvpn/files/check-openvpn
    - mode: '0755'

openvpn notes of who is connected:
  gateway.file:
    - name: /usr/lib/gateway/vpn-session
    - source: salt://gateway/openvpn/files/vpn-session
    - mode: '0755'
{%- if crl %}

# OpenVPN reads it as user nobody, and a server with a list that it cannot read refuses every client.
openvpn revocation list:
  gateway_openvpn.crl:
    - name: /etc/gateway/openvpn/crl.pem
    - source: salt://gateway/openvpn/files/pem.jinja
    - path: {{ crl.path | default(None) | tojson }}
    - ca: {{ pki.ca.path | default(None) | tojson }}
{%- endif %}
{%- endif %}
{%- if plan.vpn.networks %}

# Before the clients' files: until it runs, an older one finds the networks there.
openvpn routes to networks behind clients:
  gateway.file:
    - name: /usr/lib/gateway/vpn-routes
    - source: salt://gateway/openvpn/files/vpn-routes
    - mode: '0755'

openvpn networks behind clients:
  gateway.file:
    - name: /etc/gateway/vpn-networks
    - source: salt://gateway/openvpn/files/vpn-networks.jinja
    - template: jinja

openvpn routes unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-vpn-routes.service
    - source: salt://gateway/openvpn/files/gateway-vpn-routes.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

openvpn routes service:
  gateway_service.running:
    - name: gateway-vpn-routes
    - reads:
      - /usr/lib/gateway/vpn-routes
      - /etc/systemd/system/gateway-vpn-routes.service
    - require:
      - gateway: openvpn networks behind clients
      - gateway: openvpn routes to networks behind clients
      - gateway: openvpn routes unit
{%- else %}

no openvpn routes service:
  gateway_service.off:
    - name: gateway-vpn-routes

no openvpn routes files:
  file.absent:
    - names: {{ os.routes_files }}
    - require:
      - gateway_service: no openvpn routes service
{%- endif %}
{%- for server in plan.vpn.servers %}
{#- Of thousands of clients YAML reads one text in a moment, and takes seconds for mappings. #}

openvpn clients of {{ server.name }}:
  gateway_openvpn.clients:
    - name: /etc/gateway/openvpn/{{ server.name }}
    - server: &server_{{ loop.index }} {{ server | tojson | tojson }}
{%- if not plan.vpn.error %}

openvpn configuration of {{ server.name }}:
  gateway.checked_file:
    - name: {{ os.folder }}/{{ server.instance }}.conf
    - source: salt://gateway/openvpn/files/server.conf.jinja
    - context:
        server_name: '{{ server.name }}'
    # It holds the keys, unless they are paths on the node.
    - mode: '0600'
    - show_changes: {{ pki.values() | selectattr('pillar', 'defined') | list == [] }}
    - check: /usr/lib/gateway/check-openvpn
    - require:
      - gateway: configuration checks change nothing
      - pkg: openvpn package
      - gateway: openvpn configuration check
      # What it names is there first: it may be read at any moment, by a reboot say.
      - gateway: openvpn notes of who is connected
      - gateway_openvpn: openvpn clients of {{ server.name }}
{%- if crl %}
      - gateway_openvpn: openvpn revocation list
{%- endif %}

openvpn unit settings of {{ server.name }}:
  gateway.file:
    - name: /etc/systemd/system/{{ os.service }}{{ server.instance }}.service.d/gateway.conf
    - source: salt://gateway/openvpn/files/unit.conf

{#- On a drained node gateway.undrain starts it, and it reads its configuration then. #}
openvpn server {{ server.name }}:
  gateway_service.running:
    - name: {{ os.service }}{{ server.instance }}
    - start: {{ not drained }}
    - reads:
      - {{ os.folder }}/{{ server.instance }}.conf
      - /etc/systemd/system/{{ os.service }}{{ server.instance }}.service.d/gateway.conf
    - require:
      - gateway: openvpn configuration of {{ server.name }}
      - gateway: openvpn unit settings of {{ server.name }}
{%- endif %}

# Also where the server's new configuration was refused: the old one goes on.
openvpn sessions of {{ server.name }}:
  gateway_openvpn.sessions:
    - name: /run/{{ server.instance }}/control/management
    - server: *server_{{ loop.index }}
    - notes: /run/{{ server.instance }}/sessions
    - crl: {{ crl | tojson }}
{%- endfor %}

no other openvpn servers of ours:
  gateway_openvpn.servers_only:
    - name: {{ os.folder }}
    - service: {{ os.service }}
    - instances: {{ plan.vpn.servers | map(attribute='instance') | list | tojson }}
{%- if not crl and not plan.vpn.error %}

# Only when no server names it any more: without it one that does would refuse every client.
no openvpn revocation list of ours:
  file.absent:
    - name: /etc/gateway/openvpn/crl.pem
    - require:
      - gateway_openvpn: no other openvpn servers of ours
{%- for server in plan.vpn.servers %}
      - gateway_service: openvpn server {{ server.name }}
{%- endfor %}
{%- endif %}
{%- endif %}
