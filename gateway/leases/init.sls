{#- The leases of DHCP, which the nodes tell each other. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/leases/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
{%- if plan and plan.leases.enabled %}
  # What the peers tell is let in.
  - gateway.firewall

lease packages:
  pkg.installed:
    - pkgs: [{{ os.package }}]

lease programs:
  gateway.file:
    - names:
      - /usr/lib/gateway/lease_facts.py:
        - source: salt://gateway/leases/files/lease_facts.py
      - /usr/lib/gateway/lease_journal.py:
        - source: salt://gateway/leases/files/lease_journal.py
      - /usr/lib/gateway/lease_link.py:
        - source: salt://gateway/leases/files/lease_link.py
      - /usr/lib/gateway/lease_orders.py:
        - source: salt://gateway/leases/files/lease_orders.py
      - /usr/lib/gateway/lease_requests.py:
        - source: salt://gateway/leases/files/lease_requests.py
      - /usr/lib/gateway/lease_server.py:
        - source: salt://gateway/leases/files/lease_server.py
      - /usr/lib/gateway/lease_store.py:
        - source: salt://gateway/leases/files/lease_store.py
      - /usr/lib/gateway/leases.py:
        - source: salt://gateway/leases/files/leases.py
      - /usr/lib/gateway/ask-leases:
        - source: salt://gateway/leases/files/ask-leases
      - /usr/lib/gateway/lease-event:
        - source: salt://gateway/leases/files/lease-event
    - mode: '0755'

lease settings:
  gateway.file:
    - name: /etc/gateway/leases.json
    - source: salt://gateway/leases/files/leases.json.jinja
    - template: jinja

lease hosts:
  gateway.file:
    - name: /etc/gateway/lease-hosts.json
    - source: salt://gateway/leases/files/lease-hosts.json.jinja
    - template: jinja

lease key:
  gateway.file:
    - name: /etc/gateway/leases.key
    - source: salt://gateway/leases/files/leases.key.jinja
    - template: jinja
    - mode: '0600'
    - show_changes: False

lease unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-leases.service
    - source: salt://gateway/leases/files/gateway-leases.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

lease service:
  gateway_service.running:
    - name: gateway-leases
    - reads:
      - /usr/lib/gateway/lease_facts.py
      - /usr/lib/gateway/lease_journal.py
      - /usr/lib/gateway/lease_link.py
      - /usr/lib/gateway/lease_orders.py
      - /usr/lib/gateway/lease_requests.py
      - /usr/lib/gateway/lease_server.py
      - /usr/lib/gateway/lease_store.py
      - /usr/lib/gateway/leases.py
      - /etc/gateway/leases.json
      - /etc/gateway/leases.key
      - /etc/systemd/system/gateway-leases.service
    - rereads:
      - /etc/gateway/lease-hosts.json
    - require:
      - sls: gateway.firewall
      - pkg: lease packages
      - gateway: lease programs
      - gateway: lease settings
      - gateway: lease hosts
      - gateway: lease key
      - gateway: lease unit
{%- elif plan %}
  - gateway.dnsmasq

no lease service:
  gateway_service.off:
    - name: gateway-leases
    - require:
      - gateway_service: no dhcp service

no lease files:
  file.absent:
    - names: {{ os.files }}
    - require:
      - gateway_service: no lease service
{%- endif %}
