{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set os = pillar.gateway_run.os %}

include:
  - gateway.loaded

dns and dhcp are stopped:
  gateway.service_off:
    - names:
      - gateway-dns
      - gateway-dhcp

dns and dhcp files are gone:
  file.absent:
    - names: {{ os.dnsmasq.dns_files + os.dnsmasq.dhcp_files }}
    - require:
      - gateway: dns and dhcp are stopped
