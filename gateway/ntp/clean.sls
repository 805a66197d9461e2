{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded
{%- for provider, ntp in os.ntp.items() %}

{{ provider }} configuration is as it was:
  gateway.original_restored:
    - name: {{ ntp.config }}

{{ provider }} takes its own configuration again:
  gateway.service:
    - name: {{ ntp.service }}
    - enable: null
    - start: False
    - reads:
      - {{ ntp.config }}
    - require:
      - gateway: {{ provider }} configuration is as it was
{%- endfor %}

ntp files are gone:
  file.absent:
    - name: /usr/lib/gateway/check-ntpsec
