{%- import_yaml "gateway/keepalived/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded

keepalived is stopped:
  gateway_service.off:
    - name: {{ os.service }}

keepalived configuration is as it was:
  gateway.original_restored:
    - name: {{ os.config }}
    - or_none: True
    - require:
      - gateway_service: keepalived is stopped

keepalived unit settings are gone:
  gateway.drop_in_gone:
    - name: /etc/systemd/system/{{ os.service }}.service.d/gateway.conf
    - require:
      - gateway_service: keepalived is stopped
