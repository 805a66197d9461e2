{%- from "gateway/map.jinja" import os, plan with context %}

include:
  - gateway.valid
  - gateway.firewall

{%- if plan %}
{%- set provider = plan.ntp.provider %}
{%- set ntp = os.ntp[provider] %}

ntp package:
  pkg.installed:
    - name: {{ ntp.package }}

ntp configuration as it was:
  gateway.original_kept:
    - name: {{ ntp.config }}
    - shipped: True
    - require:
      - pkg: ntp package
{%- if provider == 'ntpsec' %}

ntp configuration check:
  gateway.file:
    - name: {{ ntp.check }}
    - source: salt://gateway/ntp/files/check-ntpsec
    - mode: '0755'
    - require_in:
      - gateway: ntp configuration
{%- endif %}

ntp configuration:
  gateway.checked_file:
    - name: {{ ntp.config }}
    - source: salt://gateway/ntp/files/{{ provider }}.conf.jinja
    - check: {{ ntp.check }}
    - require:
      - gateway: ntp configuration as it was

ntp service:
  gateway.service:
    - name: {{ ntp.service }}
    - reads:
      - {{ ntp.config }}
    - require:
      - gateway: ntp configuration
{%- for other in os.ntp if other != provider %}

# The distribution lets only one of them be installed.
{{ other }} configuration is as it was:
  gateway.original_restored:
    - name: {{ os.ntp[other].config }}
{%- endfor %}
{%- endif %}
