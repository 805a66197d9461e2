{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded
{%- for provider, ntp in os.ntp.items() %}

{{ provider }} configuration is as it was:
  gateway.original_restored:
    - name: {{ ntp.config }}
{%- if ntp.unit_settings is defined %}

{{ provider }} unit settings are gone:
  file.absent:
    - name: {{ ntp.unit_settings }}
    - require:
      - gateway: {{ provider }} configuration is as it was
{%- endif %}

{{ provider }} takes its own configuration again:
  cmd.run:
    - name: systemctl daemon-reload && systemctl try-restart {{ ntp.service }}
    - onchanges:
      - gateway: {{ provider }} configuration is as it was
{%- endfor %}

ntp files are gone:
  file.absent:
    - name: /usr/lib/gateway/check-ntpsec
    - require:
      - gateway: ntpsec configuration is as it was
