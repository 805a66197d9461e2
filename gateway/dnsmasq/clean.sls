{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

dns and dhcp are stopped:
  service.dead:
    - names:
      - gateway-dns
      - gateway-dhcp
    - enable: False

dns and dhcp files are gone:
  file.absent:
    - names: {{ os.dnsmasq.dns_files + os.dnsmasq.dhcp_files }}
    - require:
      - service: dns and dhcp are stopped
