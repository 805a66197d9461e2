{%- from "gateway/map.jinja" import os, plan, sandbox with context %}

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
  file.managed:
    - name: {{ ntp.check }}
    - source: salt://gateway/ntp/files/check-ntpsec
    - mode: '0755'
    - makedirs: True
    - require_in:
      - gateway: ntp configuration

# chrony's unit has such settings of the distribution's.
ntp unit settings:
  file.managed:
    - name: {{ ntp.unit_settings }}
    - source: salt://gateway/ntp/files/ntpsec.unit.conf.jinja
    - template: jinja
    - makedirs: True
    - context:
        sandbox: {{ sandbox | tojson }}
    - watch_in:
      - service: ntp service

# Of a folder of settings that is new, neither systemd nor Salt says that it has to be read.
ntp unit settings are read:
  cmd.run:
    - name: systemctl daemon-reload && systemctl show -P DropInPaths {{ ntp.service }}
    - unless: systemctl show -P DropInPaths {{ ntp.service }} | grep -q /gateway.conf
    - require:
      - file: ntp unit settings
    - require_in:
      - service: ntp service
{%- endif %}

ntp configuration:
  gateway.checked_file:
    - name: {{ ntp.config }}
    - source: salt://gateway/ntp/files/{{ provider }}.conf.jinja
    - check: {{ ntp.check }}
    - require:
      - gateway: ntp configuration as it was

ntp service:
  service.running:
    - name: {{ ntp.service }}
    - enable: True
    - watch:
      - gateway: ntp configuration
{%- for other in os.ntp if other != provider %}

# The distribution lets only one of them be installed.
{{ other }} configuration is as it was:
  gateway.original_restored:
    - name: {{ os.ntp[other].config }}
    - require:
      - service: ntp service
{%- if os.ntp[other].unit_settings is defined %}

no {{ other }} unit settings:
  file.absent:
    - name: {{ os.ntp[other].unit_settings }}
    - require:
      - service: ntp service
{%- endif %}
{%- endfor %}
{%- endif %}
