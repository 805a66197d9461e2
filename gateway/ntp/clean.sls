{%- import_yaml "gateway/ntp/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded
{%- for provider, ntp in os.items() %}

{{ provider }} configuration is as it was:
  gateway.original_restored:
    - name: {{ ntp.config }}
{%- if ntp.unit_settings is defined %}

{{ provider }} unit settings are gone:
  gateway.drop_in_gone:
    - name: {{ ntp.unit_settings }}
    - require:
      - gateway: {{ provider }} configuration is as it was
{%- endif %}

{{ provider }} takes its own configuration again:
  gateway_service.running:
    - name: {{ ntp.service }}
    - enable: null
    - start: False
    - reads:
      - {{ ntp.config }}
{%- if ntp.unit_settings is defined %}
      - {{ ntp.unit_settings }}
{%- endif %}
    - require:
      - gateway: {{ provider }} configuration is as it was
{%- endfor %}

ntp files are gone:
  file.absent:
    - name: /usr/lib/gateway/check-ntpsec
    - require:
      - gateway: ntpsec configuration is as it was
