{#- Two instances: DNS runs on every node all the time, DHCP only where the virtual IP is. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/dnsmasq/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.isolated
  - gateway.follow
  - gateway.leases

{%- if plan %}
{#- Not the stub of systemd-resolved, which has a cache and rules of its own. #}
{%- set resolver = pillar.gateway_run.resolver %}
{%- if not plan.leases.enabled %}

# Before what it asks (gateway.leases) goes.
no dhcp service:
  gateway_service.off:
    - name: gateway-dhcp

no dhcp files:
  file.absent:
    - names: {{ os.dhcp_files }}
    - require:
      - gateway_service: no dhcp service
{%- endif %}

dnsmasq package:
  pkg.installed:
    - pkgs: [{{ os.package }}]

dns names:
  gateway.file:
    - name: /etc/gateway/hosts
    - source: salt://gateway/dnsmasq/files/hosts.jinja
    - template: jinja

dns names that are ours alone:
  gateway.checked_file:
    - name: /etc/gateway/own-names
    - source: salt://gateway/dnsmasq/files/own-names.jinja
    - check: dnsmasq --test -C
    - require:
      - pkg: dnsmasq package

dns configuration:
  gateway.checked_file:
    - name: /etc/gateway/dns.conf
    - source: salt://gateway/dnsmasq/files/dns.conf.jinja
    - context:
        resolver: {{ resolver }}
    - check: dnsmasq --test -C
    - require:
      - gateway: configuration checks change nothing
      - pkg: dnsmasq package

dns unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-dns.service
    - source: salt://gateway/dnsmasq/files/gateway-dns.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
        whose: ''
        registers: {{ (plan.leases.enabled and plan.leases.register and True or False) | tojson }}
        file: dns.conf
        resolver: {{ resolver }}

dns service:
  gateway_service.running:
    - name: gateway-dns
    - reads:
      - /etc/gateway/dns.conf
      - /etc/systemd/system/gateway-dns.service
    - rereads:
      - /etc/gateway/hosts
      - /etc/gateway/own-names
    - require:
      - gateway: dns names
      - gateway: dns names that are ours alone
      - gateway: dns configuration
      - gateway: dns unit
{%- if plan.dns.others %}

dns configuration for others:
  gateway.checked_file:
    - name: /etc/gateway/dns-others.conf
    - source: salt://gateway/dnsmasq/files/dns-others.conf.jinja
    - context:
        resolver: {{ resolver }}
    - check: dnsmasq --test -C
    - require:
      - gateway: configuration checks change nothing
      - pkg: dnsmasq package

dns unit for others:
  gateway.file:
    - name: /etc/systemd/system/gateway-dns-others.service
    - source: salt://gateway/dnsmasq/files/gateway-dns.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
        whose: ' for networks without the names of the site'
        registers: false
        file: dns-others.conf
        resolver: {{ resolver }}

dns service for others:
  gateway_service.running:
    - name: gateway-dns-others
    - reads:
      - /etc/gateway/dns-others.conf
      - /etc/systemd/system/gateway-dns-others.service
    - require:
      - gateway: dns configuration for others
      - gateway: dns unit for others
{%- else %}

no dns service for others:
  gateway_service.off:
    - name: gateway-dns-others

no dns files for others:
  file.absent:
    - names: {{ os.others_files }}
    - require:
      - gateway_service: no dns service for others
{%- endif %}
{%- if plan.leases.enabled %}

dhcp reservations:
  gateway.file:
    - name: /etc/gateway/dhcp-hosts
    - source: salt://gateway/dnsmasq/files/dhcp-hosts.jinja
    - template: jinja

dhcp configuration:
  gateway.checked_file:
    - name: /etc/gateway/dhcp.conf
    - source: salt://gateway/dnsmasq/files/dhcp.conf.jinja
    - check: dnsmasq --test -C
    - require:
      - gateway: configuration checks change nothing
      - pkg: dnsmasq package

dhcp unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-dhcp.service
    - source: salt://gateway/dnsmasq/files/gateway-dhcp.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

# It runs only where the virtual IP is.
dhcp service:
  gateway_service.running:
    - name: gateway-dhcp
    - target: gateway-virtual-ip.target
    - reads:
      - /etc/gateway/dhcp.conf
      - /etc/systemd/system/gateway-dhcp.service
    - rereads:
      - /etc/gateway/dhcp-hosts
    - require:
      - gateway_service: lease service
      - gateway: dhcp unit
      - gateway: dhcp configuration
      - gateway: dhcp reservations
{%- endif %}
{%- endif %}
