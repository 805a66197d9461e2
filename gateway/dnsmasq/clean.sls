{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set os = pillar.gateway_run.os %}

include:
  - gateway.loaded

dns and dhcp are stopped:
  gateway_service.off:
    - names:
      - gateway-dns
      - gateway-dhcp

dns and dhcp files are gone:
  file.absent:
    - names: {{ os.dnsmasq.dns_files + os.dnsmasq.dhcp_files }}
    - require:
      - gateway_service: dns and dhcp are stopped
