{%- import_yaml "gateway/dnsmasq/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded

dns and dhcp are stopped:
  gateway_service.off:
    - names:
      - gateway-dns
      - gateway-dns-others
      - gateway-dhcp

dns and dhcp files are gone:
  file.absent:
    - names: {{ os.dns_files + os.others_files + os.dhcp_files }}
    - require:
      - gateway_service: dns and dhcp are stopped
