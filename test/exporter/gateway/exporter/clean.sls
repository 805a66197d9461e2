{%- import_yaml "gateway/exporter/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded

exporter is stopped:
  gateway_service.off:
    - name: gateway-exporter

exporter files are gone:
  file.absent:
    - names: {{ os.files | tojson }}
    - require:
      - gateway_service: exporter is stopped
