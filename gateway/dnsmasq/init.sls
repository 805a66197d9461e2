{#- Two instances: DNS runs on every node all the time, DHCP only where the virtual IP is. #}
{%- from "gateway/map.jinja" import os, plan, sandbox with context %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.follow

{%- if plan %}

dnsmasq package:
  pkg.installed:
    - name: {{ os.dnsmasq.package }}

dns names:
  file.managed:
    - name: /etc/gateway/hosts
    - source: salt://gateway/dnsmasq/files/hosts.jinja
    - template: jinja
    - makedirs: True

dns configuration:
  gateway.checked_file:
    - name: /etc/gateway/dns.conf
    - source: salt://gateway/dnsmasq/files/dns.conf.jinja
    - check: dnsmasq --test -C
    - require:
      - pkg: dnsmasq package

dns unit:
  file.managed:
    - name: /etc/systemd/system/gateway-dns.service
    - source: salt://gateway/dnsmasq/files/gateway-dns.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

dns service:
  service.running:
    - name: gateway-dns
    - enable: True
    - require:
      - file: dns names
    - watch:
      - gateway: dns configuration
      - file: dns unit

dns service reads the names again:
  cmd.run:
    - name: systemctl reload gateway-dns
    - onchanges:
      - file: dns names
    - require:
      - service: dns service
{%- if plan.dhcp.enabled %}

dhcp reservations:
  file.managed:
    - name: /etc/gateway/dhcp-hosts
    - source: salt://gateway/dnsmasq/files/dhcp-hosts.jinja
    - template: jinja
    - makedirs: True

dhcp configuration:
  gateway.checked_file:
    - name: /etc/gateway/dhcp.conf
    - source: salt://gateway/dnsmasq/files/dhcp.conf.jinja
    - check: dnsmasq --test -C
    - require:
      - pkg: dnsmasq package

dhcp unit:
  file.managed:
    - name: /etc/systemd/system/gateway-dhcp.service
    - source: salt://gateway/dnsmasq/files/gateway-dhcp.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

dhcp follows the virtual IP:
  service.enabled:
    - name: gateway-dhcp
    - require:
      - file: dhcp unit
      - gateway: dhcp configuration
      - file: dhcp reservations

# Only where the virtual IP is.
dhcp service takes the configuration:
  cmd.run:
    - name: |
        systemctl daemon-reload
        ! systemctl is-active --quiet gateway-virtual-ip.target || systemctl restart gateway-dhcp
    - onchanges:
      - gateway: dhcp configuration
      - file: dhcp unit
    - require:
      - service: dhcp follows the virtual IP

dhcp service reads the reservations again:
  cmd.run:
    - name: systemctl try-reload-or-restart gateway-dhcp
    - onchanges:
      - file: dhcp reservations
    - require:
      - service: dhcp follows the virtual IP
{%- else %}

no dhcp service:
  service.dead:
    - name: gateway-dhcp
    - enable: False

no dhcp files:
  file.absent:
    - names: {{ os.dnsmasq.dhcp_files }}
    - require:
      - service: no dhcp service
{%- endif %}
{%- endif %}
