{%- import_yaml "gateway/leases/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded

leases are told no more:
  gateway_service.off:
    - name: gateway-leases

lease files are gone:
  file.absent:
    - names: {{ os.files }}
    - require:
      - gateway_service: leases are told no more
